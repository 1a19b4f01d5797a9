//! What one thread keeps between two questions to a reader: a table that was just looked at, and room to unpack in.

use flate2::{Decompress, FlushDecompress, Status};

/// The images of a chain are asked in turn, each by a table of its own.
const MOST_TABLES: usize = 4;

/// Owned by one thread; any reader may use it.
#[derive(Debug)]
pub(crate) struct Room {
    /// The tables last looked at, the latest first, by the file each is of and where it lies there.
    tables: Vec<((usize, u64), Vec<u64>)>,
    packed: Vec<u8>,
    unpacked: Vec<u8>,
    inflate: Decompress,
    /// The same without a header and a checksum around it.
    inflate_bare: Decompress,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            tables: Vec::new(),
            packed: Vec::new(),
            unpacked: Vec::new(),
            inflate: Decompress::new(true),
            inflate_bare: Decompress::new(false),
        }
    }
}

impl Room {
    /// A table, read anew only if it is none of those that were last looked at.
    pub(super) fn table<E>(
        &mut self,
        key: (usize, u64),
        read: impl FnOnce() -> Result<Vec<u64>, E>,
    ) -> Result<&[u64], E> {
        match self.tables.iter().position(|(kept, _)| *kept == key) {
            Some(place) => self.tables[..=place].rotate_right(1),
            None => {
                let table = read()?;
                self.tables.truncate(MOST_TABLES - 1);
                self.tables.insert(0, (key, table));
            }
        }
        Ok(self.tables.first().map_or(&[], |(_, table)| table.as_slice()))
    }

    /// So many bytes to put packed data into.
    pub(super) fn packed(&mut self, bytes: usize) -> &mut [u8] {
        if self.packed.len() < bytes {
            self.packed.resize(bytes, 0);
        }
        &mut self.packed[..bytes]
    }

    /// Unpacks a part of what was put there, straight into `into`, and says how many bytes that gave; `None` where it is no zlib stream or
    /// holds more than there is room for.
    pub(super) fn inflate(&mut self, packed: std::ops::Range<usize>, into: &mut [u8]) -> Option<usize> {
        inflate(&mut self.inflate, true, self.packed.get(packed)?, into)
    }

    /// The same for data of which only a part is wanted: `show` sees all of it.
    pub(super) fn inflate_aside<T>(
        &mut self,
        packed: std::ops::Range<usize>,
        most: usize,
        has_header: bool,
        show: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        self.unpacked.resize(most, 0);
        let state = if has_header { &mut self.inflate } else { &mut self.inflate_bare };
        let count = inflate(state, has_header, self.packed.get(packed)?, &mut self.unpacked)?;
        Some(show(&self.unpacked[..count]))
    }
}

fn inflate(state: &mut Decompress, has_header: bool, packed: &[u8], into: &mut [u8]) -> Option<usize> {
    state.reset(has_header);
    match state.decompress(packed, into, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => usize::try_from(state.total_out()).ok(),
        // All that there is room for came, and the end of the stream has no bytes of data.
        Ok(_) if state.total_out() == into.len() as u64 => Some(into.len()),
        _ => None,
    }
}
