//! `prune`: removes what retention allows to go. Results and dropped disks are never among it.

use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::{PruneRequest, Pruned};
use crate::model::units::human_size;

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Prunes.
pub(super) fn run(args: &PruneArgs, ui: &Ui) -> Result<Exit, Failure> {
    let pruned: Pruned =
        Client::new(&args.state)?.post("/v1/prune", &PruneRequest { dry_run: args.dry_run })?;
    if ui.json {
        ui.print_json(&pruned)?;
    } else if !ui.quiet {
        let Pruned { dry_run, batches, logs, partials, bytes } = pruned;
        let verb = if dry_run { "would remove" } else { "removed" };
        let size = human_size(bytes);
        ui.print(&format!("{verb} {batches} batches, {logs} logs, {partials} partial results ({size})\n"))?;
    }
    Ok(Exit::Done)
}
