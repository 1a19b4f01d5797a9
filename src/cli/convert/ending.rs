//! How a conversion is told when it is over: paths, reports, what to do next.
//!
//! What is not here: the report of one VM (its worker writes it).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::again::resume_line;
use super::running::{AllEnded, Ended, state_of};
use crate::cli::table::printable;
use crate::cli::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};
use crate::model::job::JobState;
use crate::model::planner::RefusedVm;
use crate::model::protocol::{Published, WorkerOutcome};
use crate::model::report::{self, BatchReport, VmResult};
use crate::model::units::{human_duration, human_size};
use crate::pipeline::launch::appliance_log;
use crate::report::{BATCH_REPORT, batch_pages, batch_report, duration};
use crate::sys::fs::atomic_write;
use crate::sys::time::{now_epoch, rfc3339_utc};

/// Of the report of several, which is for whoever may read the directory.
const REPORT_MODE: u32 = 0o644;

/// Prints what came out, and says how the program ends.
///
/// `directory`: where what is told of several together is written.
pub(super) fn tell(all: &AllEnded, directory: &Path, ui: &Ui) -> Result<Exit, Failure> {
    for ended in &all.vms {
        if matches!(ended.outcome, Some(WorkerOutcome::Succeeded(_))) {
            clear_scratch(ended);
        }
    }
    match all.vms.as_slice() {
        [only] if all.refused.is_empty() => tell_one(only, all.interrupted, ui),
        _ => tell_several(all, directory, ui),
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

fn tell_several(all: &AllEnded, directory: &Path, ui: &Ui) -> Result<Exit, Failure> {
    let report = report_of(all);
    write_reports(&report, directory, ui);
    if ui.json {
        ui.print_json(&report)?;
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

fn report_of(all: &AllEnded) -> BatchReport {
    let refused = all.refused.iter().map(refused_vm);
    batch_report("convert", None, all.vms.iter().map(vm_result).chain(refused).collect(), now_epoch())
}

fn refused_vm(vm: &RefusedVm) -> VmResult {
    let now = now_epoch();
    VmResult {
        vm_id: vm.vm_id.clone(),
        manifest: None,
        success: false,
        state: JobState::Failed,
        job_id: None,
        attempts: 0,
        duration_seconds: 0.0,
        started_at: None,
        completed_at: Some(now),
        timestamp: Some(rfc3339_utc(now)),
        error: Some(vm.error.to_string()),
        failure: Some(report::Failure::of(&vm.error)),
        outputs: BTreeMap::new(),
        warnings: Vec::new(),
        timeline: Vec::new(),
        pipeline_report: None,
    }
}

fn vm_result(ended: &Ended) -> VmResult {
    let state = ended.outcome.as_ref().map_or(JobState::Cancelled, state_of);
    let (content, outputs) = match &ended.outcome {
        Some(WorkerOutcome::Succeeded(published)) => (published.content.as_ref(), published.outputs.clone()),
        _ => Default::default(),
    };
    let error = match &ended.outcome {
        Some(WorkerOutcome::Failed { error }) => Some(error.clone()),
        Some(WorkerOutcome::Cancelled | WorkerOutcome::Stopped) => {
            Some(Error::new(Kind::Cancelled, "interrupted"))
        }
        Some(WorkerOutcome::Succeeded(_)) => None,
        None => Some(Error::new(Kind::Cancelled, "not begun")),
    };
    VmResult {
        vm_id: ended.work.order.plan.vm_id.clone(),
        manifest: Some(ended.work.given.display().to_string()),
        success: state == JobState::Succeeded,
        state,
        job_id: None,
        attempts: u32::from(ended.began_at.is_some()),
        duration_seconds: duration(ended.began_at, ended.ended_at),
        started_at: ended.began_at,
        completed_at: ended.ended_at,
        timestamp: ended.ended_at.map(rfc3339_utc),
        error: error.as_ref().map(ToString::to_string),
        failure: error.as_ref().map(report::Failure::of),
        outputs,
        warnings: content.map_or_else(|| ended.warnings.clone(), |report| report.warnings.clone()),
        timeline: ended.timeline.clone(),
        pipeline_report: content.and_then(|report| serde_json::to_value(report).ok()),
    }
}

/// Beside the directories of the VMs; the results are there whether or not this can be written.
fn write_reports(report: &BatchReport, directory: &Path, ui: &Ui) {
    let write = || -> Result<(), Error> {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Error::internal(format!("the report cannot be written: {error}")))?;
        for (name, text) in batch_pages(report).into_iter().chain([(BATCH_REPORT, text + "\n")]) {
            let path = directory.join(name);
            atomic_write(&path, text.as_bytes(), REPORT_MODE)
                .map_err(|error| Error::io(Kind::Output, "write", &path, &error))?;
        }
        Ok(())
    };
    match write() {
        Ok(()) => ui.note(&format!("report: {}", directory.join("batch_report.html").display())),
        Err(error) => ui.note(&format!("there is no report of all: {error}")),
    }
}
