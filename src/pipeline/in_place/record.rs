//! What a repair in place leaves beside each disk, and what it means for the machine whose disks they are.
//!
//! What is not here: where records lie (see [`super::place`]), and what is done about them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::FileIdentity;
use crate::model::plan::OutputFormat;

/// How far one disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// As it was; its overlay holds complete repairs.
    Waits,
    /// Perhaps in part: only committing again makes it whole.
    Begun,
    /// Repaired.
    Done,
}

/// The record of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) format: OutputFormat,
    /// The disk when it was repaired in its overlay; once done, when it had taken that up.
    pub(super) disk: FileIdentity,
    pub(super) step: Step,
    /// All disks that were repaired together.
    pub(super) machine: Vec<PathBuf>,
}

/// What the records of one machine's disks say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The disks are all as they were, or all repaired: what lies beside them is not needed any more.
    Nothing,
    /// Some disks are not as the others are.
    Unfinished,
    /// The same, and the record of the disk with this number is gone.
    Incomplete(usize),
}

/// Judges the records of a machine, in the order of its disks. All are written before the first disk is begun, and removed one by one
/// after the last is done, so that one may be missing only while the others agree.
pub(super) fn left(steps: &[Option<Step>]) -> Left {
    let all_are = |step: Step| steps.iter().flatten().all(|other| *other == step);
    if all_are(Step::Waits) || all_are(Step::Done) {
        return Left::Nothing;
    }
    steps.iter().position(Option::is_none).map_or(Left::Unfinished, Left::Incomplete)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Option<Step> = Some(Step::Waits);
    const BEGUN: Option<Step> = Some(Step::Begun);
    const DONE: Option<Step> = Some(Step::Done);

    #[test]
    fn before_the_first_disk_is_begun_and_after_the_last_is_done_nothing_is_left_to_do() {
        for steps in [[WAITS, WAITS], [WAITS, None], [None, WAITS], [DONE, DONE], [None, DONE]] {
            assert_eq!(left(&steps), Left::Nothing, "{steps:?}");
        }
    }

    #[test]
    fn between_them_the_machine_has_to_be_finished() {
        for steps in [[BEGUN, WAITS], [DONE, WAITS], [DONE, BEGUN]] {
            assert_eq!(left(&steps), Left::Unfinished, "{steps:?}");
        }
        assert_eq!(left(&[BEGUN]), Left::Unfinished);
    }

    #[test]
    fn a_record_that_is_gone_meanwhile_is_noticed() {
        assert_eq!(left(&[BEGUN, None]), Left::Incomplete(1));
        assert_eq!(left(&[None, DONE, WAITS]), Left::Incomplete(0));
    }
}
