//! Which parts of a disk are fetched: those that its server says are in use, or have changed, and nothing in between.
//!
//! Only of a disk that nobody writes to is that true: of a machine that is off, or as of a snapshot. A server that refuses the question, or knows
//! no answer, costs the whole disk and nothing else. What is not here: asking ([`crate::vsphere::cbt`]), and what the areas of two moments
//! have to do with each other.

use std::sync::Arc;

use super::extents::{CONSOLIDATE, SECTOR};
use super::location::DatastorePath;
use super::{readable, unfit};
use crate::disk::{Holds, Range};
use crate::model::error::{Kind, Result};
use crate::vsphere::Client;
use crate::vsphere::cbt::{self, ALL_IN_USE, Area};
use crate::vsphere::devices::{BackingKind, VmDisk};
use crate::vsphere::inventory::{Power, VmRef};
use crate::vsphere::machine::Machine;
use crate::vsphere::snapshot::flat;

/// What of a disk is read.
#[derive(Debug, Clone, Default)]
pub(crate) struct AsOf {
    /// The snapshot behind which its file stands still, as the server calls it; none: the machine is off.
    pub(crate) snapshot: Option<String>,
    /// What is fetched; all else is taken for zeros. None: all of it.
    pub(crate) areas: Option<Arc<[Area]>>,
}

/// The areas of a disk that are in use, asked without a change at the source; none: all of it has to be fetched.
///
/// The machine has to be off, or the snapshot has to be there, and change tracking has to be on already. A server that does not answer at all is
/// an error.
pub(crate) fn in_use(
    client: &Client,
    machine: &Machine,
    disk: &VmDisk,
    snapshot: Option<&str>,
) -> Result<Option<Arc<[Area]>>> {
    let (name, label, size) = (&machine.name, &disk.label, disk.capacity_bytes);
    if !machine.change_tracking {
        tracing::debug!(vm = name, disk = label, "changes are not tracked: all of it is fetched");
        return Ok(None);
    }
    let vm = VmRef { moref: machine.moref.clone() };
    match cbt::changed(client, &vm, snapshot, (disk.key, size), ALL_IN_USE) {
        Ok(areas) => {
            let areas = whole_sectors(&areas, size);
            let bytes: u64 = areas.iter().map(|area| area.length).sum();
            // Datastores that do not know (NFS) say that all of it is.
            tracing::info!(vm = name, disk = label, bytes, size, areas = areas.len(), "in use, and fetched");
            Ok(Some(areas))
        }
        Err(error) if matches!(error.kind(), Kind::Network | Kind::Cancelled) => Err(error),
        Err(error) => {
            tracing::info!(vm = name, disk = label, %error, "which areas are in use is not told: all of it is fetched");
            Ok(None)
        }
    }
}

/// The same areas in whole sectors; what touches then is one.
pub(super) fn whole_sectors(areas: &[Area], size: u64) -> Arc<[Area]> {
    let mut whole: Vec<Area> = Vec::with_capacity(areas.len());
    for area in areas {
        let start = area.start - area.start % SECTOR;
        let end = area.start.saturating_add(area.length).next_multiple_of(SECTOR).min(size);
        match whole.last_mut() {
            Some(last) if last.start + last.length >= start => {
                last.length = last.length.max(end.saturating_sub(last.start));
            }
            _ if start < end => whole.push(Area { start, length: end - start }),
            _ => {}
        }
    }
    whole.into()
}

/// What lies at an offset, and how far that goes. Areas are in order.
pub(super) fn range(areas: &[Area], at: u64, size: u64) -> Range {
    let until = |end: u64, holds| Range { start: at, length: end - at, holds };
    let next = areas.partition_point(|area| area.start + area.length <= at);
    match areas.get(next) {
        None => until(size, Holds::Zeros),
        Some(area) if area.start > at => until(area.start, Holds::Zeros),
        Some(area) => until(area.start + area.length, Holds::Data),
    }
}

/// Where a disk lies as it was when the one snapshot that its machine has was made: the file that nobody writes to any more.
///
/// One that had snapshots before lies in several files, of which only a host knows how they are read.
pub(super) fn frozen(machine: &Machine, disk: &VmDisk, snapshot: &str) -> Result<DatastorePath> {
    let refused = |what: &str, advice: &str| Err(unfit("disk.snapshots", machine, disk, what, advice));
    let with_others = "remove the VM's own snapshots first, or have its host read them: `transport: nfc`";
    // What is left behind says nothing of the file below the only snapshot.
    let base = Machine { snapshots: Vec::new(), consolidation_needed: false, ..machine.clone() };
    if disk.independent && machine.power == Power::Off {
        return readable(&base, disk);
    }
    if disk.independent {
        let advice = "shut the VM down, or make the disk a dependent one in vSphere";
        return refused("is independent: no snapshot holds it", advice);
    }
    match machine.snapshots.as_slice() {
        [one] if one.moref == snapshot && one.children.is_empty() => {}
        snapshots if flat(snapshots).iter().any(|(_, one)| one.moref == snapshot) => {
            return refused("is of a VM with snapshots of its own", with_others);
        }
        _ => return refused(&format!("is not held by the snapshot {snapshot}, which is gone"), "try again"),
    }
    match disk.parent.as_deref() {
        Some(below) if below.parent.is_none() && below.backing == BackingKind::Flat => {
            let frozen = VmDisk {
                backing: below.backing,
                path: below.path.clone(),
                datastore: below.datastore.clone(),
                parent: None,
                ..disk.clone()
            };
            readable(&base, &frozen)
        }
        Some(_) => refused("stands on files of older snapshots, or on those of another VM", with_others),
        None => refused("has no file that a snapshot holds still", CONSOLIDATE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vsphere::devices::Layer;
    use crate::vsphere::machine::Snapshot;

    const SIZE: u64 = 1 << 20;

    fn area(start: u64, length: u64) -> Area {
        Area { start, length }
    }

    #[test]
    fn areas_grow_to_sectors_and_what_touches_then_is_one() {
        let told = [area(0, 10), area(600, 10), area(1024, 512), area(9000, 1), area(SIZE - 7, 7)];
        let whole = whole_sectors(&told, SIZE);
        assert_eq!(*whole, [area(0, 1536), area(8704, 512), area(SIZE - 512, 512)]);
        assert_eq!(*whole_sectors(&[area(0, SIZE)], SIZE), [area(0, SIZE)]);
        assert!(whole_sectors(&[], SIZE).is_empty());
    }

    #[test]
    fn a_map_tells_areas_and_what_is_between_and_gets_to_the_end() {
        let areas = [area(512, 1024), area(4096, 512)];
        let (mut at, mut told) = (0, Vec::new());
        while at < SIZE {
            let range = range(&areas, at, SIZE);
            assert_eq!(range.start, at);
            told.push((range.length, range.holds));
            at = range.end();
        }
        assert_eq!(
            told,
            [
                (512, Holds::Zeros),
                (1024, Holds::Data),
                (2560, Holds::Zeros),
                (512, Holds::Data),
                (SIZE - 4608, Holds::Zeros)
            ]
        );
        assert_eq!(range(&areas, 1000, SIZE), Range { start: 1000, length: 536, holds: Holds::Data });
        assert_eq!(range(&[], 7, SIZE), Range { start: 7, length: SIZE - 7, holds: Holds::Zeros });
    }

    #[test]
    fn only_the_file_below_the_only_snapshot_stands_still() {
        let snapshot = |moref: &str| Snapshot { moref: moref.to_owned(), ..Snapshot::default() };
        let flat = |path: &str, parent| Layer {
            backing: BackingKind::Flat,
            path: path.to_owned(),
            parent,
            ..Layer::default()
        };
        let disk = VmDisk {
            backing: BackingKind::Sesparse,
            path: "[ds1] web/web-000001.vmdk".to_owned(),
            parent: Some(Box::new(flat("[ds1] web/web.vmdk", None))),
            ..VmDisk::default()
        };
        let machine = Machine { snapshots: vec![snapshot("snapshot-1")], ..Machine::default() };
        let found = frozen(&machine, &disk, "snapshot-1").unwrap();
        assert_eq!(found.to_string(), "[ds1] web/web.vmdk");
        let two = Machine {
            snapshots: vec![Snapshot { children: vec![snapshot("snapshot-2")], ..snapshot("snapshot-1") }],
            ..Machine::default()
        };
        let deep = flat("[ds1] web/web.vmdk", Some(Box::new(flat("[ds1] base/base.vmdk", None))));
        for (machine, disk, wanted) in [
            (&machine, disk.clone(), "snapshot-2"),
            (&Machine::default(), disk.clone(), "snapshot-1"),
            (&two, disk.clone(), "snapshot-2"),
            (&machine, VmDisk { parent: None, ..disk.clone() }, "snapshot-1"),
            (&machine, VmDisk { parent: Some(Box::new(deep)), ..disk.clone() }, "snapshot-1"),
            (&machine, VmDisk { independent: true, ..disk.clone() }, "snapshot-1"),
            (&machine, VmDisk { encrypted: true, ..disk.clone() }, "snapshot-1"),
        ] {
            let error = frozen(machine, &disk, wanted).unwrap_err();
            assert!(error.kind() == Kind::Unsupported && error.details().advice.is_some(), "{error}");
        }
    }
}
