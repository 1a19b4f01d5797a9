//! Where a batch is worked on, under which locks, and how it is given away to another host.
//!
//! ```text
//!   release ─▶ flag in the queue ─▶ jobs end, what is partial stays ─▶ checkpoint, reports ─▶ the locks say: released ─▶ answer
//! ```
//!
//! Whatever dies in between, the flag stays: the next start goes on behind it. What is not here: the locks themselves (the pipeline's), and
//! what the other host does (admission).

use std::path::PathBuf;
use std::time::Duration;

use super::Scheduler;
use super::commands::{Pending, all_ended};
use super::core::{BatchKey, JobId, SpaceProbe};
use crate::model::api::{Acted, Refusal, RefusalCode};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::Plan;
use crate::pipeline::host_lock::{Holds, directory_of};
use crate::pipeline::within_roots;
use crate::service::command::Reply;
use crate::service::places;
use crate::service::queue::{JobRow, released, taken_over};
use crate::sys::time::now_epoch;

/// How long a lock may take: longer than one that looks left behind is watched.
const HOLD_LIMIT: Duration = Duration::from_secs(45);

/// What a job needs before it is started.
pub(super) struct Wanted {
    pub(super) batch: (BatchKey, String),
    pub(super) plan: Plan,
    directories: Vec<PathBuf>,
    takeover: bool,
    /// Results may be written below these.
    roots: Vec<PathBuf>,
    holds: Holds,
}

impl Wanted {
    /// Takes the locks, on a thread of its own.
    pub(super) async fn hold(self) -> Result<()> {
        let Wanted { batch: (_, batch_id), plan, directories, takeover, roots, holds } = self;
        let place = directories.last().cloned().unwrap_or_default();
        let taken = tokio::task::spawn_blocking(move || {
            // As the worker will see to it, but it finds the directories made.
            for directory in std::iter::once(&*plan.output.directory).chain(plan.directories_elsewhere()) {
                within_roots(directory, &roots)?;
                holds.look_around(&batch_id, directory, &directories, takeover)?;
            }
            places::claim(&holds, &batch_id, &directories, takeover)
        });
        match tokio::time::timeout(HOLD_LIMIT, taken).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(_)) => Err(Error::internal("taking a lock broke off").transient()),
            Err(_) => Err(Error::new(
                Kind::Output,
                format!("the output directory {} does not answer", place.display()),
            )
            .output(place)
            .advice("mend the file system it lies on")
            .transient()),
        }
    }
}

impl Scheduler {
    pub(super) async fn wanted(&self, job: JobId) -> Result<Wanted> {
        let (plan, row, run, takeover) = self
            .parts
            .queue
            .with(move |db| {
                let row =
                    db.job(job)?.ok_or_else(|| Error::internal("a job that is to start is not there"))?;
                let run = db.batch_run(row.batch_key)?;
                let takeover = db.flag(&taken_over(row.batch_key))?.is_some();
                Ok((db.plan(job)?, row, run, takeover))
            })
            .await?;
        let above = run.map(|run| self.output_directory(&run)).unwrap_or_default();
        let place = directory_of(&above, &plan.output.directory).to_owned();
        let mut directories = vec![above, place];
        directories.dedup();
        let batch = (row.batch_key, row.batch_id);
        let (roots, holds) = (self.settings.paths.write.clone(), self.parts.holds.clone());
        Ok(Wanted { batch, plan, directories, takeover, roots, holds })
    }

    /// The directories of a job that is to start are ours, and its room is measured; or not.
    pub(super) fn admitted(
        &mut self,
        job: JobId,
        (batch, batch_id): (BatchKey, String),
        outcome: Result<Option<SpaceProbe>>,
    ) {
        if !self.core.knows_batch(batch) {
            // It was ended meanwhile, and nobody else will give up its locks.
            let holds = self.parts.holds.clone();
            let known = holds.claims();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = holds.leave(&batch_id, false, known) {
                    tracing::warn!(batch = %batch_id, %error, "its lock stays");
                }
            });
            return;
        }
        match outcome {
            Ok(probe) => self.core.probed(now_epoch(), job, probe),
            Err(error) => self.core.kept_out(now_epoch(), job, error),
        }
    }

    /// Ends what a batch does here, and gives it away.
    pub(super) async fn release(&mut self, target: &str, reply: Reply<Acted>) {
        match self.begin_release(target).await {
            Ok((batch, open, all)) => {
                let word = "released: another host may go on with it (`hyper2kvm submit --takeover`)";
                self.pending.push(Pending { jobs: open, all, word, batch: Some(batch), reply });
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    async fn begin_release(&mut self, target: &str) -> Result<(BatchKey, Vec<JobId>, Vec<JobId>), Refusal> {
        let named = self.find(target).await?;
        let Some(first) = named.jobs.first().filter(|_| named.is_batch) else {
            let cause = format!("`{target}` is not a batch with jobs");
            let error =
                Error::new(Kind::Manifest, cause).advice("only a whole batch is released: name it by its id");
            return Err(Refusal { code: RefusalCode::Invalid, error });
        };
        let batch = first.batch_key;
        let all: Vec<JobId> = named.jobs.iter().map(|row| row.job_id).collect();
        let open: Vec<JobId> = all.iter().copied().filter(|job| self.core.knows(*job)).collect();
        let before = self.parts.queue.with(move |db| db.flag(&released(batch))).await?;
        if before.is_none() {
            if open.is_empty() {
                return Err(all_ended(target, &named.jobs, "release"));
            }
            self.parts.queue.with(move |db| db.set_flag(&released(batch), Some("1"))).await?;
        }
        for job in &open {
            // One that has ended meanwhile needs nothing.
            let _ = self.core.release_to_others(now_epoch(), *job);
        }
        Ok((batch, open, all))
    }

    /// A batch that was given away is another host's to go on with, until it is taken back.
    pub(super) async fn refuse_what_was_given_away(&self, rows: &[JobRow]) -> Result<(), Refusal> {
        let mut batches: Vec<BatchKey> = rows.iter().map(|row| row.batch_key).collect();
        batches.dedup();
        let given = self.parts.queue.with(move |db| {
            let flags: Result<Vec<Option<String>>> =
                batches.iter().map(|batch| db.flag(&released(*batch))).collect();
            Ok(flags?.iter().any(Option::is_some))
        });
        if !given.await? {
            return Ok(());
        }
        let error = Error::new(Kind::Cancelled, "the batch was released to other hosts").advice(
            "`hyper2kvm submit --takeover` with its manifest takes it back, unless another host has it",
        );
        Err(Refusal { code: RefusalCode::WrongState, error })
    }
}
