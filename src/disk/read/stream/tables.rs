//! The tables of a stream whose writer had them first: how many grains they say that there are.
//!
//! They are seen sector by sector as they come by, and only counted. Nothing is kept but the directory.

use super::parser::SECTOR;
use crate::disk::inspect::{SparseHeader, table_le32};

const ENTRY_BYTES: u64 = 4;
/// More tables than a disk of 64 TiB has in grains of 64 KiB.
const MOST_TABLES: u64 = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Tables {
    /// Where the directory begins, and how many entries it has.
    directory_at: u64,
    count: u64,
    entries: u64,
    overhead: u64,
    /// Where each table begins that there is.
    places: Vec<u64>,
    directory_read: u64,
    /// The table that comes next.
    next: usize,
    grains: u64,
}

impl Tables {
    /// Those that a header tells of; none where it says that they come at the end.
    pub(super) fn of(header: &SparseHeader) -> Result<Option<Tables>, &'static str> {
        let (count, entries) = (count(header), u64::from(header.table_entries));
        if count > MOST_TABLES {
            return Err("no disk has the size that it tells");
        }
        if header.is_told_at_end() {
            return Ok(None);
        }
        let sectors = (count * ENTRY_BYTES).div_ceil(SECTOR);
        if header.directory == 0 || header.directory.saturating_add(sectors) > header.overhead {
            return Err("its directory does not lie before its data");
        }
        Ok(Some(Tables {
            directory_at: header.directory,
            count,
            entries,
            overhead: header.overhead,
            places: Vec::new(),
            directory_read: 0,
            next: 0,
            grains: 0,
        }))
    }

    /// How many sectors a directory takes with all its tables.
    pub(super) fn most_sectors(header: &SparseHeader) -> u64 {
        let table = (u64::from(header.table_entries) * ENTRY_BYTES).div_ceil(SECTOR);
        count(header).saturating_mul(table).saturating_add((count(header) * ENTRY_BYTES).div_ceil(SECTOR))
    }

    /// Sees what lies before the data, one sector after the other.
    pub(super) fn see(&mut self, number: u64, sector: &[u8]) -> Result<(), &'static str> {
        if number >= self.directory_at && self.directory_read < self.count {
            let left = (self.count - self.directory_read) as usize;
            for place in table_le32(sector).take(left).map(u64::from) {
                self.directory_read += 1;
                // 0: all of it zeros.
                if place == 0 {
                    continue;
                }
                let table = (self.entries * ENTRY_BYTES).div_ceil(SECTOR);
                let after = self.places.last().map_or(number + 1, |last| last + table);
                if place < after || place.saturating_add(table) > self.overhead {
                    return Err("its tables do not lie in order before its data");
                }
                self.places.push(place);
            }
            return Ok(());
        }
        let Some(begin) = self.places.get(self.next).copied() else { return Ok(()) };
        let table = (self.entries * ENTRY_BYTES).div_ceil(SECTOR);
        if number < begin {
            return Ok(());
        }
        let seen = (number - begin) * (SECTOR / ENTRY_BYTES);
        // 0: never written; 1: zeros.
        let entries = table_le32(sector).take(self.entries.saturating_sub(seen) as usize);
        self.grains += entries.filter(|entry| *entry > 1).count() as u64;
        if number + 1 == begin + table {
            self.next += 1;
        }
        Ok(())
    }

    /// How many grains they tell of.
    pub(super) fn grains(&self) -> u64 {
        self.grains
    }
}

fn count(header: &SparseHeader) -> u64 {
    header.capacity.div_ceil(header.grain * u64::from(header.table_entries))
}
