//! `release`: gives batches away, so that another host goes on with them.

use super::acting::act_on_jobs;
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseArgs {
    /// Ids of batches
    #[arg(value_name = "BATCH", required = true)]
    batches: Vec<String>,
    #[command(flatten)]
    state: StateArgs,
}

/// Ends their jobs; what is partial stays, and the locks on their output directories say that another host may go on.
pub(super) fn run(args: &ReleaseArgs, ui: &Ui) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    act_on_jobs(&client, ui, &args.batches, "release", &serde_json::json!({}))
}
