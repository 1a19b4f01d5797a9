//! `watch`: looks on while the work goes, until it has ended or the person has seen enough.

use std::ops::ControlFlow;

use serde::Serialize;

use super::client::{Client, job_path};
use super::progress::ProgressView;
use super::show::{Shown, look_up};
use super::status::work_words;
use super::{Exit, Failure, StateArgs, Ui, table};
use crate::model::api::Overview;
use crate::model::job::{BatchState, JobState};
use crate::model::progress::BatchProgress;

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
pub(super) struct WatchArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch; without one, everything, until interrupted
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    state: StateArgs,
}

/// Looks on. With `--json`, every moment is one document on a line of its own.
pub(super) fn run(args: &WatchArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    match &args.job {
        Some(job) => watch_job(&client, ui, job),
        None => watch_everything(&client, ui),
    }
}

fn watch_job(client: &Client, ui: &Ui, name: &str) -> Result<Exit, Failure> {
    // A name that stands for one VM of several ends with that VM.
    let (target, vm_id) = match look_up(client, name)? {
        Shown::Job(details) => (details.job.job_id.to_string(), Some(details.job.vm_id)),
        Shown::Batch(list) => {
            (list.jobs.first().map_or_else(String::new, |job| job.job_id.to_string()), None)
        }
    };
    let mut view = ProgressView::as_the_result(ui);
    let mut exit = None;
    client.watch(&job_path(&target, "watch"), |mut progress: BatchProgress| {
        if let Some(vm_id) = &vm_id {
            progress.vms.retain(|id, _| id == vm_id);
        }
        match ui.json {
            true => print_line(ui, &progress)?,
            false => view.show(&progress)?,
        }
        exit = ended(&progress, vm_id.as_deref());
        Ok(if exit.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    view.finish();
    exit.ok_or_else(|| client.ended_first())
}

/// How it ended, if it has.
fn ended(progress: &BatchProgress, vm_id: Option<&str>) -> Option<Exit> {
    let well = match vm_id.and_then(|id| progress.vms.get(id)) {
        Some(vm) if vm.state.is_final() => matches!(vm.state, JobState::Succeeded | JobState::Skipped),
        None if progress.state.is_final() => progress.state == BatchState::Completed,
        _ => return None,
    };
    Some(if well { Exit::Done } else { Exit::Failed })
}

fn watch_everything(client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    client.watch("/v1/watch", |overview: Overview| {
        if ui.json {
            print_line(ui, &overview)?;
        } else {
            let clear = if ui.terminal { "\x1b[H\x1b[2J" } else { "" };
            let head = work_words(&overview.status);
            ui.print(&format!("{clear}{head}\n{}\n", table::jobs(&overview.jobs, ui.color)))?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Err(client.ended_first())
}

fn print_line(ui: &Ui, moment: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(moment).map_err(|error| {
        crate::model::error::Error::internal(format!("cannot write this as JSON: {error}"))
    })?;
    ui.print(&format!("{line}\n"))
}
