//! Disks in files that lie elsewhere: somebody brings their bytes, and they are read here as they lie there, or by the tables of an ESXi host's
//! snapshots.
//!
//! ```text
//!   COWD       small grains, found through a directory and tables of 32 bit (VMFS 5)
//!   seSparse   grains of 4 KiB, through a directory and tables of 64 bit, which also know zeros (VMFS 6)
//! ```
//!
//! Tables that were read are kept: each costs a way over a network. Every number in them is held against the file. What is not here: bringing
//! bytes, and descriptors.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Holds, Range, Reader, Room, joined, stack};
use crate::disk::inspect::{le32, le64};
use crate::model::error::{Error, Kind, Result};

const SECTOR: u64 = 512;
/// Directories and tables of the largest disks are smaller.
const MOST_DIRECTORY_BYTES: u64 = 32 << 20;
/// Both kinds have tables of so many grains.
const TABLE_GRAINS: u64 = 4096;
/// So many tables are kept.
const MOST_TABLES: usize = 1024;
/// A map tells of so many grains at once, at most.
const MOST_GRAINS: u64 = 1 << 16;
/// What lies closer together is brought at once.
const GAP_BYTES: u64 = 64 << 10;
/// So much is brought at once, at most.
const MOST_AT_ONCE: u64 = 4 << 20;

const COWD: &[u8] = b"COWD";
const SE_SPARSE: u64 = 0xcafe_babe;
const SE_SPARSE_VOLATILE: u64 = 0xcafe_cafe;
const SE_SPARSE_VERSION: u64 = 0x2_0000_0001;
const SE_SPARSE_GRAIN: u64 = 8;
const SE_SPARSE_TABLE: u64 = 64;

/// A file elsewhere.
pub(crate) trait Stored: Debug + Send + Sync {
    /// For people.
    fn name(&self) -> String;

    /// How many bytes it has.
    fn size(&self) -> u64;

    /// Fills the buffer with what lies there; all of it is within the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()>;
}

/// A disk on the one that has the rest.
pub(crate) fn stacked(upper: Box<dyn Reader>, lower: Box<dyn Reader>) -> Box<dyn Reader> {
    Box::new(stack::Stack::new(upper, lower))
}

/// Parts of a disk, one behind the other.
pub(crate) fn in_a_row(parts: Vec<Box<dyn Reader>>) -> Box<dyn Reader> {
    Box::new(joined::Joined::new(parts))
}

/// A part of a file, as it is.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) file: Arc<dyn Stored>,
    /// Where it begins there.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Reader for Plain {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        Ok(Range { start: at, length: self.bytes.saturating_sub(at), holds: Holds::Data })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        self.file.read_at(buffer, self.offset + at)
    }
}

/// Where the grains of a snapshot's file lie.
#[derive(Debug)]
pub(crate) struct Grains {
    kind: GrainsOf,
    /// Bytes of the disk.
    bytes: u64,
    grain_bytes: u64,
    /// Where each table lies in the file; 0: there is none.
    directory: Vec<u64>,
    /// Those that were read last, by their number.
    tables: Mutex<BTreeMap<u64, Arc<[u64]>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GrainsOf {
    Cowd,
    /// With where its grains begin, in sectors.
    SeSparse(u64),
}

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grain {
    Absent,
    Zeros,
    At(u64),
}

impl Grain {
    /// As tables are kept: no grain lies in the first sector.
    fn of(kept: u64) -> Grain {
        match kept {
            0 => Grain::Absent,
            1 => Grain::Zeros,
            at => Grain::At(at),
        }
    }

    fn kept(self) -> u64 {
        match self {
            Grain::Absent => 0,
            Grain::Zeros => 1,
            Grain::At(at) => at,
        }
    }
}

impl Grains {
    /// Reads the header and the directory.
    pub(crate) fn open(file: &dyn Stored) -> Result<Grains> {
        let header = bytes_at(file, 0, SECTOR)?;
        if header.starts_with(COWD) {
            return Grains::of_cowd(file, &header);
        }
        match le64(&header, 0) == SE_SPARSE {
            true => Grains::of_se_sparse(file, &header),
            false => Err(unreadable(file, "it is none of the kinds that ESXi makes of snapshots")),
        }
    }

    fn of_cowd(file: &dyn Stored, header: &[u8]) -> Result<Grains> {
        let number = |at: usize| u64::from(le32(header, at));
        let (version, sectors, grain, directory, entries) =
            (number(4), number(12), number(16), number(20), number(24));
        let tables = sectors.div_ceil(grain.max(1) * TABLE_GRAINS);
        if version != 1 || sectors == 0 || !grain.is_power_of_two() || grain > 1 << 11 || entries < tables {
            return Err(unreadable(file, "its header makes no sense"));
        }
        let entries = bytes_at(file, directory * SECTOR, tables * 4)?;
        let directory = entries.chunks_exact(4).map(|entry| u64::from(le32(entry, 0)) * SECTOR).collect();
        Grains::of(file, GrainsOf::Cowd, (sectors, grain), directory)
    }

    fn of_se_sparse(file: &dyn Stored, header: &[u8]) -> Result<Grains> {
        let number = |at: usize| le64(header, at);
        let (sectors, grain, table, flags) = (number(16), number(24), number(32), number(40));
        let is_known = number(8) == SE_SPARSE_VERSION && grain == SE_SPARSE_GRAIN && table == SE_SPARSE_TABLE;
        let (volatile, directory, tables_at, grains_at) = (number(80), number(128), number(144), number(192));
        if !is_known || flags != 0 || sectors == 0 || sectors > u64::MAX / SECTOR {
            return Err(unreadable(file, "its header is one that is not known"));
        }
        let volatile = bytes_at(file, volatile.saturating_mul(SECTOR), SECTOR)?;
        if le64(&volatile, 0) != SE_SPARSE_VOLATILE {
            return Err(unreadable(file, "its second header makes no sense"));
        }
        if volatile.get(24) != Some(&0) {
            return Err(Error::new(
                Kind::Source,
                format!("{} was not closed: its journal is still to be played", file.name()),
            )
            .rule("disk.chain")
            .source(file.name())
            .advice("start the VM once and shut it down, or have its disks consolidated"));
        }
        let tables = sectors.div_ceil(grain * TABLE_GRAINS);
        let mut places = Vec::new();
        for entry in
            bytes_at(file, directory.saturating_mul(SECTOR), tables.saturating_mul(8))?.chunks_exact(8)
        {
            let entry = le64(entry, 0);
            places.push(match (entry, entry >> 32) {
                (0, _) => 0,
                (_, 0x1000_0000) => {
                    let number = entry & u64::from(u32::MAX);
                    tables_at.saturating_add(number * SE_SPARSE_TABLE).saturating_mul(SECTOR)
                }
                _ => return Err(unreadable(file, "its directory makes no sense")),
            });
        }
        Grains::of(file, GrainsOf::SeSparse(grains_at), (sectors, grain), places)
    }

    fn of(
        file: &dyn Stored,
        kind: GrainsOf,
        (sectors, grain): (u64, u64),
        directory: Vec<u64>,
    ) -> Result<Grains> {
        let table_bytes = TABLE_GRAINS * kind.entry_bytes();
        let is_within =
            |at: &u64| *at == 0 || at.checked_add(table_bytes).is_some_and(|end| end <= file.size());
        if !directory.iter().all(is_within) {
            return Err(unreadable(file, "a table lies beyond its end: it was cut off"));
        }
        Ok(Grains {
            kind,
            bytes: sectors * SECTOR,
            grain_bytes: grain * SECTOR,
            directory,
            tables: Mutex::default(),
        })
    }

    /// Bytes of the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads them out of their file; what it does not hold is `absent`, and it has so many bytes as its descriptor says.
    pub(crate) fn reader(
        self: &Arc<Grains>,
        file: Arc<dyn Stored>,
        bytes: u64,
        absent: Holds,
    ) -> Box<dyn Reader> {
        Box::new(Delta { grains: Arc::clone(self), file, bytes: bytes.min(self.bytes), absent })
    }

    /// A table; `None` where there is none.
    fn table(&self, number: u64, file: &dyn Stored) -> Result<Option<Arc<[u64]>>> {
        let place = usize::try_from(number).ok().and_then(|number| self.directory.get(number));
        let at = match place {
            None | Some(0) => return Ok(None),
            Some(at) => *at,
        };
        let kept = || self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = kept().get(&number) {
            return Ok(Some(Arc::clone(table)));
        }
        let size = self.kind.entry_bytes();
        let bytes = bytes_at(file, at, TABLE_GRAINS * size)?;
        let mut entries = Vec::with_capacity(bytes.len());
        for entry in bytes.chunks_exact(size as usize) {
            let grain = self.kind.grain(entry, self.grain_bytes).ok_or_else(|| {
                unreadable(file, &format!("the table {at} bytes into it has an entry that makes no sense"))
            })?;
            if let Grain::At(begin) = grain
                && (begin < SECTOR || begin.checked_add(self.grain_bytes).is_none_or(|end| end > file.size()))
            {
                return Err(unreadable(file, "a part of it lies beyond its end: it was cut off"));
            }
            entries.push(grain.kept());
        }
        let table: Arc<[u64]> = entries.into();
        let mut tables = kept();
        tables.insert(number, Arc::clone(&table));
        if tables.len() > MOST_TABLES {
            // Disks are read forwards.
            tables.pop_first();
        }
        Ok(Some(table))
    }
}

impl GrainsOf {
    fn entry_bytes(self) -> u64 {
        match self {
            GrainsOf::Cowd => 4,
            GrainsOf::SeSparse(_) => 8,
        }
    }

    fn grain(self, entry: &[u8], grain_bytes: u64) -> Option<Grain> {
        let GrainsOf::SeSparse(grains_at) = self else {
            let sector = u64::from(le32(entry, 0));
            return Some(if sector == 0 { Grain::Absent } else { Grain::At(sector * SECTOR) });
        };
        let entry = le64(entry, 0);
        match entry >> 60 {
            0 if entry == 0 => Some(Grain::Absent),
            // Given back, or written with zeros.
            1 | 2 => Some(Grain::Zeros),
            3 => {
                // The lowest bits stand highest.
                let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
                let at = number.checked_mul(grain_bytes)?.checked_add(grains_at.checked_mul(SECTOR)?)?;
                Some(Grain::At(at))
            }
            _ => None,
        }
    }
}

/// What changed since a snapshot.
#[derive(Debug)]
struct Delta {
    grains: Arc<Grains>,
    file: Arc<dyn Stored>,
    bytes: u64,
    absent: Holds,
}

/// Something that is brought: from where in the file, where in the buffer it goes, and how much it is.
type Piece = (u64, usize, usize);

impl Delta {
    fn grain(&self, number: u64) -> Result<Grain> {
        let table = self.grains.table(number / TABLE_GRAINS, self.file.as_ref())?;
        let kept = table.and_then(|table| table.get((number % TABLE_GRAINS) as usize).copied());
        Ok(Grain::of(kept.unwrap_or_default()))
    }

    fn holds(&self, grain: Grain) -> Holds {
        match grain {
            Grain::Absent => self.absent,
            Grain::Zeros => Holds::Zeros,
            Grain::At(_) => Holds::Data,
        }
    }

    /// What has to be brought for it, in the order of the file.
    fn pieces(&self, at: u64, buffer: &mut [u8]) -> Result<Vec<Piece>> {
        let size = self.grains.grain_bytes;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut done = 0;
        while done < buffer.len() {
            let place = at + done as u64;
            let within = place % size;
            let length = usize::try_from(size - within).unwrap_or(usize::MAX).min(buffer.len() - done);
            match self.grain(place / size)? {
                Grain::Absent | Grain::Zeros => buffer[done..done + length].fill(0),
                Grain::At(begin) => match pieces.last_mut() {
                    Some((from, to, long))
                        if *from + *long as u64 == begin + within && *to + *long == done =>
                    {
                        *long += length;
                    }
                    _ => pieces.push((begin + within, done, length)),
                },
            }
            done += length;
        }
        pieces.sort_unstable();
        Ok(pieces)
    }
}

impl Reader for Delta {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        let size = self.grains.grain_bytes;
        let (first, last) = (at / size, self.bytes.div_ceil(size));
        let holds = self.holds(self.grain(first)?);
        let mut next = first;
        while next < last.min(first + MOST_GRAINS) {
            let (number, from) = (next / TABLE_GRAINS, next % TABLE_GRAINS);
            let same = match self.grains.table(number, self.file.as_ref())? {
                None if holds == self.absent => TABLE_GRAINS - from,
                None => 0,
                Some(table) => {
                    let is_same = |kept: &&u64| self.holds(Grain::of(**kept)) == holds;
                    table.iter().skip(from as usize).take_while(is_same).count() as u64
                }
            };
            next += same;
            if from + same < TABLE_GRAINS {
                break;
            }
        }
        let end = next.saturating_mul(size).min(self.bytes);
        Ok(Range { start: at, length: end.saturating_sub(at), holds })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        let pieces = self.pieces(at, buffer)?;
        let mut scratch = Vec::new();
        let mut left = pieces.as_slice();
        while let Some(&(begin, to, long)) = left.first() {
            let mut end = begin + long as u64;
            let close = |&&(from, _, long): &&Piece| {
                let is_close = from <= end + GAP_BYTES && from + long as u64 - begin <= MOST_AT_ONCE;
                if is_close {
                    end = end.max(from + long as u64);
                }
                is_close
            };
            let count = 1 + left[1..].iter().take_while(close).count();
            let (now, later) = left.split_at(count);
            if count == 1 {
                self.file.read_at(&mut buffer[to..to + long], begin)?;
            } else {
                scratch.resize((end - begin) as usize, 0);
                self.file.read_at(&mut scratch, begin)?;
                for &(from, to, long) in now {
                    let place = (from - begin) as usize;
                    buffer[to..to + long].copy_from_slice(&scratch[place..place + long]);
                }
            }
            left = later;
        }
        Ok(())
    }
}

fn bytes_at(file: &dyn Stored, at: u64, length: u64) -> Result<Vec<u8>> {
    let is_there = at.checked_add(length).is_some_and(|end| end <= file.size());
    if !is_there {
        return Err(unreadable(file, "it ends before its tables do: it was cut off"));
    }
    if length > MOST_DIRECTORY_BYTES {
        return Err(unreadable(file, "its directory is larger than any"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, at)?;
    Ok(bytes)
}

fn unreadable(file: &dyn Stored, why: &str) -> Error {
    let name = file.name();
    Error::new(Kind::Source, format!("{name} cannot be read: {why}"))
        .rule("disk.corrupt")
        .source(name)
        .advice("see whether the VM starts from it; if it does, report this")
        .permanent()
}

#[cfg(test)]
#[path = "elsewhere_tests.rs"]
mod tests;
