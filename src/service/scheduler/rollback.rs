//! `rollback`: a source is given back. What was made of it is stopped, and all that was done at the source is undone.
//!
//! That it was asked for is a flag in the queue; whoever dies after that, the next daemon goes on. A settling worker does it ([`super::sources`]),
//! again and again until nothing is left. Of a job that failed or was cancelled everything is undone anyway: asking only has it tried now. What is not
//! here: undoing.

use super::Scheduler;
use super::commands::{ambiguous, unknown};
use crate::model::api::{Refusal, RefusalCode, RolledBack};
use crate::model::error::{Error, Kind};
use crate::model::job::JobState;
use crate::model::plan::Plan;
use crate::service::queue::{JobRow, released};
use crate::sys::time::now_epoch;

impl Scheduler {
    /// Has the source of a job given back, or only says what that would take.
    pub(super) async fn rollback(&mut self, target: &str, dry_run: bool) -> Result<RolledBack, Refusal> {
        let mut named = self.find(target).await?;
        if named.jobs.len() > 1 {
            return Err(ambiguous(target, &named.jobs));
        }
        let Some(row) = named.jobs.pop() else { return Err(unknown(target)) };
        if !row.state.is_final() {
            return Err(refused(
                &row,
                "it has not ended",
                "`hyper2kvm cancel` ends it, and gives its source back",
            ));
        }
        if row.acts.is_empty() {
            return Err(refused(
                &row,
                "nothing was done at its source",
                "a rollback undoes what `power: shutdown` and `after` of a vSphere source have done; stop the machine that was made of it by `hyper2kvm libvirt stop`",
            ));
        }
        if row.acts.outstanding().next().is_none() && row.acts.lost().next().is_some() {
            return Err(refused(
                &row,
                "it is not there any more",
                "what was made of it is left as it is; `hyper2kvm show` says what could not be undone",
            ));
        }
        let (job, batch) = (row.job_id, row.batch_key);
        if self.parts.queue.with(move |db| db.flag(&released(batch))).await?.is_some() {
            return Err(refused(
                &row,
                "its batch was given to another host",
                "give the source back there, or take the batch over again: `hyper2kvm submit --takeover`",
            ));
        }
        let done = row.acts.outstanding().next().is_none();
        let plan = self.parts.queue.with(move |db| db.plan(job)).await?;
        if !dry_run && !done {
            let asked = self.parts.queue.with(move |db| {
                db.atomically(|db| match db.is_rolled_back(job)? {
                    true => Ok(()),
                    false => {
                        db.set_rolled_back(job, true)?;
                        db.append_event(job, "its source is to be given back")
                    }
                })
            });
            asked.await?;
            self.sources.give_back(job, now_epoch());
        }
        let steps = if done { Vec::new() } else { steps(&row, &plan) };
        Ok(RolledBack { dry_run, done, steps, error: self.sources.error_of(job), job: row.view() })
    }
}

/// What is done, in this order.
fn steps(row: &JobRow, plan: &Plan) -> Vec<String> {
    let target = plan.libvirt.as_ref().filter(|_| row.state == JobState::Succeeded).map(|planned| {
        format!(
            "the machine {} at {} is shut down if it runs, and is not started with its host any more; it stays defined",
            planned.name, planned.uri
        )
    });
    target.into_iter().chain(row.acts.outstanding().map(|(_, act)| act.what.undoing())).collect()
}

fn refused(row: &JobRow, why: &str, advice: &str) -> Refusal {
    let cause =
        format!("cannot give the source of job {} ({}/{}) back: {why}", row.job_id, row.batch_id, row.vm_id);
    Refusal { code: RefusalCode::WrongState, error: Error::new(Kind::Cancelled, cause).advice(advice) }
}
