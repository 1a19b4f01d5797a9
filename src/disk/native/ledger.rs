//! What is copied and not yet written down, and what is not yet durable.
//!
//! Workers ask before they read, and say when a piece is in the target. One thread takes what has come together without a gap and adds it to
//! the journal at once: so when the process is killed at any moment, no more than [`MOST_BYTES`] of the source are read again. Another syncs
//! the target from time to time, and says in the journal how far: so much is kept when the power fails. It syncs seldom, because a disk that
//! has to finish all its writes does not read meanwhile; and it does sync, so that the last one has not all of it left to do. In between it
//! has the kernel begin to write what has come, without waiting for it: else the last sync finds all of that still to be done.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::journal::{Journal, Record};
use crate::model::error::{Error, Result};
use crate::sys::failpoint;
use crate::sys::fs::{WRITE_EARLY_BYTES, begin_to_write};

/// What may be read and not yet be written down.
pub(super) const MOST_BYTES: u64 = 56 << 20;
/// The same of what comes over a network, where nothing is gained by more, and a cut is to cost no more.
const MOST_FROM_ELSEWHERE_BYTES: u64 = 8 << 20;
/// With so much come together, it is written down at once …
const ENOUGH_BYTES: u64 = 8 << 20;
/// … or with so much where it came over a network, which is slower than that and dear to ask twice …
const ENOUGH_FROM_ELSEWHERE_BYTES: u64 = 1 << 20;
/// … and with less, after so long.
const LONGEST: Duration = Duration::from_millis(500);
/// With so much written down, it is made durable …
const MUCH_BYTES: u64 = 2 << 30;
/// … and with less, after so long.
const SELDOM: Duration = Duration::from_secs(20);

/// Why no more is written down.
#[derive(Debug)]
pub(super) enum Stop {
    /// It cannot be.
    Failed(io::Error),
    /// It must not be.
    Refused(Error),
}

impl Stop {
    /// As an error, with words for what failed.
    pub(super) fn told(self, failed: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Stop::Failed(error) => failed(error),
            Stop::Refused(error) => error,
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Failed(error)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    most_bytes: u64,
    enough_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Read, or about to be, and not yet written down.
    open_bytes: u64,
    /// In the target, and not yet written down, by number.
    written: BTreeMap<u64, Record>,
    written_bytes: u64,
    /// The piece that has to be written down next: a journal has no gaps.
    next: u64,
    /// Written down, and not yet durable.
    volatile_bytes: u64,
    /// Where in the target that is of which the kernel was not asked for yet, and how much.
    resting: Option<Range<u64>>,
    resting_bytes: u64,
    /// Nothing more will come.
    is_closed: bool,
}

/// What it is time for.
#[derive(Debug)]
enum Due {
    /// To have the kernel begin to write this part of the target.
    Push(Range<u64>),
    /// To make all durable that was written down, which is so much.
    Sync(u64),
}

impl Ledger {
    /// An empty one; `is_remote`: of a source that is no file of this machine.
    pub(super) fn new(is_remote: bool) -> Ledger {
        let (most_bytes, enough_bytes) = match is_remote {
            true => (MOST_FROM_ELSEWHERE_BYTES, ENOUGH_FROM_ELSEWHERE_BYTES),
            false => (MOST_BYTES, ENOUGH_BYTES),
        };
        Ledger { most_bytes, enough_bytes, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until so much may be read; `false` if it is all over. Pieces are admitted in their order: else one that others wait for could
    /// wait for them.
    pub(super) fn admit(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        while state.open_bytes > 0 && state.open_bytes + bytes > self.most_bytes && !state.is_closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.open_bytes += bytes;
        !state.is_closed
    }

    /// A piece that was admitted is in the target.
    pub(super) fn written(&self, number: u64, record: Record) {
        let mut state = self.lock();
        state.written_bytes += u64::from(record.length);
        state.written.insert(number, record);
        if state.written_bytes >= self.enough_bytes {
            self.changed.notify_all();
        }
    }

    /// Nothing more will be written.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Writes down what comes, until it is closed, or may not be any more.
    pub(super) fn keep(
        &self,
        journal: Option<&Mutex<Journal>>,
        may_write: &dyn Fn() -> Result<()>,
    ) -> Result<(), Stop> {
        loop {
            let (records, is_last) = self.next();
            if !records.is_empty() {
                failpoint::hit("copy.before-journal");
                may_write().map_err(Stop::Refused)?;
                if let Some(journal) = journal {
                    locked(journal).record(&records)?;
                }
                failpoint::hit("copy.after-journal");
                let mut state = self.lock();
                state.open_bytes -= bytes_of(&records);
                state.volatile_bytes += bytes_of(&records);
                state.resting_bytes += bytes_of(&records);
                let spans = records.iter().map(Record::in_target).chain(state.resting.take());
                state.resting = spans.reduce(|one, other| one.start.min(other.start)..one.end.max(other.end));
                self.changed.notify_all();
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Makes durable what was written down, from time to time, until it is closed.
    pub(super) fn harden(
        &self,
        target: &File,
        journal: &Mutex<Journal>,
        may_write: &dyn Fn() -> Result<()>,
    ) -> Result<(), Stop> {
        let mut synced = Instant::now();
        while let Some(due) = self.next_due(synced) {
            let bytes = match due {
                Due::Push(span) => {
                    begin_to_write(target, &span);
                    continue;
                }
                Due::Sync(bytes) => bytes,
            };
            harden_once(target, journal, may_write)?;
            self.lock().volatile_bytes -= bytes;
            synced = Instant::now();
        }
        Ok(())
    }

    /// What it is time for; `None` when it is over, and what is left is for who finishes the file.
    fn next_due(&self, synced: Instant) -> Option<Due> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            let left = SELDOM.saturating_sub(synced.elapsed());
            if state.volatile_bytes >= MUCH_BYTES || (state.volatile_bytes > 0 && left.is_zero()) {
                return Some(Due::Sync(state.volatile_bytes));
            }
            if state.resting_bytes >= WRITE_EARLY_BYTES
                && let Some(span) = state.resting.take()
            {
                state.resting_bytes = 0;
                return Some(Due::Push(span));
            }
            let left = if left.is_zero() { SELDOM } else { left };
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What has come together without a gap, and whether that was all.
    fn next(&self) -> (Vec<Record>, bool) {
        let state = self.lock();
        // However much came: behind a gap it cannot be written down.
        let is_due = |state: &State| {
            state.written_bytes >= self.enough_bytes && state.written.contains_key(&state.next)
        };
        let is_waiting = |state: &mut State| !state.is_closed && !is_due(state);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, LONGEST, is_waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let mut records = Vec::new();
        let State { written, next, .. } = &mut *state;
        while let Some(record) = written.remove(next) {
            records.push(record);
            *next += 1;
        }
        state.written_bytes -= bytes_of(&records);
        (records, state.is_closed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes durable what is written down now.
pub(super) fn harden_once(
    target: &File,
    journal: &Mutex<Journal>,
    may_write: &dyn Fn() -> Result<()>,
) -> Result<(), Stop> {
    let until = locked(journal).end();
    target.sync_data()?;
    may_write().map_err(Stop::Refused)?;
    let said = locked(journal).durable(until)?;
    // Others add to it meanwhile.
    Ok(said.sync_data()?)
}

/// Says that all is written down, once it is durable.
pub(super) fn conclude(
    target: &File,
    journal: &Mutex<Journal>,
    may_write: &dyn Fn() -> Result<()>,
) -> Result<(), Stop> {
    target.sync_data()?;
    may_write().map_err(Stop::Refused)?;
    Ok(locked(journal).whole()?)
}

fn locked(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes_of(records: &[Record]) -> u64 {
    records.iter().map(|record| u64::from(record.length)).sum()
}
