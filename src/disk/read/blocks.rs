//! Disks with one table for pieces of one size: VHD and VHDX that grow, VDI.

use std::path::{Path, PathBuf};

use super::{Holds, Range, Reader, Room, read_failed};
use crate::disk::inspect::BlockMap;
use crate::disk::window::Window;
use crate::model::error::Result;

/// One image.
#[derive(Debug)]
pub(super) struct Blocks {
    window: Window,
    path: PathBuf,
    map: BlockMap,
}

impl Blocks {
    pub(super) fn new(window: Window, path: &Path, map: BlockMap) -> Blocks {
        Blocks { window, path: path.to_owned(), map }
    }

    /// Where a block begins in the file; `None`: it is all zeros.
    fn begin(&self, block: u64) -> Option<u64> {
        let place = usize::try_from(block).ok().and_then(|block| self.map.places.get(block));
        place.copied().filter(|place| *place != 0)
    }
}

impl Reader for Blocks {
    fn size(&self) -> u64 {
        self.map.bytes
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        let first = at / self.map.block_bytes;
        let holds = |block: u64| if self.begin(block).is_some() { Holds::Data } else { Holds::Zeros };
        let blocks = self.map.bytes.div_ceil(self.map.block_bytes);
        let next = (first + 1..blocks).find(|block| holds(*block) != holds(first)).unwrap_or(blocks);
        let end = next.saturating_mul(self.map.block_bytes).min(self.map.bytes);
        Ok(Range { start: at, length: end.saturating_sub(at), holds: holds(first) })
    }

    fn place(&self, at: u64, _: &mut Room) -> Result<Option<u64>> {
        let begin = self.begin(at / self.map.block_bytes);
        Ok(begin.map(|begin| begin + at % self.map.block_bytes))
    }

    fn read(&self, mut at: u64, mut buffer: &mut [u8], _: &mut Room) -> Result<()> {
        while !buffer.is_empty() {
            let within = at % self.map.block_bytes;
            let left = usize::try_from(self.map.block_bytes - within).unwrap_or(usize::MAX);
            let (now, later) = buffer.split_at_mut(left.min(buffer.len()));
            match self.begin(at / self.map.block_bytes) {
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
