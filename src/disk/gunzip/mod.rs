//! Packed images (gzip), read at any offset without being unpacked anywhere.
//!
//! ```text
//!   one pass: unpack all ▸ check lengths and checksums ▸ keep a point every some MiB ──▶ index
//!   reading:  the nearest point or decoder before an offset ▸ unpack up to there ──▶ blocks, of which some are kept
//! ```
//!
//! A point is a decoder as it stood there, with the 32 KiB that it may look back to. Points are few however large the image is: where they
//! become too many, every second goes. Unpacking is one thread's work by its nature, so readers share decoders and blocks: several of them
//! that read one behind the other cost one pass. What is not here: the container around the packed data (see [`stream`]).

mod index;
mod stream;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use self::index::Index;
use self::stream::{Decoder, Step, next_member};
use crate::disk::control::Control;
use crate::disk::window::Window;
use crate::model::error::Result;

/// What is unpacked and kept at a time. Points lie at the beginnings of blocks.
const BLOCK_BYTES: u64 = 256 << 10;
/// Blocks that are kept: what several threads read around one place, a MiB each.
const KEPT_BLOCKS: usize = 64;
/// Of what is only passed on the way, so many blocks before the one that is wanted are kept.
const KEPT_ON_THE_WAY: u64 = 8;
/// Places that are read at the same time: the data, tables before and behind it.
const MOST_DECODERS: usize = 4;

/// That an image is packed, and its index once it has one. Clones share it.
#[derive(Debug, Clone)]
pub struct Gzip {
    most_bytes: u64,
    index: Arc<OnceLock<Arc<Index>>>,
}

/// What was found out about the same bytes makes no difference.
impl PartialEq for Gzip {
    fn eq(&self, other: &Gzip) -> bool {
        self.most_bytes == other.most_bytes
    }
}

impl Eq for Gzip {}

impl Gzip {
    /// It may unpack to so many bytes at most.
    pub(crate) fn new(most_bytes: u64) -> Gzip {
        Gzip { most_bytes, index: Arc::default() }
    }

    /// Looks through all of it, unless that was done: an error of kind `source` if it is damaged, cut off, or larger than it may be.
    pub(crate) fn look_through(&self, stored: &Window, control: &Control) -> Result<()> {
        if self.index.get().is_none() {
            let index = index::make(stored, self.most_bytes, control)?;
            // Another thread may have been quicker, with the same.
            let _ = self.index.set(Arc::new(index));
        }
        Ok(())
    }

    /// What it unpacks to.
    pub(crate) fn open(&self, stored: Window) -> io::Result<Unpacked> {
        let index =
            self.index.get().ok_or_else(|| io::Error::other("a packed image was not looked through"))?;
        Ok(Unpacked { stored, index: Arc::clone(index), work: Mutex::default() })
    }
}

/// Up to so many of the first bytes that it unpacks to.
pub(crate) fn head(stored: &Window, count: usize) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::new(stream::member(stored, 0)?);
    let mut head = Vec::with_capacity(count);
    while head.len() < count {
        match decoder.step(stored)? {
            Step::Unpacked(bytes) => head.extend_from_slice(&bytes[..bytes.len().min(count - head.len())]),
            Step::End(trailer) => match next_member(stored, trailer)? {
                Some(body) => decoder.begin_member(body),
                None => break,
            },
        }
    }
    Ok(head)
}

/// A packed image, seen as what it unpacks to.
#[derive(Debug)]
pub(crate) struct Unpacked {
    stored: Window,
    index: Arc<Index>,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    /// The one that was used last at the end.
    decoders: VecDeque<Decoder>,
    /// By number; the one that was used last at the end.
    blocks: VecDeque<(u64, Vec<u8>)>,
}

impl Unpacked {
    pub(crate) fn len(&self) -> u64 {
        self.index.bytes
    }

    /// What it is unpacked from.
    pub(crate) fn stored(&self) -> &Window {
        &self.stored
    }

    /// Some bytes at an offset; none at the end.
    pub(crate) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if at >= self.index.bytes {
            return Ok(0);
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let block = work.block(at / BLOCK_BYTES, &self.stored, &self.index)?;
        let there = block.get((at % BLOCK_BYTES) as usize..).unwrap_or(&[]);
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    /// See [`Window::stored_from`]: long stretches of zeros are holes.
    pub(crate) fn stored_from(&self, at: u64) -> Option<(u64, u64)> {
        let bytes = self.index.bytes;
        let next = self.index.zeros.partition_point(|zeros| zeros.end <= at);
        let zeros = self.index.zeros.get(next..).unwrap_or(&[]);
        let (begin, behind) = match zeros {
            [first, rest @ ..] if first.start <= at => (first.end, rest),
            all => (at, all),
        };
        (begin < bytes).then(|| (begin, behind.first().map_or(bytes, |zeros| zeros.start)))
    }
}

impl Work {
    fn block(&mut self, number: u64, stored: &Window, index: &Index) -> io::Result<&[u8]> {
        match self.blocks.iter().position(|(kept, _)| *kept == number) {
            Some(place) => {
                if let Some(block) = self.blocks.remove(place) {
                    self.blocks.push_back(block);
                }
            }
            None => self.unpack(number, stored, index)?,
        }
        Ok(self.blocks.back().map_or(&[], |(_, block)| block.as_slice()))
    }

    /// Unpacks up to the end of a block, which is kept last.
    fn unpack(&mut self, number: u64, stored: &Window, index: &Index) -> io::Result<()> {
        let wanted = number * BLOCK_BYTES;
        let mut decoder = self.decoder(wanted, index);
        while decoder.at() <= wanted {
            let passed = decoder.at() / BLOCK_BYTES;
            let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
            let end = (decoder.at() + BLOCK_BYTES).min(index.bytes);
            while decoder.at() < end {
                match decoder.step(stored)? {
                    Step::Unpacked(bytes) => block.extend_from_slice(bytes),
                    Step::End(trailer) => match next_member(stored, trailer)? {
                        Some(body) => decoder.begin_member(body),
                        None => return Err(stream::broken("it is shorter than it was")),
                    },
                }
            }
            if number - passed <= KEPT_ON_THE_WAY {
                self.keep(passed, block);
            }
        }
        self.decoders.push_back(decoder);
        Ok(())
    }

    fn keep(&mut self, number: u64, block: Vec<u8>) {
        self.blocks.retain(|(kept, _)| *kept != number);
        while self.blocks.len() >= KEPT_BLOCKS {
            self.blocks.pop_front();
        }
        self.blocks.push_back((number, block));
    }

    /// The nearest before an offset: one that is there, or one from a point. All of them stand at the beginnings of blocks.
    fn decoder(&mut self, wanted: u64, index: &Index) -> Decoder {
        let point = index.point_before(wanted);
        let is_before = |decoder: &Decoder| decoder.at() <= wanted && decoder.at() >= point.at();
        let nearest = (0..self.decoders.len())
            .filter(|place| self.decoders.get(*place).is_some_and(is_before))
            .max_by_key(|place| self.decoders.get(*place).map(Decoder::at));
        if let Some(decoder) = nearest.and_then(|place| self.decoders.remove(place)) {
            return decoder;
        }
        while self.decoders.len() >= MOST_DECODERS {
            self.decoders.pop_front();
        }
        point.clone()
    }
}

#[cfg(test)]
mod tests;
