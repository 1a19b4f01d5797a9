//! `batch_summary.txt`: how a batch went, as the Python program told it.

use std::fmt::Write as _;

use super::escape::{MOST, visible};
use crate::model::job::JobState;
use crate::model::report::{BatchHead, BatchReport};

/// The summary of a batch.
#[must_use]
pub fn batch_summary(report: &BatchReport) -> String {
    let BatchHead {
        batch_id,
        duration_seconds,
        total_vms,
        processed_vms,
        successful_vms,
        failed_vms,
        success_rate,
        ..
    } = &report.batch;
    let rule = "=".repeat(60);
    let mut out = String::new();
    // Writing to a String cannot fail, so the results are of no interest.
    let _ = write!(
        out,
        "Batch Conversion Summary\n{rule}\n\n\
         Batch ID: {}\n\
         Timestamp: {}\n\
         Duration: {duration_seconds:.2}s\n\n\
         Results\n\
         \x20 Total VMs: {total_vms}\n\
         \x20 Processed: {processed_vms}\n\
         \x20 Successful: {successful_vms}\n\
         \x20 Failed: {failed_vms}\n\
         \x20 Success Rate: {:.1}%\n",
        visible(batch_id, MOST),
        report.timestamp,
        success_rate * 100.0,
    );
    let stats = &report.aggregate_stats;
    if let (Some(fastest), Some(slowest)) = (&stats.fastest_conversion, &stats.slowest_conversion) {
        let _ = write!(
            out,
            "\nPerformance\n  Total: {:.2}s\n  Average: {:.2}s\n  Fastest: {} ({:.2}s)\n  Slowest: {} ({:.2}s)\n",
            stats.total_duration,
            stats.average_duration,
            visible(&fastest.vm_id, MOST),
            fastest.duration,
            visible(&slowest.vm_id, MOST),
            slowest.duration,
        );
    }
    if !report.vm_results.is_empty() {
        out.push_str("\nVM Details\n");
    }
    for vm in &report.vm_results {
        let verdict = match vm.state {
            JobState::Succeeded => "✅ SUCCESS",
            JobState::Skipped => "⏭ SKIPPED",
            JobState::Cancelled => "⏹ CANCELLED",
            _ => "❌ FAILED",
        };
        let _ = writeln!(out, "  {verdict} | {} | {:.2}s", visible(&vm.vm_id, MOST), vm.duration_seconds);
        if let Some(error) = &vm.error {
            let _ = writeln!(out, "    Error: {}", visible(error, MOST));
        }
    }
    out
}
