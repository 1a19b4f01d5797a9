//! Bytes as they are: raw disks, and extents of VMDKs that are nothing else. Holes of the file are zeros of the disk.

use std::path::{Path, PathBuf};

use super::{Holds, Range, Reader, Room, read_failed};
use crate::disk::window::Window;
use crate::model::error::Result;

/// A part of a file.
#[derive(Debug)]
pub(super) struct Flat {
    window: Window,
    path: PathBuf,
    /// Where the disk begins in it; what a disk has beyond its end are zeros.
    offset: u64,
    bytes: u64,
}

impl Flat {
    pub(super) fn new(window: Window, path: &Path, offset: u64, bytes: u64) -> Flat {
        Flat { window, path: path.to_owned(), offset, bytes }
    }

    /// How many bytes of the disk lie in the file.
    fn present(&self) -> u64 {
        self.window.len().saturating_sub(self.offset).min(self.bytes)
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
        let stored = self.window.stored_from(position);
        Ok(match stored.map_err(|error| read_failed(&self.path, position, &error))? {
            // Nothing but a hole up to the end.
            None => until(self.bytes, Holds::Zeros),
            Some((begin, _)) if begin > position => until((begin - self.offset).min(present), Holds::Zeros),
            Some((_, end)) => until((end - self.offset).min(present), Holds::Data),
        })
    }

    fn will_need(&self, at: u64, length: u64, _: &mut Room) {
        self.window.will_need(self.offset + at, length);
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        let present = usize::try_from(self.present().saturating_sub(at)).unwrap_or(usize::MAX);
        let (there, beyond) = buffer.split_at_mut(present.min(buffer.len()));
        self.window
            .read_exact_at(there, self.offset + at)
            .map_err(|error| read_failed(&self.path, self.offset + at, &error))?;
        beyond.fill(0);
        Ok(())
    }
}
