//! What comes out of the core, and the larger facts that go in. Pure data.

use super::core::{BatchKey, Counters, JobId};
use crate::model::error::Error;
use crate::model::job::WaitReason;
use crate::model::plan::Plan;
use crate::model::protocol::{Published, WorkerCommand, WorkerOutcome};

/// What the shell has to do. Changes of state have happened in the core already.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Measure the room for a job and answer with `Core::probed`.
    Probe {
        /// Which.
        job: JobId,
    },
    /// Record that it runs, then start a worker.
    Start {
        /// Which.
        job: JobId,
        /// What was tried, this attempt included.
        counters: Counters,
        /// Bytes that other jobs may still write to its file system.
        reserved_by_others: u64,
        /// Bytes that stay free there.
        kept_free: u64,
    },
    /// Record that it runs, then let its standing worker go on.
    Continue {
        /// Which.
        job: JobId,
    },
    /// Record that it waits; with `suspend`, tell its worker to stand still.
    Wait {
        /// Which.
        job: JobId,
        /// Why.
        reason: WaitReason,
        /// For what exactly.
        detail: String,
        /// Since when.
        since: f64,
        /// What was tried.
        counters: Counters,
        /// Whether its worker has to be told.
        suspend: bool,
    },
    /// Record that it is queued (again).
    Requeue {
        /// Which.
        job: JobId,
        /// What was tried.
        counters: Counters,
    },
    /// Record another plan: its VM was found.
    Plan {
        /// Which.
        job: JobId,
        /// The plan.
        plan: Box<Plan>,
    },
    /// Record that it succeeded.
    Succeed {
        /// Which.
        job: JobId,
        /// What was tried.
        counters: Counters,
        /// What its worker published.
        published: Published,
    },
    /// Record that it failed for good.
    Fail {
        /// Which.
        job: JobId,
        /// What was tried.
        counters: Counters,
        /// Why.
        error: Error,
    },
    /// Record that it was cancelled.
    Cancel {
        /// Which.
        job: JobId,
        /// Why, if it was not the operator who named this very job.
        error: Option<Error>,
        /// What it left behind has to be removed first: no worker did.
        clean: bool,
    },
    /// Tell its worker.
    Tell {
        /// Which.
        job: JobId,
        /// What.
        command: WorkerCommand,
    },
    /// Its worker did not listen.
    Kill {
        /// Which.
        job: JobId,
    },
    /// Every job of the batch has ended.
    BatchEnded {
        /// Which.
        batch: BatchKey,
    },
    /// A server of remote sources is away, or is back.
    Server {
        /// Which.
        server: String,
        /// What it did; none: it is back.
        why: Option<String>,
    },
    /// The network has been away for longer than allowed.
    OutageTooLong {
        /// How long, in seconds.
        seconds: f64,
    },
}

impl Action {
    /// The job it is about, if it is about one.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        match self {
            Action::Probe { job }
            | Action::Start { job, .. }
            | Action::Continue { job }
            | Action::Wait { job, .. }
            | Action::Requeue { job, .. }
            | Action::Plan { job, .. }
            | Action::Succeed { job, .. }
            | Action::Fail { job, .. }
            | Action::Cancel { job, .. }
            | Action::Tell { job, .. }
            | Action::Kill { job } => Some(*job),
            Action::BatchEnded { .. } | Action::Server { .. } | Action::OutageTooLong { .. } => None,
        }
    }
}

/// How a worker came to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerEnd {
    /// It said so.
    Finished(WorkerOutcome),
    /// It did not: crashed, killed, or not even started.
    Crashed(Error),
    /// It has found the VMs that it stands for, and they are jobs now: the queue has its end already.
    Expanded,
    /// It has found its VM, and this is the plan that follows.
    Planned {
        /// The plan.
        plan: Box<Plan>,
        /// Why that is a failure: it was found before, as something else.
        changed: Option<Error>,
    },
}

/// The network, as far as it decides about jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing is in the way.
    #[default]
    Up,
    /// It is down.
    Down {
        /// Which link or route is missing, for people.
        why: String,
    },
}
