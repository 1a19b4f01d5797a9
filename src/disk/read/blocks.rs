//! Disks with one table for pieces of one size: VHD and VHDX that grow or differ from another disk, VDI.

use std::path::{Path, PathBuf};

use super::{Holds, Range, Reader, Room, read_failed, unreadable};
use crate::disk::inspect::{BlockMap, Lies, run};
use crate::disk::window::Window;
use crate::model::error::Result;

/// One image.
#[derive(Debug)]
pub(super) struct Blocks {
    window: Window,
    path: PathBuf,
    map: BlockMap,
    /// What is where nothing was written.
    absent: Holds,
}

impl Blocks {
    pub(super) fn new(window: Window, path: &Path, map: BlockMap, absent: Holds) -> Blocks {
        Blocks { window, path: path.to_owned(), map, absent }
    }

    fn lies(&self, block: u64) -> Lies {
        let block = usize::try_from(block).ok().and_then(|block| self.map.blocks.get(block));
        block.map_or(Lies::Nowhere, |block| block.lies())
    }

    /// What a block holds; `None`: that differs from sector to sector.
    fn holds(&self, block: u64) -> Option<Holds> {
        match self.lies(block) {
            Lies::Nowhere => Some(self.absent),
            Lies::Zeros => Some(Holds::Zeros),
            Lies::At(_) => Some(Holds::Data),
            Lies::PartlyAt(_) => None,
        }
    }

    /// The sectors from an offset on, in a block of which some are here.
    fn sectors(&self, block: u64, lies_at: u64, at: u64, room: &mut Room) -> Result<Range> {
        let (Some(bitmaps), Some((bitmap_at, bytes))) = (&self.map.bitmaps, self.map.bitmap(block, lies_at))
        else {
            return Err(unreadable(&self.path, "it does not tell which parts of a block it has"));
        };
        let bits = room.table((self.window.number(), bitmap_at), || {
            let mut bitmap = vec![0; bytes];
            let read = self.window.read_exact_at(&mut bitmap, bitmap_at);
            read.map_err(|error| read_failed(&self.path, bitmap_at, &error))?;
            Ok(bitmaps.bits(&bitmap))
        })?;
        let begin = block * self.map.block_bytes;
        let first = (at - begin) / bitmaps.sector_bytes;
        let (is_here, count) = run(bits, first);
        let end = begin + ((first + count) * bitmaps.sector_bytes).min(self.map.block_bytes);
        let holds = if is_here { Holds::Data } else { self.absent };
        Ok(Range { start: at, length: end.min(self.map.bytes).saturating_sub(at), holds })
    }

    /// What a block that is in the file has from an offset on. Blocks are large, and files have holes where nothing was put into them.
    fn stored(&self, block: u64, lies_at: u64, at: u64) -> Result<Range> {
        let begin = block * self.map.block_bytes;
        let end = (begin + self.map.block_bytes).min(self.map.bytes);
        let position = lies_at + (at - begin);
        let stored = self.window.stored_from(position);
        let (holds, length) = match stored.map_err(|error| read_failed(&self.path, position, &error))? {
            // Of what is not there, reading tells that it is cut off.
            None => (Holds::Data, end - at),
            Some((data, _)) if data > position => (Holds::Zeros, data - position),
            Some((_, data_end)) => (Holds::Data, data_end - position),
        };
        Ok(Range { start: at, length: length.min(end - at), holds })
    }
}

impl Reader for Blocks {
    fn size(&self) -> u64 {
        self.map.bytes
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        let first = at / self.map.block_bytes;
        if let Lies::PartlyAt(lies_at) = self.lies(first) {
            return self.sectors(first, lies_at, at, room);
        }
        if let Lies::At(lies_at) = self.lies(first) {
            return self.stored(first, lies_at, at);
        }
        let holds = self.holds(first);
        let blocks = self.map.bytes.div_ceil(self.map.block_bytes);
        let next = (first + 1..blocks).find(|block| self.holds(*block) != holds).unwrap_or(blocks);
        let end = next.saturating_mul(self.map.block_bytes).min(self.map.bytes);
        let holds = holds.unwrap_or(self.absent);
        Ok(Range { start: at, length: end.saturating_sub(at), holds })
    }

    fn place(&self, at: u64, _: &mut Room) -> Result<Option<u64>> {
        Ok(match self.lies(at / self.map.block_bytes) {
            Lies::Nowhere | Lies::Zeros => None,
            Lies::At(begin) | Lies::PartlyAt(begin) => Some(begin + at % self.map.block_bytes),
        })
    }

    fn will_need(&self, at: u64, length: u64, _: &mut Room) {
        let within = at % self.map.block_bytes;
        if let Lies::At(begin) = self.lies(at / self.map.block_bytes) {
            self.window.will_need(begin + within, length.min(self.map.block_bytes - within));
        }
    }

    fn read(&self, mut at: u64, mut buffer: &mut [u8], room: &mut Room) -> Result<()> {
        while !buffer.is_empty() {
            let (block, within) = (at / self.map.block_bytes, at % self.map.block_bytes);
            let mut length = self.map.block_bytes - within;
            let lies_at = match self.lies(block) {
                Lies::Nowhere | Lies::Zeros => None,
                Lies::At(lies_at) => Some(lies_at),
                Lies::PartlyAt(lies_at) => {
                    let range = self.sectors(block, lies_at, at, room)?;
                    length = range.length;
                    (range.holds == Holds::Data).then_some(lies_at)
                }
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
            if length == 0 {
                return Err(unreadable(&self.path, "it ends before the disk does"));
            }
            let (now, later) = buffer.split_at_mut(length);
            match lies_at {
                None => now.fill(0),
                Some(begin) => {
                    let from = begin + within;
                    self.window
                        .read_exact_at(now, from)
                        .map_err(|error| read_failed(&self.path, from, &error))?;
                }
            }
            at += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}
