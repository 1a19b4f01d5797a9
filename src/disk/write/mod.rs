//! Writing results by ourselves: from several threads at once, each range of the disk once, zeros never.
//!
//! What is not here: layouts that QEMU writes (see [`super::copy`]), and when a result is durable.

mod entries;
mod grown;
mod packers;
mod qcow2;
mod raw;
mod turns;
mod vdi;
mod vhd;
mod vmdk;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::disk::copy::Target;
use crate::model::plan::{Compression, OutputFormat, Preallocation};

pub(crate) use raw::HOLE_BYTES;
pub(crate) use vhd::MOST_BYTES as VHD_MOST_BYTES;

/// Some blocks of the disk that lie one behind the other in the target, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The first of them, and how many they are.
    pub(crate) block: u64,
    pub(crate) count: u64,
    /// In bytes of the target.
    pub(crate) at: u64,
    /// How many they take there; another number than they have on the disk if they are packed.
    pub(crate) bytes: u64,
}

impl Placed {
    /// Whether they lie there as they are.
    fn is_plain(&self) -> bool {
        self.count.checked_mul(BLOCK_BYTES as u64) == Some(self.bytes)
    }

    /// Where in the target a block of the disk begins, packed or not; `None` if it is none of these.
    pub(crate) fn place_of(&self, block: u64) -> Option<u64> {
        let within = block.checked_sub(self.block).filter(|within| *within < self.count)?;
        self.at.checked_add(within.checked_mul(BLOCK_BYTES as u64)?)
    }
}

/// An image that is being filled. It opens its file anew, so that threads that hang may be left behind.
pub(crate) trait Writer: Debug + Send + Sync {
    /// Puts data at an offset of the disk. Ranges begin at multiples of [`BLOCK_BYTES`], end there or with the disk, and come once;
    /// blocks of zeros in them take no room. Numbered from 0 as they lie on the disk, they get their places in this order, so a call may
    /// wait for another thread's. Gives the places, for formats that have a choice.
    fn write(&self, number: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>>;

    /// Whether it packs, which is work for more threads than would only wait for disks.
    fn packs(&self) -> bool {
        false
    }

    /// Some ranges will not come: nobody waits for them any more.
    fn give_up(&self);

    /// Fills the buffer with what was put there; zeros elsewhere. Ranges begin and end like those that are written.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Says what an earlier run has put somewhere, in the order in which it was.
    fn place(&self, placed: &[Placed]) -> io::Result<()>;

    /// All of that was said: what else an earlier run has left in the file goes.
    fn go_on(&self) -> io::Result<()>;

    /// Writes what makes it an image; nothing is written afterwards.
    fn finish(&self) -> io::Result<()>;
}

/// In what pieces a result is filled.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

/// Whether this program writes what is wanted; else QEMU does.
pub(crate) fn is_ours(target: &Target, bytes: u64) -> bool {
    let is_laid_out_so = match target.format {
        OutputFormat::Raw => target.preallocation != Preallocation::Metadata,
        _ => target.preallocation == Preallocation::Off,
    };
    (1..=most_bytes(target.format)).contains(&bytes) && is_laid_out_so
}

/// The largest disk that a format holds, as this program and QEMU write it.
pub(crate) fn most_bytes(format: OutputFormat) -> u64 {
    match format {
        OutputFormat::Raw => i64::MAX as u64,
        OutputFormat::Qcow2 => qcow2::MOST_BYTES,
        OutputFormat::Vmdk => vmdk::MOST_BYTES,
        OutputFormat::Vhd => vhd::MOST_BYTES,
        OutputFormat::Vdi => vdi::MOST_BYTES,
    }
}

/// A writer into this file, which is empty or was begun by the same one.
pub(crate) fn open(file: &File, target: &Target, bytes: u64) -> io::Result<Box<dyn Writer>> {
    let file = file.try_clone()?;
    // What was written is looked at, and the kernel does not have to read ahead of that what comes only later.
    let is_told = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    if let Err(error) = is_told {
        tracing::debug!(%error, "the kernel may read ahead in what is being written");
    }
    let (compress, level) = (target.compress, target.level);
    Ok(match target.format {
        OutputFormat::Raw => Box::new(raw::Raw::new(file, bytes, target.preallocation)?),
        OutputFormat::Qcow2 => Box::new(qcow2::Qcow2::new(file, bytes, compress, level)),
        OutputFormat::Vmdk if compress == Compression::None => {
            Box::new(grown::Grown::new(file, bytes, vmdk::Sparse::new(bytes, &target.path)))
        }
        OutputFormat::Vmdk => Box::new(vmdk::Stream::new(file, bytes, level)),
        OutputFormat::Vhd => Box::new(grown::Grown::new(file, bytes, vhd::Vhd(bytes))),
        OutputFormat::Vdi => Box::new(grown::Grown::new(file, bytes, vdi::Vdi(bytes))),
    })
}

/// Fills the buffer with what the file has there; with zeros beyond its end.
fn read_or_zeros(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => break,
            Ok(count) => (buffer, at) = (&mut buffer[count..], at + count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.fill(0);
    Ok(())
}

/// Runs of blocks that hold something, as byte ranges of the data.
pub(crate) fn filled(data: &[u8], block: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < data.len() && is_zero(&data[at..data.len().min(at + block)]) {
            at += block;
        }
        if at >= data.len() {
            return None;
        }
        let start = at;
        while at < data.len() && !is_zero(&data[at..data.len().min(at + block)]) {
            at += block;
        }
        Some(start..at.min(data.len()))
    })
}

/// Whether there are only zeros: held against some, which the C library does as fast as it can be read.
fn is_zero(data: &[u8]) -> bool {
    const ZEROS: [u8; 4 << 10] = [0; 4 << 10];
    data.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_what_is_not_zero_are_found_block_by_block() {
        let mut data = vec![0; 10 * 8];
        data[9] = 1;
        data[17] = 1;
        data[79] = 1;
        assert_eq!(filled(&data, 8).collect::<Vec<_>>(), [8..24, 72..80]);
        assert!(filled(&data[..75], 8).eq(std::iter::once(8..24)));
        assert!(filled(&[0, 0, 1], 8).eq(std::iter::once(0..3)));
        assert_eq!(filled(&[], 8).count(), 0);
    }

    #[test]
    fn one_byte_anywhere_is_no_zero() {
        for at in [0, 63, 64, 575, 576, 4095] {
            let mut data = vec![0; 4096];
            assert!(is_zero(&data));
            data[at] = 0x80;
            assert!(!is_zero(&data), "{at}");
        }
    }
}
