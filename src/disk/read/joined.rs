//! A disk in several files, one behind the other.

use super::{Range, Reader, Room};
use crate::model::error::Result;

/// Parts in their order; a disk has one at least.
#[derive(Debug)]
pub(super) struct Joined {
    /// Where each begins.
    parts: Vec<(u64, Box<dyn Reader>)>,
    bytes: u64,
}

impl Joined {
    pub(super) fn new(parts: Vec<Box<dyn Reader>>) -> Joined {
        let mut bytes = 0u64;
        let begin = |part: Box<dyn Reader>| {
            let start = bytes;
            bytes = bytes.saturating_add(part.size());
            (start, part)
        };
        let parts = parts.into_iter().map(begin).collect();
        Joined { parts, bytes }
    }

    /// The part that an offset lies in, and where that part begins.
    fn part(&self, at: u64) -> Option<&(u64, Box<dyn Reader>)> {
        let behind = self.parts.partition_point(|(start, _)| *start <= at);
        behind.checked_sub(1).and_then(|index| self.parts.get(index))
    }
}

impl Reader for Joined {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        match self.part(at) {
            Some((start, part)) => {
                let range = part.range(at - start, room)?;
                Ok(Range { start: at, ..range })
            }
            None => Ok(Range { start: at, length: 0, holds: super::Holds::Zeros }),
        }
    }

    fn will_need(&self, at: u64, length: u64, room: &mut Room) {
        if let Some((start, part)) = self.part(at) {
            part.will_need(at - start, length.min((start + part.size()).saturating_sub(at)), room);
        }
    }

    fn read(&self, mut at: u64, mut buffer: &mut [u8], room: &mut Room) -> Result<()> {
        while let (false, Some((start, part))) = (buffer.is_empty(), self.part(at)) {
            let left = usize::try_from((start + part.size()).saturating_sub(at)).unwrap_or(usize::MAX);
            if left == 0 {
                break;
            }
            let (now, later) = buffer.split_at_mut(left.min(buffer.len()));
            part.read(at - start, now, room)?;
            at += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}
