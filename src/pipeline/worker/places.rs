//! Where what a worker makes lies, and what of it stays when its work ends early.
//!
//! A disk's result may lie in another directory than the VM's; what is partial of it lies there too, because a name is given within one file
//! system only. What is not here: how names are given (see [`publish`]).

use std::path::{Path, PathBuf};

use super::Job;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::plan::PlannedDisk;
use crate::pipeline::checkpoint::{Checkpoint, FinishedDisk};
use crate::pipeline::handover;
use crate::pipeline::names::{fetch_journal_name, fetched_name};
use crate::pipeline::publish::{self, Named, Progress};
use crate::sys::dir::Dir;

impl Job<'_> {
    /// The directory of a disk's result.
    pub(in crate::pipeline) fn dir(&self, disk: &PlannedDisk) -> Result<&Dir> {
        self.place.dirs().of(disk)
    }

    /// The name of a disk's result until it is published.
    pub(in crate::pipeline) fn partial(&self, disk: &PlannedDisk) -> String {
        publish::partial_name(self.plan, disk, &self.checkpoint.mark)
    }

    /// The same with its directory.
    pub(in crate::pipeline) fn partial_path(&self, disk: &PlannedDisk) -> PathBuf {
        self.path(disk, &self.partial(disk))
    }

    /// The name of what is known of how far its copy is.
    pub(in crate::pipeline) fn copy_journal(&self, disk: &PlannedDisk) -> String {
        publish::copy_journal_name(self.plan, disk, &self.checkpoint.mark)
    }

    /// The name of what its result is held against.
    pub(in crate::pipeline) fn extents(&self, disk: &PlannedDisk) -> String {
        publish::extents_name(self.plan, disk, &self.checkpoint.mark)
    }

    /// A name beside a disk's result.
    pub(in crate::pipeline) fn path(&self, disk: &PlannedDisk, name: &str) -> PathBuf {
        disk.elsewhere().unwrap_or_else(|| self.place.results.path()).join(name)
    }

    /// Whether a disk's finished file is there, unchanged.
    pub(in crate::pipeline) fn is_there(&self, disk: &PlannedDisk, finished: &FinishedDisk) -> Result<bool> {
        let (dir, name) = (self.dir(disk)?, &finished.partial);
        let is_there = finished.file.is_at(dir, name);
        is_there.map_err(|error| Error::io(Kind::Output, "look for", &dir.path().join(name), &error))
    }

    /// Where a result with this name lies.
    pub(super) fn final_path(&self, named: &Named) -> PathBuf {
        let directory = named.directory.as_deref();
        directory.unwrap_or_else(|| self.place.results.path()).join(&named.name)
    }

    /// Keeps what a next attempt goes on from, and removes the rest: it only takes room that others may need. With nothing to go on from,
    /// nothing is left behind.
    pub(super) fn keep(&self, cut: Cut) {
        let is_kept = |disk: &&PlannedDisk| {
            self.checkpoint.disks.contains_key(&disk.id) || (cut == Cut::Stays && self.is_begun(disk))
        };
        let mark = &self.checkpoint.mark;
        let disks = self.plan.disks.iter().filter(is_kept);
        let names = disks
            .flat_map(|disk| publish::copy_names(self.plan, disk, mark).map(|name| (disk.elsewhere(), name)));
        let overlays = self.checkpoint.guest.iter().flat_map(|guest| guest.overlays.values());
        let overlays = overlays.map(|overlay| (None, overlay.name.clone()));
        let fetched = self.plan.disks.iter().filter(|disk| self.is_fetched(disk, cut));
        let fetched = fetched.flat_map(|disk| [fetched_name(&disk.id), fetch_journal_name(&disk.id)]);
        let fetched = fetched.map(|name| (None, name));
        let mut kept: Vec<(Option<&Path>, String)> = names.chain(overlays).chain(fetched).collect();
        let goes_on = cut == Cut::Stays || !kept.is_empty() || self.checkpoint.intent.is_some();
        if goes_on && self.ledger.says_something() {
            kept.push((None, self.ledger.name().to_owned()));
        }
        let is_kept =
            |at: Option<&Path>, name: &String| kept.iter().any(|kept| kept.0 == at && kept.1 == *name);
        for (at, name) in self.checkpoint.all_partials().filter(|(at, name)| !is_kept(*at, name)) {
            let Some(dir) = self.place.dirs().at(at) else { continue };
            if let Err(error) = dir.remove(name) {
                tracing::warn!(name, %error, "a partial result that is of no use stays");
            }
        }
        let has_acts = self.checkpoint.acts.outstanding().next().is_some();
        if !kept.is_empty() || has_acts || self.checkpoint.intent.is_some() {
            self.save_quietly();
        } else if let Err(error) = Checkpoint::remove(&self.place.results, &self.plan.vm_id) {
            tracing::warn!(%error, "the journal stays");
        }
    }

    /// Whether a copy was begun that can be gone on with: what has no journal cannot.
    fn is_begun(&self, disk: &PlannedDisk) -> bool {
        let is_there = |name: String| self.dir(disk).is_ok_and(|dir| matches!(dir.entry(&name), Ok(Some(_))));
        is_there(self.partial(disk)) && is_there(self.copy_journal(disk))
    }

    /// Whether what was fetched of a disk elsewhere is of use, or can be gone on with.
    fn is_fetched(&self, disk: &PlannedDisk, cut: Cut) -> bool {
        let is_there = |name: String| matches!(self.place.results.entry(&name), Ok(Some(_)));
        let is_warm =
            self.checkpoint.passes.as_ref().is_some_and(|passes| passes.copies.contains_key(&disk.id));
        is_warm
            || self.checkpoint.fetched.contains_key(&disk.id)
            || (cut == Cut::Stays
                && is_there(fetched_name(&disk.id))
                && is_there(fetch_journal_name(&disk.id)))
    }

    pub(super) fn remove_everything(&self) -> Result<()> {
        let is_unfinished =
            |intent| Ok(publish::progress(self.place.dirs(), intent)? == Progress::Unfinished);
        if self.checkpoint.intent.as_ref().map_or(Ok(false), is_unfinished)? {
            handover::refuse_what_was_started(&self.checkpoint)?;
        }
        publish::discard(self.place.dirs(), &self.checkpoint)?;
        Checkpoint::remove(&self.place.results, &self.plan.vm_id)
    }
}

/// What becomes of copies that were cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// A next attempt goes on with them.
    Stays,
    /// They give their room back.
    Goes,
}

impl Cut {
    /// After a failure: they stay where there will be another attempt, unless it is room that is wanted.
    pub(super) fn after(error: &Error) -> Cut {
        match (error.disposition(), error.kind()) {
            (Disposition::Permanent, _) | (_, Kind::DiskSpace) => Cut::Goes,
            (Disposition::Transient | Disposition::NeedsOperator, _) => Cut::Stays,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_copy_stays_for_another_attempt_and_never_where_room_is_wanted() {
        let cut = |kind| Cut::after(&Error::new(kind, "failed"));
        assert_eq!(Cut::after(&Error::new(Kind::Conversion, "no progress").transient()), Cut::Stays);
        assert_eq!((cut(Kind::Network), cut(Kind::Auth)), (Cut::Stays, Cut::Stays));
        assert_eq!((cut(Kind::Source), cut(Kind::Validation)), (Cut::Goes, Cut::Goes));
        assert_eq!(cut(Kind::DiskSpace), Cut::Goes);
        assert_eq!(Cut::after(&Error::new(Kind::DiskSpace, "full").transient()), Cut::Goes);
    }
}
