//! What has come of a stream and was not read yet: bounded, and waited for from both sides.
//!
//! Who takes in the stream waits while there is enough and nobody wants more; who reads waits for what has not come. Grains are read in
//! pieces and in any order, each byte once: one that was read goes, and a mark stays until all before it has gone too.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::disk::control::Control;
use crate::model::error::{Error, Kind, Result};

/// With so much there, more is taken in only for who waits for it …
const ENOUGH_BYTES: u64 = 32 << 20;
/// … and with so much, nobody reads it in order.
const MOST_BYTES: u64 = 512 << 20;
/// Who waits looks this often whether the work was ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a grain takes besides its data.
const SLOT_BYTES: u64 = 128;

/// A grain.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) at: u64,
    /// How much of it is in the disk.
    pub(super) length: u64,
    /// What it unpacks to.
    pub(super) grain: u64,
    pub(super) packed: Arc<Vec<u8>>,
}

impl Slot {
    fn end(&self) -> u64 {
        self.at + self.length
    }
}

/// What lies at an offset, and until where.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lies {
    Data(u64),
    Gap(u64),
    /// It has come and gone.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is there of the grains, by their place; none of those that were read.
    slots: BTreeMap<u64, Kept>,
    held_bytes: u64,
    /// All before it is known.
    known_until: u64,
    /// Somebody waits for it to be known until here.
    wanted: u64,
    /// All grains before it have gone.
    gone_until: u64,
    end: Option<Result<()>>,
    is_closed: bool,
}

#[derive(Debug)]
struct Kept {
    until: u64,
    /// What was not read yet.
    left: u64,
    slot: Option<Slot>,
}

impl Window {
    pub(super) fn new(size: u64) -> Window {
        Window { size, state: Mutex::default(), changed: Condvar::new() }
    }

    /// A grain has come; waits until there is room. `false`: nobody wants it any more.
    pub(super) fn put(&self, slot: Slot) -> bool {
        let (state, at) = (self.lock(), slot.at);
        let is_full = |state: &mut State| {
            !state.is_closed && state.held_bytes >= ENOUGH_BYTES && state.wanted <= state.known_until.max(at)
        };
        let mut state = self.changed.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return false;
        }
        state.held_bytes += slot.packed.len() as u64 + SLOT_BYTES;
        self.advance(&mut state, slot.end());
        state.slots.insert(at, Kept { until: slot.end(), left: slot.length, slot: Some(slot) });
        self.changed.notify_all();
        true
    }

    /// All until there is known, or of no interest.
    pub(super) fn knows(&self, until: u64) {
        let mut state = self.lock();
        self.advance(&mut state, until);
        self.changed.notify_all();
    }

    /// It has ended: the rest of the disk holds nothing, or is not known.
    pub(super) fn end(&self, end: Result<()>) {
        let mut state = self.lock();
        state.end = Some(end);
        self.changed.notify_all();
    }

    /// Nobody reads any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// What lies at an offset, as far as that goes, but until there at most if it is data. Waits until that is known.
    pub(super) fn data_at(&self, at: u64, most: u64, control: &Control) -> Result<Lies> {
        let mut state = self.known(at + 1, control)?;
        let covering = |state: &State, at: u64| {
            let before = state.slots.range(..=at).next_back();
            before.map(|(_, kept)| kept.until).filter(|until| *until > at)
        };
        if covering(&state, at).is_none() {
            if at < state.gone_until {
                return Ok(Lies::Gone);
            }
            let next = state.slots.range(at..).next().map_or(self.size, |(begin, _)| *begin);
            return Ok(Lies::Gap(next));
        }
        let mut until = at;
        while until < most {
            if state.known_until <= until {
                drop(state);
                state = self.known(until + 1, control)?;
            }
            // Grains that were read meanwhile have left a mark, or it is this one's own reader that goes twice.
            let Some(end) = covering(&state, until) else { break };
            until = end.min(most);
        }
        Ok(Lies::Data(until))
    }

    /// The grains of a part of the disk; none if one of them has gone. Waits until they have come.
    pub(super) fn slots(&self, at: u64, until: u64, control: &Control) -> Result<Option<Vec<Slot>>> {
        let state = self.known(until, control)?;
        if at < state.gone_until {
            return Ok(None);
        }
        let first = state.slots.range(..=at).next_back().map_or(at, |(begin, _)| *begin);
        let there = state.slots.range(first..until).map(|(_, kept)| kept).filter(|kept| kept.until > at);
        Ok(there.map(|kept| kept.slot.clone()).collect())
    }

    /// A part of the disk was read.
    pub(super) fn is_read(&self, at: u64, until: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        let first = state.slots.range(..=at).next_back().map_or(at, |(begin, _)| *begin);
        for (begin, kept) in state.slots.range_mut(first..until) {
            let read = kept.until.min(until).saturating_sub(at.max(*begin));
            kept.left = kept.left.saturating_sub(read);
            if kept.left == 0
                && let Some(slot) = kept.slot.take()
            {
                state.held_bytes -= slot.packed.len() as u64 + SLOT_BYTES;
            }
        }
        while let Some(first) = state.slots.first_entry()
            && first.get().slot.is_none()
        {
            state.gone_until = first.remove().until;
        }
        self.changed.notify_all();
    }

    /// Waits until all before an offset is known.
    fn known(&self, until: u64, control: &Control) -> Result<MutexGuard<'_, State>> {
        let until = until.min(self.size);
        let mut state = self.lock();
        while state.known_until < until {
            match &state.end {
                Some(Ok(())) => {
                    state.known_until = self.size;
                    break;
                }
                Some(Err(error)) => return Err(error.clone()),
                None => {}
            }
            if state.held_bytes > MOST_BYTES {
                return Err(out_of_order());
            }
            if state.wanted < until {
                state.wanted = until;
                self.changed.notify_all();
            }
            (state, _) = self.changed.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
            if state.known_until < until {
                drop(state);
                control.ended()?;
                state = self.lock();
            }
        }
        Ok(state)
    }

    /// That nothing follows is known only when the stream has ended as it should: so the disk's last byte is not known before.
    fn advance(&self, state: &mut State, until: u64) {
        state.known_until = state.known_until.max(until.min(self.size.saturating_sub(1)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_order() -> Error {
    Error::new(Kind::Unsupported, "a disk that comes as a stream was not read in order")
        .advice("choose a way to the disk on which it can be read anywhere, or copy it first")
        .permanent()
}
