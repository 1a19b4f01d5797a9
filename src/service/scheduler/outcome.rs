//! What follows when a job fails or ends: again, or not; and what that means for its batch. Part of
//! the core, so pure.

use super::action::Action;
use super::core::{BatchKey, Core, JobId};
use super::job::{Counters, Phase};
use super::space::Rest;
use crate::model::config::OnNetworkTimeout;
use crate::model::error::{Disposition, Error, Kind};
use crate::model::job::{JobState, WaitReason};
use crate::model::remote::WINDOW_RULE;

impl Core {
    pub(super) fn network_wait_failed(&mut self, now: f64, id: JobId) {
        let is_server = self.waits_for_server(id);
        let cause = match is_server {
            true => format!("gave up waiting: {}", self.job(id).facts.waiting_detail),
            false => "the network stayed away for too long".to_owned(),
        };
        let error = Error::new(Kind::Network, cause)
            .advice("`hyper2kvm status` says what is missing; then `hyper2kvm retry`");
        match self.policy.on_network_timeout {
            OnNetworkTimeout::Fail if !is_server => self.count_failure(now, id, error),
            _ => self.fail(now, id, error),
        }
    }

    /// A failure: what now?
    pub(super) fn failed(&mut self, now: f64, id: JobId, error: Error) {
        if error.details().rule.as_deref() == Some(WINDOW_RULE) {
            return self.came_too_late(id);
        }
        let network_is_down = self.network_blocks(id);
        let stopping = self.stopping;
        let job = self.job(id);
        let counters = &mut job.facts.counters;
        if job.percentage > counters.best_percentage {
            counters.best_percentage = job.percentage;
            counters.failures = 0;
            counters.first_failure_at = None;
            job.rest = Rest::default();
        }
        match (error.disposition(), error.kind()) {
            (Disposition::NeedsOperator, Kind::DiskSpace) => self.ran_out_of_room(now, id, &error),
            (Disposition::NeedsOperator, Kind::Auth) => {
                counters.take_back();
                self.wait_for_login(now, id, &error);
            }
            (Disposition::Transient, Kind::Network) if network_is_down.is_some() && !stopping => {
                counters.take_back();
                self.wait(now, id, WaitReason::Network, network_is_down.unwrap_or_default());
            }
            (Disposition::Transient, Kind::Network) => self.server_failed(now, id, error),
            (Disposition::Transient, Kind::Libvirt) => self.wait_for_libvirt(now, id, error),
            (Disposition::Transient, _) => self.count_failure(now, id, error),
            (Disposition::Permanent | Disposition::NeedsOperator, _) => self.fail(now, id, error),
        }
    }

    /// libvirt is being restarted, or hangs: nothing of the job is at fault, so nothing is counted but the time.
    fn wait_for_libvirt(&mut self, now: f64, id: JobId, error: Error) {
        let first = *self.job(id).facts.counters.first_failure_at.get_or_insert(now);
        let away = now - first;
        if away >= self.policy.retry.give_up_after_s {
            return self.fail(now, id, error);
        }
        // As long again as it has been away: the delays double without anybody counting them.
        let due = now + self.policy.retry.wait_again_s(away, (self.random)());
        let counters = &mut self.job(id).facts.counters;
        counters.take_back();
        counters.retry_at = Some(due);
        self.wait(now, id, WaitReason::Libvirt, error.to_string());
    }

    /// It was away and answers again: nobody waits for his time to be over.
    pub(super) fn libvirt_is_back(&mut self) {
        let waiting: Vec<JobId> = self.waiting_for(WaitReason::Libvirt).collect();
        for id in waiting {
            self.set_timer(id, None);
            self.release(id);
        }
    }

    /// One more failure in a row: again after a while, or the end.
    pub(super) fn count_failure(&mut self, now: f64, id: JobId, error: Error) {
        let counters = &mut self.job(id).facts.counters;
        counters.failures += 1;
        let (attempt, failures) = (counters.attempt, counters.failures);
        let first = *counters.first_failure_at.get_or_insert(now);
        if self.policy.gives_up(failures, first, now) {
            return self.fail(now, id, error);
        }
        let due = now + self.policy.retry.backoff_s(failures, (self.random)());
        self.retry_later(now, id, due, format!("attempt {attempt} failed: {}", error.details().cause));
    }

    /// Whether a failure that may pass would be a job's last, as things are now.
    pub(super) fn would_give_up(&self, now: f64, counters: &Counters) -> bool {
        let first = counters.first_failure_at.unwrap_or(now);
        self.policy.gives_up(counters.failures + 1, first, now)
    }

    pub(super) fn fail(&mut self, now: f64, id: JobId, error: Error) {
        let job = self.job(id);
        let counters = job.facts.counters.clone();
        self.out.push(Action::Fail { job: id, counters, error });
        self.ended(now, id, JobState::Failed);
    }

    /// It goes on elsewhere.
    pub(super) fn given_away(&mut self, now: f64, id: JobId) {
        let error =
            Error::new(Kind::Cancelled, "released by the operator, for another host to go on with it")
                .advice("`hyper2kvm submit --takeover` there, with the same manifest");
        self.out.push(Action::Cancel { job: id, error: Some(error), clean: false });
        self.ended(now, id, JobState::Cancelled);
    }

    pub(super) fn retry_later(&mut self, now: f64, id: JobId, due: f64, detail: String) {
        self.job(id).facts.counters.retry_at = Some(due);
        self.wait(now, id, WaitReason::Retry, detail);
    }

    /// Its worker was stopped with the service: it goes on where it was, in the same attempt.
    pub(super) fn cut_short(&mut self, id: JobId) {
        let job = self.job(id);
        job.facts.counters.take_back();
        if job.facts.state != JobState::Waiting {
            return self.requeue(id);
        }
        let action = Action::Wait {
            job: id,
            reason: job.facts.waiting.unwrap_or(WaitReason::Paused),
            detail: job.facts.waiting_detail.clone(),
            since: job.facts.waiting_since.unwrap_or_default(),
            counters: job.facts.counters.clone(),
            suspend: false,
        };
        self.out.push(action);
    }

    pub(super) fn ended(&mut self, now: f64, id: JobId, state: JobState) {
        self.leaves_its_server(now, id, state);
        self.login_is_left(id);
        self.withdraw(id);
        self.set_timer(id, None);
        self.slots.remove(&id);
        self.ledger.release(id);
        let Some(job) = self.jobs.remove(&id) else { return };
        let Some(batch) = self.batches.get_mut(&job.facts.batch) else { return };
        batch.unfinished.remove(&id);
        batch.facts.members.insert(job.facts.vm.clone(), state);
        if state == JobState::Failed && !batch.facts.continue_on_error {
            self.give_up_the_rest(now, job.facts.batch, &job.facts.vm);
        }
        self.look_at_dependencies(now, job.facts.batch);
        self.close_batch(job.facts.batch);
    }

    pub(super) fn close_batch(&mut self, batch: BatchKey) {
        if self.batches.get(&batch).is_some_and(|known| known.unfinished.is_empty()) {
            self.batches.remove(&batch);
            self.windows.forget(batch);
            self.out.push(Action::BatchEnded { batch });
        }
    }

    /// `continue_on_error: false`: what has not started does not.
    pub(super) fn give_up_the_rest(&mut self, now: f64, batch: BatchKey, failed: &str) {
        let Some(batch) = self.batches.get(&batch) else { return };
        for id in batch.unfinished.clone() {
            let Some(job) = self.jobs.get(&id).filter(|job| !job.has_worker()) else { continue };
            let cause = format!("`{}` was not started: `{failed}` failed", job.facts.vm);
            let error =
                Error::new(Kind::Cancelled, cause).advice("`continue_on_error: true` lets the others go on");
            self.out.push(Action::Cancel { job: id, error: Some(error), clean: false });
            self.ended(now, id, JobState::Cancelled);
        }
    }

    /// Lets jobs wait for those they depend on, go when these succeeded, and fail when one did not.
    pub(super) fn look_at_dependencies(&mut self, now: f64, batch: BatchKey) {
        let Some(known) = self.batches.get(&batch) else { return };
        let members = known.facts.members.clone();
        for id in known.unfinished.clone() {
            let Some(job) = self.jobs.get(&id) else { continue };
            if job.facts.depends_on.is_empty() || job.has_worker() || job.phase == Phase::Probing {
                continue;
            }
            let lost =
                job.facts.depends_on.iter().find(|vm| {
                    matches!(members.get(*vm), None | Some(JobState::Failed | JobState::Cancelled))
                });
            if let Some(lost) = lost {
                let cause = format!("`{lost}`, which it depends on, did not succeed");
                let error = Error::new(Kind::Cancelled, cause)
                    .advice("retry that one, then this one, or the batch with `retry --failed`");
                self.withdraw(id);
                self.fail(now, id, error);
                continue;
            }
            let is_done =
                |vm: &&String| matches!(members.get(*vm), Some(JobState::Succeeded | JobState::Skipped));
            let open: Vec<&str> =
                job.facts.depends_on.iter().filter(|vm| !is_done(vm)).map(String::as_str).collect();
            let (is_ready, waits) =
                (self.ready.contains(&(job.facts.priority, id)), job.waits_for(WaitReason::Dependency));
            if open.is_empty() {
                if waits {
                    self.release(id);
                }
            } else if is_ready {
                let detail = format!("waits for {}", open.join(", "));
                self.withdraw(id);
                self.wait(now, id, WaitReason::Dependency, detail);
            }
        }
    }
}
