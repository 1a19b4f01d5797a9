//! VMDK with tables of its own: grains found through a directory and tables, as they are or packed with zlib.
//!
//! What is not here: descriptors, and what is wrong with an image before a byte of it is read (see `disk::inspect`). Numbers are still
//! held against the file here, because a file may change.

use std::ops::{Range as Span, RangeInclusive};
use std::path::PathBuf;

use super::{Holds, Range, Reader, Room, read_failed, unreadable, window};
use crate::disk::control::Control;
use crate::disk::inspect::{Image, SparseHeader, le32, le64, table_le32};
use crate::disk::window::{Place, Window};
use crate::model::error::Result;

const SECTOR: u64 = 512;
/// Before each packed grain: its place on the disk, and how many bytes it takes.
pub(super) const MARKER_BYTES: usize = 12;
/// What zlib adds to data that does not become smaller.
const PACKING_SLACK: u64 = 4096;
/// Packed grains that lie so close to each other are read together, and others told of together.
const CLOSE_BYTES: u64 = 2 << 20;
/// A map tells of so many grains at once, at most.
const MOST_GRAINS: u64 = 1 << 16;

/// So many bytes a packed grain takes at most.
pub(super) fn most_packed(grain_bytes: u64) -> u64 {
    grain_bytes + grain_bytes / 8 + PACKING_SLACK
}

/// One image, or one extent of a larger disk.
#[derive(Debug)]
pub(super) struct Sparse {
    window: Window,
    path: PathBuf,
    file_bytes: u64,
    bytes: u64,
    grain_bytes: u64,
    /// Grains of a table.
    table_grains: u64,
    /// Where each table lies, in sectors; 0: nowhere, all of it zeros.
    directory: Vec<u32>,
    packing: Packing,
    /// What is where nothing was written.
    absent: Holds,
}

/// How grains lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    AsTheyAre,
    /// With a marker before each that tells its length.
    Marked,
    /// Without: each goes on until its stream ends.
    Unmarked,
}

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grain {
    Absent,
    Zeros,
    At(u64),
}

impl Grain {
    fn of(entry: Option<&u64>) -> Grain {
        match entry {
            None | Some(0) => Grain::Absent,
            Some(1) => Grain::Zeros,
            Some(sector) => Grain::At(sector * SECTOR),
        }
    }
}

impl Sparse {
    pub(super) fn open(place: &Place, absent: Holds, control: &Control) -> Result<Sparse> {
        let window = window(place)?;
        let image = Image::new(&window, control);
        let header = SparseHeader::read(&image)?;
        let table_grains = u64::from(header.table_entries);
        let grain_bytes = header.grain * SECTOR;
        let tables = header.capacity.div_ceil(header.grain * table_grains);
        let directory =
            image.read(header.directory.saturating_mul(SECTOR), tables * 4, "the grain directory")?;
        let packing = match (header.compressed, header.marked) {
            (false, _) => Packing::AsTheyAre,
            (true, true) => Packing::Marked,
            (true, false) => Packing::Unmarked,
        };
        let (bytes, directory) = (header.capacity.saturating_mul(SECTOR), table_le32(&directory).collect());
        Ok(Sparse {
            path: place.path.clone(),
            file_bytes: window.len(),
            window,
            bytes,
            grain_bytes,
            table_grains,
            directory,
            packing,
            absent,
        })
    }

    /// Of an extent only so much belongs to the disk as its descriptor says.
    pub(super) fn cut_to(&mut self, bytes: u64) {
        self.bytes = self.bytes.min(bytes);
    }

    /// What a table says of its grains; `None` where there is no table.
    fn table<'r>(&self, table: u64, room: &'r mut Room) -> Result<Option<&'r [u64]>> {
        let sector = match usize::try_from(table).ok().and_then(|table| self.directory.get(table)) {
            None | Some(0) => return Ok(None),
            Some(sector) => u64::from(*sector),
        };
        let entries = room.table((self.window.number(), sector), || {
            let mut bytes = vec![0; self.table_grains as usize * 4];
            let at = sector * SECTOR;
            self.window.read_exact_at(&mut bytes, at).map_err(|error| read_failed(&self.path, at, &error))?;
            Ok(table_le32(&bytes).map(u64::from).collect())
        });
        entries.map(Some)
    }

    fn grain(&self, number: u64, room: &mut Room) -> Result<Grain> {
        let entries = self.table(number / self.table_grains, room)?.unwrap_or(&[]);
        Ok(Grain::of(entries.get((number % self.table_grains) as usize)))
    }

    fn holds(&self, grain: Grain) -> Holds {
        match grain {
            Grain::Absent => self.absent,
            Grain::Zeros => Holds::Zeros,
            Grain::At(_) => Holds::Data,
        }
    }

    /// Reads grains that lie one behind the other in the file, as they are.
    fn read_plain(&self, first: u64, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<usize> {
        let within = at % self.grain_bytes;
        let Grain::At(begin) = self.grain(first, room)? else { return Ok(0) };
        let mut length = (self.grain_bytes - within).min(buffer.len() as u64);
        let mut number = first + 1;
        while length < buffer.len() as u64
            && self.grain(number, room)? == Grain::At(begin + (number - first) * self.grain_bytes)
        {
            length = (length + self.grain_bytes).min(buffer.len() as u64);
            number += 1;
        }
        let piece = &mut buffer[..length as usize];
        let from = begin + within;
        self.window.read_exact_at(piece, from).map_err(|error| read_failed(&self.path, from, &error))?;
        Ok(piece.len())
    }

    /// Unpacks one grain; how many bytes of the buffer it filled.
    fn read_packed(
        &self,
        number: u64,
        begin: u64,
        at: u64,
        buffer: &mut [u8],
        room: &mut Room,
    ) -> Result<usize> {
        let last = (at + buffer.len() as u64 - 1) / self.grain_bytes;
        let within = (at % self.grain_bytes) as usize;
        let grain = self.grain_bytes as usize;
        // The last grain may end with the disk.
        let is_in_disk = (self.bytes - number * self.grain_bytes).min(self.grain_bytes) as usize;
        let wanted = (is_in_disk - within.min(is_in_disk)).min(buffer.len());
        let packed = self.packed(number..=last, begin, room)?;
        let broken = || unreadable(&self.path, &format!("the data {begin} bytes into it cannot be unpacked"));
        if within == 0 && wanted == grain {
            let count = room.inflate(packed, &mut buffer[..grain]).ok_or_else(broken)?;
            return if count == grain { Ok(grain) } else { Err(broken()) };
        }
        let copied = room.inflate_aside(packed, grain, true, |all| {
            let part = all.get(within..within + wanted)?;
            buffer[..wanted].copy_from_slice(part);
            Some(wanted)
        });
        copied.flatten().ok_or_else(broken)
    }

    /// Reads a packed grain into the room: where in it its stream lies. Others that are wanted too and lie close behind are read with it.
    fn packed(&self, numbers: RangeInclusive<u64>, begin: u64, room: &mut Room) -> Result<Span<usize>> {
        let most = most_packed(self.grain_bytes);
        let end = |begin: u64| begin.saturating_add(most).min(self.file_bytes).max(begin);
        let ahead = match self.grain(*numbers.end(), room)? {
            Grain::At(last) if last > begin && last - begin <= CLOSE_BYTES => end(last),
            _ => 0,
        };
        let span = room.packed(self.window.number(), begin..end(begin), ahead, |bytes, at| {
            self.window.read_exact_at(bytes, at).map_err(|error| read_failed(&self.path, at, &error))
        })?;
        if self.packing == Packing::Unmarked {
            return Ok(span);
        }
        let bytes = room.packed_bytes(span.clone());
        let length = le32(bytes, 8) as usize;
        let is_whole = bytes.len() >= MARKER_BYTES && length <= bytes.len() - MARKER_BYTES;
        if !is_whole || length == 0 {
            return Err(unreadable(&self.path, &format!("the marker {begin} bytes into it makes no sense")));
        }
        if le64(bytes, 0).checked_mul(SECTOR) != Some(numbers.start() * self.grain_bytes) {
            return Err(unreadable(
                &self.path,
                &format!("the data {begin} bytes into it belongs to another place of the disk"),
            ));
        }
        let stream = span.start + MARKER_BYTES;
        Ok(stream..stream + length)
    }
}

impl Reader for Sparse {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        let first = at / self.grain_bytes;
        let last = self.bytes.div_ceil(self.grain_bytes);
        let holds = self.holds(self.grain(first, room)?);
        let mut next = first;
        while next < last.min(first + MOST_GRAINS) {
            let (table, from) = (next / self.table_grains, next % self.table_grains);
            // A table that is not there has nothing at all.
            let same = match self.table(table, room)? {
                None if holds == self.absent => self.table_grains - from,
                None => 0,
                Some(entries) => {
                    let is_same = |entry: &&u64| self.holds(Grain::of(Some(entry))) == holds;
                    entries.iter().skip(from as usize).take_while(is_same).count() as u64
                }
            };
            next += same;
            if from + same < self.table_grains {
                break;
            }
        }
        let end = next.saturating_mul(self.grain_bytes).min(self.bytes);
        Ok(Range { start: at, length: end.saturating_sub(at), holds })
    }

    fn place(&self, at: u64, room: &mut Room) -> Result<Option<u64>> {
        Ok(match self.grain(at / self.grain_bytes, room)? {
            Grain::Absent | Grain::Zeros => None,
            Grain::At(begin) if self.packing == Packing::AsTheyAre => Some(begin + at % self.grain_bytes),
            Grain::At(begin) => Some(begin),
        })
    }

    fn will_need(&self, at: u64, length: u64, room: &mut Room) {
        let last = (at + length.saturating_sub(1)) / self.grain_bytes;
        let ends = (self.grain(at / self.grain_bytes, room), self.grain(last, room));
        if let (Ok(Grain::At(begin)), Ok(Grain::At(last))) = ends
            && (begin..=begin + CLOSE_BYTES).contains(&last)
        {
            self.window.will_need(begin, last - begin + self.grain_bytes);
        }
    }

    fn read(&self, mut at: u64, mut buffer: &mut [u8], room: &mut Room) -> Result<()> {
        while !buffer.is_empty() {
            let number = at / self.grain_bytes;
            let filled = match self.grain(number, room)? {
                Grain::Absent | Grain::Zeros => {
                    let left = (self.grain_bytes - at % self.grain_bytes).min(buffer.len() as u64) as usize;
                    buffer[..left].fill(0);
                    left
                }
                Grain::At(_) if self.packing == Packing::AsTheyAre => {
                    self.read_plain(number, at, buffer, room)?
                }
                Grain::At(begin) => self.read_packed(number, begin, at, buffer, room)?,
            };
            if filled == 0 {
                return Err(unreadable(&self.path, "it ends before the disk does"));
            }
            at += filled as u64;
            buffer = &mut buffer[filled..];
        }
        Ok(())
    }
}
