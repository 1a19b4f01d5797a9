//! qcow2, version 3: clusters in the order in which they come, tables behind them, the header last.
//!
//! ```text
//!   header │ first table │ data, and the end of it known only when all is there … │ second tables │ counts │ table of counts
//! ```
//!
//! Until the header is there the file is no image, so half a copy is never taken for a whole one. What is not here: compressed clusters and
//! layouts that are allocated beforehand, which QEMU writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{BLOCK_BYTES, Placed, Writer, filled};

const CLUSTER_BITS: u32 = BLOCK_BYTES.trailing_zeros();
const CLUSTER: u64 = BLOCK_BYTES as u64;
/// Entries of 8 bytes in a table of one cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Counts of 16 bits in a cluster.
const COUNTS: u64 = CLUSTER / 2;
const COUNT_ORDER: u32 = 4;
const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 112;
/// The cluster is used once: it may be written to in place.
const USED_ONCE: u64 = 1 << 63;

/// The largest disk whose first table QEMU opens.
pub(super) const MOST_BYTES: u64 = (32 << 20) / 8 * ENTRIES * CLUSTER;

/// By second table: where each of its clusters lies, in clusters; 0: nowhere.
type Tables = BTreeMap<u64, Box<[u32]>>;

/// An image that is being filled.
#[derive(Debug)]
pub(super) struct Qcow2 {
    file: File,
    bytes: u64,
    layout: Mutex<Layout>,
    changed: Condvar,
}

/// What lies where.
#[derive(Debug, Default)]
struct Layout {
    tables: Tables,
    /// The cluster that is given out next.
    next: u64,
    /// The range whose turn it is to get its places.
    turn: u64,
    is_given_up: bool,
}

impl Qcow2 {
    pub(super) fn new(file: File, bytes: u64) -> Qcow2 {
        let layout = Layout { next: 1 + first_table_clusters(bytes), ..Layout::default() };
        Qcow2 { file, bytes, layout: Mutex::new(layout), changed: Condvar::new() }
    }

    /// Gives places to the runs of a range, when it is its turn.
    fn reserve(&self, number: u64, at: u64, runs: &[Range<usize>]) -> io::Result<Vec<Placed>> {
        let is_waiting = |layout: &mut Layout| layout.turn != number && !layout.is_given_up;
        let layout = self.changed.wait_while(self.lock(), is_waiting);
        let mut layout = layout.unwrap_or_else(PoisonError::into_inner);
        if layout.is_given_up {
            return Err(io::Error::other("the copy was given up"));
        }
        let mut placed = Vec::with_capacity(runs.len());
        let mut next = layout.next;
        for run in runs {
            let count = (run.len() as u64).div_ceil(CLUSTER);
            let at_cluster = u32::try_from(next).map_err(|_| {
                io::Error::new(io::ErrorKind::FileTooLarge, "the image has too many clusters")
            })?;
            placed.push(Placed { block: (at + run.start as u64) / CLUSTER, count, at: at_cluster });
            next += count;
        }
        self.put(&mut layout, &placed)?;
        layout.turn += 1;
        self.changed.notify_all();
        Ok(placed)
    }

    /// Writes down where runs lie.
    fn put(&self, layout: &mut Layout, placed: &[Placed]) -> io::Result<()> {
        let (disk, first) = (self.bytes.div_ceil(CLUSTER), 1 + first_table_clusters(self.bytes));
        for run in placed {
            let end = u64::from(run.at) + run.count;
            let is_sound = u64::from(run.at) >= first && run.block.saturating_add(run.count) <= disk;
            if !is_sound || u32::try_from(end).is_err() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a place that this image does not have",
                ));
            }
            for (cluster, at) in (run.block..run.block + run.count).zip(run.at..) {
                let table = layout.tables.entry(cluster / ENTRIES);
                let table = table.or_insert_with(|| vec![0; ENTRIES as usize].into_boxed_slice());
                table[(cluster % ENTRIES) as usize] = at;
            }
            layout.next = layout.next.max(end);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_clusters(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at * CLUSTER)
    }
}

impl Writer for Qcow2 {
    fn write(&self, number: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>> {
        let runs: Vec<_> = filled(data, BLOCK_BYTES).collect();
        let placed = self.reserve(number, at, &runs)?;
        for (run, Placed { at, count, .. }) in runs.into_iter().zip(&placed) {
            let (at, piece) = (u64::from(*at), &data[run]);
            self.write_clusters(at, piece)?;
            let short = (count * CLUSTER) as usize - piece.len();
            if short > 0 {
                // The disk ends within a cluster; the file does not.
                self.file.write_all_at(&vec![0; short], at * CLUSTER + piece.len() as u64)?;
            }
        }
        Ok(placed)
    }

    fn give_up(&self) {
        self.lock().is_given_up = true;
        self.changed.notify_all();
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (number, piece) in buffer.chunks_mut(BLOCK_BYTES).enumerate() {
            let cluster = at / CLUSTER + number as u64;
            let entry = (cluster % ENTRIES) as usize;
            let place = self.lock().tables.get(&(cluster / ENTRIES)).map_or(0, |table| table[entry]);
            match place {
                0 => piece.fill(0),
                place => self.file.read_exact_at(piece, u64::from(place) * CLUSTER)?,
            }
        }
        Ok(())
    }

    fn place(&self, placed: &[Placed]) -> io::Result<()> {
        self.put(&mut self.lock(), placed)
    }

    fn go_on(&self) -> io::Result<()> {
        // With a header, a run that got as far as the tables left an image; what follows writes over them.
        self.write_clusters(0, &vec![0; BLOCK_BYTES])?;
        self.file.set_len(self.lock().next * CLUSTER)
    }

    fn finish(&self) -> io::Result<()> {
        let layout = self.lock();
        let mut next = layout.next;
        let mut first = vec![0; first_table_clusters(self.bytes) as usize * BLOCK_BYTES];
        let mut cluster = vec![0; BLOCK_BYTES];
        for (number, table) in &layout.tables {
            for (entry, at) in cluster.chunks_exact_mut(8).zip(table.iter()) {
                let value = if *at == 0 { 0 } else { (u64::from(*at) * CLUSTER) | USED_ONCE };
                entry.copy_from_slice(&value.to_be_bytes());
            }
            self.write_clusters(next, &cluster)?;
            let at = *number as usize * 8;
            first[at..at + 8].copy_from_slice(&((next * CLUSTER) | USED_ONCE).to_be_bytes());
            next += 1;
        }
        self.write_clusters(1, &first)?;
        let counts = self.write_counts(next)?;
        self.file.write_all_at(&self.header(&counts), 0)
    }
}

/// Where the counts are told.
struct Counts {
    table_at: u64,
    table_clusters: u64,
}

impl Qcow2 {
    /// Every cluster of the file is used once, those of the counts among them.
    fn write_counts(&self, used: u64) -> io::Result<Counts> {
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let total = used + blocks + tables;
            let (more_blocks, more_tables) =
                (total.div_ceil(COUNTS), total.div_ceil(COUNTS).div_ceil(ENTRIES));
            if (more_blocks, more_tables) == (blocks, tables) {
                break;
            }
            (blocks, tables) = (more_blocks, more_tables);
        }
        let total = used + blocks + tables;
        let mut table = vec![0; tables as usize * BLOCK_BYTES];
        for block in 0..blocks {
            let counted = (total - block * COUNTS).min(COUNTS) as usize;
            let mut cluster = vec![0; BLOCK_BYTES];
            cluster
                .chunks_exact_mut(2)
                .take(counted)
                .for_each(|count| count.copy_from_slice(&1u16.to_be_bytes()));
            self.write_clusters(used + block, &cluster)?;
            let at = block as usize * 8;
            table[at..at + 8].copy_from_slice(&((used + block) * CLUSTER).to_be_bytes());
        }
        self.write_clusters(used + blocks, &table)?;
        Ok(Counts { table_at: (used + blocks) * CLUSTER, table_clusters: tables })
    }

    fn header(&self, counts: &Counts) -> Vec<u8> {
        let mut header = Vec::with_capacity(BLOCK_BYTES);
        let tables = self.bytes.div_ceil(CLUSTER * ENTRIES);
        header.extend(b"QFI\xfb");
        header.extend(VERSION.to_be_bytes());
        // No backing file: its offset and its length.
        header.extend([0; 12]);
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.bytes.to_be_bytes());
        // No encryption.
        header.extend([0; 4]);
        header.extend((tables as u32).to_be_bytes());
        header.extend(CLUSTER.to_be_bytes());
        header.extend(counts.table_at.to_be_bytes());
        header.extend((counts.table_clusters as u32).to_be_bytes());
        // No snapshots: their number and their place. No features of any of the three kinds.
        header.extend([0; 12 + 24]);
        header.extend(COUNT_ORDER.to_be_bytes());
        header.extend(HEADER_BYTES.to_be_bytes());
        // Compression by zlib, which nothing here is, and the end of the extensions.
        header.resize(BLOCK_BYTES, 0);
        header
    }
}

fn first_table_clusters(bytes: u64) -> u64 {
    bytes.div_ceil(CLUSTER * ENTRIES).div_ceil(ENTRIES).max(1)
}
