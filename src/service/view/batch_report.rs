//! `batch_report.json` and `batch_summary.txt`: how an ended batch went. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::job::JobState;
use crate::model::report::{AggregateStats, BatchHead, BatchReport, Notice, REPORT_VERSION, Timed, VmResult};
use crate::service::queue::JobRow;
use crate::sys::time::rfc3339_utc;

/// The report of a batch; `reports` are the `report.json` of its VMs, by job.
#[must_use]
pub fn batch_report(
    batch_id: &str,
    manifest: &str,
    rows: &[JobRow],
    mut reports: BTreeMap<i64, serde_json::Value>,
    now: f64,
) -> BatchReport {
    let is_good = |row: &JobRow| matches!(row.state, JobState::Succeeded | JobState::Skipped);
    let good = rows.iter().filter(|row| is_good(row)).count() as u64;
    let ended = rows.iter().filter(|row| row.state.is_final()).count() as u64;
    let first = rows.iter().filter_map(|row| row.started_at).reduce(f64::min);
    let last = rows.iter().filter_map(|row| row.completed_at).reduce(f64::max);
    let total = rows.len() as u64;
    BatchReport {
        version: REPORT_VERSION.to_owned(),
        report_type: "batch_conversion".to_owned(),
        timestamp: rfc3339_utc(now),
        batch: BatchHead {
            batch_id: batch_id.to_owned(),
            manifest_path: Some(manifest.to_owned()),
            success: good == total,
            duration_seconds: first.and_then(|first| Some(seconds(last? - first))).unwrap_or(0.0),
            total_vms: total,
            processed_vms: ended,
            successful_vms: good,
            failed_vms: ended - good,
            success_rate: if total == 0 { 1.0 } else { (good as f64 / total as f64 * 1e4).round() / 1e4 },
        },
        vm_results: rows
            .iter()
            .map(|row| VmResult {
                vm_id: row.vm_id.clone(),
                manifest: Some(manifest.to_owned()),
                success: is_good(row),
                state: row.state,
                duration_seconds: duration(row),
                timestamp: row.completed_at.map(rfc3339_utc),
                error: row.error.as_ref().filter(|_| !is_good(row)).map(ToString::to_string),
                pipeline_report: reports.remove(&row.job_id),
            })
            .collect(),
        aggregate_stats: statistics(rows),
        warnings: Vec::new(),
        errors: rows
            .iter()
            .filter(|row| !is_good(row))
            .filter_map(|row| {
                let error = row.error.as_ref()?;
                Some(Notice {
                    stage: error.details().stage.map_or("plan", |stage| stage.name()).to_owned(),
                    message: format!("{}: {error}", row.vm_id),
                    timestamp: rfc3339_utc(row.completed_at.unwrap_or(now)),
                })
            })
            .collect(),
    }
}

/// The same for people.
#[must_use]
pub fn summary(report: &BatchReport) -> String {
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
         Batch ID: {batch_id}\n\
         Timestamp: {}\n\
         Duration: {duration_seconds:.2}s\n\n\
         Results\n\
         \x20 Total VMs: {total_vms}\n\
         \x20 Processed: {processed_vms}\n\
         \x20 Successful: {successful_vms}\n\
         \x20 Failed: {failed_vms}\n\
         \x20 Success Rate: {:.1}%\n",
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
            fastest.vm_id,
            fastest.duration,
            slowest.vm_id,
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
        let _ = writeln!(out, "  {verdict} | {} | {:.2}s", vm.vm_id, vm.duration_seconds);
        if let Some(error) = &vm.error {
            let _ = writeln!(out, "    Error: {error}");
        }
    }
    out
}

fn statistics(rows: &[JobRow]) -> AggregateStats {
    let timed: Vec<Timed> = rows
        .iter()
        .filter(|row| row.state == JobState::Succeeded)
        .map(|row| Timed { vm_id: row.vm_id.clone(), duration: duration(row) })
        .collect();
    let total: f64 = rows.iter().map(duration).sum();
    let ran = rows.iter().filter(|row| row.started_at.is_some()).count();
    let by_duration = |a: &&Timed, b: &&Timed| a.duration.total_cmp(&b.duration);
    AggregateStats {
        total_duration: seconds(total),
        average_duration: if ran == 0 { 0.0 } else { seconds(total / ran as f64) },
        fastest_conversion: timed.iter().min_by(by_duration).cloned(),
        slowest_conversion: timed.iter().max_by(by_duration).cloned(),
    }
}

fn duration(row: &JobRow) -> f64 {
    row.started_at.and_then(|started| Some(seconds(row.completed_at? - started))).unwrap_or(0.0)
}

/// Milliseconds are enough, and a clock that was set back is no negative duration.
fn seconds(value: f64) -> f64 {
    (value.max(0.0) * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::progress::tests::row;
    use super::*;
    use crate::model::error::{Error, Kind};
    use crate::model::job::Stage;

    fn report() -> BatchReport {
        let mut failed = row(2, JobState::Failed);
        failed.error =
            Some(Error::new(Kind::Source, "the disk is cut off").stage(Stage::Load).advice("copy it again"));
        let mut slow = row(4, JobState::Succeeded);
        slow.completed_at = Some(1_737_558_100.5);
        let mut skipped = row(3, JobState::Skipped);
        skipped.started_at = None;
        let rows = [row(1, JobState::Succeeded), failed, skipped, slow];
        let reports = BTreeMap::from([(1, serde_json::json!({"version": "1.0"}))]);
        batch_report("fleet", "fleet.yaml", &rows, reports, 1_737_558_101.0)
    }

    #[test]
    fn a_batch_report_looks_like_this() {
        insta::assert_json_snapshot!(report());
    }

    #[test]
    fn a_summary_looks_like_this() {
        insta::assert_snapshot!(summary(&report()));
    }

    #[test]
    fn a_batch_of_nothing_succeeded() {
        let report = batch_report("empty", "e.yaml", &[], BTreeMap::new(), 0.0);
        assert!(report.batch.success);
        assert_eq!(report.batch.success_rate, 1.0);
    }
}
