//! What happened, how much there is, what may go; and the flags that outlive the daemon.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;

use super::db::Db;
use super::now;
use super::rows::{maybe_named, named, wait_reason};
use crate::model::api::JobEvent;
use crate::model::error::Result;
use crate::model::job::{JobState, Stage, WaitReason};

/// How a warning begins in a job's history.
const WARNING: &str = "warning: ";

/// How many jobs are in what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// By state; every state is there.
    pub states: BTreeMap<String, u64>,
    /// Waiting jobs by reason; only reasons that occur.
    pub waiting: BTreeMap<String, u64>,
}

/// What a job was in from a moment on.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Epoch seconds.
    pub at: f64,
    /// In which attempt; 0 before the first.
    pub attempt: u32,
    /// What.
    pub state: JobState,
    /// Why it waited.
    pub waiting_reason: Option<WaitReason>,
    /// At which stage it was.
    pub stage: Option<Stage>,
}

/// A run of a batch that was (or would be) taken out of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedBatch {
    /// The run's number in the database.
    pub batch_key: i64,
    /// Its batch.
    pub batch_id: String,
    /// Whether no other run of that batch is left, so that what is named after it may go too.
    pub last_of_batch: bool,
}

/// The flag of a run that was given away to other hosts.
pub(in crate::service) fn released(batch_key: i64) -> String {
    format!("released:{batch_key}")
}

/// The flag of a run that may take over what another host has begun: it holds what that had made when the run was accepted.
pub(in crate::service) fn taken_over(batch_key: i64) -> String {
    format!("takeover:{batch_key}")
}

impl Db {
    /// Tells a job's history.
    pub fn append_event(&mut self, job_id: i64, message: &str) -> Result<()> {
        self.execute(
            "INSERT INTO event (job_id, at, attempt, message)
             VALUES (?1, ?2, (SELECT attempt FROM job WHERE job_id = ?1), ?3)",
            params![job_id, now(), message],
        )?;
        Ok(())
    }

    /// Tells it something that a person should know.
    pub fn append_warning(&mut self, job_id: i64, message: &str) -> Result<()> {
        self.append_event(job_id, &format!("{WARNING}{message}"))
    }

    /// What the jobs of a run have been warned of, oldest first.
    pub fn warnings(&self, batch_key: i64) -> Result<BTreeMap<i64, Vec<JobEvent>>> {
        let rows = self.rows(
            "SELECT job_id, event.at, event.attempt, substr(event.message, 1 + length(?2))
             FROM job JOIN event USING (job_id)
             WHERE job.batch_key = ?1 AND substr(event.message, 1, length(?2)) = ?2 ORDER BY event_id",
            params![batch_key, WARNING],
            |row| {
                let event = JobEvent { at: row.get(1)?, attempt: row.get(2)?, message: row.get(3)? };
                Ok((row.get(0)?, event))
            },
        )?;
        Ok(by_job(rows))
    }

    /// A job's history, oldest first.
    pub fn events(&self, job_id: i64) -> Result<Vec<JobEvent>> {
        self.rows(
            "SELECT at, attempt, message FROM event WHERE job_id = ?1 ORDER BY event_id",
            [job_id],
            |row| Ok(JobEvent { at: row.get(0)?, attempt: row.get(1)?, message: row.get(2)? }),
        )
    }

    /// What the jobs of a run have been in, oldest first. What does not go beyond their acceptance is not there.
    pub fn phases(&self, batch_key: i64) -> Result<BTreeMap<i64, Vec<Phase>>> {
        let rows = self.rows(
            "SELECT job_id, phase.at, phase.attempt, phase.state, phase.waiting_reason, phase.stage
             FROM job JOIN phase USING (job_id) WHERE job.batch_key = ?1 ORDER BY phase_id",
            [batch_key],
            |row| {
                let phase = Phase {
                    at: row.get("at")?,
                    attempt: row.get("attempt")?,
                    state: named(row, "state", JobState::parse)?,
                    waiting_reason: maybe_named(row, "waiting_reason", wait_reason)?,
                    stage: maybe_named(row, "stage", |name| Stage::parse(name).ok())?,
                };
                Ok((row.get("job_id")?, phase))
            },
        )?;
        Ok(by_job(rows))
    }

    /// How many jobs are in what; cheap however long the history is.
    pub fn counts(&self) -> Result<Counts> {
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64));
        let states = self.rows("SELECT state, jobs FROM job_count", [], pair)?;
        let waiting = self.rows(
            "SELECT waiting_reason, count(*) FROM job WHERE state = 'waiting' GROUP BY waiting_reason",
            [],
            pair,
        )?;
        Ok(Counts { states: states.into_iter().collect(), waiting: waiting.into_iter().collect() })
    }

    /// Takes runs that were settled before then (epoch seconds) out of the queue, with all that hangs on them.
    ///
    /// `dry_run` only says which.
    pub fn prune(&mut self, settled_before: f64, dry_run: bool) -> Result<Vec<PrunedBatch>> {
        self.atomically(|db| {
            // What has to be undone at a source is known to nobody else.
            let kept: BTreeSet<i64> = db.jobs_to_settle()?.into_iter().map(|row| row.batch_key).collect();
            let mut pruned = db.rows(
                "SELECT batch_key, batch_id, NOT EXISTS (
                     SELECT 1 FROM batch AS other WHERE other.batch_id = batch.batch_id
                         AND (other.settled_at IS NULL OR other.settled_at >= ?1))
                 FROM batch WHERE settled_at < ?1 ORDER BY batch_key",
                [settled_before],
                |row| {
                    Ok(PrunedBatch {
                        batch_key: row.get(0)?,
                        batch_id: row.get(1)?,
                        last_of_batch: row.get(2)?,
                    })
                },
            )?;
            pruned.retain(|batch| !kept.contains(&batch.batch_key));
            if !dry_run {
                db.forget_given_up(settled_before)?;
                for batch in &pruned {
                    let drop_id: Option<i64> = db.first(
                        "SELECT drop_id FROM batch WHERE batch_key = ?1",
                        [batch.batch_key],
                        |row| row.get(0),
                    )?;
                    db.execute("DELETE FROM batch WHERE batch_key = ?1", [batch.batch_key])?;
                    db.set_flag(&released(batch.batch_key), None)?;
                    db.execute("DELETE FROM dropped WHERE drop_id = ?1", [drop_id])?;
                }
            }
            Ok(pruned)
        })
    }

    /// A flag that outlives the daemon.
    pub fn flag(&self, key: &str) -> Result<Option<String>> {
        self.first("SELECT value FROM kv WHERE key = ?1", [key], |row| row.get(0))
    }

    /// Sets it; `None` takes it away.
    pub fn set_flag(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => self.execute(
                "INSERT INTO kv (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
                [key, value],
            )?,
            None => self.execute("DELETE FROM kv WHERE key = ?1", [key])?,
        };
        Ok(())
    }
}

fn by_job<T>(rows: Vec<(i64, T)>) -> BTreeMap<i64, Vec<T>> {
    let mut by_job: BTreeMap<i64, Vec<T>> = BTreeMap::new();
    for (job_id, row) in rows {
        by_job.entry(job_id).or_default().push(row);
    }
    by_job
}
