//! Batches: finding them, and finding jobs by what people call them.

use std::collections::BTreeMap;

use rusqlite::params;

use super::db::Db;
use super::now;
use super::rows::{BATCH_COLUMNS, BatchRow};
use crate::model::error::Result;

/// What a person meant by a target (`17`, `batch/vm`, `batch`, a VM's name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One job.
    Job(i64),
    /// A batch: the jobs of its newest run.
    Batch {
        /// Its id.
        batch_id: String,
        /// Its jobs.
        jobs: Vec<i64>,
    },
    /// A VM's name that several batches have.
    Ambiguous(Vec<i64>),
    /// Nothing of that name.
    Unknown,
}

impl Db {
    /// The newest run of a batch.
    pub fn batch(&self, batch_id: &str) -> Result<Option<BatchRow>> {
        self.first(
            &format!("SELECT {BATCH_COLUMNS} FROM batch WHERE batch_id = ?1 ORDER BY run DESC LIMIT 1"),
            [batch_id],
            BatchRow::read,
        )
    }

    /// One run of a batch.
    pub fn batch_run(&self, batch_key: i64) -> Result<Option<BatchRow>> {
        self.first(
            &format!("SELECT {BATCH_COLUMNS} FROM batch WHERE batch_key = ?1"),
            [batch_key],
            BatchRow::read,
        )
    }

    /// The run that a job belongs to.
    pub fn run_of(&self, job_id: i64) -> Result<Option<BatchRow>> {
        self.first(
            &format!("SELECT {BATCH_COLUMNS} FROM batch WHERE batch_key = (SELECT batch_key FROM job WHERE job_id = ?1)"),
            [job_id],
            BatchRow::read,
        )
    }

    /// The runs that have a job that has not ended, oldest first.
    pub fn unfinished_batches(&self) -> Result<Vec<BatchRow>> {
        self.rows(
            &format!("SELECT {BATCH_COLUMNS} FROM batch WHERE ended_at IS NULL ORDER BY batch_key"),
            [],
            BatchRow::read,
        )
    }

    /// Runs behind this one that have not been settled, oldest first, at most so many.
    pub fn unsettled_after(&self, batch_key: i64, limit: u32) -> Result<Vec<BatchRow>> {
        self.rows(
            &format!(
                "SELECT {BATCH_COLUMNS} FROM batch WHERE batch_key > ?1 AND settled_at IS NULL
                 ORDER BY batch_key LIMIT ?2"
            ),
            params![batch_key, limit],
            BatchRow::read,
        )
    }

    /// The highest attempt that runs of this batch before this one made of each VM.
    pub fn attempts_before(&self, batch: &BatchRow) -> Result<BTreeMap<String, u32>> {
        let pairs = self.rows(
            "SELECT vm_id, max(attempt) FROM job JOIN batch USING (batch_key)
             WHERE batch.batch_id = ?1 AND batch.run < ?2 GROUP BY vm_id",
            params![batch.batch_id, batch.run],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(pairs.into_iter().collect())
    }

    /// The runs that have ended and whose drops have not been moved yet, oldest first.
    pub fn unsettled_batches(&self) -> Result<Vec<BatchRow>> {
        self.rows(
            &format!(
                "SELECT {BATCH_COLUMNS} FROM batch WHERE settled_at IS NULL AND ended_at IS NOT NULL ORDER BY batch_key"
            ),
            [],
            BatchRow::read,
        )
    }

    /// Whether anything of a batch is left to do: a run that has not ended or is not settled, or what has to be undone at a source.
    pub fn is_at_work(&self, batch_id: &str) -> Result<bool> {
        let query = "SELECT 1 FROM batch WHERE batch_id = ?1 AND settled_at IS NULL LIMIT 1";
        Ok(self.first(query, [batch_id], |_| Ok(()))?.is_some()
            || self.jobs_to_settle()?.iter().any(|row| row.batch_id == batch_id))
    }

    /// The reports of an ended run are written and its drop lies at `settled_path` (if there was a file).
    ///
    /// Answers false if that end (`ended_at`) is not the batch's last any more, because it was retried
    /// meanwhile: then only the place of its drop counts, so that the next settlement finds it there.
    pub fn batch_settled(
        &mut self,
        batch_key: i64,
        ended_at: f64,
        settled_path: Option<&std::path::Path>,
    ) -> Result<bool> {
        let at = now();
        self.atomically(|db| {
            db.execute(
                "UPDATE dropped SET settled_path = coalesce(?2, settled_path)
                 WHERE drop_id = (SELECT drop_id FROM batch WHERE batch_key = ?1)",
                params![batch_key, settled_path.map(|path| path.to_string_lossy())],
            )?;
            let is_its_end = db.execute(
                "UPDATE batch SET settled_at = ?3 WHERE batch_key = ?1 AND ended_at = ?2",
                params![batch_key, ended_at, at],
            )? > 0;
            if is_its_end {
                db.execute(
                    "UPDATE dropped SET state = 'settled', settled_at = ?2
                     WHERE drop_id = (SELECT drop_id FROM batch WHERE batch_key = ?1)",
                    params![batch_key, at],
                )?;
            }
            Ok(is_its_end)
        })
    }

    /// What a person means by `target`: a job's number, `batch/vm`, a batch's id, or a unique VM name.
    pub fn find(&self, target: &str) -> Result<Target> {
        if let Ok(job_id) = target.parse::<i64>()
            && self.first("SELECT 1 FROM job WHERE job_id = ?1", [job_id], |_| Ok(()))?.is_some()
        {
            return Ok(Target::Job(job_id));
        }
        if let Some((batch_id, vm_id)) = target.split_once('/') {
            let job = self.first(
                "SELECT job_id FROM job JOIN batch USING (batch_key) WHERE batch.batch_id = ?1 AND job.vm_id = ?2
                 ORDER BY batch.run DESC LIMIT 1",
                [batch_id, vm_id],
                |row| row.get(0),
            )?;
            return Ok(job.map_or(Target::Unknown, Target::Job));
        }
        if let Some(batch) = self.batch(target)? {
            let jobs = self.rows(
                "SELECT job_id FROM job WHERE batch_key = ?1 ORDER BY job_id",
                [batch.batch_key],
                |row| row.get(0),
            )?;
            return Ok(Target::Batch { batch_id: batch.batch_id, jobs });
        }
        // Of a VM that several runs of its batch have, the newest is meant.
        let jobs: Vec<i64> = self.rows(
            "SELECT max(job_id) FROM job JOIN batch USING (batch_key) WHERE vm_id = ?1 OR vm_name = ?1
             GROUP BY batch.batch_id, job.vm_id ORDER BY 1",
            [target],
            |row| row.get(0),
        )?;
        Ok(match jobs.as_slice() {
            [] => Target::Unknown,
            [job_id] => Target::Job(*job_id),
            _ => Target::Ambiguous(jobs),
        })
    }
}
