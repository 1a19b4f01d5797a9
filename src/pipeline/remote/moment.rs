//! The disks of a VM at one moment, which somebody can say later has changed since: of a VM that runs as a snapshot has frozen them, of one that
//! is off as they are.
//!
//! What is not here: who makes the snapshot and takes it away (the ledger of acts), and what is done with the areas.

use std::ops::Range;
use std::sync::Arc;

use super::Source;
use crate::disk::SourceDisk;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::plan::PlannedDisk;
use crate::model::remote::CHANGED_RULE;
use crate::vsphere::cbt::{self, Area};
use crate::vsphere::devices::VmDisk;
use crate::vsphere::folder::{self, AsOf};
use crate::vsphere::snapshot;

/// A VM at one moment.
#[derive(Debug)]
pub(in crate::pipeline) struct Moment<'s> {
    source: &'s Source,
    /// What froze it; none: it is off.
    snapshot: Option<String>,
    /// As they were then, with the change ids of then.
    disks: Vec<VmDisk>,
}

/// What has changed of a disk.
#[derive(Debug)]
pub(in crate::pipeline) enum Changes {
    /// These areas.
    Areas(Vec<Range<u64>>),
    /// Nobody knows any more, and why.
    Lost(String),
}

impl Source {
    /// Has account kept of changes of its disks. They are from the next snapshot on.
    pub(in crate::pipeline) fn track_changes(&self) -> Result<()> {
        cbt::enable(self.client()?, &self.reference(), &mut |_| {}).map(drop)
    }

    /// Its disks as this snapshot has frozen them; without one as they are, it being off.
    pub(in crate::pipeline) fn at(&self, snapshot: Option<&str>) -> Result<Moment<'_>> {
        let disks = match snapshot {
            Some(snapshot) => snapshot::disks(self.client()?, snapshot)?,
            None => self.machine.disks.clone(),
        };
        Ok(Moment { source: self, snapshot: snapshot.map(str::to_owned), disks })
    }
}

impl Moment<'_> {
    fn disk(&self, planned: &PlannedDisk) -> Result<&VmDisk> {
        let path = planned.source.to_string_lossy();
        self.disks.iter().find(|disk| disk.path == path).ok_or_else(|| absent(&path))
    }

    /// By what it is asked later what has changed since now; none: that cannot be asked.
    pub(in crate::pipeline) fn change_id(&self, planned: &PlannedDisk) -> Result<Option<String>> {
        Ok(self.disk(planned)?.change_id.clone())
    }

    /// What has changed of a disk since then.
    pub(in crate::pipeline) fn changes(&self, planned: &PlannedDisk, since: &str) -> Result<Changes> {
        let disk = self.disk(planned)?;
        let now = disk.change_id.as_deref();
        if now.is_none_or(|now| series(now) != series(since)) {
            let now = now.unwrap_or("none");
            return Ok(Changes::Lost(format!(
                "changes are counted anew: its change id is {now} and was {since}"
            )));
        }
        match self.asked(disk, since) {
            Ok(areas) => {
                let range = |area: Area| area.start..area.start.saturating_add(area.length);
                Ok(Changes::Areas(areas.into_iter().map(range).collect()))
            }
            Err(error) if is_refusal(&error) => Ok(Changes::Lost(error.details().cause.clone())),
            Err(error) => Err(error),
        }
    }

    fn asked(&self, disk: &VmDisk, since: &str) -> Result<Vec<Area>> {
        let of = (disk.key, disk.capacity_bytes);
        cbt::changed(self.source.client()?, &self.source.reference(), self.snapshot.as_deref(), of, since)
    }

    /// All of a disk, to be read where it is; what the server knows not to be in use is not read.
    pub(in crate::pipeline) fn open(&self, planned: &PlannedDisk, connections: u32) -> Result<SourceDisk> {
        let disk = self.disk_now(planned)?;
        let areas =
            folder::in_use(self.source.client()?, &self.source.machine, disk, self.snapshot.as_deref())?;
        self.opened(disk, areas, connections)
    }

    /// The same, to be read only where it is known to have changed.
    pub(in crate::pipeline) fn open_all(
        &self,
        planned: &PlannedDisk,
        connections: u32,
    ) -> Result<SourceDisk> {
        self.opened(self.disk_now(planned)?, None, connections)
    }

    /// A disk as its machine has it by now: above what it was at that moment lies what was written since.
    fn disk_now(&self, planned: &PlannedDisk) -> Result<&VmDisk> {
        let then = self.disk(planned)?;
        let now = self.source.machine.disks.iter().find(|disk| disk.key == then.key);
        now.ok_or_else(|| absent(&then.path))
    }

    fn opened(&self, disk: &VmDisk, areas: Option<Arc<[Area]>>, connections: u32) -> Result<SourceDisk> {
        let as_of = AsOf { snapshot: self.snapshot.clone(), areas };
        let connections = usize::try_from(connections).unwrap_or(1);
        SourceDisk::remote(folder::open_as_of(
            self.source.client()?,
            &self.source.machine,
            disk,
            as_of,
            connections,
        )?)
    }
}

fn absent(path: &str) -> Error {
    Error::new(Kind::Source, format!("the VM has no disk {path}"))
        .rule(CHANGED_RULE)
        .advice("see what it has: `hyper2kvm vsphere disks`")
}

/// What all change ids of one count have in common: another one says that the count was begun anew.
fn series(change_id: &str) -> &str {
    change_id.rsplit_once('/').map_or(change_id, |(series, _)| series)
}

/// Whether a server will not answer this, however often it is asked.
fn is_refusal(error: &Error) -> bool {
    let is_its_own = matches!(error.kind(), Kind::Source | Kind::Unsupported);
    is_its_own && error.disposition() == Disposition::Permanent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_was_begun_anew_is_known_by_its_change_ids() {
        let first = "52 9d 1c d4 00-11/7";
        assert_eq!(series(first), series("52 9d 1c d4 00-11/12"));
        assert_ne!(series(first), series("52 9d 1c d4 00-12/7"));
        assert_eq!(series("odd"), "odd");
    }

    #[test]
    fn only_what_a_server_says_itself_means_that_changes_are_lost() {
        assert!(is_refusal(&Error::new(Kind::Source, "a file is gone")));
        assert!(is_refusal(&Error::new(Kind::Unsupported, "not here")));
        assert!(!is_refusal(&Error::new(Kind::Source, "busy").transient()));
        assert!(!is_refusal(&Error::new(Kind::Network, "away")));
        assert!(!is_refusal(&Error::new(Kind::Auth, "not allowed")));
    }
}
