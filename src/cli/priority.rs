//! `priority`: moves a job in the queue.

use super::acting::act_on_jobs;
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::PriorityRequest;

/// Arguments of `priority`.
#[derive(Debug, clap::Args)]
pub(super) struct PriorityArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch
    #[arg(value_name = "JOB")]
    job: String,
    /// Lower runs first
    #[arg(value_name = "N", allow_negative_numbers = true)]
    priority: i64,
    #[command(flatten)]
    state: StateArgs,
}

/// Moves it.
pub(super) fn run(args: &PriorityArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    let request = PriorityRequest { priority: args.priority };
    act_on_jobs(&client, ui, std::slice::from_ref(&args.job), "priority", &request)
}
