//! Exit codes, and the failure that carries one out of a command.
//!
//! The numbers are part of the outside contract; they are written down here and nowhere else.
//! (`check` has its own four, which monitoring systems prescribe: see `check.rs`.)

use std::process::ExitCode;

use crate::model::api::{Refusal, RefusalCode};
use crate::model::error::{Error, Kind};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The work failed, or it cannot be done in this state.
    Failed,
    /// Wrong usage or invalid input.
    Usage,
    /// Something that this machine lacks.
    Lacking,
    /// The daemon cannot be reached.
    Unreachable,
    /// There is no such job.
    NoSuchJob,
    /// Interrupted by the person who started it.
    Interrupted,
    /// What a monitoring system is told: 0 ok, 1 warning, 2 critical, 3 unknown.
    Monitor(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Lacking => 3,
            Exit::Unreachable => 4,
            Exit::NoSuchJob => 5,
            Exit::Interrupted => 130,
            Exit::Monitor(code) => code,
        }
    }

    /// How a command ends that failed with an error of this kind.
    #[must_use]
    pub fn of(kind: Kind) -> Exit {
        match kind {
            Kind::Manifest => Exit::Usage,
            Kind::Unsupported => Exit::Lacking,
            Kind::Cancelled => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// What is told; `None` where everything has been said (or nobody listens any more).
    pub error: Option<Error>,
}

impl Failure {
    /// A failure that ends the program with this code.
    #[must_use]
    pub fn new(exit: Exit, error: Error) -> Failure {
        Failure { exit, error: Some(error) }
    }

    /// An end without words.
    #[must_use]
    pub fn silent(exit: Exit) -> Failure {
        Failure { exit, error: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(Exit::of(error.kind()), error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let exit = match refusal.code {
            RefusalCode::NoSuchJob => Exit::NoSuchJob,
            RefusalCode::Invalid if refusal.error.kind() == Kind::Unsupported => Exit::Lacking,
            RefusalCode::Invalid => Exit::Usage,
            RefusalCode::WrongState | RefusalCode::NotAllowed | RefusalCode::Failed => Exit::Failed,
        };
        Failure::new(exit, refusal.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_does_wrong_is_wrong_usage_and_what_is_not_built_is_lacking() {
        assert_eq!(Failure::from(Error::new(Kind::Manifest, "x")).exit, Exit::Usage);
        assert_eq!(Failure::from(Error::new(Kind::Unsupported, "x")).exit, Exit::Lacking);
        assert_eq!(Failure::from(Error::new(Kind::Conversion, "x")).exit, Exit::Failed);
    }

    #[test]
    fn a_refusal_keeps_its_meaning_as_an_exit_code() {
        for (code, exit) in [
            (RefusalCode::NoSuchJob, Exit::NoSuchJob),
            (RefusalCode::WrongState, Exit::Failed),
            (RefusalCode::Invalid, Exit::Usage),
            (RefusalCode::NotAllowed, Exit::Failed),
        ] {
            let refusal = Refusal { code, error: Error::new(Kind::Manifest, "x") };
            assert_eq!(Failure::from(refusal).exit, exit);
        }
    }
}
