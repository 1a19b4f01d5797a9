//! Bytes as they are: raw disks, and extents of VMDKs that are nothing else. Holes of the file are zeros of the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{Holds, Range, Reader, Room, read_failed};
use crate::model::error::Result;

/// A part of a file.
#[derive(Debug)]
pub(super) struct Flat {
    file: File,
    path: PathBuf,
    /// Where the disk begins in the file.
    offset: u64,
    /// Where the file ends; what a disk has beyond it are zeros.
    file_bytes: u64,
    bytes: u64,
}

impl Flat {
    pub(super) fn new(file: File, path: &Path, offset: u64, file_bytes: u64, bytes: u64) -> Flat {
        Flat { file, path: path.to_owned(), offset, file_bytes, bytes }
    }

    /// How many bytes of the disk lie in the file.
    fn present(&self) -> u64 {
        self.file_bytes.saturating_sub(self.offset).min(self.bytes)
    }
}

impl Reader for Flat {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        let present = self.present();
        let until = |end: u64, holds: Holds| Range { start: at, length: end.saturating_sub(at), holds };
        if at >= present {
            return Ok(until(self.bytes, Holds::Zeros));
        }
        let position = self.offset + at;
        let data = match seek(&self.file, SeekFrom::Data(position)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(until(self.bytes, Holds::Zeros)),
            // A file system that does not know its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(until(present, Holds::Data)),
            Err(error) => return Err(read_failed(&self.path, position, &error.into())),
        };
        if data > position {
            return Ok(until((data - self.offset).min(present), Holds::Zeros));
        }
        let hole = seek(&self.file, SeekFrom::Hole(position))
            .map_err(|error| read_failed(&self.path, position, &error.into()))?;
        // A file that shrinks meanwhile has its hole where we are: reading then says that it is cut.
        Ok(until(hole.max(position + 1).saturating_sub(self.offset).min(present), Holds::Data))
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        let present = usize::try_from(self.present().saturating_sub(at)).unwrap_or(usize::MAX);
        let (there, beyond) = buffer.split_at_mut(present.min(buffer.len()));
        self.file
            .read_exact_at(there, self.offset + at)
            .map_err(|error| read_failed(&self.path, self.offset + at, &error))?;
        beyond.fill(0);
        Ok(())
    }
}
