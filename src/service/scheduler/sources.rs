//! Sources at which something is left: what workers did there, kept as it is told, and undone when a job has ended without doing so itself.
//!
//! A worker undoes what it did. One that was killed, whose job then ends without another attempt, leaves that to a settling worker, which is started
//! again, ever less often, until nothing is left. It holds no slot and needs no room. A login that was refused is left alone. What is not here: what
//! an act is ([`crate::model::acts`]), and undoing.

use std::collections::BTreeMap;

use super::Scheduler;
use super::core::JobId;
use crate::model::acts::Acts;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::JobState;
use crate::model::plan::Plan;
use crate::model::protocol::{RemoteLimits, Settle, WorkLimits, WorkOrder, WorkerEvent, WorkerOutcome};
use crate::service::passwords;
use crate::service::queue::JobRow;
use crate::service::supervisor::{Heard, Supervisor};
use crate::service::watchdog;
use crate::sys::time::now_epoch;

/// So many settling workers at a time.
const MOST: usize = 2;
/// After a failure it is tried again then; twice as long after each further one.
const AGAIN_S: f64 = 15.0;
/// At most so long after.
const MOST_AGAIN_S: f64 = 3600.0;
/// A login that is refused is looked at again then: an account is locked soon.
const LOGIN_AGAIN_S: f64 = 600.0;

/// When a source is to be settled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Due {
    at: f64,
    failures: u32,
}

impl Due {
    /// After one more failure.
    fn later(self, now: f64, error: Option<&Error>) -> Due {
        let wait = AGAIN_S * f64::from(2_u32.saturating_pow(self.failures.min(16)));
        let least = if error.is_some_and(|error| error.kind() == Kind::Auth) { LOGIN_AGAIN_S } else { 0.0 };
        let wait = wait.max(least).min(MOST_AGAIN_S);
        Due { at: now + wait, failures: self.failures.saturating_add(1) }
    }
}

/// What is to be undone, and who is at it.
#[derive(Default)]
pub(super) struct Sources {
    settlers: Supervisor,
    due: BTreeMap<JobId, Due>,
    /// What was told while the queue could not be written.
    unrecorded: BTreeMap<JobId, Acts>,
    /// Whether the queue was asked what earlier daemons have left.
    is_loaded: bool,
    /// Why it has not worked.
    errors: BTreeMap<JobId, String>,
}

impl Sources {
    /// A job has ended; perhaps something is left.
    pub(super) fn job_ended(&mut self, row: &JobRow, now: f64) {
        if row.must_settle() {
            self.is_left(row.job_id, now);
        }
    }

    fn is_left(&mut self, job: JobId, now: f64) {
        self.due.insert(job, Due { at: now, failures: 0 });
    }

    /// Somebody wants its source back: that is tried at once.
    pub(super) fn give_back(&mut self, job: JobId, now: f64) {
        self.errors.remove(&job);
        // One that is at work was told to undo less.
        self.settlers.kill(job);
        let _ = self.settlers.ended(job, WorkerOutcome::Stopped);
        self.due.insert(job, Due { at: now, failures: 0 });
    }

    /// Why it has not worked so far.
    pub(super) fn error_of(&self, job: JobId) -> Option<String> {
        self.errors.get(&job).cloned()
    }

    /// A job begins again: what is left is its worker's.
    pub(super) fn stop(&mut self, job: JobId) {
        self.due.remove(&job);
        self.errors.remove(&job);
        self.settlers.kill(job);
        let _ = self.settlers.ended(job, WorkerOutcome::Stopped);
    }

    /// The service ends. A settling worker may die anywhere.
    pub(super) fn stop_all(&mut self) {
        let jobs: Vec<JobId> = self.settlers.jobs().collect();
        jobs.into_iter().for_each(|job| self.stop(job));
        self.due.clear();
    }

    /// What the next of them tells. Never ends.
    pub(super) async fn next(&mut self) -> (JobId, Heard) {
        self.settlers.next().await
    }

    fn is_at(&self, job: JobId) -> bool {
        self.settlers.jobs().any(|other| other == job)
    }

    /// Those that may begin now.
    fn ripe(&self, now: f64) -> Vec<JobId> {
        let free = MOST.saturating_sub(self.settlers.jobs().count());
        let ripe = self.due.iter().filter(|(job, due)| due.at <= now && !self.is_at(**job));
        ripe.map(|(job, _)| *job).take(free).collect()
    }

    /// When one may begin.
    pub(super) fn next_due(&self) -> Option<f64> {
        if self.settlers.jobs().count() >= MOST {
            return None;
        }
        let waiting = self.due.iter().filter(|(job, _)| !self.is_at(**job));
        waiting.map(|(_, due)| due.at).reduce(f64::min)
    }
}

impl Scheduler {
    /// A worker tells what it has done, or is about to do. It is in the VM's journal already.
    pub(super) async fn acts_told(&mut self, job: JobId, acts: Acts) {
        self.core.source_stands(job, acts.is_shut_down());
        let (told, kept) = (acts.clone(), self.settings.layout().passwords());
        let recorded = self.parts.queue.with(move |db| {
            db.set_acts(job, &told)?;
            passwords::forget(db, &kept)
        });
        match recorded.await {
            Ok(()) => _ = self.sources.unrecorded.remove(&job),
            Err(error) => {
                self.sources.unrecorded.insert(job, acts);
                self.queue_failed(&error);
            }
        }
    }

    /// Writes down what could not be when it was told.
    async fn record_acts(&mut self, now: f64) {
        while let Some((job, acts)) = self.sources.unrecorded.pop_first() {
            let (told, kept) = (acts.clone(), self.settings.layout().passwords());
            let recorded = self.parts.queue.with(move |db| {
                db.add_acts(job, &told)?;
                passwords::forget(db, &kept)?;
                db.job(job)
            });
            match recorded.await {
                Ok(Some(row)) if row.state.is_final() => self.sources.job_ended(&row, now),
                Ok(_) => {}
                Err(error) => {
                    self.sources.unrecorded.insert(job, acts);
                    return self.queue_failed(&error);
                }
            }
        }
    }

    /// Starts settling workers for what is left.
    pub(super) async fn settle_sources(&mut self, now: f64) {
        if self.stopping.is_some() || self.queue_rests(now) {
            return;
        }
        self.record_acts(now).await;
        if !self.sources.is_loaded {
            match self.parts.queue.with(|db| db.jobs_to_settle()).await {
                Ok(rows) => rows.iter().for_each(|row| self.sources.is_left(row.job_id, now)),
                Err(error) => return self.queue_failed(&error),
            }
            self.sources.is_loaded = true;
        }
        self.sources.settlers.kill_the_lifeless();
        for job in self.sources.ripe(now) {
            let before = self.sources.due.get(&job).copied().unwrap_or_default();
            match self.settle_source(job).await {
                Ok(true) => {}
                Ok(false) => _ = self.sources.due.remove(&job),
                Err(error) => {
                    tracing::warn!(job, %error, "what is left at its source cannot be undone yet");
                    self.sources.errors.insert(job, error.to_string());
                    self.sources.due.insert(job, before.later(now, Some(&error)));
                }
            }
        }
    }

    /// Starts a settling worker, if anything is left.
    async fn settle_source(&mut self, job: JobId) -> Result<bool> {
        let found = self.parts.queue.with(move |db| {
            let row = db.jobs_to_settle()?.into_iter().find(|row| row.job_id == job);
            row.map(|row| Ok((row, db.plan(job)?, db.is_rolled_back(job)?))).transpose()
        });
        let Some((row, plan, is_rolled_back)) = found.await? else { return Ok(false) };
        if let Some(remote) = plan.remote.as_ref()
            && self.core.refused_logins().contains_key(&remote.need().login)
        {
            return Err(Error::new(Kind::Auth, "its login was refused"));
        }
        let stays = row.state == JobState::Succeeded && !is_rolled_back;
        let what: Vec<String> = row.acts.to_undo(stays).map(|(_, act)| act.what.shown()).collect();
        tracing::info!(job, batch = %row.batch_id, vm = %row.vm_id, "settles its source: {}", what.join(", "));
        let log = self.settings.layout().job_log(&row.batch_id, &row.vm_id, row.attempt.max(1));
        let order = self.settling_order(row, plan, is_rolled_back);
        self.sources.settlers.start(&order, &log).await?;
        Ok(true)
    }

    fn settling_order(&self, row: JobRow, plan: Plan, is_rolled_back: bool) -> WorkOrder {
        let work_dir = self.settings.work_dir.join(format!("settle-{}", row.job_id));
        WorkOrder {
            job_id: row.job_id,
            batch_id: row.batch_id,
            attempt: row.attempt,
            plan: plan.without_draft(),
            limits: WorkLimits {
                sandbox_required: watchdog::is_supervised(),
                remote: RemoteLimits { connections: Some(1), ..RemoteLimits::of(&self.settings) },
                ..WorkLimits::unbound(work_dir, self.settings.stall_timeout_s)
            },
            acts: row.acts,
            cuts_over: false,
            settle: Some(match row.state {
                _ if is_rolled_back => Settle::RolledBack,
                JobState::Succeeded => Settle::Succeeded,
                _ => Settle::GivenBack,
            }),
        }
    }

    /// What a settling worker tells.
    pub(super) async fn hear_settler(&mut self, job: JobId, heard: Heard) {
        match heard {
            Heard::Event(WorkerEvent::Acts { acts }) => self.acts_told(job, acts).await,
            Heard::Event(WorkerEvent::Warning { message, .. }) => {
                tracing::warn!(job, "warning: {message}");
                if let Err(error) = self.parts.queue.with(move |db| db.append_warning(job, &message)).await {
                    self.queue_failed(&error);
                }
            }
            Heard::Event(_) => {}
            Heard::Ended { outcome, .. } => {
                let now = now_epoch();
                let error = match outcome {
                    WorkerOutcome::Failed { error } => Some(error),
                    _ => None,
                };
                let _ = self.sources.settlers.ended(job, WorkerOutcome::Stopped);
                self.settled_source(now, job, error).await;
            }
        }
    }

    /// It has ended: whether anything is still left, the queue says.
    async fn settled_source(&mut self, now: f64, job: JobId, error: Option<Error>) {
        let Some(before) = self.sources.due.get(&job).copied() else { return };
        let message = match &error {
            None => "its source is settled".to_owned(),
            Some(error) => format!("not undone at its source: {error}"),
        };
        let is_first = before.failures == 0;
        let kept = self.settings.layout().passwords();
        let left = self.parts.queue.with(move |db| {
            let row = db.job(job)?;
            let left = row.as_ref().map(|row| db.is_left(row)).transpose()?.unwrap_or_default();
            match left {
                false => {
                    db.set_rolled_back(job, false)?;
                    db.append_event(job, "its source is settled")?;
                    passwords::forget(db, &kept)?;
                }
                true if is_first => db.append_warning(job, &message)?,
                true => {}
            }
            Ok(left)
        });
        match left.await {
            Ok(false) => {
                self.sources.due.remove(&job);
                self.sources.errors.remove(&job);
            }
            Ok(true) | Err(_) => {
                if let Some(error) = &error {
                    self.sources.errors.insert(job, error.to_string());
                    tracing::warn!(job, %error, "what is left at its source is not undone; tried again");
                    self.outlook.last_error = Some(format!("job {job}: not undone at its source: {error}"));
                }
                self.sources.due.insert(job, before.later(now, error.as_ref()));
            }
        }
        self.outlook.status_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_cannot_be_settled_is_tried_ever_less_often() {
        let away = Error::new(Kind::Network, "away");
        let mut due = Due::default();
        let mut waits = Vec::new();
        for _ in 0..10 {
            let next = due.later(due.at, Some(&away));
            waits.push(next.at - due.at);
            due = next;
        }
        assert_eq!(waits, [15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]);
        let refused = Error::new(Kind::Auth, "refused");
        assert_eq!(Due::default().later(0.0, Some(&refused)).at, LOGIN_AGAIN_S);
    }
}
