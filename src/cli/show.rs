//! `show`: all of one job, or the jobs of a batch.

use std::fmt::Write as _;

use super::client::{Client, encode, job_path};
use super::table::{Paint, moment, printable, span, state_words};
use super::{Exit, Failure, StateArgs, Ui, table};
use crate::model::api::{JobDetails, JobList};

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    state: StateArgs,
}

/// What a name stands for.
pub(super) enum Shown {
    /// One job.
    Job(Box<JobDetails>),
    /// The jobs of a batch.
    Batch(JobList),
}

/// Prints it.
pub(super) fn run(args: &ShowArgs, ui: &Ui) -> Result<Exit, Failure> {
    match look_up(&Client::new(&args.state)?, &args.job)? {
        Shown::Job(details) if ui.json => ui.print_json(&details)?,
        Shown::Job(details) => ui.print(&describe(&details, ui.color))?,
        Shown::Batch(list) if ui.json => ui.print_json(&list)?,
        Shown::Batch(list) => ui.print(&table::jobs(&list.jobs, ui.color))?,
    }
    Ok(Exit::Done)
}

/// The job of this name, or, where it is none (or not only one), the batch of this name.
pub(super) fn look_up(client: &Client, name: &str) -> Result<Shown, Failure> {
    match client.get::<JobDetails>(&job_path(name, "")) {
        Ok(details) => Ok(Shown::Job(Box::new(details))),
        Err(failure) if matches!(failure.exit, Exit::NoSuchJob | Exit::Usage | Exit::Failed) => {
            let list: JobList = client.get(&format!("/v1/jobs?batch={}", encode(name)))?;
            if list.jobs.is_empty() { Err(failure) } else { Ok(Shown::Batch(list)) }
        }
        Err(failure) => Err(failure),
    }
}

fn describe(details: &JobDetails, color: bool) -> String {
    let job = &details.job;
    let state = Paint::of(job.state).on(&state_words(job), color);
    let mut text = format!("{:<11} {state}\n", "state");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11} {}", printable(value));
    };
    line("job", &format!("{} ({}/{})", job.job_id, job.batch_id, job.vm_id));
    if let Some(detail) = &job.waiting_detail {
        line("waits for", detail);
    }
    if let Some(stage) = job.current_stage {
        line("stage", &format!("{stage}, {:.0} % done", job.progress_percentage));
    }
    line("attempt", &job.attempt.to_string());
    line("priority", &job.priority.to_string());
    line("submitted", &moment(job.submitted_at));
    if let Some(at) = job.started_at {
        line("started", &moment(at));
    }
    if let Some(at) = job.completed_at {
        let took = span(job.started_at.map(|started| at - started));
        line("ended", &format!("{} (took {took})", moment(at)));
    }
    line("batch", &format!("{} ({})", job.batch_id, details.batch_state));
    line("output", &details.output_directory);
    for output in &details.outputs {
        line("  file", output);
    }
    if let Some(log) = &details.log {
        line("log", log);
    }
    if let Some(error) = &job.error {
        line("error", error);
    }
    for (_, act) in details.acts.outstanding() {
        line("at source", &act.what.shown());
    }
    for act in details.acts.lost() {
        line("lost", &format!("{} (the source is not there any more)", act.what.shown()));
    }
    for event in &details.events {
        let _ = writeln!(text, "  {}  [{}] {}", moment(event.at), event.attempt, printable(&event.message));
    }
    text
}
