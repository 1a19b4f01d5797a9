//! Warm migrations: their passes, and who has asked for the last one.
//!
//! What is not here: what follows from it ([`crate::model::warm`]).

use rusqlite::params;

use super::db::Db;
use super::jobs::{encode, no_such_job};
use crate::model::error::Result;
use crate::model::warm::Pass;

impl Db {
    /// A pass of a job is complete.
    pub fn add_pass(&mut self, job_id: i64, pass: Pass) -> Result<()> {
        self.atomically(|db| {
            let row = db.job(job_id)?.ok_or_else(|| no_such_job(job_id))?;
            let Some(mut warm) = row.warm else { return Ok(()) };
            let message = format!(
                "pass {} ({}) moved {} bytes in {:.1} s",
                pass.number,
                pass.kind.name(),
                pass.bytes,
                pass.seconds
            );
            warm.passed(pass);
            db.execute("UPDATE job SET warm = ?2 WHERE job_id = ?1", params![job_id, encode(&warm)?])?;
            db.append_event(job_id, &message)
        })
    }

    /// Somebody asks for the last pass of jobs; once is enough.
    pub fn ask_for_cutover(&mut self, jobs: &[i64], at: f64) -> Result<()> {
        self.atomically(|db| {
            for job_id in jobs {
                let row = db.job(*job_id)?.ok_or_else(|| no_such_job(*job_id))?;
                let Some(mut warm) = row.warm.filter(|warm| warm.asked_at.is_none()) else { continue };
                warm.asked_at = Some(at);
                db.execute("UPDATE job SET warm = ?2 WHERE job_id = ?1", params![job_id, encode(&warm)?])?;
                db.append_event(*job_id, "the operator asks for the cutover")?;
            }
            Ok(())
        })
    }
}
