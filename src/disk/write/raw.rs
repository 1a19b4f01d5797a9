//! Bytes as they are: with holes where there are zeros, or with room reserved for all of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::{Placed, Writer, filled};
use crate::model::plan::Preallocation;

/// What file systems allocate.
pub(crate) const HOLE_BYTES: usize = 4 << 10;

/// A raw disk.
#[derive(Debug)]
pub(super) struct Raw {
    file: File,
    /// Zeros are written as everything else is.
    is_full: bool,
}

impl Raw {
    pub(super) fn new(file: File, bytes: u64, preallocation: Preallocation) -> io::Result<Raw> {
        file.set_len(bytes)?;
        if preallocation == Preallocation::Falloc {
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(Raw { file, is_full: preallocation == Preallocation::Full })
    }
}

impl Writer for Raw {
    fn write(&self, _: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>> {
        if self.is_full {
            self.file.write_all_at(data, at)?;
        } else {
            filled(data, HOLE_BYTES)
                .try_for_each(|run| self.file.write_all_at(&data[run.clone()], at + run.start as u64))?;
        }
        Ok(Vec::new())
    }

    fn give_up(&self) {}

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn place(&self, _: &[Placed]) -> io::Result<()> {
        Ok(())
    }

    fn go_on(&self) -> io::Result<()> {
        // What else was written came from the same source, and lies where it belongs.
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}
