//! What the scheduler knows of a job that has not ended, and of its batch. Pure data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::core::{ALL_PAUSED, BatchKey, JobId};
use super::space::Rest;
use crate::model::job::{JobState, WaitReason};
use crate::model::remote::RemoteNeed;
use crate::model::warm::WarmJob;
use crate::model::window::Window;

/// What has been tried, as it is kept with the job so that a restart does not forget it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Number of the newest attempt; 0 before the first.
    pub attempt: u32,
    /// It was cut short by no fault of the job: the next start goes on under its number.
    pub cut_short: bool,
    /// Numbers up to this one were used by earlier runs of the batch, and so their logs have them.
    pub used_before: u32,
    /// Failures in a row without progress in between.
    pub failures: u32,
    /// When the first of them was.
    pub first_failure_at: Option<f64>,
    /// The furthest that any attempt came, in per cent.
    pub best_percentage: f64,
    /// When the next attempt is due.
    pub retry_at: Option<f64>,
    /// What a worker measured that it needs.
    pub exact_need: Option<u64>,
}

impl Counters {
    /// A worker starts.
    pub(super) fn begin_attempt(&mut self) {
        if !std::mem::take(&mut self.cut_short) {
            self.attempt = self.attempt.max(self.used_before) + 1;
        }
        self.retry_at = None;
    }

    /// The attempt under way does not count.
    pub(super) fn take_back(&mut self) {
        self.cut_short = self.attempt > 0;
    }
}

/// A job as it comes from the queue.
#[derive(Debug, Clone)]
pub struct JobFacts {
    /// Its number.
    pub id: JobId,
    /// Its batch.
    pub batch: BatchKey,
    /// Its id there.
    pub vm: String,
    /// What it is in.
    pub state: JobState,
    /// Why it waits.
    pub waiting: Option<WaitReason>,
    /// For what exactly.
    pub waiting_detail: String,
    /// Since when.
    pub waiting_since: Option<f64>,
    /// Lower first.
    pub priority: i64,
    /// Whether an input or output is remote.
    pub needs_network: bool,
    /// Which server has its source, and who logs in there, if that is remote.
    pub remote: Option<RemoteNeed>,
    /// Whether its source was shut down, and nobody has started it since.
    pub is_shut_down: bool,
    /// How its VM is migrated while it runs, if it is.
    pub warm: Option<WarmJob>,
    /// VMs of its batch that have to succeed first.
    pub depends_on: Vec<String>,
    /// What was tried.
    pub counters: Counters,
}

impl JobFacts {
    /// Whether its source is shut down on the way. Of a warm migration only the last pass does that, and is held back by itself.
    pub(super) fn shuts_down(&self) -> bool {
        self.warm.is_none() && self.remote.as_ref().is_some_and(|remote| remote.shuts_down)
    }
}

/// A batch as it comes from the queue.
#[derive(Debug, Clone)]
pub struct BatchFacts {
    /// Its number.
    pub key: BatchKey,
    /// At most so many of its jobs at a time.
    pub parallel_limit: Option<usize>,
    /// Whether the others go on when one fails.
    pub continue_on_error: bool,
    /// When its jobs may work, if that is limited.
    pub window: Option<Window>,
    /// The state of every VM in it.
    pub members: BTreeMap<String, JobState>,
}

/// Why a worker was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The operator ended the job.
    Cancel { keep_partial: bool },
    /// Another host is to go on with it.
    Release,
    /// The service ends.
    Stop,
    /// The network stayed away for too long.
    Network,
}

/// What stands behind a job at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing.
    Idle,
    /// The room for it is being measured; it holds a slot meanwhile.
    Probing,
    /// A worker, at work.
    Working,
    /// A worker that stands still and holds no slot.
    Suspended,
    /// A worker that was told to end.
    Ending(Ending),
}

/// A job in the scheduler.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) facts: JobFacts,
    pub(super) phase: Phase,
    /// How far this attempt is.
    pub(super) percentage: f64,
    /// Whether this attempt hands its result to libvirt.
    pub(super) tells_libvirt: bool,
    /// Whether this worker has completed a pass of a warm migration.
    pub(super) has_passed: bool,
    /// The file system that its results go to, once that was looked at.
    pub(super) file_system: Option<u64>,
    /// Where a worker of it lacked room.
    pub(super) lacked_at: Option<PathBuf>,
    /// What follows of that where it happens again and again.
    pub(super) rest: Rest,
    /// When it last began with the login of its source.
    pub(super) login_tried_at: f64,
    /// When the scheduler looks at it again.
    pub(super) timer: Option<u64>,
}

impl Job {
    pub(super) fn waits_for(&self, reason: WaitReason) -> bool {
        self.facts.state == JobState::Waiting && self.facts.waiting == Some(reason)
    }

    /// Whether it waits for a time that was set.
    pub(super) fn is_tried_again(&self) -> bool {
        self.facts.state == JobState::Waiting && self.facts.waiting.is_some_and(WaitReason::is_tried_again)
    }

    /// Whether it was paused by its own name.
    pub(super) fn is_held(&self) -> bool {
        self.waits_for(WaitReason::Paused) && self.facts.waiting_detail != ALL_PAUSED
    }

    pub(super) fn has_worker(&self) -> bool {
        matches!(self.phase, Phase::Working | Phase::Suspended | Phase::Ending(_))
    }

    /// Whether it takes one of the places in which jobs run.
    pub(super) fn holds_slot(&self) -> bool {
        match self.phase {
            Phase::Probing | Phase::Working => true,
            Phase::Ending(_) => self.facts.state == JobState::Running,
            Phase::Idle | Phase::Suspended => false,
        }
    }
}

/// A batch in the scheduler.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) facts: BatchFacts,
    pub(super) unfinished: BTreeSet<JobId>,
}
