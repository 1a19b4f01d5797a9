//! Jobs that have ended, brought back by the operator.
//!
//! `--from STAGE` throws files away, on a file system that may be away itself. So whatever can refuse
//! a retry is asked first; then the files go on another thread, within a limit; and when that comes
//! back as a fact, the jobs are queued again, if they still may be.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::commands::wrong_state;
use super::core::{Action, Core, JobId};
use super::loading::to_load;
use super::{Report, Scheduler};
use crate::model::api::{Acted, Refusal, RefusalCode, RetryRequest};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::{JobChange, Stage, WaitReason};
use crate::pipeline::publish;
use crate::service::command::Reply;
use crate::service::places::{batch_directory, where_it_lies};
use crate::service::queue::{BatchRow, Change, JobRow};
use crate::sys::time::now_epoch;

/// How long an output directory may take to let go of what one VM left in it.
const REWIND_LIMIT: Duration = Duration::from_secs(10);

impl Scheduler {
    /// Brings back what failed or was cancelled.
    pub(super) async fn retry(&mut self, target: &str, request: &RetryRequest, reply: Reply<Acted>) {
        let meant = match self.meant(target, request).await {
            Ok(meant) => meant,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        if request.from.is_none() && meant.iter().all(waits_for_login) {
            // It has not ended: somebody says that what it waits for has been mended.
            let jobs: Vec<JobId> = meant.iter().map(|row| row.job_id).collect();
            let refused = jobs.iter().zip(&meant).find_map(|(job, row)| {
                self.core.resume(now_epoch(), *job).err().map(|why| wrong_state(row, "retry", why))
            });
            self.carry_out().await;
            return drop(reply.send(match refused {
                Some(refusal) => Err(refusal),
                None => self.acted("tried again", jobs).await,
            }));
        }
        match request.from {
            None => drop(reply.send(self.queue_again(&meant, "retried by the operator").await)),
            Some(stage) => self.rewind(&meant, stage, reply).await,
        }
    }

    /// Of what is named, the jobs that a retry is about.
    async fn meant(&self, target: &str, request: &RetryRequest) -> Result<Vec<JobRow>, Refusal> {
        let named = self.find(target).await?;
        let waiting: Vec<JobRow> = named.jobs.iter().filter(|row| waits_for_login(row)).cloned().collect();
        let is_meant = |row: &JobRow| match named.is_batch {
            true if request.failed => row.state.name() == "failed",
            true => matches!(row.state.name(), "failed" | "cancelled"),
            false => true,
        };
        let (refused, meant): (Vec<JobRow>, Vec<JobRow>) =
            named.jobs.into_iter().filter(is_meant).partition(|row| row.refused);
        if let (Some(row), true) = (refused.first(), meant.is_empty()) {
            let cause = format!("the manifest of `{}/{}` was refused", row.batch_id, row.vm_id);
            let error = Error::new(Kind::Manifest, cause).advice(
                "mend it and put the batch back into the drop directory, or submit it again: what is done is not done again",
            );
            return Err(Refusal { code: RefusalCode::WrongState, error });
        }
        if meant.is_empty() && !waiting.is_empty() && !request.failed {
            return Ok(waiting);
        }
        if meant.is_empty() {
            let error = Error::new(Kind::Cancelled, format!("no job of `{target}` failed or was cancelled"))
                .advice("`hyper2kvm list` shows their states");
            return Err(Refusal { code: RefusalCode::WrongState, error });
        }
        Ok(meant)
    }

    /// Throws away, elsewhere, what `stage` and those behind it made. Nothing is touched unless all of
    /// the jobs may be tried again.
    async fn rewind(&mut self, rows: &[JobRow], stage: Stage, reply: Reply<Acted>) {
        if let Err(refusal) = self.refuse_what_may_not(rows).await {
            return drop(reply.send(Err(refusal)));
        }
        let jobs: Vec<JobId> = rows.iter().map(|row| row.job_id).collect();
        let asked = jobs.clone();
        let plans = self.parts.queue.with(move |db| {
            let each = |job: &JobId| Ok((db.run_of(*job)?, db.plan_to_retry(*job)?));
            asked.iter().map(each).collect()
        });
        let plans: Vec<_> = match plans.await {
            Ok(plans) => plans,
            Err(error) => return drop(reply.send(Err(error.into()))),
        };
        self.rewinding.extend(&jobs);
        let (reports, leftovers) = (self.reports.0.clone(), self.parts.leftovers.clone());
        let (holds, output_dir) = (self.parts.holds.clone(), self.settings.output_dir.clone());
        tokio::spawn(async move {
            leftovers.gone().await;
            let mut reply = Some(reply);
            for (run, plan) in plans {
                let Some(run): Option<BatchRow> = run else { continue };
                let above = batch_directory(&output_dir, &run);
                let (directory, holds) = (plan.output.directory.clone(), holds.clone());
                let work = move || {
                    let rewind = || publish::rewind(&plan, stage, Some(holds.who().id()));
                    where_it_lies(&holds, (&run.batch_id, &above), &plan, rewind)
                };
                let rewound = within(REWIND_LIMIT, &directory, work).await;
                let Err((error, stuck)) = rewound else { continue };
                // An asker that is gone does not matter.
                let _ = reply.take().map(|reply| reply.send(Err(error.into())));
                if let Some(stuck) = stuck {
                    // Nobody else may come to these files before that thread has let go of them.
                    let _ = stuck.await;
                }
                break;
            }
            let _ = reports.send(Report::Rewound { jobs, stage, reply }).await;
        });
    }

    /// Their files are thrown away, or the retry was refused for them (there is no `reply` then).
    pub(super) async fn rewound(&mut self, jobs: Vec<JobId>, stage: Stage, reply: Option<Reply<Acted>>) {
        self.rewinding.retain(|job| !jobs.contains(job));
        let Some(reply) = reply else { return };
        let rows = self.parts.queue.with(move |db| jobs.iter().map(|job| db.job(*job)).collect());
        let rows: Result<Vec<Option<JobRow>>> = rows.await;
        let answer = match rows {
            Ok(rows) => {
                let rows: Vec<JobRow> = rows.into_iter().flatten().collect();
                self.queue_again(&rows, &format!("retried by the operator from {stage}")).await
            }
            Err(error) => Err(error.into()),
        };
        drop(reply.send(answer));
    }

    /// All of them, or none.
    async fn queue_again(&mut self, rows: &[JobRow], message: &str) -> Result<Acted, Refusal> {
        self.refuse_what_may_not(rows).await?;
        let all: Vec<JobId> = rows.iter().map(|row| row.job_id).collect();
        let (jobs, message) = (all.clone(), message.to_owned());
        let changed = self.parts.queue.with(move |db| {
            let mut bring_back = false;
            let batches = db.atomically(|db| {
                let mut keys = Vec::new();
                for job in jobs {
                    let row = db.transition(job, Change::Retry, &message)?;
                    keys.push(row.batch_key);
                }
                keys.dedup();
                for key in &keys {
                    bring_back |= db.bring_back(*key)?;
                }
                keys.into_iter().map(|key| db.batch_run(key)).collect::<Result<Vec<_>>>()
            })?;
            Ok((bring_back, to_load(db, batches.into_iter().flatten().collect())?))
        });
        let (bring_back, mut runs) = changed.await?;
        runs.iter_mut().for_each(|run| run.is_retried = true);
        if bring_back {
            self.parts.brought_back.send_modify(|times| *times += 1);
        }
        all.iter().for_each(|job| self.core.try_login_again(*job));
        for run in runs {
            self.unsettled.reopened(run.batch.batch_key);
            for row in &run.jobs {
                self.live.remove(&row.job_id);
            }
            self.take_in(run);
        }
        self.carry_out().await;
        self.acted("queued again", all).await
    }

    /// Jobs in a state that cannot be retried, or at which something is still being done.
    async fn refuse_what_may_not(&self, rows: &[JobRow]) -> Result<(), Refusal> {
        for row in rows {
            if row.state.after(JobChange::Retry).is_err() {
                return Err(wrong_state(row, "retry", "has not failed"));
            }
            if self.rewinding.contains(&row.job_id) {
                return Err(still_rewinding(row));
            }
        }
        self.refuse_what_was_given_away(rows).await?;
        self.refuse_while_put_away(rows).await?;
        self.refuse_while_ending(rows).await
    }

    /// A disk that is just being moved to `failed/` cannot be brought back yet.
    async fn refuse_while_put_away(&self, rows: &[JobRow]) -> Result<(), Refusal> {
        let Some(row) = rows.iter().find(|row| self.unsettled.is_under_way(row.batch_key)).cloned() else {
            return Ok(());
        };
        let batch = row.batch_key;
        let dropped = self.parts.queue.with(move |db| match db.batch_run(batch)? {
            Some(run) => db.dropped(run.drop_id),
            None => Ok(None),
        });
        match dropped.await? {
            Some(dropped) if !dropped.files.is_empty() => Err(still_put_away(&row)),
            _ => Ok(()),
        }
    }

    /// A retry loads the whole batch again. A job of it that has ended here and not yet in the queue
    /// would be loaded as one that is open, and would run once more.
    async fn refuse_while_ending(&self, rows: &[JobRow]) -> Result<(), Refusal> {
        let mut batches: Vec<_> = rows.iter().map(|row| row.batch_key).collect();
        batches.dedup();
        let members = self.parts.queue.with(move |db| {
            let members: Result<Vec<_>> = batches.into_iter().map(|key| db.run_jobs(key)).collect();
            Ok(members?.concat())
        });
        let ending = members.await?.into_iter().find(|row| {
            !row.state.is_final() && is_ending(row.job_id, &self.core, &self.discarding, &self.line)
        });
        ending.map_or(Ok(()), |row| Err(still_ending(&row)))
    }
}

/// Whether a job waits for somebody who mends its login, or gives its account a privilege.
fn waits_for_login(row: &JobRow) -> bool {
    row.waiting.as_ref().is_some_and(|waiting| waiting.reason == WaitReason::Auth)
}

/// A thread that is still at what it was given.
type Stuck = JoinHandle<Result<()>>;

/// Does work on files of `directory` on a thread of its own. After `limit` it counts as failed, although
/// it is not over.
async fn within(
    limit: Duration,
    directory: &Path,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<(), (Error, Option<Stuck>)> {
    let mut work = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(limit, &mut work).await {
        Ok(Ok(outcome)) => outcome.map_err(|error| (error, None)),
        Ok(Err(_)) => Err((Error::internal("throwing results away broke off"), None)),
        Err(_) => Err((does_not_answer(directory), Some(work))),
    }
}

fn does_not_answer(directory: &Path) -> Error {
    Error::new(Kind::Output, format!("the output directory {} does not answer", directory.display()))
        .output(directory)
        .advice("nothing was queued: mend the file system it lies on, then retry once more")
}

/// Whether the core has let go of a job whose end the queue does not know yet: what it left behind
/// is being removed, or the queue cannot be written.
fn is_ending(job: JobId, core: &Core, discarding: &HashSet<JobId>, line: &VecDeque<Action>) -> bool {
    !core.knows(job) && (discarding.contains(&job) || line.iter().any(|action| action.job() == Some(job)))
}

fn still_rewinding(row: &JobRow) -> Refusal {
    let cause = format!(
        "cannot retry job {} ({}/{}) yet: an earlier retry still throws away what it left in {}",
        row.job_id,
        row.batch_id,
        row.vm_id,
        row.output_directory.display()
    );
    let error = Error::new(Kind::Cancelled, cause)
        .output(&row.output_directory)
        .advice("try again when the file system of that directory answers");
    Refusal { code: RefusalCode::WrongState, error }
}

fn still_put_away(row: &JobRow) -> Refusal {
    let cause = format!(
        "cannot retry job {} ({}/{}) yet: its disk is just being moved away",
        row.job_id, row.batch_id, row.vm_id
    );
    let error = Error::new(Kind::Cancelled, cause).advice("try again in a moment");
    Refusal { code: RefusalCode::WrongState, error }
}

fn still_ending(row: &JobRow) -> Refusal {
    let cause = format!(
        "cannot retry a job of this batch yet: the end of job {} ({}/{}) is still being recorded",
        row.job_id, row.batch_id, row.vm_id
    );
    let error = Error::new(Kind::Cancelled, cause).advice("try again when `hyper2kvm list` shows its end");
    Refusal { code: RefusalCode::WrongState, error }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::core::tests::{core, job, load_each};
    use super::*;

    #[tokio::test]
    async fn a_directory_that_does_not_answer_is_given_up_and_its_thread_is_not_forgotten() {
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let work = move || hangs.recv().map_err(|_| Error::internal("not asked"));
        let outcome = within(Duration::from_millis(10), Path::new("/away/vm"), work).await;
        let (error, stuck) = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::Output);
        assert_eq!(error.details().cause, "the output directory /away/vm does not answer");
        answer.send(()).unwrap();
        stuck.unwrap().await.unwrap().unwrap();

        let outcome = within(REWIND_LIMIT, Path::new("/out"), || Err(Error::internal("no"))).await;
        assert!(outcome.unwrap_err().1.is_none(), "what has failed is over");
        within(REWIND_LIMIT, Path::new("/out"), || Ok(())).await.unwrap();
    }

    #[test]
    fn a_job_is_ending_while_only_the_queue_thinks_that_it_is_open() {
        let mut core = core(1);
        load_each(&mut core, vec![job(4)]);
        let discarding = HashSet::from([1]);
        let line = VecDeque::from([
            Action::BatchEnded { batch: 3 },
            Action::Cancel { job: 2, error: None, clean: true },
            Action::Probe { job: 4 },
        ]);
        let ending = |job| is_ending(job, &core, &discarding, &line);
        assert!(ending(1), "its partial results are being removed");
        assert!(ending(2), "its end waits in line");
        assert!(!ending(3), "that is a batch");
        assert!(!ending(4), "it is open here too");
    }
}
