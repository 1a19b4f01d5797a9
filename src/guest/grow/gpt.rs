//! A GPT on a disk that has become larger: its second copy goes to the new end, and one partition takes what is then free.
//!
//! All that says what a partition is stays as it is: type, UUID, name and attributes, and the disk's own UUID. A header or a list of
//! entries whose checksum is wrong is not gone on from. What is not here: who reads and writes the sectors.

use super::partition::{ALIGNMENT, Partition, Patch, Read, SECTOR_BYTES, Table, damaged, le32, le64, put};
use super::{Attempt, Obstacle};

const SIGNATURE: &[u8] = b"EFI PART";
/// Of the header that the standard describes; the rest of its sector is reserved.
const HEADER_BYTES: usize = 92;
/// Where things are in the header.
const CHECKSUM: usize = 16;
const OWN_PLACE: usize = 24;
const OTHER_PLACE: usize = 32;
const LAST_USABLE: usize = 48;
const ENTRIES_PLACE: usize = 72;
const ENTRIES_COUNT: usize = 80;
const ENTRY_BYTES: usize = 84;
const ENTRIES_CHECKSUM: usize = 88;
/// Where things are in an entry.
const FIRST: usize = 32;
const LAST: usize = 40;
/// Tables have 16 KiB of entries; one that says more than this is not believed.
const MOST_ENTRIES_BYTES: u64 = 1 << 20;
/// In the MBR before it: the kind of the one entry that covers all.
const PROTECTIVE: u8 = 0xee;
/// Its place in that sector.
const MBR_ENTRIES: usize = 446;
const MBR_ENTRY_BYTES: usize = 16;

/// A GPT whose checksums are right.
#[derive(Debug)]
pub(super) struct Gpt {
    mbr: Vec<u8>,
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_bytes: usize,
}

impl Gpt {
    /// Reads the first copy.
    pub(super) fn read(read: &Read<'_>) -> Attempt<Gpt> {
        let (mbr, header) = (read(0, 1)?, read(1, 1)?);
        let header_bytes = le32(&header, 12) as usize;
        if !header.starts_with(SIGNATURE) || !(HEADER_BYTES..=header.len()).contains(&header_bytes) {
            return Err(damaged("it has no header"));
        }
        if header_checksum(&header, header_bytes) != le32(&header, CHECKSUM) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let (count, entry_bytes) = (le32(&header, ENTRIES_COUNT), le32(&header, ENTRY_BYTES));
        let bytes = u64::from(count).saturating_mul(u64::from(entry_bytes));
        if entry_bytes < 128 || !(1..=MOST_ENTRIES_BYTES).contains(&bytes) {
            return Err(damaged("it has a strange number of entries"));
        }
        let mut entries = read(le64(&header, ENTRIES_PLACE), bytes.div_ceil(SECTOR_BYTES))?;
        entries.truncate(usize::try_from(bytes).unwrap_or(0));
        if crc32(&entries) != le32(&header, ENTRIES_CHECKSUM) {
            return Err(damaged("the checksum of its entries is wrong"));
        }
        Ok(Gpt { mbr, header, entries, entry_bytes: entry_bytes as usize })
    }

    /// The header with these numbers, and the checksum that follows from them.
    fn header(&self, own: u64, other: u64, entries_at: u64, last_usable: u64, entries: &[u8]) -> Vec<u8> {
        let mut header = self.header.clone();
        put(&mut header, OWN_PLACE, &own.to_le_bytes());
        put(&mut header, OTHER_PLACE, &other.to_le_bytes());
        put(&mut header, LAST_USABLE, &last_usable.to_le_bytes());
        put(&mut header, ENTRIES_PLACE, &entries_at.to_le_bytes());
        put(&mut header, ENTRIES_CHECKSUM, &crc32(entries).to_le_bytes());
        let checksum = header_checksum(&header, le32(&header, 12) as usize);
        put(&mut header, CHECKSUM, &checksum.to_le_bytes());
        header
    }

    /// The sector before it, covering the larger disk; one that describes partitions of its own stays.
    fn protective(&self, disk_sectors: u64) -> Vec<u8> {
        let mut mbr = self.mbr.clone();
        let covers =
            |mbr: &[u8]| mbr.get(MBR_ENTRIES + 4) == Some(&PROTECTIVE) && le32(mbr, MBR_ENTRIES + 8) == 1;
        let alone = |mbr: &[u8]| {
            let others = mbr.get(MBR_ENTRIES + MBR_ENTRY_BYTES..MBR_ENTRIES + 4 * MBR_ENTRY_BYTES);
            others.is_some_and(|others| others.iter().all(|byte| *byte == 0))
        };
        if covers(&mbr) && alone(&mbr) {
            let covered = u32::try_from(disk_sectors - 1).unwrap_or(u32::MAX);
            put(&mut mbr, MBR_ENTRIES + 12, &covered.to_le_bytes());
        }
        mbr
    }
}

impl Table for Gpt {
    fn partitions(&self) -> Vec<Partition> {
        let entries = self.entries.chunks_exact(self.entry_bytes).zip(1..);
        entries
            .filter(|(entry, _)| entry[..16].iter().any(|byte| *byte != 0))
            .map(|(entry, number)| Partition { number, first: le64(entry, FIRST), last: le64(entry, LAST) })
            .filter(|partition| partition.first <= partition.last)
            .collect()
    }

    fn grown(&self, number: u32, disk_sectors: u64) -> Attempt<Vec<Patch>> {
        let list = (self.entries.len() as u64).div_ceil(SECTOR_BYTES);
        // At the end: the list, then the header.
        let (Some(backup_entries), Some(backup)) =
            (disk_sectors.checked_sub(list + 1), disk_sectors.checked_sub(1))
        else {
            return Err(damaged("it is larger than the disk"));
        };
        let last_usable = backup_entries.saturating_sub(1);
        let aligned = ((last_usable + 1) / ALIGNMENT * ALIGNMENT).saturating_sub(1);
        let mut entries = self.entries.clone();
        let at = (number as usize).saturating_sub(1).saturating_mul(self.entry_bytes);
        let old = le64(&entries, at + LAST);
        if old > last_usable {
            return Err(Obstacle::broken("its last partition ends beyond the disk"));
        }
        put(&mut entries, at + LAST, &aligned.max(old).to_le_bytes());

        let (place, old_backup) = (le64(&self.header, ENTRIES_PLACE), le64(&self.header, OTHER_PLACE));
        let mut padded = entries.clone();
        padded.resize(usize::try_from(list * SECTOR_BYTES).unwrap_or(entries.len()), 0);
        let mut patches = Vec::new();
        if old_backup > le64(&self.header, LAST_USABLE) && old_backup < backup_entries {
            // Else it would stand in the midst of the partition, and be found by who looks for lost tables.
            patches.push(Patch { sector: old_backup, bytes: vec![0; self.header.len()] });
        }
        patches.extend([
            Patch { sector: backup_entries, bytes: padded.clone() },
            Patch { sector: backup, bytes: self.header(backup, 1, backup_entries, last_usable, &entries) },
            Patch { sector: place, bytes: padded },
            Patch { sector: 1, bytes: self.header(1, backup, place, last_usable, &entries) },
            Patch { sector: 0, bytes: self.protective(disk_sectors) },
        ]);
        Ok(patches)
    }
}

fn header_checksum(header: &[u8], bytes: usize) -> u32 {
    let mut header = header.get(..bytes).unwrap_or(header).to_vec();
    put(&mut header, CHECKSUM, &[0; 4]);
    crc32(&header)
}

/// Of ISO 3309, as in Ethernet and zip.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::super::partition::memory::{patched, read};
    use super::*;

    const SECTORS: u64 = 16 * ALIGNMENT;
    const ENTRIES: usize = 128 * 128;

    /// A disk with a boot partition 15 in front, and 1, which is the last.
    fn disk() -> Vec<u8> {
        let mut entries = vec![0; ENTRIES];
        let mut entry = |number: usize, first: u64, last: u64| {
            let at = (number - 1) * 128;
            entries[at..at + 32].fill(u8::try_from(number).unwrap());
            put(&mut entries, at + FIRST, &first.to_le_bytes());
            put(&mut entries, at + LAST, &last.to_le_bytes());
            put(&mut entries, at + 48, &[0x04, 0, 0, 0, 0, 0, 0, 0x80]);
            put(&mut entries, at + 56, b"r\0o\0o\0t\0");
        };
        entry(15, 2048, 4095);
        entry(1, 4096, SECTORS - 34);
        let mut header = vec![0; 512];
        put(&mut header, 0, SIGNATURE);
        put(&mut header, 8, &[0, 0, 1, 0, 92]);
        put(&mut header, 56, &[0xab; 16]);
        put(&mut header, 40, &34_u64.to_le_bytes());
        put(&mut header, ENTRIES_COUNT, &128_u32.to_le_bytes());
        put(&mut header, ENTRY_BYTES, &128_u32.to_le_bytes());
        let mut mbr = vec![0; 512];
        put(&mut mbr, MBR_ENTRIES + 4, &[PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        put(&mut mbr, 0, b"boot code");
        let gpt = Gpt { mbr, header, entries: entries.clone(), entry_bytes: 128 };
        let (own, other) = (1, SECTORS - 1);
        let patches = [
            Patch { sector: 0, bytes: gpt.mbr.clone() },
            Patch { sector: 1, bytes: gpt.header(own, other, 2, SECTORS - 34, &entries) },
            Patch { sector: 2, bytes: entries.clone() },
            Patch { sector: SECTORS - 33, bytes: entries.clone() },
            Patch { sector: other, bytes: gpt.header(other, own, SECTORS - 33, SECTORS - 34, &entries) },
        ];
        patched(Vec::new(), &patches, SECTORS)
    }

    #[test]
    fn the_last_partition_ends_where_the_larger_disk_does_and_keeps_who_it_is() {
        let old = disk();
        let table = Gpt::read(&read(&old)).unwrap();
        let larger = 2 * SECTORS;
        let new = patched(old.clone(), &table.grown(1, larger).unwrap(), larger);
        let grown = Gpt::read(&read(&new)).unwrap();
        assert_eq!(
            grown.partitions(),
            [
                Partition { number: 1, first: 4096, last: larger - ALIGNMENT - 1 },
                Partition { number: 15, first: 2048, last: 4095 },
            ]
        );
        let mut same = grown.entries.clone();
        put(&mut same, LAST, &table.entries[LAST..LAST + 8]);
        assert_eq!(same, table.entries, "types, UUIDs, attributes and names are what they were");
        assert_eq!(grown.header[56..72], [0xab; 16], "the disk's UUID");
        assert_eq!(le64(&grown.header, LAST_USABLE), larger - 34);
        assert!(new.starts_with(b"boot code"));
        assert_eq!(u64::from(le32(&new, MBR_ENTRIES + 12)), larger - 1);
    }

    #[test]
    fn the_second_copy_lies_at_the_new_end_and_the_old_one_is_gone() {
        let old = disk();
        let larger = 3 * SECTORS;
        let patches = Gpt::read(&read(&old)).unwrap().grown(1, larger).unwrap();
        let new = patched(old, &patches, larger);
        let header = &read(&new)(larger - 1, 1).unwrap();
        assert!(header.starts_with(SIGNATURE));
        assert_eq!((le64(header, OWN_PLACE), le64(header, OTHER_PLACE)), (larger - 1, 1));
        assert_eq!(le64(header, ENTRIES_PLACE), larger - 33);
        assert_eq!(header_checksum(header, 92), le32(header, CHECKSUM));
        assert_eq!(read(&new)(larger - 33, 32).unwrap(), read(&new)(2, 32).unwrap());
        assert_eq!(read(&new)(SECTORS - 1, 1).unwrap(), vec![0; 512]);
    }

    #[test]
    fn a_damaged_table_is_refused() {
        for at in [512 + 20, 512 + 60, 1024 + 5, 512] {
            let mut disk = disk();
            disk[at] ^= 0xff;
            let refused = Gpt::read(&read(&disk)).unwrap_err();
            assert!(refused.why.contains("damaged"), "{refused:?}");
        }
        assert!(Gpt::read(&read(&[0; 512])).is_err());
    }
}
