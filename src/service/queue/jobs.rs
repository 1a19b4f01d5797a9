//! Jobs: reading them, and the one way in which their state changes.
//!
//! [`Db::transition`] asks `JobState::after` inside the transaction that writes the change, so what
//! is not in that table cannot get into the database. It also keeps what hangs on a job's state
//! true: a batch ends with its last job.

use rusqlite::{ToSql, params};
use serde::Serialize;

use super::db::Db;
use super::now;
use super::rows::{JOB_COLUMNS, JobRow, json};
use crate::model::api::JobFilter;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::{BatchState, JobChange, JobState, Stage, WaitReason};
use crate::model::plan::Plan;
use crate::model::protocol::Published;

/// A change of a job's state, with what has to be known about it.
#[derive(Debug, Clone)]
pub enum Change {
    /// A worker starts, or one that stood still goes on.
    Claim {
        /// The daemon that claims it.
        owner: String,
        /// Until when it vouches for the job (epoch seconds).
        lease_until: f64,
        /// Which attempt this is; a higher one than before begins its progress anew.
        attempt: u32,
        /// What it may still write.
        need_bytes: Option<u64>,
    },
    /// It has to wait.
    Wait {
        /// Why.
        reason: WaitReason,
        /// For what exactly.
        detail: String,
        /// Not to be started before (epoch seconds).
        not_before: Option<f64>,
        /// The failure that an attempt ended with; counted.
        failure: Option<Error>,
    },
    /// What it waited for is there, or its worker is gone.
    Requeue,
    /// The result is published.
    Succeed(Published),
    /// It failed for good.
    Fail(Error),
    /// The operator ended it.
    Cancel,
    /// There is nothing to do.
    Skip {
        /// Why, for people.
        why: String,
    },
    /// The operator wants it tried again.
    Retry,
}

impl Change {
    /// What the state machine calls it.
    #[must_use]
    pub fn kind(&self) -> JobChange {
        match self {
            Change::Claim { .. } => JobChange::Claim,
            Change::Wait { .. } => JobChange::Wait,
            Change::Requeue => JobChange::Requeue,
            Change::Succeed(_) => JobChange::Succeed,
            Change::Fail(_) => JobChange::Fail,
            Change::Cancel => JobChange::Cancel,
            Change::Skip { .. } => JobChange::Skip,
            Change::Retry => JobChange::Retry,
        }
    }
}

/// Where a running job is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageMark {
    /// The stage.
    pub stage: Option<Stage>,
    /// At what there.
    pub detail: Option<String>,
    /// Since when (epoch seconds).
    pub started_at: Option<f64>,
    /// Stages that ended well in this attempt.
    pub completed: Vec<Stage>,
    /// 0 to 100.
    pub progress_percentage: f64,
}

/// What has been tried for a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tries {
    /// The newest attempt.
    pub attempt: u32,
    /// It was cut short: the next start goes on under its number.
    pub cut_short: bool,
    /// Failures in a row without progress in between.
    pub failures: u32,
    /// The first of them.
    pub first_failure_at: Option<f64>,
    /// What a worker measured that it needs.
    pub need_bytes: Option<u64>,
}

impl Db {
    /// A job.
    pub fn job(&self, job_id: i64) -> Result<Option<JobRow>> {
        self.first(&format!("{} WHERE job.job_id = ?1", select()), [job_id], JobRow::read)
    }

    /// What will be done for a job.
    pub fn plan(&self, job_id: i64) -> Result<Plan> {
        let found = self.first("SELECT plan FROM job WHERE job_id = ?1", [job_id], |row| {
            json::<Option<Plan>>(row, "plan")
        })?;
        found.ok_or_else(|| no_such_job(job_id))?.ok_or_else(|| was_refused(job_id))
    }

    /// Every job that has not ended, in the order in which they are to be started.
    pub fn unfinished_jobs(&self) -> Result<Vec<JobRow>> {
        // The literal states let SQLite use the index of open jobs, however long the history is.
        self.rows(
            &format!(
                "{} WHERE job.state IN ('queued', 'running', 'waiting') ORDER BY job.priority, job.job_id",
                select()
            ),
            [],
            JobRow::read,
        )
    }

    /// Jobs, newest first.
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>> {
        // Only the conditions that are asked for, so that each finds its index.
        let mut conditions = vec!["true"];
        if filter.state.is_some() {
            conditions.push("job.state = :state");
        }
        if filter.batch.is_some() {
            conditions.push("batch.batch_id = :batch");
        }
        let state = filter.state.map(JobState::name);
        let limit = filter.limit.map_or(-1, i64::from);
        let mut parameters: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
        if let Some(state) = &state {
            parameters.push((":state", state));
        }
        if let Some(batch) = &filter.batch {
            parameters.push((":batch", batch));
        }
        self.rows(
            &format!("{} WHERE {} ORDER BY job.job_id DESC LIMIT :limit", select(), conditions.join(" AND ")),
            parameters.as_slice(),
            JobRow::read,
        )
    }

    /// The jobs of the newest run of a batch, in the order of its manifest.
    pub fn batch_jobs(&self, batch_id: &str) -> Result<Vec<JobRow>> {
        self.rows(
            &format!(
                "{} WHERE job.batch_key =
                     (SELECT batch_key FROM batch WHERE batch_id = ?1 ORDER BY run DESC LIMIT 1)
                 ORDER BY job.job_id",
                select()
            ),
            [batch_id],
            JobRow::read,
        )
    }

    /// The jobs of one run of a batch.
    pub fn run_jobs(&self, batch_key: i64) -> Result<Vec<JobRow>> {
        self.rows(
            &format!("{} WHERE job.batch_key = ?1 ORDER BY job.job_id", select()),
            [batch_key],
            JobRow::read,
        )
    }

    /// Changes a job's state, and tells its history `message`.
    ///
    /// A change that the state machine does not know is an error, and nothing is changed.
    pub fn transition(&mut self, job_id: i64, change: Change, message: &str) -> Result<JobRow> {
        self.atomically(|db| {
            let before = db.job(job_id)?.ok_or_else(|| no_such_job(job_id))?;
            let state = before.state.after(change.kind())?;
            if let Change::Retry = change {
                if before.refused {
                    return Err(was_refused(job_id));
                }
                db.refuse_superseded(&before)?;
            }
            // At its acceptance a batch may look ended while jobs are still added to it; then its end is told there.
            let may_end_batch = !before.refused && !matches!(change, Change::Skip { .. });
            db.write_change(&before, state, change)?;
            db.append_event(job_id, message)?;
            let has_ended = db.follow_batch(before.batch_key)?;
            let row = db.job(job_id)?.ok_or_else(|| no_such_job(job_id))?;
            db.tell_job(&row)?;
            if has_ended && may_end_batch {
                db.tell_batch_end(row.batch_key)?;
            }
            Ok(row)
        })
    }

    /// Writes where a running job is.
    pub fn mark_stage(&mut self, job_id: i64, mark: &StageMark) -> Result<()> {
        self.execute(
            "UPDATE job SET current_stage = ?2, stage_detail = ?3, stage_started_at = ?4, stages_completed = ?5,
                 progress_percentage = ?6 WHERE job_id = ?1 AND state IN ('running', 'waiting')",
            params![
                job_id,
                mark.stage.map(Stage::name),
                mark.detail,
                mark.started_at,
                encode(&mark.completed)?,
                mark.progress_percentage
            ],
        )?;
        Ok(())
    }

    /// A worker of this job runs; `resumed`: it goes on from an earlier attempt's partial results.
    pub fn mark_worker(&mut self, job_id: i64, resumed: bool) -> Result<()> {
        self.execute("UPDATE job SET resumed = ?2 WHERE job_id = ?1", params![job_id, resumed])?;
        Ok(())
    }

    /// Another plan for a job: its VM was found. Where its results go is what it was.
    pub fn set_plan(&mut self, job_id: i64, plan: &Plan) -> Result<()> {
        let remote = plan.remote.as_ref().map(|remote| encode(&remote.need())).transpose()?;
        self.execute(
            "UPDATE job SET plan = ?2, vm_name = ?3, remote = ?4 WHERE job_id = ?1",
            params![job_id, encode(plan)?, plan.name, remote],
        )?;
        Ok(())
    }

    /// Moves a job in the queue.
    pub fn set_priority(&mut self, job_id: i64, priority: i64) -> Result<()> {
        self.execute("UPDATE job SET priority = ?2 WHERE job_id = ?1", params![job_id, priority])?;
        Ok(())
    }

    /// What has been tried so far, as the scheduler counts it.
    pub fn set_tries(&mut self, job_id: i64, tries: &Tries) -> Result<()> {
        self.execute(
            "UPDATE job SET attempt = ?2, cut_short = ?3, failures = ?4, first_failure_at = ?5,
                 need_bytes = coalesce(?6, need_bytes) WHERE job_id = ?1",
            params![
                job_id,
                tries.attempt,
                tries.cut_short,
                tries.failures,
                tries.first_failure_at,
                tries.need_bytes.map(|bytes| bytes as i64)
            ],
        )?;
        Ok(())
    }

    /// Another word for what a job goes on waiting for; no news for its history.
    pub fn set_waiting_detail(&mut self, job_id: i64, detail: &str) -> Result<()> {
        self.execute(
            "UPDATE job SET waiting_detail = ?2 WHERE job_id = ?1 AND state = 'waiting'",
            params![job_id, detail],
        )?;
        Ok(())
    }

    /// Why a job ended, where it was not its own failure.
    pub fn set_error(&mut self, job_id: i64, error: &Error) -> Result<()> {
        self.execute("UPDATE job SET error = ?2 WHERE job_id = ?1", params![job_id, encode(error)?])?;
        Ok(())
    }

    /// The daemon vouches for all its running jobs until then (epoch seconds).
    pub fn extend_leases(&mut self, owner: &str, lease_until: f64) -> Result<usize> {
        self.execute(
            "UPDATE job SET lease_until = ?2 WHERE state = 'running' AND owner = ?1",
            params![owner, lease_until],
        )
    }

    /// Failed and cancelled jobs that ended before then (epoch seconds) and whose partial results have not been removed.
    ///
    /// Not those whose directory a later job is at: what lies there is that job's.
    pub fn jobs_with_old_partials(&self, ended_before: f64) -> Result<Vec<JobRow>> {
        self.rows(
            &format!(
                "{} WHERE job.state IN ('failed', 'cancelled') AND job.partials_removed = 0 AND job.completed_at < ?1
                     AND NOT EXISTS (
                         SELECT 1 FROM job later
                         WHERE later.output_directory = job.output_directory AND later.job_id <> job.job_id
                             AND later.state IN ('queued', 'running', 'waiting'))
                 ORDER BY job.job_id",
                select()
            ),
            [ended_before],
            JobRow::read,
        )
    }

    /// The partial results of a job that ended are gone.
    pub fn partials_removed(&mut self, job_id: i64) -> Result<()> {
        self.execute("UPDATE job SET partials_removed = 1 WHERE job_id = ?1", [job_id])?;
        Ok(())
    }

    fn write_change(&mut self, before: &JobRow, state: JobState, change: Change) -> Result<()> {
        let (id, at) = (before.job_id, now());
        match change {
            Change::Claim { owner, lease_until, attempt, need_bytes } => {
                self.execute(
                    "UPDATE job SET state = 'running', owner = ?2, lease_until = ?3, waiting_reason = NULL,
                         waiting_detail = NULL, waiting_since = NULL, not_before = NULL, attempt = ?4,
                         cut_short = 0, need_bytes = coalesce(?5, need_bytes), started_at = coalesce(started_at, ?6)
                     WHERE job_id = ?1",
                    params![id, owner, lease_until, attempt, need_bytes.map(|bytes| bytes as i64), at],
                )?;
                if attempt != before.attempt {
                    self.clear_marks(id)?;
                }
            }
            Change::Wait { reason, detail, not_before, failure } => {
                let since = before.waiting.as_ref().filter(|waiting| waiting.reason == reason);
                let counted = i64::from(failure.is_some());
                self.execute(
                    "UPDATE job SET state = 'waiting', owner = NULL, lease_until = NULL, waiting_reason = ?2,
                         waiting_detail = ?3, waiting_since = ?4, not_before = ?5, failures = failures + ?6,
                         first_failure_at = CASE WHEN ?6 THEN coalesce(first_failure_at, ?7) ELSE first_failure_at END,
                         error = coalesce(?8, error)
                     WHERE job_id = ?1",
                    params![
                        id,
                        reason.name(),
                        detail,
                        since.map_or(at, |waiting| waiting.since),
                        not_before,
                        counted,
                        at,
                        failure.as_ref().map(encode).transpose()?
                    ],
                )?;
            }
            Change::Requeue | Change::Skip { .. } => self.let_go(id, state)?,
            Change::Succeed(published) => {
                self.let_go(id, state)?;
                self.execute(
                    "UPDATE job SET outputs = ?2, report = ?3, output_directory = ?4, error = NULL, failures = 0,
                         first_failure_at = NULL, progress_percentage = 100, current_stage = NULL,
                         stage_detail = NULL, stage_started_at = NULL WHERE job_id = ?1",
                    params![
                        id,
                        encode(&published.outputs)?,
                        published.report.as_ref().map(|path| path.to_string_lossy()),
                        published.directory.to_string_lossy()
                    ],
                )?;
                self.supersede_older(id, &published.directory, &published.outputs)?;
            }
            Change::Fail(error) => {
                self.let_go(id, state)?;
                self.execute("UPDATE job SET error = ?2 WHERE job_id = ?1", params![id, encode(&error)?])?;
            }
            Change::Cancel => {
                self.let_go(id, state)?;
                let error = Error::new(Kind::Cancelled, "cancelled by the operator");
                self.execute("UPDATE job SET error = ?2 WHERE job_id = ?1", params![id, encode(&error)?])?;
            }
            Change::Retry => {
                self.let_go(id, state)?;
                self.execute(
                    "UPDATE job SET error = NULL, failures = 0, first_failure_at = NULL, started_at = NULL,
                         cut_short = 0, partials_removed = 0
                     WHERE job_id = ?1",
                    [id],
                )?;
            }
        }
        Ok(())
    }

    /// Nobody owns the job any more, and it does not wait.
    fn let_go(&mut self, job_id: i64, state: JobState) -> Result<()> {
        self.execute(
            "UPDATE job SET state = ?2, completed_at = ?3, owner = NULL, lease_until = NULL,
                 waiting_reason = NULL, waiting_detail = NULL, waiting_since = NULL, not_before = NULL
             WHERE job_id = ?1",
            params![job_id, state.name(), state.is_final().then(now)],
        )?;
        Ok(())
    }

    fn clear_marks(&mut self, job_id: i64) -> Result<()> {
        self.execute(
            "UPDATE job SET current_stage = NULL, stage_detail = NULL, stage_started_at = NULL,
                 stages_completed = '[]', progress_percentage = 0, resumed = 0 WHERE job_id = ?1",
            [job_id],
        )?;
        Ok(())
    }

    /// Keeps the end of a batch true to its jobs' states; answers whether it has just ended.
    pub(super) fn follow_batch(&mut self, batch_key: i64) -> Result<bool> {
        let mut states = Vec::with_capacity(JobState::ALL.len());
        for state in JobState::ALL {
            // Asked for one by one, the index tells it without a look at every job of a large batch.
            let is_there = "SELECT 1 FROM job WHERE batch_key = ?1 AND state = ?2 LIMIT 1";
            if self.first(is_there, params![batch_key, state.name()], |_| Ok(()))?.is_some() {
                states.push(state);
            }
        }
        let state = BatchState::of(states);
        if state.is_final() {
            let ended = self.execute(
                "UPDATE batch SET ended_at = ?2, outcome = ?3 WHERE batch_key = ?1 AND ended_at IS NULL",
                params![batch_key, now(), state.name()],
            )?;
            Ok(ended > 0)
        } else {
            self.execute(
                "UPDATE batch SET ended_at = NULL, outcome = NULL, settled_at = NULL
                 WHERE batch_key = ?1 AND ended_at IS NOT NULL",
                [batch_key],
            )?;
            Ok(false)
        }
    }
}

pub(super) fn select() -> String {
    format!("SELECT {JOB_COLUMNS} FROM job JOIN batch USING (batch_key)")
}

pub(super) fn no_such_job(job_id: i64) -> Error {
    Error::internal(format!("there is no job {job_id} in the queue"))
}

fn was_refused(job_id: i64) -> Error {
    Error::new(Kind::Manifest, format!("job {job_id} has no plan: its manifest was refused"))
        .advice("mend the manifest, and put the batch back into the drop directory or submit it again: what is done is not done again")
}

/// A value as the text of a column.
pub(super) fn encode(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal(format!("cannot write a value as JSON: {error}")))
}
