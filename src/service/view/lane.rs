//! One thread that puts files on one file system, however long that takes.
//!
//! Whoever hands it a file never waits. Of each file only the newest version is kept, and of all that
//! wait only so many bytes: a file system that is away for a day costs a thread and a bounded heap. What
//! cannot be written is tried again; that is logged once, and again when it works.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::writer::View;
use crate::model::error::{Error, Result};

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// More than this never waits for one file system.
const MAX_WAITING_BYTES: usize = 32 << 20;

/// Puts a file there; hangs as long as its file system does.
pub(super) type Make = dyn Fn(&Path, &View) -> io::Result<()> + Send + Sync;

/// What waits for one file system, and the thread that works it off.
#[derive(Debug)]
pub(super) struct Lane {
    /// What people know the file system by.
    place: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// To be written, the newest version of each.
    waiting: BTreeMap<PathBuf, View>,
    /// Could not be written, and when all of it is tried again.
    failing: BTreeMap<PathBuf, View>,
    retry_at: Option<Instant>,
    writing_since: Option<Instant>,
    is_told_stuck: bool,
    is_told_full: bool,
    is_closed: bool,
}

impl State {
    fn bytes(&self) -> usize {
        self.waiting.values().chain(self.failing.values()).map(View::bytes).sum()
    }

    fn is_stuck(&self, patience: Duration) -> bool {
        self.writing_since.is_some_and(|since| since.elapsed() > patience)
    }
}

impl Lane {
    /// Starts the thread.
    pub(super) fn start(place: PathBuf, make: Arc<Make>) -> Result<Arc<Lane>> {
        let lane = Arc::new(Lane { place, state: Mutex::default(), changed: Condvar::new() });
        let of_thread = Arc::clone(&lane);
        thread::Builder::new()
            .name("views".to_owned())
            .spawn(move || of_thread.work(&*make))
            .map_err(|error| Error::internal(format!("cannot start a thread for views: {error}")))?;
        Ok(lane)
    }

    /// This file is to be like this.
    pub(super) fn put(&self, path: PathBuf, view: View) {
        let mut state = self.lock();
        let replaced = state.waiting.get(&path).or_else(|| state.failing.get(&path)).map_or(0, View::bytes);
        if state.bytes() - replaced + view.bytes() > MAX_WAITING_BYTES {
            if !std::mem::replace(&mut state.is_told_full, true) {
                tracing::warn!(place = %self.place.display(), path = %path.display(), "so much waits to be written there that more is left out");
            }
            return;
        }
        match state.failing.get_mut(&path) {
            // Its turn comes with the next try; a place that fails is not asked more often for it.
            Some(failing) => *failing = view,
            None => drop(state.waiting.insert(path, view)),
        }
        self.changed.notify_all();
    }

    /// Waits until everything has been tried once; false where that takes longer.
    pub(super) fn is_idle_by(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.waiting.is_empty() || state.writing_since.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What is wrong, if a write has taken longer than this. Logged once.
    pub(super) fn trouble(&self, patience: Duration) -> Option<String> {
        let mut state = self.lock();
        if !state.is_stuck(patience) {
            return None;
        }
        let place = self.place.display();
        if !std::mem::replace(&mut state.is_told_stuck, true) {
            tracing::warn!(%place, "does not answer: checkpoints and links there are written when it does");
        }
        Some(format!("{place} does not answer: {} files wait to be written there", state.waiting.len() + 1))
    }

    /// Whether a write has taken longer than this.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        self.lock().is_stuck(patience)
    }

    /// The thread ends when it has nothing left that can be written.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn work(&self, make: &Make) {
        while let Some((path, view)) = self.next() {
            let made = make(&path, &view);
            self.note(path, view, made);
        }
    }

    /// What is to be written now; none when it is to end.
    fn next(&self) -> Option<(PathBuf, View)> {
        let mut state = self.lock();
        loop {
            if state.retry_at.is_some_and(|at| at <= Instant::now()) {
                state.retry_at = None;
                let again: Vec<_> = state.failing.iter().map(|(p, v)| (p.clone(), v.clone())).collect();
                for (path, view) in again {
                    state.waiting.entry(path).or_insert(view);
                }
            }
            if let Some(first) = state.waiting.pop_first() {
                state.writing_since = Some(Instant::now());
                return Some(first);
            }
            if state.is_closed {
                return None;
            }
            state = match state.retry_at {
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn note(&self, path: PathBuf, view: View, made: io::Result<()>) {
        let mut state = self.lock();
        state.writing_since = None;
        if std::mem::take(&mut state.is_told_stuck) {
            tracing::info!(place = %self.place.display(), "answers again");
        }
        match made {
            Ok(()) => {
                if let Some(newest) = state.failing.remove(&path) {
                    tracing::info!(path = %path.display(), "written again");
                    if newest != view {
                        state.waiting.insert(path, newest);
                    }
                }
                state.is_told_full &= !state.waiting.is_empty();
            }
            Err(error) => {
                state.retry_at.get_or_insert(Instant::now() + RETRY);
                if !state.failing.contains_key(&path) {
                    tracing::warn!(path = %path.display(), "cannot be written, tried again: {error}");
                    let newest = state.waiting.remove(&path).unwrap_or(view);
                    state.failing.insert(path, newest);
                }
            }
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
