//! Warm migrations: when the next pass of a job begins, whether it is the last one, and who asks for that.
//!
//! Each pass is one run of a worker; between them the job waits, for `cutover`. What is decided by passes and the clock is the model's
//! ([`crate::model::warm`]); windows are added here. What is not here: how a pass is made.

use super::Scheduler;
use super::commands::wrong_state;
use super::core::{Core, JobId};
use super::job::Phase;
use super::space::Rest;
use crate::model::api::{Acted, Refusal, RefusalCode};
use crate::model::error::{Error, Kind};
use crate::model::job::WaitReason;
use crate::model::warm::Pass;
use crate::model::window::Window;
use crate::sys::time::now_epoch;

impl Core {
    /// A worker has completed a pass: whatever was tried before it has worked, and there was room. `false`: this is known.
    pub fn passed(&mut self, id: JobId, pass: Pass) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let Some(warm) = job.facts.warm.as_mut().filter(|warm| !warm.knows(&pass)) else { return false };
        warm.passed(pass);
        (job.has_passed, job.rest) = (true, Rest::default());
        let counters = &mut job.facts.counters;
        (counters.failures, counters.first_failure_at, counters.exact_need) = (0, None, None);
        true
    }

    /// It waits for its next pass, which may be due at once.
    pub(super) fn await_pass(&mut self, now: f64, id: JobId) {
        let closed = self.closed_for_cutover(now, id);
        let job = self.job(id);
        let Some(warm) = &job.facts.warm else { return };
        let mut due = warm.next_at(now, closed.is_none());
        let mut detail = warm.in_words(now, due);
        if let Some((opens, words)) = closed.filter(|_| warm.is_to_end(now)) {
            due = due.min(opens.max(now));
            detail = format!("{detail}; {words}");
        }
        job.facts.counters.take_back();
        job.facts.counters.retry_at = Some(due);
        self.wait(now, id, WaitReason::Cutover, detail);
    }

    /// Whether a worker that starts now is to make the last pass.
    #[must_use]
    pub fn cuts_over(&self, now: f64, id: JobId) -> bool {
        let warm = self.jobs.get(&id).and_then(|job| job.facts.warm.as_ref());
        warm.is_some_and(|warm| warm.is_to_end(now)) && self.closed_for_cutover(now, id).is_none()
    }

    /// Somebody asks for the last pass. One that runs is not disturbed; it follows.
    pub fn ask_for_cutover(&mut self, now: f64, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(warm) = &mut job.facts.warm else { return };
        warm.asked_at.get_or_insert(now);
        if job.phase == Phase::Idle && job.waits_for(WaitReason::Cutover) {
            self.await_pass(now, id);
        }
    }

    /// Why no source may be shut down and no last pass be made now, and until when, if that is so.
    fn closed_for_cutover(&self, now: f64, id: JobId) -> Option<(f64, String)> {
        let batch = self.batches.get(&self.jobs.get(&id)?.facts.batch)?;
        let window: &Window = batch.facts.window.as_ref().filter(|window| window.gates_cutover())?;
        let standing = window.at(now);
        let opens = standing.until.map_or(f64::INFINITY, |at| at as f64);
        (!standing.is_open).then(|| (opens, window.opens_in_words(standing)))
    }
}

impl Scheduler {
    /// A worker tells of a pass. It is in the VM's journal already.
    pub(super) async fn pass_told(&mut self, job: JobId, pass: Pass) {
        if !self.core.passed(job, pass.clone()) {
            return;
        }
        tracing::info!(job, pass = pass.number, kind = pass.kind.name(), bytes = pass.bytes, "passed");
        if let Err(error) = self.parts.queue.with(move |db| db.add_pass(job, pass)).await {
            self.queue_failed(&error);
        }
        if let Some(live) = self.live.get(&job) {
            self.outlook.changed(live.batch_key, now_epoch());
        }
    }

    /// Asks for the last pass of what is named: durable before it is answered.
    pub(super) async fn cutover(&mut self, target: &str) -> Result<Acted, Refusal> {
        let named = self.find(target).await?;
        let (mut asked, mut refused) = (Vec::new(), None);
        for row in &named.jobs {
            if !self.core.knows(row.job_id) {
                refused = Some(wrong_state(row, "cut over", "has ended"));
            } else if row.warm.is_none() {
                let cause = format!(
                    "cannot cut over job {} ({}/{}): it is not a warm migration",
                    row.job_id, row.batch_id, row.vm_id
                );
                let error = Error::new(Kind::Cancelled, cause).advice(
                    "only a VM of `mode: warm` is copied while it runs; any other job ends by itself",
                );
                refused = Some(Refusal { code: RefusalCode::WrongState, error });
            } else {
                asked.push(row.job_id);
            }
        }
        match refused {
            Some(refusal) if asked.is_empty() || !named.is_batch => return Err(refusal),
            _ => {}
        }
        let (jobs, now) = (asked.clone(), now_epoch());
        self.parts.queue.with(move |db| db.ask_for_cutover(&jobs, now)).await?;
        asked.iter().for_each(|job| self.core.ask_for_cutover(now, *job));
        self.carry_out().await;
        self.acted("the cutover is asked for: the next pass is the last one", asked).await
    }
}
