//! qcow2, version 3: clusters in the order in which they come, tables behind them, the header last.
//!
//! ```text
//!   header │ first table │ data, and the end of it known only when all is there … │ second tables │ counts │ table of counts
//! ```
//!
//! Packed clusters lie one behind the other, byte by byte. Those that cannot be packed, and all of an image that is not packed, take a
//! cluster of the file each, beside the one that packed ones are being put into. Until the header is there the file is no image, so half a
//! copy is never taken for a whole one. What is not here: layouts that are allocated beforehand, which QEMU writes.

mod layout;
mod tables;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use layout::{Cluster, Layout};

use super::packers::{Method, Packer, Packers};
use super::turns::Turns;
use super::{BLOCK_BYTES, Placed, Writer, filled, is_zero, read_or_zeros};
use crate::model::plan::Compression;

const CLUSTER_BITS: u32 = BLOCK_BYTES.trailing_zeros();
const CLUSTER: u64 = BLOCK_BYTES as u64;
/// Entries of 8 bytes in a table of one cluster.
const ENTRIES: u64 = CLUSTER / 8;

/// The largest disk whose first table QEMU opens.
pub(in crate::disk::write) const MOST_BYTES: u64 = (32 << 20) / 8 * ENTRIES * CLUSTER;

/// An image that is being filled.
#[derive(Debug)]
pub(in crate::disk::write) struct Qcow2 {
    file: File,
    bytes: u64,
    turns: Turns<Layout>,
    packers: Option<Packers>,
}

impl Qcow2 {
    pub(in crate::disk::write) fn new(
        file: File,
        bytes: u64,
        compress: Compression,
        level: Option<u8>,
    ) -> Qcow2 {
        let packers = match compress {
            Compression::None => None,
            Compression::Zstd => Some(Packers::new(Method::Zstd, level)),
            Compression::Zlib => Some(Packers::new(Method::ZlibBare, level)),
        };
        Qcow2 { file, bytes, turns: Turns::new(Layout::new(bytes)), packers }
    }

    fn write_plain(&self, number: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>> {
        let runs: Vec<_> = filled(data, BLOCK_BYTES).collect();
        let placed = self.turns.take(number, |layout| {
            let place = |run: &std::ops::Range<usize>| {
                let count = (run.len() as u64).div_ceil(CLUSTER);
                let placed = layout.place_plain((at + run.start as u64) / CLUSTER, count);
                layout.put(&placed).map(|()| placed)
            };
            runs.iter().map(place).collect::<io::Result<Vec<_>>>()
        })?;
        for (run, placed) in runs.into_iter().zip(&placed) {
            self.write_clusters(&data[run], placed)?;
        }
        Ok(placed)
    }

    /// Packs first, and waits for its turn then.
    fn write_packed(
        &self,
        number: u64,
        at: u64,
        data: &[u8],
        packer: &mut Packer,
    ) -> io::Result<Vec<Placed>> {
        let first = at / CLUSTER;
        // Of each cluster that holds something, how many bytes it takes; 0: it cannot be packed.
        let mut taken = Vec::with_capacity(data.len().div_ceil(BLOCK_BYTES));
        for (block, cluster) in (first..).zip(data.chunks(BLOCK_BYTES)) {
            if is_zero(cluster) {
                continue;
            }
            let before = packer.packed.len();
            let bytes = packer.add(cluster)?;
            if bytes >= BLOCK_BYTES {
                packer.packed.truncate(before);
            }
            taken.push((block, if bytes < BLOCK_BYTES { bytes as u64 } else { 0 }));
        }
        let placed = self.turns.take(number, |layout| {
            let place = |(block, bytes): &(u64, u64)| {
                let placed = match *bytes {
                    0 => layout.place_plain(*block, 1),
                    bytes => layout.place_packed(*block, bytes),
                };
                layout.put(&placed).map(|()| placed)
            };
            taken.iter().map(place).collect::<io::Result<Vec<_>>>()
        })?;
        // What lies together is written at once.
        let (mut written, mut until, mut begin) = (0, 0, None);
        let flush = |begin: Option<u64>, bytes: &[u8]| match begin {
            Some(begin) => self.file.write_all_at(bytes, begin),
            None => Ok(()),
        };
        for placed in &placed {
            if placed.is_plain() {
                let from = ((placed.block - first) * CLUSTER) as usize;
                self.write_clusters(&data[from..data.len().min(from + BLOCK_BYTES)], placed)?;
                continue;
            }
            if begin.is_none_or(|begin| begin + (until - written) as u64 != placed.at) {
                flush(begin, &packer.packed[written..until])?;
                (written, begin) = (until, Some(placed.at));
            }
            until += placed.bytes as usize;
        }
        flush(begin, &packer.packed[written..until])?;
        Ok(placed)
    }

    /// Writes clusters as they are.
    fn write_clusters(&self, bytes: &[u8], placed: &Placed) -> io::Result<()> {
        self.file.write_all_at(bytes, placed.at)?;
        let short = placed.bytes as usize - bytes.len();
        if short > 0 {
            // The disk ends within a cluster; the file does not.
            self.file.write_all_at(&vec![0; short], placed.at + bytes.len() as u64)?;
        }
        Ok(())
    }

    fn read_packed(&self, at: u64, bytes: u64, into: &mut [u8]) -> io::Result<()> {
        let Some(packers) = &self.packers else {
            return Err(io::Error::other("a packed cluster in an image without any"));
        };
        let mut packed = vec![0; bytes as usize];
        read_or_zeros(&self.file, &mut packed, at)?;
        let mut whole = vec![0; BLOCK_BYTES];
        packers.unpack(&packed, &mut whole)?;
        into.copy_from_slice(&whole[..into.len()]);
        Ok(())
    }
}

impl Writer for Qcow2 {
    fn write(&self, number: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>> {
        match &self.packers {
            None => self.write_plain(number, at, data),
            Some(packers) => packers.with(|packer| self.write_packed(number, at, data, packer)),
        }
    }

    fn packs(&self) -> bool {
        self.packers.is_some()
    }

    fn give_up(&self) {
        self.turns.give_up();
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (cluster, piece) in (at / CLUSTER..).zip(buffer.chunks_mut(BLOCK_BYTES)) {
            match self.turns.with(|layout| layout.cluster(cluster)) {
                Cluster::Absent => piece.fill(0),
                Cluster::Plain { at } => self.file.read_exact_at(piece, at)?,
                Cluster::Packed { at, bytes } => self.read_packed(at, bytes, piece)?,
            }
        }
        Ok(())
    }

    fn place(&self, placed: &[Placed]) -> io::Result<()> {
        self.turns.with(|layout| placed.iter().try_for_each(|placed| layout.put(placed)))
    }

    fn go_on(&self) -> io::Result<()> {
        // With a header, a run that got as far as the tables left an image; what follows writes over them.
        self.file.write_all_at(&vec![0; BLOCK_BYTES], 0)?;
        self.file.set_len(self.turns.with(|layout| layout.end()))
    }

    fn finish(&self) -> io::Result<()> {
        let is_zstd = self.packers.as_ref().is_some_and(|packers| packers.method() == Method::Zstd);
        self.turns.with(|layout| tables::write(&self.file, self.bytes, layout, is_zstd))
    }
}
