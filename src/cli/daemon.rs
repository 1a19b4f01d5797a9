//! `daemon`: the service, in the foreground.

use super::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};

/// Arguments of `daemon`.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    #[command(flatten)]
    state: super::StateArgs,
}

/// Runs the service until it is told to stop.
pub(super) fn run(args: &DaemonArgs, _ui: &Ui) -> Result<Exit, Failure> {
    args.state.source().load()?;
    Err(Error::new(Kind::Unsupported, "this build has no service").advice("use a build that has it").into())
}
