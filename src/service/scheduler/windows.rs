//! What waits for the window of its batch, and what becomes of what runs when that closes. Part of the core, so pure.
//!
//! A window gates the start of a job. With `at_close: hold` it gates its work too: what runs stands still, as in a pause, until it opens
//! again. With `finish`, what has begun goes on outside it, also behind a pause, an outage or a restart of the service; a new attempt after a failure
//! is a start, unless its source is shut down already: that is not kept waiting. A window that gates `shutdown` holds a job whose source is to be shut
//! down. What is not here: when a window opens and closes (the model's).

use std::collections::BTreeMap;

use super::core::{BatchKey, Core, JobId, millis};
use super::job::Phase;
use crate::model::job::WaitReason;
use crate::model::window::Window;

/// A clock may be set, and a machine may sleep: windows are looked at this often, also if none is to open or close.
const LOOK_AGAIN_S: f64 = 60.0;

/// The windows of batches that have not ended, and how they stand.
#[derive(Debug, Default)]
pub(super) struct Windows {
    of: BTreeMap<BatchKey, Watched>,
    looked_at: u64,
    look_at: Option<u64>,
}

#[derive(Debug)]
struct Watched {
    window: Window,
    /// While it is closed, what those wait for that wait for it.
    closed: Option<String>,
}

impl Windows {
    /// A batch is there; what its window gates is nothing of ours unless it is the start of jobs or that sources are shut down.
    pub(super) fn watch(&mut self, now: f64, batch: BatchKey, window: Option<&Window>) {
        let Some(window) = window.filter(|window| window.gates_start() || window.gates_shutdown()) else {
            return;
        };
        // One that is known is looked at with the others, so that its jobs hear of what has changed.
        if !self.of.contains_key(&batch) {
            let mut watched = Watched { window: window.clone(), closed: None };
            self.looked_at = millis(now);
            self.soonest(now, watched.look(now));
            self.of.insert(batch, watched);
        }
    }

    pub(super) fn forget(&mut self, batch: BatchKey) {
        self.of.remove(&batch);
    }

    pub(super) fn is_one_closed(&self) -> bool {
        self.of.values().any(|watched| watched.closed.is_some())
    }

    /// When they have to be looked at.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.look_at.filter(|_| !self.of.is_empty())
    }

    fn soonest(&mut self, now: f64, changes: f64) {
        let changes = millis(changes.min(now + LOOK_AGAIN_S));
        self.look_at = Some(self.look_at.map_or(changes, |at| at.min(changes)));
    }

    /// Those that stand otherwise than they did when they were last looked at.
    fn look(&mut self, now: f64) -> Vec<BatchKey> {
        // A clock that was put back shows less than before.
        let is_known = |look_at: u64| (self.looked_at..look_at).contains(&millis(now));
        if self.of.is_empty() || self.look_at.is_some_and(is_known) {
            return Vec::new();
        }
        (self.looked_at, self.look_at) = (millis(now), None);
        let mut changed = Vec::new();
        let mut soonest = f64::INFINITY;
        for (batch, watched) in &mut self.of {
            let before = watched.closed.clone();
            soonest = soonest.min(watched.look(now));
            if watched.closed != before {
                changed.push(*batch);
            }
        }
        self.soonest(now, soonest);
        changed
    }
}

impl Watched {
    /// Takes in how it stands, and says until when.
    fn look(&mut self, now: f64) -> f64 {
        let standing = self.window.at(now);
        self.closed = (!standing.is_open).then(|| self.window.opens_in_words(standing));
        standing.until.map_or(f64::INFINITY, |at| at as f64)
    }
}

impl Core {
    /// Opens and closes them by the time that it is.
    pub(super) fn look_at_windows(&mut self, now: f64) {
        for batch in self.windows.look(now) {
            let Some(watched) = self.windows.of.get(&batch) else { continue };
            let (closed, holds) = (watched.closed.clone(), watched.window.holds_at_close());
            let jobs = self.batches.get(&batch).map(|known| known.unfinished.clone()).unwrap_or_default();
            for id in jobs {
                let Some(job) = self.jobs.get(&id) else { continue };
                let waits = job.waits_for(WaitReason::Window);
                match &closed {
                    None if waits => self.release(id),
                    // It was set to another time: it opens sooner or later than was told.
                    Some(detail) if waits => self.wait(now, id, WaitReason::Window, detail.clone()),
                    Some(detail) if holds && job.phase == Phase::Working && !self.stopping => {
                        self.suspend(now, id, WaitReason::Window, detail.clone());
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a job would wait for that its window keeps from working now.
    pub(super) fn window_blocks(&self, id: JobId) -> Option<String> {
        let job = self.jobs.get(&id)?;
        let watched = self.windows.of.get(&job.facts.batch)?;
        let window = &watched.window;
        let is_under_way = job.has_worker() || job.facts.is_shut_down;
        let has_begun = is_under_way || job.facts.counters.cut_short;
        let waits_to_start = window.gates_start() && (!has_begun || window.holds_at_close());
        // A worker that came so far that it would shut its source down looks at the time itself.
        let waits_to_shut_down = window.gates_shutdown() && job.facts.shuts_down() && !is_under_way;
        watched.closed.clone().filter(|_| waits_to_start || waits_to_shut_down)
    }

    /// Until when a job may shut its source down, in epoch seconds; none: whenever it comes to that.
    #[must_use]
    pub fn may_shut_down_until(&self, id: JobId, now: f64) -> Option<f64> {
        let watched = self.windows.of.get(&self.jobs.get(&id)?.facts.batch)?;
        let standing = watched.window.gates_shutdown().then(|| watched.window.at(now))?;
        match (standing.is_open, standing.until) {
            (true, until) => until.map(|at| at as f64),
            (false, _) => Some(now),
        }
    }

    /// Whether a job's source is off because it was shut down.
    pub fn source_stands(&mut self, id: JobId, is_shut_down: bool) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.facts.is_shut_down = is_shut_down;
        }
    }

    /// A worker came too late to shut its source down: that was no attempt, and the next one is when the window opens.
    pub(super) fn came_too_late(&mut self, id: JobId) {
        self.job(id).facts.counters.take_back();
        self.requeue(id);
    }
}
