//! What was done at the sources of jobs, as long as it may have to be undone.
//!
//! It outlives the job that did it: what is outstanding when that has ended is looked for here. What is not here: who undoes it.

use rusqlite::params;

use super::db::Db;
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

    /// Every job at whose source something is outstanding.
    pub fn jobs_with_acts(&self) -> Result<Vec<JobRow>> {
        let query = format!("{} WHERE job.acts IS NOT NULL ORDER BY job.job_id", select());
        let rows = self.rows(&query, [], JobRow::read)?;
        Ok(rows.into_iter().filter(|row| row.acts.outstanding().next().is_some()).collect())
    }

    /// Jobs that have ended and left something at their source that must not stay there.
    pub fn jobs_to_settle(&self) -> Result<Vec<JobRow>> {
        let rows = self.jobs_with_acts()?.into_iter();
        Ok(rows.filter(|row| row.state.is_final() && row.must_settle()).collect())
    }
}

impl JobRow {
    /// Whether something was done at its source that must not stay there, as the job ended.
    #[must_use]
    pub fn must_settle(&self) -> bool {
        self.acts.to_undo(self.state == JobState::Succeeded).next().is_some()
    }
}
