//! `pause`: lets jobs stand still, and frees their slots.

use super::acting::{act_on_jobs, print_acted};
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::Acted;

/// Arguments of `pause`, and of `resume`.
#[derive(Debug, clap::Args)]
pub(super) struct StandArgs {
    /// Number, BATCH/VM, unique VM name, or a whole batch; without one, all work
    #[arg(value_name = "JOB", conflicts_with = "all")]
    jobs: Vec<String>,
    /// All work, running jobs too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Lets them stand still.
pub(super) fn run(args: &StandArgs, ui: &Ui) -> Result<Exit, Failure> {
    ask(args, ui, "pause")
}

/// `pause` or `resume`, of jobs or of everything.
pub(super) fn ask(args: &StandArgs, ui: &Ui, action: &str) -> Result<Exit, Failure> {
    let client = Client::new(&args.state)?;
    let nothing = serde_json::json!({});
    if !args.jobs.is_empty() {
        return act_on_jobs(&client, ui, &args.jobs, action, &nothing);
    }
    let acted: Acted = client.post(&format!("/v1/{action}"), &nothing)?;
    print_acted(ui, &acted)
}
