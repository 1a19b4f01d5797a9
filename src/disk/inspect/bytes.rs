//! Reading an image's structure: bounded reads and numbers of both byte orders.

use std::collections::BTreeSet;

use super::cut_off;
use crate::disk::control::Control;
use crate::disk::window::Window;
use crate::model::error::{Error, Kind, Result};

/// No structure of any format is larger in one piece (qcow2's first table may have 32 MiB).
const PIECE_BYTES: u64 = 128 << 20;

/// An open image.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    pub(crate) window: &'a Window,
    /// Its size in bytes.
    pub(crate) size: u64,
    pub(crate) control: &'a Control,
}

impl<'a> Image<'a> {
    pub(crate) fn new(window: &'a Window, control: &'a Control) -> Image<'a> {
        Image { window, size: window.len(), control }
    }

    /// Exactly these bytes; `what` tells what is cut off when they are not all there.
    pub(crate) fn read(&self, offset: u64, count: u64, what: &str) -> Result<Vec<u8>> {
        self.require(offset, count, what)?;
        self.control.checkpoint()?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let bytes = self
            .window
            .read_up_to(offset, count)
            .map_err(|error| Error::new(Kind::Source, format!("cannot read {what}: {error}")))?;
        if bytes.len() < count {
            return Err(cut_off(&format!("{what} is not whole")));
        }
        Ok(bytes)
    }

    /// Refuses where a structure does not lie within the file, or is larger than any can be.
    pub(crate) fn require(&self, offset: u64, count: u64, what: &str) -> Result<()> {
        if offset.checked_add(count).is_none_or(|end| end > self.size) {
            return Err(cut_off(&format!("{what} lies beyond its end ({} bytes)", self.size)));
        }
        if count > PIECE_BYTES {
            return Err(super::broken(&format!("{what} is larger than any can be")));
        }
        Ok(())
    }

    /// Reads tables that other tables point to, each once, and shows them to `check`.
    ///
    /// Each once, and each within the file: so the work is bound by the file's size, whatever the pointers say.
    pub(crate) fn each_table(
        &self,
        offsets: impl IntoIterator<Item = u64>,
        count: u64,
        what: &str,
        mut check: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let unique: BTreeSet<u64> = offsets.into_iter().collect();
        let mut last_end = 0;
        for offset in unique {
            if offset < last_end {
                return Err(super::broken(&format!("two of {what} overlap")));
            }
            last_end = offset.saturating_add(count);
            check(&self.read(offset, count, what)?)?;
        }
        Ok(())
    }
}

/// A little-endian number; 0 beyond the end (callers read whole structures).
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

/// A little-endian number; 0 beyond the end.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    be32(bytes, at).swap_bytes()
}

/// A little-endian number; 0 beyond the end.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    be64(bytes, at).swap_bytes()
}

/// A big-endian number; 0 beyond the end.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// A big-endian number; 0 beyond the end.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// All little-endian 32-bit numbers of a table.
pub(crate) fn table_le32(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|b| le32(b, 0))
}

/// All big-endian 64-bit numbers of a table.
pub(crate) fn table_be64(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|b| be64(b, 0))
}
