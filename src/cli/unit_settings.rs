//! `unit-settings`: the drop-in for `hyper2kvm.service` that follows from the configuration.

use super::{Exit, Failure, StateArgs, Ui};
use crate::service::unit_settings::drop_in;

/// Arguments of `unit-settings`.
#[derive(Debug, clap::Args)]
pub(super) struct UnitSettingsArgs {
    #[command(flatten)]
    state: StateArgs,
}

/// Prints the drop-in.
pub(super) fn run(args: &UnitSettingsArgs, ui: &Ui) -> Result<Exit, Failure> {
    ui.print(&drop_in(&args.state.source().load()?))?;
    Ok(Exit::Done)
}
