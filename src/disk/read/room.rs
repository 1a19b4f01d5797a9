//! What one thread keeps between two questions to a reader: a table that was just looked at, packed bytes, and room to unpack in.

use std::fmt;
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::Decompressor;

/// The images of a chain are asked in turn, each by a table of its own.
const MOST_TABLES: usize = 4;

/// Owned by one thread; any reader may use it.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// The tables last looked at, the latest first, by the file each is of and where it lies there.
    tables: Vec<((usize, u64), Vec<u64>)>,
    packed: Vec<u8>,
    /// Of which file, and from where, that is; nothing before something was read.
    packed_of: Option<(usize, Range<u64>)>,
    unpacked: Vec<u8>,
    unpacker: Unpacker,
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

    /// Has these bytes of a file in the room, and says where. What is not there yet is read, and with it all until `ahead`: of what is packed
    /// the next is most often wanted next.
    pub(super) fn packed<E>(
        &mut self,
        file: usize,
        wanted: Range<u64>,
        ahead: u64,
        read: impl FnOnce(&mut [u8], u64) -> Result<(), E>,
    ) -> Result<Range<usize>, E> {
        let length = (wanted.end - wanted.start) as usize;
        if let Some((of, there)) = &self.packed_of
            && *of == file
            && there.start <= wanted.start
            && wanted.end <= there.end
        {
            let at = (wanted.start - there.start) as usize;
            return Ok(at..at + length);
        }
        let all = wanted.start..wanted.end.max(ahead);
        self.packed_of = None;
        self.packed.resize((all.end - all.start) as usize, 0);
        read(&mut self.packed, all.start)?;
        self.packed_of = Some((file, all));
        Ok(0..length)
    }

    /// Those bytes.
    pub(super) fn packed_bytes(&self, span: Range<usize>) -> &[u8] {
        self.packed.get(span).unwrap_or_default()
    }

    /// Unpacks some of them straight into `into`, and says how many bytes that gave; `None` where it is no zlib stream or holds more than
    /// there is room for.
    pub(super) fn inflate(&mut self, packed: Range<usize>, into: &mut [u8]) -> Option<usize> {
        self.unpacker.inflate(true, self.packed.get(packed)?, into)
    }

    /// Unpacks a zlib stream that lies elsewhere, and says how many bytes that gave.
    pub(super) fn unpack(&mut self, packed: &[u8], into: &mut [u8]) -> Option<usize> {
        self.unpacker.inflate(true, packed, into)
    }

    /// The same for one of which only a part is wanted: `show` sees all of it.
    pub(super) fn unpack_aside<T>(
        &mut self,
        packed: &[u8],
        most: usize,
        show: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        self.unpacked.resize(most, 0);
        let count = self.unpacker.inflate(true, packed, &mut self.unpacked)?;
        Some(show(&self.unpacked[..count]))
    }

    /// The same for data in the room of which only a part is wanted.
    pub(super) fn inflate_aside<T>(
        &mut self,
        packed: Range<usize>,
        most: usize,
        has_header: bool,
        show: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        self.unpacked.resize(most, 0);
        let count = self.unpacker.inflate(has_header, self.packed.get(packed)?, &mut self.unpacked)?;
        Some(show(&self.unpacked[..count]))
    }
}

/// Unpacks whole streams, with a header and a checksum around them or without.
struct Unpacker {
    quick: Decompressor,
    /// What decides where the quick one finds no whole stream.
    patient: Decompress,
    patient_bare: Decompress,
}

impl Default for Unpacker {
    fn default() -> Unpacker {
        Unpacker {
            quick: Decompressor::new(),
            patient: Decompress::new(true),
            patient_bare: Decompress::new(false),
        }
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    fn inflate(&mut self, has_header: bool, packed: &[u8], into: &mut [u8]) -> Option<usize> {
        let unpacked = match has_header {
            true => self.quick.zlib_decompress(packed, into),
            false => self.quick.deflate_decompress(packed, into),
        };
        if let Ok(count) = unpacked {
            return Some(count);
        }
        let patient = if has_header { &mut self.patient } else { &mut self.patient_bare };
        patient.reset(has_header);
        match patient.decompress(packed, into, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(patient.total_out()).ok(),
            // All that there is room for came, and who wrote it has cut the end of the stream off.
            Ok(_) if patient.total_out() == into.len() as u64 => Some(into.len()),
            _ => None,
        }
    }
}
