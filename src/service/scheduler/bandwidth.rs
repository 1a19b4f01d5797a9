//! How fast each worker may read its source: what is in force by the clock, and its part of that, told as soon as either changes.
//!
//! What is not here: which limit holds when, and how it is divided (both are the model's), and how a worker keeps to it.

use std::collections::BTreeMap;

use super::Scheduler;
use super::core::JobId;
use crate::model::bandwidth::{Caps, Limit, Parts, Rate, in_force};
use crate::model::protocol::WorkerCommand;
use crate::sys::time::{local_now, now_epoch};

/// The clock may be set, and the time zone too: it is looked at this often where it could matter.
const LOOK_AGAIN_S: f64 = 60.0;

/// What is in force, and who knows.
#[derive(Default)]
pub(super) struct Bandwidth {
    caps: Caps,
    parts: Parts<JobId>,
    looked_at: f64,
    look_at: f64,
}

impl Bandwidth {
    /// The limits are others now.
    pub(super) fn reconsider(&mut self) {
        self.look_at = 0.0;
    }

    /// When it has to be looked at the clock.
    pub(super) fn next_due(&self) -> f64 {
        self.look_at
    }

    fn look(&mut self, limits: &[Limit], now: f64) {
        // A clock that was put back shows less than before.
        if (self.looked_at..self.look_at).contains(&now) {
            return;
        }
        let (caps, until) = in_force(limits, &local_now());
        self.looked_at = now;
        self.look_at = match limits {
            [] => f64::INFINITY,
            _ => until.map_or(f64::INFINITY, |until| until.as_second() as f64).min(now + LOOK_AGAIN_S),
        };
        if caps != self.caps {
            self.caps = caps;
            tracing::info!("sources are read {caps}");
        }
    }
}

impl Scheduler {
    /// Tells every worker whose part is another one than it was told.
    pub(super) fn share_bandwidth(&mut self) {
        self.bandwidth.look(&self.settings.limits.bandwidth, now_epoch());
        let workers = self.readers();
        for (job, bytes) in self.bandwidth.parts.changes(self.bandwidth.caps, &workers) {
            tracing::debug!(job, bytes_per_second = bytes, "its part of what may be read");
            self.supervisor.tell(job, WorkerCommand::Read { bytes });
        }
    }

    /// The part of a job whose worker starts now.
    pub(super) fn part_of_newcomer(&mut self, job: JobId) -> Rate {
        self.bandwidth.look(&self.settings.limits.bandwidth, now_epoch());
        let copying = self.readers().values().filter(|copies| **copies).count();
        self.bandwidth.parts.of_newcomer(job, self.bandwidth.caps, copying)
    }

    /// Every worker, and whether it copies now.
    fn readers(&self) -> BTreeMap<JobId, bool> {
        let copies = |job: JobId| {
            self.core.is_at_work(job) && self.live.get(&job).is_some_and(|live| live.is_copying())
        };
        self.supervisor.jobs().map(|job| (job, copies(job))).collect()
    }
}
