//! How a conversion is told when it is over: paths, reports, what to do next.
//!
//! What is not here: the reports' content (the worker writes it).

use std::fs;

use super::inputs::resume_line;
use super::running::{AllEnded, Ended, state_of};
use crate::cli::table::printable;
use crate::cli::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};
use crate::model::job::JobState;
use crate::model::planner::RefusedVm;
use crate::model::protocol::{Published, WorkerOutcome};
use crate::model::report::{AggregateStats, BatchHead, BatchReport, Notice, REPORT_VERSION, Timed, VmResult};
use crate::model::units::{human_duration, human_size};
use crate::pipeline::launch::appliance_log;
use crate::sys::time::{now_epoch, rfc3339_utc};

/// Prints what came out, and says how the program ends.
pub(super) fn tell(all: &AllEnded, ui: &Ui) -> Result<Exit, Failure> {
    for ended in &all.vms {
        if matches!(ended.outcome, Some(WorkerOutcome::Succeeded(_))) {
            clear_scratch(ended);
        }
    }
    match all.vms.as_slice() {
        [only] if all.refused.is_empty() => tell_one(only, all.interrupted, ui),
        _ => tell_several(all, ui),
    }
}

/// What was changed inside, before the paths of the results.
pub(super) fn tell_fixes(all: &AllEnded, ui: &Ui) {
    for ended in &all.vms {
        let Some(WorkerOutcome::Succeeded(published)) = &ended.outcome else { continue };
        for fix in published.content.iter().flat_map(|report| &report.fixes) {
            ui.note(&printable(&format!("{}: {}: {}, {}", fix.name, fix.path, fix.action, fix.detail)));
        }
    }
}

fn tell_one(ended: &Ended, interrupted: bool, ui: &Ui) -> Result<Exit, Failure> {
    match &ended.outcome {
        Some(WorkerOutcome::Succeeded(published)) => {
            match (&published.content, ui.json) {
                (Some(report), true) => ui.print_json(report)?,
                _ => ui.print(&paths(published))?,
            }
            ui.note(&summary(ended, published));
            Ok(Exit::Done)
        }
        Some(WorkerOutcome::Failed { error }) => {
            point_to_log(ended, ui);
            Err(error.clone().into())
        }
        Some(WorkerOutcome::Cancelled | WorkerOutcome::Stopped) | None => Err(stopped(interrupted)),
    }
}

fn tell_several(all: &AllEnded, ui: &Ui) -> Result<Exit, Failure> {
    if ui.json {
        ui.print_json(&batch_report(all))?;
    }
    let mut failed = Vec::new();
    for ended in &all.vms {
        match &ended.outcome {
            Some(WorkerOutcome::Succeeded(published)) => {
                if !ui.json {
                    ui.print(&paths(published))?;
                }
                ui.note(&summary(ended, published));
            }
            Some(WorkerOutcome::Failed { error }) => {
                ui.note(&format!("{}: {error}", ended.work.order.plan.vm_id));
                point_to_log(ended, ui);
                failed.push((ended, error));
            }
            Some(WorkerOutcome::Cancelled | WorkerOutcome::Stopped) | None => {}
        }
    }
    let done = |ended: &Ended| matches!(ended.outcome, Some(WorkerOutcome::Succeeded(_)));
    if all.interrupted && !all.vms.iter().all(done) {
        return Err(stopped(true));
    }
    for vm in &all.refused {
        ui.note(&printable(&format!("{}: {}", vm.vm_id, vm.error)));
    }
    let first = failed.first().map(|(first, error)| (&first.work.order.plan.vm_id, *error));
    let first = first.or_else(|| all.refused.first().map(|vm| (&vm.vm_id, &vm.error)));
    let Some((vm_id, error)) = first else { return Ok(Exit::Done) };
    let unbegun = all.vms.iter().filter(|ended| ended.outcome.is_none()).count();
    let rest = if unbegun > 0 { format!(", {unbegun} not begun") } else { String::new() };
    Err(Failure::new(
        Exit::Failed,
        Error::new(
            error.kind(),
            format!(
                "{} of {} VMs failed{rest}; the first was {vm_id}: {}",
                failed.len() + all.refused.len(),
                all.vms.len() + all.refused.len(),
                error.details().cause
            ),
        )
        .advice(error.details().advice.clone().unwrap_or_else(|| "see its log".to_owned())),
    ))
}

/// An end from outside: what is finished is kept, and how to go on is said.
fn stopped(interrupted: bool) -> Failure {
    let cause = if interrupted { "interrupted" } else { "stopped" };
    let error = Error::new(Kind::Cancelled, cause)
        .advice(format!("what is finished is kept; go on with: {}", resume_line()));
    Failure::new(Exit::Interrupted, error)
}

fn paths(published: &Published) -> String {
    published.outputs.keys().map(|path| format!("{}\n", path.display())).collect()
}

/// `web: 2 disks, 1.2 GiB in 00:12`
fn summary(ended: &Ended, published: &Published) -> String {
    let bytes: u64 = published
        .content
        .iter()
        .flat_map(|report| &report.artifacts)
        .map(|artifact| artifact.size_bytes)
        .sum();
    let disks = published.outputs.len();
    let noun = if disks == 1 { "disk" } else { "disks" };
    let vm_id = &ended.work.order.plan.vm_id;
    format!("{vm_id}: {disks} {noun}, {} in {}", human_size(bytes), human_duration(seconds(ended)))
}

fn seconds(ended: &Ended) -> f64 {
    ended.began_at.zip(ended.ended_at).map_or(0.0, |(began, over)| over - began)
}

fn point_to_log(ended: &Ended, ui: &Ui) {
    // One that was not begun has none.
    if ended.began_at.is_none() {
        return;
    }
    ui.note(&format!("{}: log: {}", ended.work.order.plan.vm_id, ended.work.log().display()));
}

/// All went well: nothing but the result stays.
fn clear_scratch(ended: &Ended) {
    let _ = fs::remove_file(ended.work.log());
    let _ = fs::remove_file(appliance_log(&ended.work.log()));
    let _ = fs::remove_dir_all(&ended.work.order.limits.work_dir);
    // Goes only when it is empty: other VMs may be at work in there, or have failed.
    let _ = fs::remove_dir(&ended.work.scratch);
}

fn batch_report(all: &AllEnded) -> BatchReport {
    let now = rfc3339_utc(now_epoch());
    let refused = all.refused.iter().map(refused_vm);
    let vm_results: Vec<VmResult> = all.vms.iter().map(vm_result).chain(refused).collect();
    let ended: Vec<&Ended> = all.vms.iter().filter(|ended| ended.outcome.is_some()).collect();
    let good: Vec<Timed> = vm_results
        .iter()
        .filter(|result| result.success)
        .map(|result| Timed { vm_id: result.vm_id.clone(), duration: result.duration_seconds })
        .collect();
    let total: f64 = vm_results.iter().map(|result| result.duration_seconds).sum();
    let first = all.vms.iter().filter_map(|ended| ended.began_at).fold(f64::INFINITY, f64::min);
    let last = all.vms.iter().filter_map(|ended| ended.ended_at).fold(0.0, f64::max);
    let by_time = |a: &&Timed, b: &&Timed| a.duration.total_cmp(&b.duration);
    let total_vms = all.vms.len() as u64;
    let errors = vm_results
        .iter()
        .filter_map(|result| {
            let message = format!("{}: {}", result.vm_id, result.error.as_ref()?);
            Some(Notice { stage: "convert".to_owned(), message, timestamp: now.clone() })
        })
        .collect();
    BatchReport {
        version: REPORT_VERSION.to_owned(),
        report_type: "batch_conversion".to_owned(),
        timestamp: now,
        batch: BatchHead {
            batch_id: "convert".to_owned(),
            manifest_path: None,
            success: good.len() as u64 == total_vms,
            duration_seconds: millis((last - first).max(0.0)),
            total_vms,
            processed_vms: ended.len() as u64,
            successful_vms: good.len() as u64,
            failed_vms: (ended.len() - good.len()) as u64,
            success_rate: (good.len() as f64 / all.vms.len().max(1) as f64 * 10_000.0).round() / 10_000.0,
        },
        aggregate_stats: AggregateStats {
            total_duration: millis(total),
            average_duration: millis(total / ended.len().max(1) as f64),
            fastest_conversion: good.iter().min_by(by_time).cloned(),
            slowest_conversion: good.iter().max_by(by_time).cloned(),
        },
        vm_results,
        warnings: Vec::new(),
        errors,
    }
}

fn refused_vm(vm: &RefusedVm) -> VmResult {
    VmResult {
        vm_id: vm.vm_id.clone(),
        manifest: None,
        success: false,
        state: JobState::Failed,
        duration_seconds: 0.0,
        timestamp: None,
        error: Some(vm.error.to_string()),
        pipeline_report: None,
    }
}

fn vm_result(ended: &Ended) -> VmResult {
    let state = ended.outcome.as_ref().map_or(JobState::Cancelled, state_of);
    let report = match &ended.outcome {
        Some(WorkerOutcome::Succeeded(published)) => {
            published.content.as_ref().and_then(|report| serde_json::to_value(report).ok())
        }
        _ => None,
    };
    let error = match &ended.outcome {
        Some(WorkerOutcome::Failed { error }) => Some(error.to_string()),
        Some(WorkerOutcome::Cancelled | WorkerOutcome::Stopped) => Some("interrupted".to_owned()),
        Some(WorkerOutcome::Succeeded(_)) => None,
        None => Some("not begun".to_owned()),
    };
    VmResult {
        vm_id: ended.work.order.plan.vm_id.clone(),
        manifest: Some(ended.work.given.display().to_string()),
        success: state == JobState::Succeeded,
        state,
        duration_seconds: millis(seconds(ended)),
        timestamp: ended.ended_at.map(rfc3339_utc),
        error,
        pipeline_report: report,
    }
}

fn millis(seconds: f64) -> f64 {
    if seconds.is_finite() { (seconds * 1000.0).round() / 1000.0 } else { 0.0 }
}
