//! `cutover`: asks for the last pass of a warm migration.

use super::acting::act_on_jobs;
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};

/// Arguments of `cutover`.
#[derive(Debug, clap::Args)]
pub(super) struct CutoverArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
    #[command(flatten)]
    state: StateArgs,
}

/// Asks for it: it is made when the pass under way has ended, and the window of the batch is open.
pub(super) fn run(args: &CutoverArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    act_on_jobs(&client, ui, &args.jobs, "cutover", &serde_json::json!({}))
}
