//! What earlier runs of a batch came to, for the decision what a further drop means.
//!
//! Rows only: whether the files that they name are still there comes from outside ([`Known`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rusqlite::params;

use super::db::Db;
use super::rows::{batch_state, json, maybe_named};
use crate::model::error::Result;
use crate::model::job::BatchState;
use crate::model::planner::{Submission, VmSubmission};
use crate::service::admission::{Known, KnownBatch, PastSuccess};

impl Db {
    /// The newest run under a batch's id.
    pub(super) fn known_batch(&self, batch_id: &str) -> Result<Option<KnownBatch>> {
        self.first(
            "SELECT batch_id, stem, content_sha256, outcome FROM batch WHERE batch_id = ?1 ORDER BY run DESC LIMIT 1",
            [batch_id],
            |row| {
                Ok(KnownBatch {
                    batch_id: row.get(0)?,
                    stem: row.get(1)?,
                    content_sha256: row.get(2)?,
                    outcome: maybe_named(row, "outcome", batch_state)?,
                })
            },
        )
    }

    /// The newest run of this content that wholly succeeded and whose results are still its own.
    pub(super) fn completed_with(&self, content_sha256: &str) -> Result<Option<i64>> {
        self.first(
            "SELECT batch_key FROM batch WHERE content_sha256 = ?1 AND outcome = ?2 AND NOT EXISTS
                 (SELECT 1 FROM job WHERE job.batch_key = batch.batch_key AND job.replaced_by IS NOT NULL)
             ORDER BY batch_key DESC LIMIT 1",
            [content_sha256, BatchState::Completed.name()],
            |row| row.get(0),
        )
    }

    /// The job of an earlier run that made what this VM is to be.
    pub(super) fn job_of_content(&self, batch_key: i64, vm: &VmSubmission) -> Result<Option<i64>> {
        self.first(
            "SELECT job_id FROM job WHERE batch_key = ?1 ORDER BY vm_id = ?2 DESC, content_sha256 = ?3 DESC LIMIT 1",
            params![batch_key, vm.vm_id, vm.content_sha256],
            |row| row.get(0),
        )
    }

    /// What the VMs made in earlier runs of the batch, and all of it that `known` does not tell about.
    pub(super) fn past_of_all(
        &self,
        submission: &Submission,
        batch_id: &str,
        known: &Known,
    ) -> Result<(Vec<Vec<PastSuccess>>, BTreeSet<PathBuf>)> {
        let mut unknown = BTreeSet::new();
        let mut past = Vec::with_capacity(submission.vms.len());
        for vm in &submission.vms {
            past.push(self.past_successes(batch_id, &vm.vm_id, known, &mut unknown)?);
        }
        Ok((past, unknown))
    }

    /// What this VM made, newest first. What is not known to be there goes to `unknown`.
    fn past_successes(
        &self,
        batch_id: &str,
        vm_id: &str,
        known: &Known,
        unknown: &mut BTreeSet<PathBuf>,
    ) -> Result<Vec<PastSuccess>> {
        let mut is_there = |path: &PathBuf| {
            known.is_there(path).unwrap_or_else(|| {
                unknown.insert(path.clone());
                false
            })
        };
        self.rows(
            "SELECT job.job_id, job.content_sha256, job.outputs, job.replaced_by IS NULL AS own
             FROM job JOIN batch USING (batch_key)
             WHERE batch.batch_id = ?1 AND job.vm_id = ?2 AND job.state IN ('succeeded', 'skipped')
             ORDER BY batch.run DESC",
            [batch_id, vm_id],
            |row| {
                let outputs: BTreeMap<PathBuf, Option<String>> = json(row, "outputs")?;
                let own: bool = row.get("own")?;
                // What another result has replaced stands for nothing, wherever it lies.
                let there: Vec<bool> =
                    if own { outputs.keys().map(&mut is_there).collect() } else { vec![false] };
                Ok(PastSuccess {
                    job_id: row.get("job_id")?,
                    content_sha256: row.get("content_sha256")?,
                    intact: there.iter().all(|there| *there),
                    in_the_way: there.iter().any(|there| *there),
                })
            },
        )
    }
}
