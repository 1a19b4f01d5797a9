//! `convert`: one-shot conversion without a daemon.

use super::{Exit, Failure, Ui};
use crate::model::error::{Error, Kind};

/// Arguments of `convert`.
#[derive(Debug, clap::Args)]
pub(super) struct ConvertArgs {}

/// Converts what it is given, here and now.
pub(super) fn run(_args: &ConvertArgs, _ui: &Ui) -> Result<Exit, Failure> {
    Err(Error::new(Kind::Unsupported, "this build cannot convert yet").advice("use a build that can").into())
}
