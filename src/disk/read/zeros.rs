//! A disk whose zeros have to be written as everything else: for results that are laid out in full.

use super::{Holds, Range, Reader, Room};
use crate::model::error::Result;

/// The same disk, with a map on which it holds data everywhere.
pub(crate) fn with_zeros_as_data(reader: Box<dyn Reader>) -> Box<dyn Reader> {
    Box::new(AllData(reader))
}

#[derive(Debug)]
struct AllData(Box<dyn Reader>);

impl Reader for AllData {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        Ok(Range { holds: Holds::Data, ..self.0.range(at, room)? })
    }

    fn read(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()> {
        self.0.read(at, buffer, room)
    }
}
