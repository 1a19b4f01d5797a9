//! `batch_report.json`: the sums, times and notes over what became of each VM.

use crate::model::job::JobState;
use crate::model::report::{AggregateStats, BatchHead, BatchReport, Notice, REPORT_VERSION, Timed, VmResult};
use crate::sys::time::rfc3339_utc;

/// The report of a batch of these VMs.
#[must_use]
pub fn batch_report(
    batch_id: &str,
    manifest: Option<&str>,
    vm_results: Vec<VmResult>,
    now: f64,
) -> BatchReport {
    let total = vm_results.len() as u64;
    let good = vm_results.iter().filter(|vm| vm.success).count() as u64;
    // What was never begun has no end either.
    let ended =
        vm_results.iter().filter(|vm| vm.state.is_final() && vm.completed_at.is_some()).count() as u64;
    let first = vm_results.iter().filter_map(|vm| vm.started_at).reduce(f64::min);
    let last = vm_results.iter().filter_map(|vm| vm.completed_at).reduce(f64::max);
    BatchReport {
        version: REPORT_VERSION.to_owned(),
        report_type: "batch_conversion".to_owned(),
        timestamp: rfc3339_utc(now),
        batch: BatchHead {
            batch_id: batch_id.to_owned(),
            manifest_path: manifest.map(str::to_owned),
            success: good == total,
            duration_seconds: first.and_then(|first| Some(seconds(last? - first))).unwrap_or(0.0),
            total_vms: total,
            processed_vms: ended,
            successful_vms: good,
            failed_vms: ended.saturating_sub(good),
            success_rate: if total == 0 { 1.0 } else { (good as f64 / total as f64 * 1e4).round() / 1e4 },
        },
        aggregate_stats: statistics(&vm_results),
        warnings: vm_results.iter().flat_map(warnings).collect(),
        errors: vm_results.iter().filter_map(|vm| error(vm, now)).collect(),
        vm_results,
    }
}

/// How long a VM took, seconds; 0 where it never began.
#[must_use]
pub fn duration(started_at: Option<f64>, completed_at: Option<f64>) -> f64 {
    started_at.and_then(|started| Some(seconds(completed_at? - started))).unwrap_or(0.0)
}

/// Milliseconds are enough, and a clock that was set back is no negative duration.
fn seconds(value: f64) -> f64 {
    (value.max(0.0) * 1000.0).round() / 1000.0
}

fn warnings(vm: &VmResult) -> impl Iterator<Item = Notice> {
    vm.warnings
        .iter()
        .map(|notice| Notice { message: format!("{}: {}", vm.vm_id, notice.message), ..notice.clone() })
}

fn error(vm: &VmResult, now: f64) -> Option<Notice> {
    let error = vm.error.as_ref()?;
    let stage = vm.failure.as_ref().and_then(|failure| failure.stage);
    Some(Notice {
        stage: stage.map_or("plan", |stage| stage.name()).to_owned(),
        message: format!("{}: {error}", vm.vm_id),
        timestamp: rfc3339_utc(vm.completed_at.unwrap_or(now)),
    })
}

fn statistics(vms: &[VmResult]) -> AggregateStats {
    let timed: Vec<Timed> = vms
        .iter()
        .filter(|vm| vm.state == JobState::Succeeded)
        .map(|vm| Timed { vm_id: vm.vm_id.clone(), duration: vm.duration_seconds })
        .collect();
    let total: f64 = vms.iter().map(|vm| vm.duration_seconds).sum();
    let ran = vms.iter().filter(|vm| vm.started_at.is_some()).count();
    let by_duration = |a: &&Timed, b: &&Timed| a.duration.total_cmp(&b.duration);
    AggregateStats {
        total_duration: seconds(total),
        average_duration: if ran == 0 { 0.0 } else { seconds(total / ran as f64) },
        fastest_conversion: timed.iter().min_by(by_duration).cloned(),
        slowest_conversion: timed.iter().max_by(by_duration).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_nothing_succeeded() {
        let report = batch_report("empty", Some("e.yaml"), Vec::new(), 0.0);
        assert!(report.batch.success);
        assert_eq!(report.batch.success_rate, 1.0);
    }
}
