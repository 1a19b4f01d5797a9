//! Disks that nobody writes to, of machines that are off or behind a snapshot, read over HTTPS from the datastores they lie on (`/folder`), by
//! ranges.
//!
//! ```text
//!   descriptor ─▶ its flat files (extents) ─▶ looked at: size, date ─▶ Disk: a Remote ─▶ reader: any thread, any offset
//!                                                                                          │
//!                                      a few connections of the client's, kept open ◀──────┘
//! ```
//!
//! It needs nothing on the machine's host but the right to read files, and works against a vCenter and against a host alone. Where the server
//! knows which areas of a disk are in use, only those are fetched. What is not here: which machine is meant ([`super::inventory`]), and making
//! snapshots of those that run.

mod areas;
pub mod browse;
pub mod download;
mod extents;
mod fetch;
mod location;
mod pattern;
mod pool;
mod save;

use std::sync::Arc;

pub(crate) use self::areas::{AsOf, in_use};
use self::areas::{frozen, range, whole_sectors};
use self::extents::{CONSOLIDATE, Described};
use self::fetch::Files;
use self::location::DatastorePath;
use super::Client;
use super::cbt::Area;
use super::devices::{BackingKind, VmDisk};
use super::inventory::Power;
use super::machine::Machine;
use crate::disk::{Control, Holds, Range, Reader, Remote, Room, SourceDisk};
use crate::model::error::{Error, Kind, Result};

/// Reads a disk of a machine that is off and has no snapshots, over so many connections at most: all disks that are read with a client share
/// them. What the server knows not to be in use is not fetched.
pub(crate) fn open(
    client: &Client,
    machine: &Machine,
    disk: &VmDisk,
    connections: usize,
) -> Result<Arc<dyn Remote>> {
    is_at_rest(machine)?;
    readable(machine, disk)?;
    let areas = in_use(client, machine, disk, None)?;
    open_as_of(client, machine, disk, AsOf { snapshot: None, areas }, connections)
}

/// The same of a disk as it was when a snapshot was made, which the machine has to have alone. It may run.
pub(crate) fn open_as_of(
    client: &Client,
    machine: &Machine,
    disk: &VmDisk,
    as_of: AsOf,
    connections: usize,
) -> Result<Arc<dyn Remote>> {
    let place = match &as_of.snapshot {
        None => {
            is_at_rest(machine)?;
            readable(machine, disk)?
        }
        Some(snapshot) => frozen(machine, disk, snapshot)?,
    };
    let datacenter = machine.datacenter.clone().unwrap_or_default();
    let files = Files::new(client, &datacenter, connections);
    let as_of = AsOf { areas: as_of.areas.map(|areas| whole_sectors(&areas, disk.capacity_bytes)), ..as_of };
    let opened = Disk::open(files, place, disk.uuid.as_deref(), as_of, client.control())?;
    let (is, said) = (opened.described.size(), disk.capacity_bytes);
    if is != said {
        let name = opened.name();
        return Err(Error::new(
            Kind::Source,
            format!("{} has {said} bytes by the VM's configuration and {is} by its descriptor", disk.label),
        )
        .rule("disk.changed")
        .source(name)
        .advice("see whether the disk is being grown or moved; if not, report this"));
    }
    Ok(Arc::new(opened))
}

/// The same as a source of a copy.
pub fn source(client: &Client, machine: &Machine, disk: &VmDisk, connections: usize) -> Result<SourceDisk> {
    SourceDisk::remote(open(client, machine, disk, connections)?)
}

/// A disk of a machine that may run, as it was when this snapshot was made; what is known not to be in use is not fetched.
pub fn source_as_of(
    client: &Client,
    machine: &Machine,
    disk: &VmDisk,
    snapshot: &str,
    connections: usize,
) -> Result<SourceDisk> {
    let areas = in_use(client, machine, disk, Some(snapshot))?;
    let as_of = AsOf { snapshot: Some(snapshot.to_owned()), areas };
    SourceDisk::remote(open_as_of(client, machine, disk, as_of, connections)?)
}

/// A disk that is read.
#[derive(Debug, Clone)]
struct Disk {
    files: Files,
    place: DatastorePath,
    uuid: Option<String>,
    as_of: AsOf,
    described: Arc<Described>,
}

impl Disk {
    fn open(
        files: Files,
        place: DatastorePath,
        uuid: Option<&str>,
        as_of: AsOf,
        control: &Control,
    ) -> Result<Disk> {
        let described = Arc::new(extents::read(&files, &place, control)?);
        Ok(Disk { files, place, uuid: uuid.map(str::to_owned), as_of, described })
    }

    fn areas(&self) -> Option<&[Area]> {
        self.as_of.areas.as_deref()
    }
}

impl Remote for Disk {
    fn name(&self) -> String {
        self.files.name(&self.place)
    }

    fn size(&self) -> u64 {
        self.described.size()
    }

    fn identity(&self) -> String {
        let mut identity = format!("folder {}", self.files.address(&self.place));
        for extent in &self.described.extents {
            let stamp = extent.file.stamp.as_deref().unwrap_or_default();
            identity.push_str(&format!("; {} {} {stamp}", extent.file.place.path, extent.file.size));
        }
        let uuid = self.uuid.as_deref().unwrap_or_default();
        identity.push_str(&format!("; {} {uuid}", self.described.content));
        // Which areas were told is no part of it: the same question may be answered otherwise, and the disk is still the same.
        if let Some(snapshot) = &self.as_of.snapshot {
            identity.push_str(&format!("; as of {snapshot}"));
        }
        identity
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(FolderReader { disk: self.clone(), control: control.clone() }))
    }

    fn check_unchanged(&self, control: &Control) -> Result<()> {
        let now = extents::read(&self.files, &self.place, control)?;
        if now == *self.described { Ok(()) } else { Err(self.files.changed(&self.place)) }
    }
}

/// Reads it, for one caller.
#[derive(Debug)]
struct FolderReader {
    disk: Disk,
    control: Control,
}

impl Reader for FolderReader {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        Ok(match self.disk.areas() {
            Some(areas) => range(areas, at, self.size()),
            None => Range { start: at, length: self.size() - at, holds: Holds::Data },
        })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        // A block of which only a part is in use is fetched as it is; one that is not at all is what the map says.
        if let Some(areas) = self.disk.areas() {
            let first = range(areas, at, self.size());
            if first.holds == Holds::Zeros && first.length >= buffer.len() as u64 {
                buffer.fill(0);
                return Ok(());
            }
        }
        let (mut place, mut left) = (at, buffer);
        for extent in self.disk.described.extents.iter().filter(|extent| extent.end() > at) {
            let there = usize::try_from(extent.end() - place).unwrap_or(usize::MAX).min(left.len());
            let (part, rest) = left.split_at_mut(there);
            self.disk.files.read(
                &extent.file,
                extent.offset + (place - extent.start),
                part,
                &self.control,
            )?;
            (place, left) = (place + there as u64, rest);
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(Error::internal(format!("{} was read beyond its end", self.disk.name())))
    }
}

/// Only of a machine that is off does a file hold what the disk does.
fn is_at_rest(machine: &Machine) -> Result<()> {
    let (what, advice) = match machine.power {
        Power::Off => return Ok(()),
        Power::On => ("runs", "shut it down, then try again"),
        Power::Suspended => ("is suspended", "resume it and shut it down, then try again"),
        Power::Unknown => {
            ("is in no state that its server tells", "see what vCenter says of it and of its host")
        }
    };
    let name = &machine.name;
    Err(Error::new(Kind::Source, format!("{name} {what}: its disks are not read as they lie there"))
        .rule("disk.open_elsewhere")
        .source(name.clone())
        .advice(advice))
}

/// Where the disk lies, if its files are all that there is to it.
fn readable(machine: &Machine, disk: &VmDisk) -> Result<DatastorePath> {
    let copied = "copy it with the means of its storage, and name the copy under `disks`";
    let with_snapshots = !machine.snapshots.is_empty() || machine.consolidation_needed;
    let trouble = match disk.backing {
        BackingKind::Flat if disk.encrypted || machine.encrypted => Some((
            "disk.format",
            "is encrypted by vSphere",
            "decrypt it there (VM › VM Policies), then try again",
        )),
        BackingKind::Flat if disk.parent.is_some() => Some((
            "disk.snapshots",
            "stands on another file: of a snapshot, or as a linked clone",
            CONSOLIDATE,
        )),
        BackingKind::Flat if with_snapshots && !disk.independent => Some((
            "disk.snapshots",
            "is of a machine with snapshots, or with files of some that are gone",
            CONSOLIDATE,
        )),
        BackingKind::Flat => None,
        BackingKind::Sesparse | BackingKind::Sparse => {
            Some(("disk.snapshots", "lies in a file that grows, as that of a snapshot does", CONSOLIDATE))
        }
        BackingKind::Rdm => Some(("disk.device", "is a LUN that is mapped", copied)),
        BackingKind::Raw => Some(("disk.device", "is a device of its host", copied)),
        BackingKind::Other => Some(("disk.format", "is of a kind that is not known", copied)),
    };
    match trouble {
        Some((rule, what, advice)) => Err(unfit(rule, machine, disk, what, advice)),
        None => DatastorePath::parse(&disk.path),
    }
}

fn unfit(rule: &str, machine: &Machine, disk: &VmDisk, what: &str, advice: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{} of {} {what}", disk.label, machine.name))
        .rule(rule)
        .source(disk.path.clone())
        .advice(advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsphere::devices::Layer;
    use crate::vsphere::machine::Snapshot;

    fn disk() -> VmDisk {
        VmDisk {
            label: "Hard disk 1".to_owned(),
            backing: BackingKind::Flat,
            path: "[ds1] web/web.vmdk".to_owned(),
            ..VmDisk::default()
        }
    }

    #[test]
    fn only_plain_disks_of_machines_without_snapshots_are_read() {
        let plain = Machine::default();
        assert_eq!(readable(&plain, &disk()).unwrap().to_string(), "[ds1] web/web.vmdk");
        let snapshots = Machine { snapshots: vec![Snapshot::default()], ..Machine::default() };
        assert!(readable(&snapshots, &VmDisk { independent: true, ..disk() }).is_ok());
        let left = Machine { consolidation_needed: true, ..Machine::default() };
        let encrypted = Machine { encrypted: true, ..Machine::default() };
        let of = |backing| VmDisk { backing, ..disk() };
        for (machine, disk, rule) in [
            (&snapshots, disk(), "disk.snapshots"),
            (&left, disk(), "disk.snapshots"),
            (&encrypted, disk(), "disk.format"),
            (&plain, VmDisk { encrypted: true, ..disk() }, "disk.format"),
            (&plain, VmDisk { parent: Some(Box::new(Layer::default())), ..disk() }, "disk.snapshots"),
            (&plain, of(BackingKind::Sesparse), "disk.snapshots"),
            (&plain, of(BackingKind::Rdm), "disk.device"),
            (&plain, of(BackingKind::Raw), "disk.device"),
            (&plain, of(BackingKind::Other), "disk.format"),
        ] {
            let error = readable(machine, &disk).unwrap_err();
            assert_eq!(
                (error.kind(), error.details().rule.as_deref()),
                (Kind::Unsupported, Some(rule)),
                "{error}"
            );
        }
    }

    #[test]
    fn a_machine_that_may_write_is_not_read() {
        for power in [Power::On, Power::Suspended, Power::Unknown] {
            let error = is_at_rest(&Machine { power, ..Machine::default() }).unwrap_err();
            assert_eq!(error.kind(), Kind::Source);
        }
        is_at_rest(&Machine { power: Power::Off, ..Machine::default() }).unwrap();
    }
}
