//! `retry`: tries ended jobs again, going on from what is left of them.

use super::acting::{act_on_jobs, jobs_in};
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::RetryRequest;
use crate::model::job::{JobState, Stage};

/// Arguments of `retry`.
#[derive(Debug, clap::Args)]
pub(super) struct RetryArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch
    #[arg(value_name = "JOB", required_unless_present_any = ["failed", "all"], conflicts_with = "all")]
    jobs: Vec<String>,
    /// Begin again at this stage, throwing away what it and later ones made
    #[arg(long, value_name = "STAGE", value_parser = parse_stage)]
    from: Option<Stage>,
    /// Of a batch only the jobs that failed; without JOB every job that failed
    #[arg(long)]
    failed: bool,
    /// Every job that failed or was cancelled
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Queues the jobs again.
pub(super) fn run(args: &RetryArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    let targets = if args.all {
        jobs_in(&client, &[JobState::Failed, JobState::Cancelled])?
    } else if args.jobs.is_empty() {
        jobs_in(&client, &[JobState::Failed])?
    } else {
        args.jobs.clone()
    };
    let request = RetryRequest { from: args.from, failed: args.failed };
    act_on_jobs(&client, ui, &targets, "retry", &request)
}

/// A stage by its name, in clap's terms.
pub(super) fn parse_stage(name: &str) -> Result<Stage, String> {
    Stage::parse(name).map_err(|error| error.to_string())
}
