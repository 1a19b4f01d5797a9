//! The steps of a build that knows nothing of libvirt: no plan that it makes has any.

use super::record::{Handover, Step};
use crate::model::error::{Error, Kind, Result};
use crate::model::handover::PlannedLibvirt;
use crate::pipeline::worker::Job;

/// Nobody tells libvirt anything.
pub(super) enum Teller {}

impl Teller {
    pub(super) fn of(_: &Job<'_>) -> Result<Teller> {
        Err(not_built())
    }

    pub(super) fn tell(&mut self, _: &mut Job<'_>, _: Step) -> Result<()> {
        match *self {}
    }
}

/// Another build has told libvirt, and only such a one can ask it.
pub(super) fn was_started(_: &Handover) -> Result<bool> {
    Err(not_built())
}

/// Nor can it take anything back.
pub(super) fn undo(_: &Handover) -> Result<()> {
    Err(not_built())
}

/// Nor can it be had to look again.
pub(super) fn hide(_: &Handover) -> Result<()> {
    Err(not_built())
}

/// Nor can it be asked which machines there are.
pub(in crate::pipeline) fn is_there(_: &PlannedLibvirt, _: (&str, &str)) -> Result<bool> {
    Err(not_built())
}

/// Nor can one be stopped.
pub(in crate::pipeline) fn stop(_: &PlannedLibvirt, _: (&str, &str)) -> Result<Option<String>> {
    Err(not_built())
}

fn not_built() -> Error {
    Error::new(Kind::Unsupported, "libvirt cannot be told anything: this build knows nothing of it")
        .advice("build it with the feature `libvirt`")
}
