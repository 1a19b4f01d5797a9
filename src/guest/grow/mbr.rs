//! An MBR on a disk that has become larger: one partition takes what is free behind it, and if it is a logical one, what holds it too.
//!
//! ```text
//!   MBR ── 1, 3 (primary)
//!    └─ 2 (extended) ── link ── link ── …     each link: one logical partition, and how far the next link's goes
//! ```
//!
//! Boot code, disk id, active flag, types and starts stay. An MBR counts sectors with 32 bits, so a partition ends at 2 TiB at the latest.
//! What is not here: who reads and writes the sectors.

use super::partition::{Partition, Patch, Read, Table, damaged, le32, put};
use super::{Attempt, Obstacle};

const ENTRIES: usize = 446;
const ENTRY_BYTES: usize = 16;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Where things are in an entry.
const KIND: usize = 4;
const LAST_CHS: usize = 5;
const START: usize = 8;
const COUNT: usize = 12;
/// Kinds of extended partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// No machine has more; a chain that goes on is one that leads in a circle.
const MOST_LOGICALS: usize = 128;
/// What 32 bits can count, which is 2 TiB.
const MOST_SECTORS: u64 = 1 << 32;
/// How a disk is pretended to be divided for those who count in cylinders.
const HEADS: u64 = 255;
const SECTORS_A_TRACK: u64 = 63;
const MOST_CYLINDERS: u64 = 1024;

/// An entry of a table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    start: u64,
    count: u64,
}

fn entry(sector: &[u8], index: usize) -> Entry {
    let at = ENTRIES + index * ENTRY_BYTES;
    Entry {
        kind: sector.get(at + KIND).copied().unwrap_or(0),
        start: u64::from(le32(sector, at + START)),
        count: u64::from(le32(sector, at + COUNT)),
    }
}

/// One logical partition and the sector that describes it.
#[derive(Debug)]
struct Link {
    place: u64,
    sector: Vec<u8>,
}

impl Link {
    fn partition(&self, number: u32) -> Option<Partition> {
        let Entry { kind, start, count } = entry(&self.sector, 0);
        (kind != 0 && count != 0).then(|| Partition {
            number,
            first: self.place + start,
            last: self.place + start + count - 1,
        })
    }
}

/// An MBR with what its extended partition holds.
#[derive(Debug)]
pub(super) struct Mbr {
    sector: Vec<u8>,
    links: Vec<Link>,
}

impl Mbr {
    /// Reads it, and follows the chain of logical partitions.
    pub(super) fn read(read: &Read<'_>) -> Attempt<Mbr> {
        let sector = read(0, 1)?;
        if !is_table(&sector) {
            return Err(damaged("it has no signature"));
        }
        let mut mbr = Mbr { sector, links: Vec::new() };
        let Some((_, extended)) = mbr.extended() else { return Ok(mbr) };
        let mut place = Some(extended.start);
        while let Some(at) = place {
            if mbr.links.len() == MOST_LOGICALS || mbr.links.iter().any(|link| link.place == at) {
                return Err(damaged("its logical partitions lead in a circle"));
            }
            let sector = read(at, 1)?;
            if !is_table(&sector) {
                // An extended partition in which nothing was made yet.
                if mbr.links.is_empty() {
                    break;
                }
                return Err(damaged("the chain of its logical partitions is broken"));
            }
            let next = entry(&sector, 1);
            mbr.links.push(Link { place: at, sector });
            place = (EXTENDED.contains(&next.kind) && next.count != 0).then(|| extended.start + next.start);
        }
        Ok(mbr)
    }

    fn extended(&self) -> Option<(usize, Entry)> {
        (0..4)
            .map(|index| (index, entry(&self.sector, index)))
            .find(|(_, entry)| EXTENDED.contains(&entry.kind) && entry.count != 0)
    }

    fn logicals(&self) -> impl Iterator<Item = Partition> + '_ {
        self.links.iter().zip(5..).filter_map(|(link, number)| link.partition(number))
    }
}

impl Table for Mbr {
    fn partitions(&self) -> Vec<Partition> {
        let primary = (0..4).zip(1..).filter_map(|(index, number)| {
            let Entry { kind, start, count } = entry(&self.sector, index);
            let holds = EXTENDED.contains(&kind) && self.logicals().next().is_some();
            (kind != 0 && count != 0 && !holds).then(|| Partition {
                number,
                first: start,
                last: start + count - 1,
            })
        });
        primary.chain(self.logicals()).collect()
    }

    fn grown(&self, number: u32, disk_sectors: u64) -> Attempt<Vec<Patch>> {
        if disk_sectors > MOST_SECTORS {
            return Err(Obstacle::unsupported(
                "it is divided by an MBR, which cannot describe more than 2 TiB",
                "grow it to 2 TiB at most, or give the machine another disk",
            ));
        }
        let place = number.checked_sub(5).and_then(|index| usize::try_from(index).ok());
        let Some(place) = place else {
            let index = (number as usize).saturating_sub(1);
            let mut sector = self.sector.clone();
            extend(&mut sector, index, 0, disk_sectors)?;
            return Ok(vec![Patch { sector: 0, bytes: sector }]);
        };
        let (Some(link), Some((index, extended))) = (self.links.get(place), self.extended()) else {
            return Err(damaged("a logical partition lies nowhere"));
        };
        let mut patches = Vec::new();
        let mut own = link.sector.clone();
        extend(&mut own, 0, link.place, disk_sectors)?;
        patches.push(Patch { sector: link.place, bytes: own });
        // Whoever names this link says how far it reaches.
        let naming = self.links.iter().find(|other| {
            let next = entry(&other.sector, 1);
            EXTENDED.contains(&next.kind) && extended.start + next.start == link.place
        });
        if let Some(naming) = naming {
            let mut sector = naming.sector.clone();
            extend(&mut sector, 1, extended.start, disk_sectors)?;
            patches.push(Patch { sector: naming.place, bytes: sector });
        }
        let mut sector = self.sector.clone();
        extend(&mut sector, index, 0, disk_sectors)?;
        patches.push(Patch { sector: 0, bytes: sector });
        Ok(patches)
    }
}

fn is_table(sector: &[u8]) -> bool {
    sector.get(510..512) == Some(&SIGNATURE[..])
}

/// Has an entry, whose start counts from `base`, end with the disk.
fn extend(sector: &mut [u8], index: usize, base: u64, disk_sectors: u64) -> Attempt<()> {
    let old = entry(sector, index);
    let count = disk_sectors.checked_sub(base + old.start).filter(|count| *count >= old.count);
    let Some(count) = count.and_then(|count| u32::try_from(count).ok()) else {
        return Err(damaged("a partition ends beyond the disk"));
    };
    let at = ENTRIES + index * ENTRY_BYTES;
    put(sector, at + COUNT, &count.to_le_bytes());
    put(sector, at + LAST_CHS, &chs(disk_sectors - 1));
    Ok(())
}

/// A sector by cylinder, head and sector, as tables have it; what lies beyond what that can say has the largest numbers.
fn chs(sector: u64) -> [u8; 3] {
    let (track, within) = (sector / SECTORS_A_TRACK, sector % SECTORS_A_TRACK);
    let (cylinder, head) = (track / HEADS, track % HEADS);
    if cylinder >= MOST_CYLINDERS {
        return [0xfe, 0xff, 0xff];
    }
    let byte = |value: u64| u8::try_from(value & 0xff).unwrap_or(0);
    [byte(head), byte(within + 1) | byte(cylinder >> 8 << 6), byte(cylinder)]
}

#[cfg(test)]
mod tests {
    use super::super::partition::memory::{patched, read};
    use super::*;

    const SECTORS: u64 = 10_000;

    fn set(sector: &mut [u8], index: usize, kind: u8, start: u32, count: u32) {
        let at = ENTRIES + index * ENTRY_BYTES;
        put(sector, at, &[if kind == 0x83 && index == 0 { 0x80 } else { 0 }, 1, 1, 1, kind, 2, 2, 2]);
        put(sector, at + START, &start.to_le_bytes());
        put(sector, at + COUNT, &count.to_le_bytes());
        put(sector, 510, &SIGNATURE);
    }

    /// Root in front, and two logical partitions in an extended one behind it.
    fn disk() -> Vec<u8> {
        let mut sectors = vec![vec![0; 512]; 3];
        put(&mut sectors[0], 0, b"boot code");
        put(&mut sectors[0], 440, &[0xde, 0xad, 0xbe, 0xef]);
        set(&mut sectors[0], 0, 0x83, 63, 4000);
        set(&mut sectors[0], 1, 0x05, 5000, 5000);
        set(&mut sectors[1], 0, 0x82, 10, 990);
        set(&mut sectors[1], 1, 0x05, 1000, 4000);
        set(&mut sectors[2], 0, 0x83, 20, 3980);
        let places = [0, 5000, 6000];
        let patches = places.into_iter().zip(sectors).map(|(sector, bytes)| Patch { sector, bytes });
        patched(Vec::new(), &patches.collect::<Vec<_>>(), SECTORS)
    }

    #[test]
    fn a_logical_partition_grows_with_all_that_holds_it_and_everything_else_stays() {
        let old = disk();
        let table = Mbr::read(&read(&old)).unwrap();
        let before = [
            Partition { number: 1, first: 63, last: 4062 },
            Partition { number: 5, first: 5010, last: 5999 },
            Partition { number: 6, first: 6020, last: 9999 },
        ];
        assert_eq!(table.partitions(), before);

        let larger = 30_000;
        let new = patched(old.clone(), &table.grown(6, larger).unwrap(), larger);
        let grown = Mbr::read(&read(&new)).unwrap();
        let last = Partition { last: larger - 1, ..before[2] };
        assert_eq!(grown.partitions(), [before[0], before[1], last]);
        assert_eq!(entry(&grown.sector, 1).count, larger - 5000, "the extended partition");
        assert_eq!(entry(&grown.links[0].sector, 1).count, larger - 6000, "the link to it");
        let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
        let of_sizes =
            |at: usize| at % 512 >= ENTRIES && matches!((at % 512 - ENTRIES) % ENTRY_BYTES, 5..8 | 12..16);
        assert!(changed.into_iter().all(of_sizes));
    }

    #[test]
    fn a_primary_partition_that_is_the_last_grows_alone() {
        let mut old = disk();
        put(&mut old, ENTRIES + ENTRY_BYTES, &[0; 16]);
        let table = Mbr::read(&read(&old)).unwrap();
        let patches = table.grown(1, 20_000).unwrap();
        assert_eq!(patches.len(), 1);
        let new = patched(old, &patches, 20_000);
        assert_eq!(new[ENTRIES], 0x80, "it is still the active one");
        let grown = Mbr::read(&read(&new)).unwrap();
        assert_eq!(grown.partitions(), [Partition { number: 1, first: 63, last: 19_999 }]);
    }

    #[test]
    fn an_empty_extended_partition_is_a_partition() {
        let mut old = disk();
        old[5000 * 512..].fill(0);
        let table = Mbr::read(&read(&old)).unwrap();
        let numbers: Vec<u32> = table.partitions().iter().map(|partition| partition.number).collect();
        assert_eq!(numbers, [1, 2]);
    }

    #[test]
    fn two_tebibytes_are_the_end() {
        let table = Mbr::read(&read(&disk())).unwrap();
        assert!(table.grown(1, MOST_SECTORS).is_ok());
        let refused = table.grown(1, MOST_SECTORS + 2048).unwrap_err();
        assert!(refused.why.contains("2 TiB"), "{refused:?}");
    }

    #[test]
    fn a_chain_that_is_broken_or_leads_in_a_circle_is_refused() {
        let mut circle = disk();
        let at = 6000 * 512;
        set(&mut circle[at..at + 512], 1, 0x05, 0, 4000);
        let mut broken = disk();
        broken[at..at + 512].fill(0);
        let mut outside = disk();
        set(&mut outside[at..at + 512], 1, 0x05, 4_000_000, 4000);
        for disk in [circle, broken, outside] {
            assert!(Mbr::read(&read(&disk)).unwrap_err().why.contains("damaged"));
        }
    }

    #[test]
    fn cylinders_are_counted_until_they_end() {
        assert_eq!(chs(0), [0, 1, 0]);
        assert_eq!(chs(255 * 63 * 300 + 63 * 7 + 5), [7, 6 | 1 << 6, 44]);
        assert_eq!(chs(255 * 63 * 1024), [0xfe, 0xff, 0xff]);
    }
}
