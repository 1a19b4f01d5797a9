//! What a look into a disk elsewhere has read of it: kept for a while, so that the look asks for nothing twice, and the copy not for it again.
//!
//! ```text
//!   an appliance ── small reads, here and there ──▶ blocks ◀── asked for once ── the disk
//!   the copy     ── all of it, once ──────────────▶ blocks, each given away when it was read; the rest from the disk
//! ```
//!
//! One [`Memory`] serves all disks of a VM. It holds so much and no more, and a look reads so much, and waits so long, and no more; then it
//! fails, and the look has told nothing. A read that failed is remembered, too: to whoever reads through QEMU it is an error of the device, which looks like a
//! damaged disk. What is not here: who looks, and what becomes of what was seen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Elsewhere, Remote};
use crate::disk::control::Control;
use crate::disk::facts::SourceDisk;
use crate::disk::read::{Holds, Range, Reader, Room};
use crate::model::error::{Error, Kind, Result};
use crate::model::remote::NOT_OPENED_RULE;
use crate::model::units::human_size;

/// In what it is asked for and kept. File systems keep together what is read together.
const BLOCK: u64 = 256 << 10;
/// Whoever reads on is a step ahead: so many blocks are asked for at once.
const AHEAD: u64 = 4;

/// What a look may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes that are kept.
    pub(crate) held: u64,
    /// Bytes that are read.
    pub(crate) read: u64,
    /// How long all reads together may be waited for.
    pub(crate) waited: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { held: 64 << 20, read: 1 << 30, waited: Duration::from_secs(900) }
    }
}

/// Which block of which disk.
type Name = (usize, u64);

/// What is kept for one VM.
#[derive(Debug)]
pub(crate) struct Memory {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<Name, Arc<[u8]>>,
    /// In the order in which they came.
    order: VecDeque<Name>,
    held: u64,
    read: u64,
    waited: Duration,
    failure: Option<Error>,
    is_over: bool,
}

impl Memory {
    /// One that knows nothing yet.
    pub(crate) fn new(bounds: Bounds) -> Arc<Memory> {
        Arc::new(Memory { bounds, state: Mutex::default() })
    }

    /// The look is over: from now on what is kept is given away, and nothing is added.
    pub(crate) fn is_enough(&self) {
        self.state().is_over = true;
    }

    /// How many bytes were asked for.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.state().read
    }

    /// Why a read failed, if one did: then what was seen is not what is there.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.state().failure.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error once the look has taken more than it may.
    fn within_bounds(&self, further: u64) -> Result<()> {
        let state = self.state();
        let too_much = if state.read.saturating_add(further) > self.bounds.read {
            format!("more than {}", human_size(self.bounds.read))
        } else if state.waited > self.bounds.waited {
            format!("more than {} seconds of waiting for the server", self.bounds.waited.as_secs())
        } else {
            return Ok(());
        };
        Err(Error::new(
            Kind::Guest,
            format!("the guest was not looked at beforehand: that would have taken {too_much}"),
        )
        .rule(NOT_OPENED_RULE)
        .advice("it is looked at when its disks are here"))
    }

    /// The first failure counts: those behind it follow from it.
    fn failed(&self, error: Error) -> Error {
        self.state().failure.get_or_insert_with(|| error.clone());
        error
    }
}

impl State {
    fn keep(&mut self, name: Name, block: Arc<[u8]>, most: u64) {
        self.held += block.len() as u64;
        if let Some(before) = self.blocks.insert(name, block) {
            // Two have asked for it at a time.
            self.held -= before.len() as u64;
        } else {
            self.order.push_back(name);
        }
        while self.held > most {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, name: Name) {
        if let Some(block) = self.blocks.remove(&name) {
            self.held -= block.len() as u64;
        }
    }
}

impl SourceDisk {
    /// The same disk, of which what is read is kept there; by its number among the VM's. A disk of this machine, and one that comes as a stream, is as it was.
    pub(crate) fn remembered(self, number: usize, memory: &Arc<Memory>) -> SourceDisk {
        match &self.remote {
            Some(disk) if disk.most_data().is_none() => {
                let kept = Remembered { disk: disk.clone(), number, memory: Arc::clone(memory) };
                SourceDisk { remote: Some(Elsewhere(Arc::new(kept))), ..self }
            }
            _ => self,
        }
    }
}

#[derive(Debug)]
struct Remembered {
    disk: Elsewhere,
    number: usize,
    memory: Arc<Memory>,
}

impl Remote for Remembered {
    fn name(&self) -> String {
        self.disk.0.name()
    }

    fn size(&self) -> u64 {
        self.disk.0.size()
    }

    fn identity(&self) -> String {
        self.disk.0.identity()
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Remembering {
            disk: self.disk.reader(control)?,
            number: self.number,
            memory: Arc::clone(&self.memory),
            control: control.clone(),
        }))
    }

    fn check_unchanged(&self, control: &Control) -> Result<()> {
        self.disk.check_unchanged(control)
    }
}

#[derive(Debug)]
struct Remembering {
    disk: Box<dyn Reader>,
    number: usize,
    memory: Arc<Memory>,
    control: Control,
}

impl Reader for Remembering {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        self.disk.range(at, room)
    }

    fn read(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()> {
        if self.memory.state().is_over {
            return self.give_away(at, buffer, room);
        }
        let (mut place, mut left) = (at, buffer);
        while !left.is_empty() {
            let block = self.block(place / BLOCK, room).map_err(|error| self.memory.failed(error))?;
            let from = offset(place);
            let Some(there) = block.get(from..).filter(|there| !there.is_empty()) else {
                return Err(Error::internal("a disk elsewhere was read beyond its end"));
            };
            let length = there.len().min(left.len());
            let (part, rest) = left.split_at_mut(length);
            part.copy_from_slice(&there[..length]);
            (place, left) = (place + length as u64, rest);
        }
        Ok(())
    }

    fn will_need(&self, start: u64, length: u64, room: &mut Room) {
        self.disk.will_need(start, length, room);
    }
}

impl Remembering {
    /// A block, asked for if it has to be.
    fn block(&self, number: u64, room: &mut Room) -> Result<Arc<[u8]>> {
        let wanted = {
            let state = self.memory.state();
            if let Some(block) = state.blocks.get(&(self.number, number)) {
                return Ok(Arc::clone(block));
            }
            let is_known = |number: u64| state.blocks.contains_key(&(self.number, number));
            let most = if number > 0 && is_known(number - 1) { AHEAD } else { 1 };
            (1..most).take_while(|ahead| !is_known(number + ahead)).count() as u64 + 1
        };
        let start = number.saturating_mul(BLOCK);
        let end = start.saturating_add(wanted * BLOCK).min(self.size());
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        self.ask(start, &mut bytes, room)?;
        let mut state = self.memory.state();
        let mut first = None;
        for (number, block) in (number..).zip(bytes.chunks(BLOCK as usize)) {
            let block: Arc<[u8]> = block.into();
            first.get_or_insert_with(|| Arc::clone(&block));
            state.keep((self.number, number), block, self.memory.bounds.held);
        }
        first.ok_or_else(|| Error::internal("a disk elsewhere was read beyond its end"))
    }

    /// What holds data is asked for; the rest is zeros already.
    fn ask(&self, start: u64, bytes: &mut [u8], room: &mut Room) -> Result<()> {
        let (mut at, mut left) = (start, bytes);
        while !left.is_empty() {
            let range = self.disk.next_range(at, room)?;
            let length = usize::try_from(range.length).unwrap_or(usize::MAX).min(left.len());
            let (part, rest) = left.split_at_mut(length);
            if range.holds == Holds::Data {
                self.memory.within_bounds(length as u64)?;
                self.control.await_turn(length as u64, &|| false)?;
                let begun = Instant::now();
                self.disk.read(at, part, room)?;
                let mut state = self.memory.state();
                state.read += length as u64;
                state.waited += begun.elapsed();
            }
            (at, left) = (at + length as u64, rest);
        }
        Ok(())
    }

    /// For who reads everything once: what is kept is not asked for, and not kept any longer.
    fn give_away(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()> {
        let (mut place, mut left) = (at, buffer);
        while !left.is_empty() {
            let name = (self.number, place / BLOCK);
            let from = offset(place);
            let kept = self.memory.state().blocks.get(&name).cloned();
            let kept = kept.as_deref().and_then(|block| block.get(from..)).filter(|there| !there.is_empty());
            let length = match kept {
                Some(there) => {
                    let length = there.len().min(left.len());
                    left[..length].copy_from_slice(&there[..length]);
                    if length == there.len() {
                        self.memory.state().forget(name);
                    }
                    length
                }
                None => {
                    let length = self.until_kept(place, left.len());
                    self.disk.read(place, &mut left[..length], room)?;
                    length
                }
            };
            (place, left) = (place + length as u64, &mut left[length..]);
        }
        Ok(())
    }

    /// How far it is from a place to the next block that is kept.
    fn until_kept(&self, place: u64, most: usize) -> usize {
        let state = self.memory.state();
        let behind = (self.number, place / BLOCK + 1)..(self.number + 1, 0);
        let next = state.blocks.range(behind).next().map(|((_, number), _)| number * BLOCK - place);
        next.and_then(|length| usize::try_from(length).ok()).map_or(most, |length| length.min(most))
    }
}

/// Where in its block a place is.
fn offset(place: u64) -> usize {
    (place % BLOCK) as usize
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
