//! What is copied and not yet durable: held within bounds, made durable, and then written down.
//!
//! Workers ask before they read, and say when a piece is in the target. One thread takes what has come together without a gap, syncs the
//! target, and adds it to the journal; that is also what keeps the kernel from gathering gigabytes of dirty pages for the last sync to wait
//! for. So after a crash at any moment, no more than [`MOST_BYTES`] of the source are read again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::journal::{Journal, Record};
use crate::sys::failpoint;

/// What may be read and not yet be written down.
pub(super) const MOST_BYTES: u64 = 56 << 20;
/// With so much come together, it is made durable at once …
const ENOUGH_BYTES: u64 = 16 << 20;
/// … and with less, after so long.
const LONGEST: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Read, or about to be, and not yet durable.
    open_bytes: u64,
    /// In the target, and not yet durable, by number.
    written: BTreeMap<u64, Record>,
    written_bytes: u64,
    /// The piece that has to be written down next: a journal has no gaps.
    next: u64,
    /// Nothing more will come.
    is_closed: bool,
}

impl Ledger {
    /// Waits until so much may be read; `false` if it is all over. Pieces are admitted in their order: else one that others wait for could
    /// wait for them.
    pub(super) fn admit(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        while state.open_bytes > 0 && state.open_bytes + bytes > MOST_BYTES && !state.is_closed {
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
        if state.written_bytes >= ENOUGH_BYTES {
            self.changed.notify_all();
        }
    }

    /// Nothing more will be written.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Makes durable what comes, until it is closed.
    pub(super) fn keep(&self, target: &File, mut journal: Option<&mut Journal>) -> io::Result<()> {
        loop {
            let (records, is_last) = self.next();
            if !records.is_empty() {
                target.sync_data()?;
                failpoint::hit("copy.before-journal");
                if let Some(journal) = &mut journal {
                    journal.record(&records)?;
                }
                failpoint::hit("copy.after-journal");
                self.lock().open_bytes -= bytes_of(&records);
                self.changed.notify_all();
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// What has come together without a gap, and whether that was all.
    fn next(&self) -> (Vec<Record>, bool) {
        let state = self.lock();
        let is_waiting = |state: &mut State| !state.is_closed && state.written_bytes < ENOUGH_BYTES;
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

fn bytes_of(records: &[Record]) -> u64 {
    records.iter().map(|record| u64::from(record.length)).sum()
}
