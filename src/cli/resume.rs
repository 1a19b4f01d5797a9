//! `resume`: lets what was paused go on.

use super::pause::{StandArgs, ask};
use super::{Exit, Failure, Ui};

/// Lets it go on.
pub(super) fn run(args: &StandArgs, ui: &Ui) -> Result<Exit, Failure> {
    ask(args, ui, "resume")
}
