//! An image that holds only what differs, on the one that has the rest.

use super::{Holds, Range, Reader, Room};
use crate::model::error::Result;

/// Two disks of which the upper one is asked first.
#[derive(Debug)]
pub(super) struct Stack {
    upper: Box<dyn Reader>,
    lower: Box<dyn Reader>,
}

impl Stack {
    pub(super) fn new(upper: Box<dyn Reader>, lower: Box<dyn Reader>) -> Stack {
        Stack { upper, lower }
    }

    /// A range of the upper disk, and what it holds by both.
    fn settled(&self, at: u64, room: &mut Room) -> Result<(Range, bool)> {
        let upper = self.upper.range(at, room)?;
        if upper.holds != Holds::Below {
            return Ok((upper, true));
        }
        // What a smaller disk lacks at its end are zeros.
        if at >= self.lower.size() {
            return Ok((Range { holds: Holds::Zeros, ..upper }, false));
        }
        let lower = self.lower.range(at, room)?;
        Ok((Range { length: lower.length.min(upper.length), ..lower }, false))
    }
}

impl Reader for Stack {
    fn size(&self) -> u64 {
        self.upper.size()
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        self.settled(at, room).map(|(range, _)| range)
    }

    fn will_need(&self, at: u64, length: u64, room: &mut Room) {
        if let Ok((range, is_upper)) = self.settled(at, room) {
            let holder = if is_upper { &self.upper } else { &self.lower };
            holder.will_need(at, length.min(range.length), room);
        }
    }

    fn read(&self, mut at: u64, mut buffer: &mut [u8], room: &mut Room) -> Result<()> {
        while !buffer.is_empty() {
            let (range, is_upper) = self.settled(at, room)?;
            let length = usize::try_from(range.length).unwrap_or(usize::MAX).min(buffer.len());
            let (now, later) = buffer.split_at_mut(length);
            match range.holds {
                Holds::Data if is_upper => self.upper.read(at, now, room)?,
                Holds::Data => self.lower.read(at, now, room)?,
                Holds::Zeros | Holds::Below => now.fill(0),
            }
            at += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}
