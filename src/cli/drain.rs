//! `drain`: start nothing new, take no drops, let running jobs end, stay up.

use super::acting::print_acted;
use super::client::Client;
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::{Acted, DrainRequest};

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// Take it back: start jobs and take drops again
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Drains, or takes it back.
pub(super) fn run(args: &DrainArgs, ui: &Ui) -> Result<Exit, Failure> {
    let acted: Acted = Client::new(&args.state)?.post("/v1/drain", &DrainRequest { on: !args.off })?;
    print_acted(ui, &acted)
}
