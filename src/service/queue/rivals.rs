//! Jobs in one place: which of them has taken over from which, and whose place is taken.
//!
//! A batch that continues has a newer job for each VM, and a result directory belongs to one
//! unfinished job at a time. What follows for a job that is to be tried again is decided here, so
//! that it can be asked before anything of the old job's is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::params;

use super::db::Db;
use super::jobs::no_such_job;
use super::rows::{JobRow, json};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::JobChange;
use crate::model::plan::Plan;

/// Files that a job has made, with their digests.
type Outputs = BTreeMap<PathBuf, Option<String>>;

impl Db {
    /// What will be done for an ended job when it is tried again; an error if it may not be.
    pub fn plan_to_retry(&self, job_id: i64) -> Result<Plan> {
        let job = self.job(job_id)?.ok_or_else(|| no_such_job(job_id))?;
        job.state.after(JobChange::Retry)?;
        self.refuse_superseded(&job)?;
        self.plan(job_id)
    }

    /// An ended job is not tried again where a newer one has taken its place.
    pub(super) fn refuse_superseded(&self, job: &JobRow) -> Result<()> {
        let newer: Option<i64> = self.first(
            "SELECT batch_key FROM batch WHERE batch_id = ?1 AND batch_key > ?2 ORDER BY run DESC LIMIT 1",
            params![job.batch_id, job.batch_key],
            |row| row.get(0),
        )?;
        if newer.is_some() {
            return Err(Error::new(
                Kind::Duplicate,
                format!(
                    "job {} belongs to an earlier run of batch `{}`, which has continued since",
                    job.job_id, job.batch_id
                ),
            )
            .advice(format!("retry `{}/{}`, its newest job", job.batch_id, job.vm_id)));
        }
        self.refuse_taken_output(&job.output_directory, job.job_id)
    }

    /// Two jobs that have not ended never write to one place.
    pub(super) fn refuse_taken_output(&self, directory: &Path, but_for: i64) -> Result<()> {
        let taken = self.first(
            "SELECT job.job_id, batch.batch_id, job.vm_id FROM job JOIN batch USING (batch_key)
             WHERE job.output_directory = ?1 AND job.job_id <> ?2
                 AND job.state IN ('queued', 'running', 'waiting') LIMIT 1",
            params![directory.to_string_lossy(), but_for],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)),
        )?;
        match taken {
            None => Ok(()),
            Some((job_id, batch_id, vm_id)) => Err(Error::new(
                Kind::Exists,
                format!(
                    "{} is where job {job_id} ({batch_id}/{vm_id}) will put its result",
                    directory.display()
                ),
            )
            .field("output.directory")
            .output(directory)
            .advice("name another output directory, or wait until that job has ended")),
        }
    }

    /// Marks older jobs whose result files this one's have replaced.
    pub(super) fn supersede_older(&mut self, job_id: i64, directory: &Path, outputs: &Outputs) -> Result<()> {
        let mut older = self.older("output_directory = ?2", job_id, &directory.to_string_lossy())?;
        // In a directory that disks are mapped to lie results of jobs with other directories.
        for path in outputs.keys().filter(|path| path.parent() != Some(directory)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            older.extend(self.older("instr(outputs, ?2) > 0", job_id, &name)?);
        }
        for (older, its_outputs) in older {
            if its_outputs.keys().any(|path| outputs.contains_key(path)) {
                self.execute("UPDATE job SET replaced_by = ?2 WHERE job_id = ?1", [older, job_id])?;
            }
        }
        Ok(())
    }

    /// Other jobs of which this is true, with what they have made.
    fn older(&mut self, is_meant: &str, job_id: i64, by: &str) -> Result<Vec<(i64, Outputs)>> {
        self.rows(
            &format!(
                "SELECT job_id, outputs FROM job WHERE job_id <> ?1 AND replaced_by IS NULL
                     AND state IN ('succeeded', 'skipped') AND {is_meant}"
            ),
            params![job_id, by],
            |row| Ok((row.get::<_, i64>(0)?, json::<Outputs>(row, "outputs")?)),
        )
    }
}
