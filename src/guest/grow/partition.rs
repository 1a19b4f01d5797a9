//! The last partition of a disk takes the room behind it.
//!
//! The table is edited byte by byte, so that nothing changes but sizes: start, number, type, UUID, name, attributes, flags and
//! boot code stay, and it does not matter which version of which tool the appliance has. Then the appliance's kernel is told, also
//! of a partition that is in use by LVM. What is not here: the two kinds of tables (see [`super::gpt`], [`super::mbr`]).

use super::{Attempt, Growth, LUKS, LVM, Larger, Obstacle, gpt, in_the_way, is_file_system, mbr};
use crate::guest::appliance::Appliance;
use crate::guest::inspect::mount::for_shell;
use crate::guest::inspect::storage::Storage;
use crate::guest::tree::shown;
use crate::model::units::human_size;

/// In these all tables count. libguestfs shows no other.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Partitions end at multiples of this many sectors, as tools make them.
pub(super) const ALIGNMENT: u64 = (1 << 20) / SECTOR_BYTES;

/// A partition, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Sectors to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) sector: u64,
    pub(super) bytes: Vec<u8>,
}

/// Reads so many sectors.
pub(super) type Read<'r> = dyn Fn(u64, u64) -> Attempt<Vec<u8>> + 'r;

/// A partition table.
pub(super) trait Table: std::fmt::Debug {
    /// Everything that takes room. Of an extended partition, only what is in it, unless that is nothing.
    fn partitions(&self) -> Vec<Partition>;

    /// What has to be written, so that this partition ends where a disk of that many sectors does.
    fn grown(&self, number: u32, disk_sectors: u64) -> Attempt<Vec<Patch>>;
}

/// Grows the last partition, or notes that there is none because the whole disk holds something.
pub(super) fn grow(
    appliance: &Appliance,
    storage: &Storage,
    disk: usize,
    from: u64,
    id: &str,
    growth: &mut Growth,
) -> Attempt<()> {
    let name = storage.disks.get(disk).ok_or_else(|| Obstacle::broken("the appliance does not see it"))?;
    let bytes =
        appliance.device_bytes(name).map_err(|why| Obstacle::refused("ask the size of", name, &why))?;
    let read = |sector: u64, count: u64| {
        let count = i32::try_from(count * SECTOR_BYTES).map_err(|_| damaged("it is too large"))?;
        let at = sector.checked_mul(SECTOR_BYTES).ok_or_else(|| damaged("it points beyond the disk"))?;
        appliance.read_device(name, count, at).map_err(|why| Obstacle::refused("read", name, &why))
    };
    let open = || -> Attempt<Option<Box<dyn Table>>> {
        match storage.tables.get(disk).and_then(Option::as_deref) {
            None => Ok(None),
            Some("gpt") => Ok(Some(Box::new(gpt::Gpt::read(&read)?))),
            Some("dos") => Ok(Some(Box::new(mbr::Mbr::read(&read)?))),
            Some(other) => Err(Obstacle::unsupported(
                format!("it is divided by a table of the kind {}", shown(other)),
                "what grows are disks with a GPT, an MBR, or without partitions; leave `resize` out",
            )),
        }
    };
    let Some(table) = open()? else {
        return whole_disk(storage, name, bytes.saturating_sub(from), id, growth);
    };
    let before = table.partitions();
    let Some(last) = before.iter().max_by_key(|partition| partition.last).copied() else {
        return whole_disk(storage, name, 0, id, growth);
    };
    let held = storage
        .volumes
        .iter()
        .find(|volume| volume.disk == Some(disk) && volume.partition == Some(last.number));
    let Some(volume) = held else {
        return Err(in_the_way("", &format!("partition {} of the disk", last.number)));
    };
    if !(is_file_system(&volume.content) || [LVM, LUKS].contains(&volume.content.as_str())) {
        return Err(in_the_way(&volume.content, &volume.device));
    }
    for patch in table.grown(last.number, bytes / SECTOR_BYTES)? {
        let at = patch.sector.saturating_mul(SECTOR_BYTES);
        appliance
            .write_device(name, &patch.bytes, at)
            .map_err(|why| Obstacle::refused("write the partition table of", name, &why))?;
    }
    let after = open()?.map(|table| table.partitions()).unwrap_or_default();
    let now = as_wanted(&before, &after, last)?;
    let (old, new) = (sectors(last) * SECTOR_BYTES, sectors(now) * SECTOR_BYTES);
    tell_kernel(appliance, storage, name, &volume.device, now)?;
    let detail = format!("partition {} of {}, before {}", last.number, human_size(new), human_size(old));
    growth.report(id, &volume.device, detail);
    growth.larger.push(Larger { disk: id.to_owned(), device: volume.device.clone(), gained: new - old });
    Ok(())
}

/// A disk that is not divided: what it holds has the new room already.
fn whole_disk(storage: &Storage, name: &str, gained: u64, id: &str, growth: &mut Growth) -> Attempt<()> {
    match storage.volumes.iter().find(|volume| volume.device == name && !volume.content.is_empty()) {
        Some(volume) => {
            growth.larger.push(Larger { disk: id.to_owned(), device: volume.device.clone(), gained });
        }
        None => {
            growth.warnings.push(format!("disk {id} grows, and nothing was found in it that could grow too"));
        }
    }
    Ok(())
}

/// The partition as it is now, if it has grown and nothing else has changed.
fn as_wanted(before: &[Partition], after: &[Partition], last: Partition) -> Attempt<Partition> {
    let others = |all: &[Partition]| {
        all.iter().filter(|partition| partition.number != last.number).copied().collect::<Vec<_>>()
    };
    let now = after.iter().find(|partition| partition.number == last.number).copied();
    now.filter(|now| now.first == last.first && now.last >= last.last && others(before) == others(after))
        .ok_or_else(|| Obstacle::broken("its partition table, read again, is not what was written"))
}

fn sectors(partition: Partition) -> u64 {
    (partition.last - partition.first).saturating_add(1)
}

/// The kernel looks at a table anew only where nothing of the disk is in use; so it is told the one number that has changed. udev may be
/// doing the same at this moment, hence the repetition.
fn tell_kernel(
    appliance: &Appliance,
    storage: &Storage,
    disk: &str,
    device: &str,
    now: Partition,
) -> Attempt<()> {
    let (disk, node) = (for_shell(storage.node(disk)), storage.node(device));
    let size = for_shell(&format!("/sys/class/block/{}/size", node.trim_start_matches("/dev/")));
    let wanted = sectors(now);
    let script = format!(
        "for i in 1 2 3 4 5; do udevadm settle; resizepart {disk} {} {wanted} 2>/dev/null; udevadm settle; \
         read -r size <{size} && [ \"$size\" = {wanted} ] && exit 0; sleep 1; done; exit 1",
        now.number
    );
    appliance
        .appliance_command(&script)
        .map(drop)
        .map_err(|why| Obstacle::refused("have the appliance see the new size of", device, &why))
}

/// A table that makes no sense.
pub(super) fn damaged(why: &str) -> Obstacle {
    Obstacle::broken(format!("its partition table is damaged: {why}"))
}

/// A number of four bytes, the lowest first; 0 beyond the end.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    part.map_or(0, |part| u32::from_le_bytes(*part))
}

/// A number of eight bytes, likewise.
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
    part.map_or(0, |part| u64::from_le_bytes(*part))
}

/// Puts bytes where there are others.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Disks in memory, for the tests of both kinds of tables.
#[cfg(test)]
pub(super) mod memory {
    use super::{Attempt, Patch, SECTOR_BYTES, damaged};

    /// Some sectors of a disk.
    pub(in crate::guest::grow) fn read(disk: &[u8]) -> impl Fn(u64, u64) -> Attempt<Vec<u8>> + '_ {
        |sector, count| {
            let at = usize::try_from(sector * SECTOR_BYTES).unwrap();
            let end = at + usize::try_from(count * SECTOR_BYTES).unwrap();
            disk.get(at..end).map(<[u8]>::to_vec).ok_or_else(|| damaged("it points beyond the disk"))
        }
    }

    /// The disk with these sectors written to it.
    pub(in crate::guest::grow) fn patched(mut disk: Vec<u8>, patches: &[Patch], sectors: u64) -> Vec<u8> {
        disk.resize(usize::try_from(sectors * SECTOR_BYTES).unwrap(), 0);
        for patch in patches {
            let at = usize::try_from(patch.sector * SECTOR_BYTES).unwrap();
            disk[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Partition = Partition { number: 1, first: 2048, last: 4095 };
    const BOOT: Partition = Partition { number: 15, first: 34, last: 2047 };

    #[test]
    fn a_table_read_again_has_to_hold_the_larger_partition_and_all_others_as_they_were() {
        let larger = Partition { last: 9999, ..ROOT };
        assert_eq!(as_wanted(&[ROOT, BOOT], &[larger, BOOT], ROOT).unwrap(), larger);
        for wrong in [
            vec![larger],
            vec![larger, Partition { last: 2046, ..BOOT }],
            vec![Partition { first: 2049, ..larger }, BOOT],
            vec![Partition { last: 4094, ..ROOT }, BOOT],
            vec![],
        ] {
            assert!(as_wanted(&[ROOT, BOOT], &wrong, ROOT).is_err(), "{wrong:?}");
        }
    }
}
