//! qcow2 with tables of the plain kind: clusters as they are, packed with zlib or zstd, zeros, and what lies below.
//!
//! What is not here: tables that tell of parts of clusters (`extended_l2`), which QEMU reads, and what is refused before a byte is read.

use std::io::Read as _;
use std::path::PathBuf;

use super::{Holds, Range, Reader, Room, read_failed, unreadable, window};
use crate::disk::control::Control;
use crate::disk::inspect::{Image, Qcow2Facts, table_be64};
use crate::disk::window::{Place, Window};
use crate::model::error::Result;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const PACKED: u64 = 1 << 62;
const ALL_ZEROS: u64 = 1;
const SECTOR: u64 = 512;
/// A map tells of so many clusters at once, at most.
const MOST_CLUSTERS: u64 = 1 << 16;

/// One image.
#[derive(Debug)]
pub(super) struct Qcow2 {
    window: Window,
    path: PathBuf,
    file_bytes: u64,
    bytes: u64,
    cluster: u64,
    /// Where each second table lies, in bytes; 0: nowhere.
    first: Vec<u64>,
    is_zstd: bool,
    /// What is where nothing was written.
    absent: Holds,
}

/// Where a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    Absent,
    Zeros,
    At(u64),
    Packed { at: u64, bytes: u64 },
}

impl Qcow2 {
    /// `None` for an image whose tables only QEMU reads. `bytes` is what the guest sees, where the header does not decide that.
    pub(super) fn open(place: &Place, absent: Holds, control: &Control) -> Result<Option<Qcow2>> {
        let window = window(place)?;
        let image = Image::new(&window, control);
        let facts = Qcow2Facts::read(&image)?;
        if facts.has_extended_tables {
            return Ok(None);
        }
        let first = table_be64(&facts.first_table(&image)?).map(|entry| entry & OFFSET).collect();
        Ok(Some(Qcow2 {
            path: place.path.clone(),
            file_bytes: window.len(),
            window,
            bytes: facts.bytes,
            cluster: facts.cluster,
            first,
            is_zstd: facts.is_zstd,
            absent,
        }))
    }

    /// What a second table says of its clusters; `None` where there is no table.
    fn second<'r>(&self, table: u64, room: &'r mut Room) -> Result<Option<&'r [u64]>> {
        let at = match usize::try_from(table).ok().and_then(|table| self.first.get(table)) {
            None | Some(0) => return Ok(None),
            Some(at) => *at,
        };
        let entries = room.table((self.window.number(), at), || {
            let mut bytes = vec![0; self.cluster as usize];
            self.window.read_exact_at(&mut bytes, at).map_err(|error| read_failed(&self.path, at, &error))?;
            Ok(table_be64(&bytes).collect())
        });
        entries.map(Some)
    }

    fn cluster(&self, number: u64, room: &mut Room) -> Result<Cluster> {
        let entries = self.cluster / 8;
        let second = self.second(number / entries, room)?.unwrap_or(&[]);
        Ok(self.meant(second.get((number % entries) as usize).copied().unwrap_or(0)))
    }

    fn meant(&self, entry: u64) -> Cluster {
        if entry & PACKED != 0 {
            // Above the offset stands how many sectors more than the first it touches; the narrower, the larger clusters are.
            let width = 62 - (self.cluster.trailing_zeros() - 8);
            let at = entry & ((1 << width) - 1);
            let sectors = (entry & (PACKED - 1)) >> width;
            return Cluster::Packed { at, bytes: (sectors + 1) * SECTOR - at % SECTOR };
        }
        match entry & OFFSET {
            _ if entry & ALL_ZEROS != 0 => Cluster::Zeros,
            0 => Cluster::Absent,
            at => Cluster::At(at),
        }
    }

    fn holds(&self, cluster: Cluster) -> Holds {
        match cluster {
            Cluster::Absent => self.absent,
            Cluster::Zeros => Holds::Zeros,
            Cluster::At(_) | Cluster::Packed { .. } => Holds::Data,
        }
    }

    /// Unpacks a cluster and shows it.
    fn unpacked<T>(&self, at: u64, bytes: u64, room: &mut Room, show: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let broken = || unreadable(&self.path, &format!("the data {at} bytes into it cannot be unpacked"));
        let there = self.file_bytes.saturating_sub(at).min(bytes);
        let span = room.packed(self.window.number(), at..at + there, 0, |bytes, at| {
            self.window.read_exact_at(bytes, at).map_err(|error| read_failed(&self.path, at, &error))
        })?;
        let whole = self.cluster as usize;
        if self.is_zstd {
            let mut unpacked = vec![0; whole];
            let mut decoder =
                ruzstd::decoding::StreamingDecoder::new(room.packed_bytes(span)).map_err(|_| broken())?;
            decoder.read_exact(&mut unpacked).map_err(|_| broken())?;
            return Ok(show(&unpacked));
        }
        let shown = room.inflate_aside(span, whole, false, |all| (all.len() == whole).then(|| show(all)));
        shown.flatten().ok_or_else(broken)
    }
}

impl Reader for Qcow2 {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        let first = at / self.cluster;
        let last = self.bytes.div_ceil(self.cluster);
        let holds = self.holds(self.cluster(first, room)?);
        let entries = self.cluster / 8;
        let mut next = first;
        while next < last.min(first + MOST_CLUSTERS) {
            let (table, from) = (next / entries, next % entries);
            // A table that is not there has nothing at all.
            let same = match self.second(table, room)? {
                None if holds == self.absent => entries - from,
                None => 0,
                Some(second) => {
                    let is_same = |entry: &&u64| self.holds(self.meant(**entry)) == holds;
                    second.iter().skip(from as usize).take_while(is_same).count() as u64
                }
            };
            next += same;
            if from + same < entries {
                break;
            }
        }
        let end = next.saturating_mul(self.cluster).min(self.bytes);
        Ok(Range { start: at, length: end.saturating_sub(at), holds })
    }

    fn place(&self, at: u64, room: &mut Room) -> Result<Option<u64>> {
        Ok(match self.cluster(at / self.cluster, room)? {
            Cluster::Absent | Cluster::Zeros => None,
            Cluster::At(begin) => Some(begin + at % self.cluster),
            Cluster::Packed { at: begin, .. } => Some(begin),
        })
    }

    fn read(&self, mut at: u64, mut buffer: &mut [u8], room: &mut Room) -> Result<()> {
        while !buffer.is_empty() {
            let within = at % self.cluster;
            let left = usize::try_from(self.cluster - within).unwrap_or(usize::MAX).min(buffer.len());
            let (now, later) = buffer.split_at_mut(left);
            match self.cluster(at / self.cluster, room)? {
                Cluster::Absent | Cluster::Zeros => now.fill(0),
                Cluster::At(begin) => {
                    let from = begin + within;
                    let there = usize::try_from(self.file_bytes.saturating_sub(from)).unwrap_or(usize::MAX);
                    // The last cluster of a file need not be whole.
                    let (there, beyond) = now.split_at_mut(there.min(now.len()));
                    self.window
                        .read_exact_at(there, from)
                        .map_err(|error| read_failed(&self.path, from, &error))?;
                    beyond.fill(0);
                }
                Cluster::Packed { at: begin, bytes } => {
                    let within = within as usize;
                    self.unpacked(begin, bytes, room, |all| {
                        now.copy_from_slice(&all[within..within + now.len()]);
                    })?;
                }
            }
            at += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}
