//! `daemon`: the service, in the foreground.

use super::{Exit, Failure, Ui};
use crate::model::error::Kind;
use crate::service::daemon;

/// Arguments of `daemon`.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    #[command(flatten)]
    state: super::StateArgs,
}

/// Runs the service until it is told to stop.
pub(super) fn run(args: &DaemonArgs, ui: &Ui) -> Result<Exit, Failure> {
    match daemon::run(
        args.state.source(),
        if ui.quiet { -1 } else { i8::try_from(ui.verbose).unwrap_or(i8::MAX) },
    ) {
        Ok(()) => Ok(Exit::Done),
        // What is wrong with the configuration is wrong usage; all else is a service that cannot run here.
        Err(error) if error.kind() == Kind::Manifest => Err(Failure::new(Exit::Usage, error)),
        Err(error) => Err(Failure::from(error)),
    }
}
