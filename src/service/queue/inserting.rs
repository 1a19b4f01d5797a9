//! The rows of an accepted drop: the file, its batch, and a job for each VM. What a drop means was decided before (see [`super::accept`]).

use rusqlite::params;

use super::accept::{Decided, NewDrop};
use super::db::Db;
use super::elsewhere::Done;
use super::jobs::{Change, encode};
use crate::model::error::Result;
use crate::model::planner::{BatchName, RefusedVm, Submission};
use crate::model::warm::WarmJob;

impl Db {
    pub(super) fn insert_drop(
        &mut self,
        drop: &NewDrop,
        submission: &Submission,
        processing_name: Option<&str>,
        at: f64,
    ) -> Result<i64> {
        let files = drop.brought.as_ref().map(|brought| encode(&brought.files)).transpose()?;
        let identity = drop.identity;
        self.insert(
            "INSERT INTO dropped (name, sha256, dev, inode, size, mtime_ns, base_directory, state,
                 processing_name, accepted_at, bytes, files)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                submission.filename,
                drop.sha256,
                identity.map(|identity| identity.dev as i64),
                identity.map(|identity| identity.inode as i64),
                drop.size as i64,
                identity.map(|identity| identity.mtime_ns),
                submission.base_directory.to_string_lossy(),
                if identity.is_some() { "accepted" } else { "moved" },
                processing_name,
                at,
                drop.bytes,
                files,
            ],
        )
    }

    pub(super) fn insert_batch(
        &mut self,
        batch_id: &str,
        submission: &Submission,
        drop_id: i64,
        at: f64,
    ) -> Result<i64> {
        self.insert(
            "INSERT INTO batch (batch_id, run, stem, content_sha256, submission, output_directory, parallel_limit,
                 continue_on_error, window, drop_id, accepted_at)
             VALUES (?1, (SELECT coalesce(max(run), 0) + 1 FROM batch WHERE batch_id = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                batch_id,
                match &submission.name {
                    BatchName::Stem(stem) => Some(stem),
                    BatchName::Named(_) => None,
                },
                submission.content_sha256,
                encode(submission)?,
                submission.output_directory.as_ref().map(|directory| directory.to_string_lossy()),
                submission.parallel_limit,
                submission.fail_fast.then_some(false),
                submission.window.as_ref().map(encode).transpose()?,
                drop_id,
                at,
            ],
        )
    }

    /// The row of a VM: it is to run, or somebody has made it already.
    pub(super) fn insert_job(&mut self, batch_key: i64, one: &Decided<'_>, at: f64) -> Result<i64> {
        let plan = &one.plan;
        let job_id = self.insert(
            "INSERT INTO job (batch_key, vm_id, vm_name, state, priority, submitted_at, needs_network, depends_on,
                 content_sha256, output_directory, plan, remote, warm)
             VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                batch_key,
                one.vm.vm_id,
                plan.name,
                plan.priority,
                at,
                plan.needs_network,
                encode(&plan.depends_on)?,
                one.vm.content_sha256,
                plan.output.directory.to_string_lossy(),
                encode(plan)?,
                plan.remote.as_ref().map(|remote| encode(&remote.need())).transpose()?,
                plan.warm().map(|planned| encode(&WarmJob::new(*planned))).transpose()?,
            ],
        )?;
        match &one.done_by {
            None => self.append_event(job_id, "accepted")?,
            Some(Done::Elsewhere(outputs)) => {
                self.execute(
                    "UPDATE job SET outputs = ?2, progress_percentage = 100 WHERE job_id = ?1",
                    params![job_id, encode(outputs)?],
                )?;
                let why = "already_done: another host made this result".to_owned();
                self.transition(job_id, Change::Skip { why: why.clone() }, &why)?;
            }
            Some(Done::Job(earlier)) => {
                // It stands for the earlier job's result, so that a later run finds that here.
                self.execute(
                    "UPDATE job SET (outputs, report, output_directory, progress_percentage) =
                         (SELECT outputs, report, output_directory, 100 FROM job WHERE job_id = ?2)
                     WHERE job_id = ?1",
                    [job_id, *earlier],
                )?;
                let why = format!("already_done: job {earlier} made this result");
                self.transition(job_id, Change::Skip { why: why.clone() }, &why)?;
            }
        }
        Ok(job_id)
    }

    /// The row of a VM that cannot run as it is written: it has failed, so that reports and notices tell it as they tell every failure.
    pub(super) fn insert_refused(&mut self, batch_key: i64, vm: &RefusedVm, at: f64) -> Result<i64> {
        let job_id = self.insert(
            "INSERT INTO job (batch_key, vm_id, vm_name, state, priority, submitted_at, needs_network, depends_on,
                 content_sha256, output_directory, plan, refused, partials_removed)
             VALUES (?1, ?2, ?2, 'queued', 0, ?3, 0, '[]', '', '', 'null', 1, 1)",
            params![batch_key, vm.vm_id, at],
        )?;
        self.transition(job_id, Change::Fail(vm.error.clone()), "its manifest was refused")?;
        Ok(job_id)
    }
}
