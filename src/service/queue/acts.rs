//! What was done at the sources of jobs, as long as it may have to be undone.
//!
//! It outlives the job that did it: what is outstanding when that has ended is looked for here. What is not here: who undoes it.

use rusqlite::params;

use super::db::Db;
use super::history::released;
use super::jobs::{encode, select};
use super::rows::JobRow;
use crate::model::acts::Acts;
use crate::model::error::Result;
use crate::model::job::JobState;

impl Db {
    /// What was done at a job's source by now.
    pub fn set_acts(&mut self, job_id: i64, acts: &Acts) -> Result<()> {
        let text = (!acts.is_empty()).then(|| encode(acts)).transpose()?;
        self.execute("UPDATE job SET acts = ?2 WHERE job_id = ?1", params![job_id, text])?;
        Ok(())
    }

    /// What its journal knows of it besides.
    pub fn add_acts(&mut self, job_id: i64, acts: &Acts) -> Result<()> {
        let known = self.job(job_id)?.map(|row| row.acts).unwrap_or_default();
        self.set_acts(job_id, &known.merged(acts))
    }

    /// Every job at whose source something is outstanding.
    pub fn jobs_with_acts(&self) -> Result<Vec<JobRow>> {
        let query = format!("{} WHERE job.acts IS NOT NULL ORDER BY job.job_id", select());
        let rows = self.rows(&query, [], JobRow::read)?;
        Ok(rows.into_iter().filter(|row| row.acts.outstanding().next().is_some()).collect())
    }

    /// Jobs that have ended and left something at their source that must not stay there. What was given away to another host is that one's.
    pub fn jobs_to_settle(&self) -> Result<Vec<JobRow>> {
        let mut rows = self.jobs_with_acts()?;
        rows.retain(|row| row.state.is_final());
        let mut left = Vec::new();
        for row in rows {
            if self.is_left(&row)? && self.flag(&released(row.batch_key))?.is_none() {
                left.push(row);
            }
        }
        Ok(left)
    }

    /// Whether something is left to do at the source of a job that has ended: by itself, or because somebody wants it back.
    pub fn is_left(&self, row: &JobRow) -> Result<bool> {
        let is_wanted = row.acts.outstanding().next().is_some() && self.is_rolled_back(row.job_id)?;
        Ok(is_wanted || row.must_settle())
    }

    /// Whether somebody wants its source back.
    pub fn is_rolled_back(&self, job_id: i64) -> Result<bool> {
        Ok(self.flag(&rolled_back(job_id))?.is_some())
    }

    /// Somebody wants it back, and that outlives this daemon; or nothing is left of that.
    pub fn set_rolled_back(&mut self, job_id: i64, is_wanted: bool) -> Result<()> {
        self.set_flag(&rolled_back(job_id), is_wanted.then_some("1"))
    }

    /// When the oldest snapshot was made that may still be at a source.
    pub fn oldest_snapshot_at(&self) -> Result<Option<f64>> {
        let rows = self.jobs_with_acts()?;
        Ok(rows.iter().filter_map(|row| row.acts.oldest_snapshot_at()).reduce(f64::min))
    }
}

impl JobRow {
    /// Whether something was done at its source that must not stay there, as the job ended, or is still to be done.
    #[must_use]
    pub fn must_settle(&self) -> bool {
        let succeeded = self.state == JobState::Succeeded;
        self.acts.to_undo(succeeded).next().is_some() || (succeeded && self.acts.is_unfinished())
    }
}

/// The flag that says so.
fn rolled_back(job_id: i64) -> String {
    format!("rollback:{job_id}")
}
