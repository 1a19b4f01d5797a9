//! What can be asked of the scheduler, and the handle that asks it.
//!
//! The scheduler is one task that owns all decisions; everything else (the control API, intake,
//! signals) sends it a [`Command`] and awaits the answer. A command whose asker is gone is carried
//! out all the same.

use tokio::sync::{mpsc, oneshot};

use crate::model::api::{
    Acted, JobDetails, JobFilter, JobList, Pruned, Refusal, RetryRequest, RolledBack, SubmitRequest,
};
use crate::model::error::{Error, Kind};
use crate::model::progress::{BatchProgress, Status};

/// How a command is answered.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What can be asked. A target is a job's number, `batch/vm`, a batch's id, or a unique VM name.
#[derive(Debug)]
pub enum Command {
    /// Take a manifest that did not come through the drop directory.
    Submit(SubmitRequest, Reply<JobList>),
    /// The jobs.
    List(JobFilter, Reply<JobList>),
    /// All of one job.
    Show(String, Reply<JobDetails>),
    /// The progress of a batch (or of the batch that a job belongs to).
    Progress(String, Reply<BatchProgress>),
    /// End a job, or all of a batch.
    Cancel {
        /// Which.
        target: String,
        /// Leave verified partial results.
        keep_partial: bool,
        /// Answer.
        reply: Reply<Acted>,
    },
    /// Give a batch away: its jobs end here, and another host may go on with them.
    Release {
        /// Which.
        target: String,
        /// Answer, when that is durable.
        reply: Reply<Acted>,
    },
    /// Give the source of a job back.
    Rollback {
        /// Which.
        target: String,
        /// Only say what would be done.
        dry_run: bool,
        /// Answer; it is durable that this was asked for, and not yet done.
        reply: Reply<RolledBack>,
    },
    /// Try an ended job again.
    Retry {
        /// Which.
        target: String,
        /// How.
        request: RetryRequest,
        /// Answer.
        reply: Reply<Acted>,
    },
    /// Move a job in the queue.
    Priority {
        /// Which.
        target: String,
        /// Lower first.
        priority: i64,
        /// Answer.
        reply: Reply<Acted>,
    },
    /// Make the next pass of a warm migration the last one.
    Cutover(String, Reply<Acted>),
    /// Let a job stand still; without one, all of them, running ones too.
    Pause(Option<String>, Reply<Acted>),
    /// Let it go on.
    Resume(Option<String>, Reply<Acted>),
    /// Start nothing new, take no drops, let running jobs end. `false` takes it back.
    Drain(bool, Reply<Acted>),
    /// Remove what retention allows to go.
    Prune {
        /// Only say what would go.
        dry_run: bool,
        /// Answer.
        reply: Reply<Pruned>,
    },
    /// How it stands.
    Status(Reply<Status>),
    /// Read the configuration again; answers what changed and what needs a restart.
    Reload(Reply<String>),
    /// Checkpoint and end.
    Stop(Reply<String>),
}

/// Asks the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerHandle {
    commands: mpsc::Sender<Command>,
}

impl SchedulerHandle {
    /// A handle and the end that the scheduler reads.
    #[must_use]
    pub fn channel(capacity: usize) -> (SchedulerHandle, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(capacity);
        (SchedulerHandle { commands }, receiver)
    }

    /// Sends the command that `make` builds around a reply and awaits the answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refusal> {
        // Its connections live a moment longer than the scheduler.
        let gone = || {
            let error = Error::new(Kind::Network, "the service is ending").transient();
            Refusal::failed(error.advice("its jobs go on when it is started again; look again then"))
        };
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
