//! `cancel`: ends jobs, and cleans up after them.

use super::acting::{act_on_jobs, jobs_in};
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::CancelRequest;
use crate::model::job::JobState;

/// Arguments of `cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch
    #[arg(value_name = "JOB", required_unless_present = "all", conflicts_with = "all")]
    jobs: Vec<String>,
    /// Every job that has not ended
    #[arg(long)]
    all: bool,
    /// Leave partial results, so that a retry can go on from them
    #[arg(long)]
    keep_partial: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Ends the jobs.
pub(super) fn run(args: &CancelArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    let targets = match args.all {
        true => jobs_in(&client, &[JobState::Queued, JobState::Waiting, JobState::Running])?,
        false => args.jobs.clone(),
    };
    act_on_jobs(&client, ui, &targets, "cancel", &CancelRequest { keep_partial: args.keep_partial })
}
