//! The single moves of a job between what it can be in, each of which keeps the core's sets true.
//! Part of the core, so pure.

use super::action::Action;
use super::core::{Core, JobId, millis};
use super::job::{Ending, Job, Phase};
use super::policy::{CANCEL_PATIENCE_S, HANDOVER_PATIENCE_S, RELEASE_PATIENCE_S, STOP_PATIENCE_S};
use crate::model::config::OnNetworkTimeout;
use crate::model::job::{JobState, Stage, WaitReason};
use crate::model::protocol::WorkerCommand;

impl Core {
    /// Stops a running worker where it is.
    pub(super) fn suspend(&mut self, now: f64, id: JobId, reason: WaitReason, detail: String) {
        self.set_phase(id, Phase::Suspended);
        self.record_wait(now, id, reason, detail, true);
    }

    /// A job without a running worker waits, unless it is known to wait for exactly that.
    pub(super) fn wait(&mut self, now: f64, id: JobId, reason: WaitReason, detail: String) {
        let job = self.job(id);
        if job.waits_for(reason) && job.facts.waiting_detail == detail && !reason.is_tried_again() {
            return self.arm_wait_timer(id);
        }
        self.record_wait(now, id, reason, detail, false);
    }

    pub(super) fn record_wait(
        &mut self,
        now: f64,
        id: JobId,
        reason: WaitReason,
        detail: String,
        suspend: bool,
    ) {
        let job = self.job(id);
        let since = match job.facts.waiting_since {
            Some(since) if job.waits_for(reason) => since,
            _ => now,
        };
        job.facts.state = JobState::Waiting;
        job.facts.waiting = Some(reason);
        job.facts.waiting_since = Some(since);
        job.facts.waiting_detail.clone_from(&detail);
        let mut counters = job.facts.counters.clone();
        // Should the service die meanwhile, that is no fault of the job either.
        if suspend {
            counters.take_back();
        }
        self.arm_wait_timer(id);
        self.out.push(Action::Wait { job: id, reason, detail, since, counters, suspend });
    }

    /// When a wait has to be looked at again.
    pub(super) fn arm_wait_timer(&mut self, id: JobId) {
        let (max_wait, on_timeout, give_up) = (
            self.policy.max_network_wait_s,
            self.policy.on_network_timeout,
            self.policy.retry.give_up_after_s,
        );
        // How long a network may be away says nothing of a server.
        let is_server = self.waits_for_server(id);
        let job = self.job(id);
        let since = job.facts.waiting_since.unwrap_or_default();
        let due = match job.facts.waiting {
            Some(reason) if reason.is_tried_again() => job.facts.counters.retry_at,
            Some(WaitReason::Network) => Some(match on_timeout {
                OnNetworkTimeout::Fail if !is_server => since + max_wait,
                _ => since + give_up,
            }),
            _ => None,
        };
        self.set_timer(id, due);
    }

    pub(super) fn requeue(&mut self, id: JobId) {
        let job = self.job(id);
        job.facts.state = JobState::Queued;
        job.facts.waiting = None;
        job.facts.waiting_since = None;
        let counters = job.facts.counters.clone();
        self.out.push(Action::Requeue { job: id, counters });
        self.make_ready(id);
    }

    /// What it waited for is there: it may be claimed again.
    pub(super) fn release(&mut self, id: JobId) {
        if matches!(self.job(id).phase, Phase::Idle | Phase::Suspended) {
            self.set_timer(id, None);
            self.make_ready(id);
            self.released.push(id);
        }
    }

    pub(super) fn make_ready(&mut self, id: JobId) {
        let priority = self.job(id).facts.priority;
        self.ready.insert((priority, id));
    }

    pub(super) fn withdraw(&mut self, id: JobId) {
        let priority = self.job(id).facts.priority;
        self.ready.remove(&(priority, id));
        self.space_waiters.remove(&id);
    }

    /// A worker has come to this stage.
    pub(super) fn stage_began(&mut self, id: JobId, stage: Stage) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.tells_libvirt = stage == Stage::Libvirt;
        }
    }

    pub(super) fn tell_to_end(&mut self, now: f64, id: JobId, ending: Ending) {
        let or_more = if self.job(id).tells_libvirt { HANDOVER_PATIENCE_S } else { 0.0 };
        let (command, patience) = match ending {
            Ending::Cancel { keep_partial } => {
                (WorkerCommand::Cancel { keep_partial }, CANCEL_PATIENCE_S.max(or_more))
            }
            Ending::Release => {
                (WorkerCommand::Cancel { keep_partial: true }, RELEASE_PATIENCE_S.max(or_more))
            }
            Ending::Stop | Ending::Network => (WorkerCommand::Stop, STOP_PATIENCE_S),
        };
        self.withdraw(id);
        self.set_phase(id, Phase::Ending(ending));
        self.set_timer(id, Some(now + patience));
        self.out.push(Action::Tell { job: id, command });
    }

    /// A job that is in one of the sets above.
    pub(super) fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("the core's sets hold only jobs that it knows")
    }

    pub(super) fn set_phase(&mut self, id: JobId, phase: Phase) {
        let job = self.job(id);
        job.phase = phase;
        if job.holds_slot() {
            self.slots.insert(id);
        } else {
            self.slots.remove(&id);
        }
    }

    pub(super) fn set_timer(&mut self, id: JobId, at: Option<f64>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(old) = job.timer.take() {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = at.map(millis) {
            job.timer = Some(at);
            self.timers.insert((at, id));
        }
    }

    pub(super) fn waiting_for(&self, reason: WaitReason) -> impl Iterator<Item = JobId> + '_ {
        self.jobs.iter().filter(move |(_, job)| job.waits_for(reason)).map(|(id, _)| *id)
    }
}
