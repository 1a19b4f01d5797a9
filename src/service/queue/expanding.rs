//! An entry of a batch that stands for VMs of a server becomes jobs of the same batch: in one transaction with its own end.
//!
//! So a service that dies before has to ask the server again, and one that dies after it has the jobs; there is no in between, and none twice. What
//! each VM means (done before, changed, new) is decided as at a drop; in a run that takes over what another host has begun, what that host has made is
//! looked for, too. What is not here: asking, and which machines are meant.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::accept::{Stop, look_at};
use super::db::Db;
use super::elsewhere::Claim;
use super::history::taken_over;
use super::jobs::Change;
use super::now;
use crate::model::config::Settings;
use crate::model::error::{Error, Result};
use crate::model::planner::{Submission, expand};
use crate::model::selection::SelectedVm;
use crate::service::admission::{BatchDecision, Known};

/// So many are told by name.
const MOST_TOLD: usize = 10;

/// What became of an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Expansion {
    /// Its VMs are jobs of this run, and it has ended.
    Done(i64),
    /// They are refused; nothing was written.
    Refused(Error),
    /// Nothing was written: first it has to be known which of these results of earlier runs are there; and of checkpoints, what another
    /// host has left where they lie.
    Asks(BTreeSet<PathBuf>),
}

impl Db {
    /// Makes jobs of the VMs that a running job stands for. Done again, it changes nothing.
    pub fn expand(
        &mut self,
        job_id: i64,
        selected: &[SelectedVm],
        settings: &Settings,
        known: &Known,
    ) -> Result<Expansion> {
        let mut answer = None;
        let outcome = self.atomically(|db| {
            db.expand_one(job_id, selected, settings, known).map_err(|stop| match stop {
                Stop::Broken(error) => error,
                Stop::Refused(error) => {
                    answer = Some(Expansion::Refused(error.clone()));
                    error
                }
                Stop::Asks(results) => {
                    answer = Some(Expansion::Asks(results));
                    Error::internal("undone: something has to be known first")
                }
            })
        });
        match (outcome, answer) {
            (Err(_), Some(answer)) => Ok(answer),
            (outcome, _) => outcome,
        }
    }

    fn expand_one(
        &mut self,
        job_id: i64,
        selected: &[SelectedVm],
        settings: &Settings,
        known: &Known,
    ) -> Result<Expansion, Stop> {
        let missing = || Error::internal("a job that stands for others is not in the queue");
        let row = self.job(job_id)?.ok_or_else(missing)?;
        if row.state.is_final() {
            return Ok(Expansion::Done(row.batch_key));
        }
        let plan = self.plan(job_id)?;
        let mut submission = expand(&plan, selected).map_err(Stop::Refused)?;
        let names: Vec<String> = submission.vms.iter().map(|vm| vm.vm_id.clone()).collect();
        // What the batch names itself, or has by another entry, goes before.
        let there: BTreeSet<String> =
            self.run_jobs(row.batch_key)?.into_iter().map(|job| job.vm_id).collect();
        submission.vms.retain(|vm| !there.contains(&vm.vm_id));
        submission.refused.retain(|vm| !there.contains(&vm.vm_id));
        let decision = BatchDecision::Continue { batch_id: row.batch_id.clone() };
        let plans = |submission: &Submission, batch_id: &str, suffix: &str| {
            submission.plans(batch_id, suffix, settings)
        };
        let mut decided = self.decide_vms(&submission, &decision, &plans, known)?;
        self.check_outputs(&decided)?;
        if let Some(left) = self.flag(&taken_over(row.batch_key))? {
            let mut known = known.clone();
            known.remember(&left);
            let asked = look_at(&mut decided, &row.batch_id, Claim { takeover: true }, &known)?;
            if !asked.is_empty() {
                return Err(Stop::Asks(asked));
            }
        }
        let at = now();
        for one in &decided {
            self.insert_job(row.batch_key, one, at)?;
        }
        for vm in &submission.refused {
            self.insert_refused(row.batch_key, vm, at)?;
        }
        let why = stands_for(&names);
        self.transition(job_id, Change::Requeue, "it has asked")?;
        self.transition(job_id, Change::Skip { why: why.clone() }, &why)?;
        self.follow_batch(row.batch_key)?;
        self.tell_batch_end(row.batch_key)?;
        Ok(Expansion::Done(row.batch_key))
    }
}

/// `it stands for 3 machines: web-1, web-2, web-3`
fn stands_for(names: &[String]) -> String {
    let told = names.iter().take(MOST_TOLD).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(MOST_TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let machines = if names.len() == 1 { "machine" } else { "machines" };
    format!("it stands for {} {machines}: {told}{more}", names.len())
}
