//! All decisions about jobs, without any IO: facts and the time go in, [`Action`]s come out.
//!
//! The shell around it (the scheduler task) carries the actions out in order: it records each
//! change in the queue before anything follows from it. So after a crash the queue is at most one
//! step behind what was done, and every step can be taken again. Nothing here reads a clock, a
//! file or the database; times are epoch seconds that the shell passes in.

use std::collections::{BTreeSet, HashMap};

pub use super::action::{Action, Network, WorkerEnd};
use super::job::{Batch, Ending, Job, Phase};
pub use super::job::{BatchFacts, Counters, JobFacts};
pub use super::ledger::{Ledger, SpaceProbe, Verdict};
use super::logins::Logins;
use super::policy::{Policy, STOP_PATIENCE_S};
use super::servers::Servers;
use super::space::Rest;
use super::windows::Windows;
use crate::model::error::Error;
use crate::model::job::{JobState, WaitReason};
use crate::model::protocol::WorkerOutcome;

/// A job's number in the queue.
pub type JobId = i64;

/// The number of one run of a batch in the queue.
pub type BatchKey = i64;

/// What a job waits for that stands still with everything else. One that was paused by its own name waits
/// for something else, and goes on only by its own name: this text is how the queue keeps the difference.
pub(super) const ALL_PAUSED: &str = "all work is paused";

/// The decisions and what they rest on.
#[derive(Debug)]
pub struct Core {
    pub(super) policy: Policy,
    pub(super) jobs: HashMap<JobId, Job>,
    pub(super) batches: HashMap<BatchKey, Batch>,
    /// Jobs that could be claimed, in the order in which they will be.
    pub(super) ready: BTreeSet<(i64, JobId)>,
    /// Of those, the ones that waited until now.
    pub(super) released: Vec<JobId>,
    /// Jobs that take one of the places in which jobs run.
    pub(super) slots: BTreeSet<JobId>,
    /// Jobs that wait for room.
    pub(super) space_waiters: BTreeSet<JobId>,
    pub(super) next_space_check: Option<u64>,
    pub(super) timers: BTreeSet<(u64, JobId)>,
    pub(super) windows: Windows,
    pub(super) logins: Logins,
    pub(super) servers: Servers,
    pub(super) ledger: Ledger,
    pub(super) paused: bool,
    pub(super) draining: bool,
    pub(super) stopping: bool,
    pub(super) network: Network,
    pub(super) outage_since: Option<f64>,
    pub(super) outage_told: bool,
    pub(super) out: Vec<Action>,
    pub(super) random: fn() -> f64,
}

/// Milliseconds, so that times can be ordered.
pub(super) fn millis(at: f64) -> u64 {
    (at * 1000.0).max(0.0) as u64
}

impl Core {
    /// Nothing to do yet. `random` gives numbers in 0..1 for the spread of retries.
    #[must_use]
    pub fn new(policy: Policy, random: fn() -> f64) -> Core {
        Core {
            policy,
            jobs: HashMap::new(),
            batches: HashMap::new(),
            ready: BTreeSet::new(),
            released: Vec::new(),
            slots: BTreeSet::new(),
            space_waiters: BTreeSet::new(),
            next_space_check: None,
            timers: BTreeSet::new(),
            windows: Windows::default(),
            logins: Logins::default(),
            servers: Servers::default(),
            ledger: Ledger::default(),
            paused: false,
            draining: false,
            stopping: false,
            network: Network::Up,
            outage_since: None,
            outage_told: false,
            out: Vec::new(),
            random,
        }
    }

    /// Takes in a batch and those of its jobs that have not ended.
    ///
    /// A job that the queue calls running belonged to a daemon that is gone: it is queued again,
    /// and the attempt is not counted.
    pub fn load(&mut self, now: f64, batch: BatchFacts, jobs: Vec<JobFacts>) {
        let key = batch.key;
        let new: Vec<JobFacts> = jobs.into_iter().filter(|job| !self.jobs.contains_key(&job.id)).collect();
        let mut unfinished = self.batches.remove(&key).map(|known| known.unfinished).unwrap_or_default();
        unfinished.extend(new.iter().map(|job| job.id));
        self.windows.watch(now, key, batch.window.as_ref());
        self.batches.insert(key, Batch { facts: batch, unfinished });
        for facts in new {
            let (id, state, waiting) = (facts.id, facts.state, facts.waiting);
            self.jobs.insert(
                id,
                Job {
                    facts,
                    phase: Phase::Idle,
                    percentage: 0.0,
                    tells_libvirt: false,
                    has_passed: false,
                    file_system: None,
                    lacked_at: None,
                    rest: Rest::default(),
                    login_tried_at: 0.0,
                    timer: None,
                },
            );
            match (state, waiting) {
                (JobState::Running, _) => {
                    self.job(id).facts.counters.take_back();
                    self.requeue(id);
                }
                (JobState::Waiting, Some(WaitReason::Auth)) => self.found_waiting_for_login(id),
                (JobState::Waiting, Some(WaitReason::Network)) => self.found_waiting_for_network(now, id),
                (JobState::Waiting, Some(WaitReason::Paused)) if self.paused || self.job(id).is_held() => {}
                (JobState::Waiting, Some(reason)) if reason.is_tried_again() => {
                    let due = self.job(id).facts.counters.retry_at.unwrap_or(now);
                    self.set_timer(id, Some(due));
                }
                _ => self.release(id),
            }
        }
        self.look_at_dependencies(now, key);
        self.close_batch(key);
    }

    /// The answer to [`Action::Probe`]; without one the worker will find out what is wrong.
    pub fn probed(&mut self, now: f64, id: JobId, probe: Option<SpaceProbe>) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.phase == Phase::Probing) else { return };
        let (exact, lacked_at) = (job.facts.counters.exact_need, job.lacked_at.clone());
        self.set_phase(id, Phase::Idle);
        if self.start_is_blocked(id) {
            return self.release(id);
        }
        let (mut reserved_by_others, mut kept_free) = (0, 0);
        if let Some(probe) = probe {
            let full = self.full_target(id, &probe);
            self.job(id).file_system = Some(full.unwrap_or(probe.file_system));
            if full.is_some() {
                return self.release(id);
            }
            let exact = exact.map(|need| (need, lacked_at.as_deref()));
            match self.ledger.reserve(id, &probe, exact, &self.policy) {
                Verdict::Fits { reserved_by_others: bytes } => {
                    reserved_by_others = bytes;
                    kept_free = self.policy.reserve(probe.total);
                }
                Verdict::Full { file_system, detail } => {
                    self.job(id).file_system = Some(file_system);
                    if self.is_behind_many(id) {
                        return self.release(id);
                    }
                    self.job(id).rest = Rest::default();
                    return self.await_room(now, id, detail);
                }
            }
        }
        self.set_phase(id, Phase::Working);
        let job = self.job(id);
        job.facts.counters.begin_attempt();
        (job.percentage, job.tells_libvirt, job.has_passed) = (0.0, false, false);
        job.facts.state = JobState::Running;
        job.facts.waiting = None;
        let counters = job.facts.counters.clone();
        self.out.push(Action::Start { job: id, counters, reserved_by_others, kept_free });
    }

    /// The directories of a job that was to be started may not be written.
    pub fn kept_out(&mut self, now: f64, id: JobId, error: Error) {
        if self.jobs.get(&id).is_some_and(|job| job.phase == Phase::Probing) {
            self.set_phase(id, Phase::Idle);
            self.failed(now, id, error);
        }
    }

    /// How far a worker is, and how many bytes it has written.
    pub fn progressed(&mut self, id: JobId, percentage: f64, written: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.percentage = job.percentage.max(percentage);
            self.ledger.wrote(id, written);
        }
    }

    /// What a worker will still write, now that it has looked: better than the estimate before its start.
    pub fn measured(&mut self, now: f64, id: JobId, still: u64) {
        if self.ledger.measured(id, still) && !self.space_waiters.is_empty() {
            self.next_space_check = Some(millis(now));
        }
    }

    /// A worker is gone.
    pub fn worker_ended(&mut self, now: f64, id: JobId, end: WorkerEnd) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.has_worker()) else { return };
        let ending = match job.phase {
            Phase::Ending(ending) => Some(ending),
            _ => None,
        };
        // One that was resumed and waits for a slot (so is ready) is not held any more.
        let held = job.phase == Phase::Suspended
            && job.waits_for(WaitReason::Paused)
            && !self.ready.contains(&(job.facts.priority, id));
        let held = held.then(|| job.facts.waiting_detail.clone());
        self.set_timer(id, None);
        self.set_phase(id, Phase::Idle);
        if self.ledger.release(id) && !self.space_waiters.is_empty() {
            self.next_space_check = Some(millis(now));
        }
        match (ending, end) {
            (_, WorkerEnd::Expanded) => self.expanded(now, id),
            (_, WorkerEnd::Finished(WorkerOutcome::Succeeded(published))) => {
                let counters = self.job(id).facts.counters.clone();
                self.out.push(Action::Succeed { job: id, counters, published });
                self.ended(now, id, JobState::Succeeded);
            }
            (Some(Ending::Cancel { .. }), WorkerEnd::Finished(WorkerOutcome::Cancelled))
            | (None, WorkerEnd::Finished(WorkerOutcome::Cancelled)) => {
                self.out.push(Action::Cancel { job: id, error: None, clean: false });
                self.ended(now, id, JobState::Cancelled);
            }
            (Some(Ending::Cancel { keep_partial }), _) => {
                self.out.push(Action::Cancel { job: id, error: None, clean: !keep_partial });
                self.ended(now, id, JobState::Cancelled);
            }
            (Some(Ending::Release), _) => self.given_away(now, id),
            (Some(Ending::Network), _) => self.network_wait_failed(now, id),
            (Some(Ending::Stop), WorkerEnd::Finished(WorkerOutcome::Failed { error })) => {
                self.failed(now, id, error);
            }
            (Some(Ending::Stop), _) => self.cut_short(id),
            (None, WorkerEnd::Planned { plan, changed }) => self.planned(now, id, plan, changed),
            (None, WorkerEnd::Finished(WorkerOutcome::Stopped)) if self.job(id).has_passed => {
                self.await_pass(now, id);
            }
            (None, WorkerEnd::Finished(WorkerOutcome::Stopped)) => {
                // Somebody else told it to. At once again would be a fast circle if they go on.
                self.job(id).facts.counters.take_back();
                let due = now + self.policy.retry.base_delay_s;
                self.retry_later(now, id, due, "its worker was stopped from outside".to_owned());
            }
            (None, WorkerEnd::Finished(WorkerOutcome::Failed { error }) | WorkerEnd::Crashed(error)) => {
                self.failed(now, id, error);
            }
        }
        // The failure counts, but a job that is held goes on only when it is let go.
        if let Some(detail) = held
            && self.knows(id)
        {
            self.withdraw(id);
            self.wait(now, id, WaitReason::Paused, detail);
        }
    }

    /// Another network.
    pub fn set_network(&mut self, now: f64, network: Network) {
        if network == self.network {
            return;
        }
        self.network = network;
        if let Network::Down { .. } = self.network {
            if self.outage_since.is_none() {
                self.outage_since = Some(now);
                self.outage_told = false;
            }
            for id in self.slots.clone() {
                if self.job(id).phase == Phase::Working
                    && let Some(detail) = self.network_blocks(id)
                {
                    self.suspend(now, id, WaitReason::Network, detail);
                }
            }
        } else {
            self.outage_since = None;
            let waiting: Vec<JobId> = self.waiting_for(WaitReason::Network).collect();
            for id in waiting {
                self.release(id);
            }
        }
    }

    /// Other settings.
    pub fn set_policy(&mut self, now: f64, policy: Policy) {
        self.policy = policy;
        self.next_space_check = (!self.space_waiters.is_empty()).then(|| millis(now));
        let waiting: Vec<JobId> = self.waiting_for(WaitReason::Network).collect();
        for id in waiting {
            if self.network_blocks(id).is_none() {
                self.release(id);
            }
        }
    }

    /// Everything stands still, running jobs too; or may go on, but for what was paused by its own name.
    pub fn pause_all(&mut self, now: f64, paused: bool) {
        self.paused = paused;
        if paused {
            for id in self.slots.clone() {
                if self.job(id).phase == Phase::Working {
                    self.suspend(now, id, WaitReason::Paused, ALL_PAUSED.to_owned());
                }
            }
        } else {
            let held = self.held();
            let waiting = self.waiting_for(WaitReason::Paused).filter(|id| !held.contains(id));
            let waiting: Vec<JobId> = waiting.collect();
            let mut batches = BTreeSet::new();
            for id in waiting {
                self.release(id);
                batches.insert(self.job(id).facts.batch);
            }
            for batch in batches {
                self.look_at_dependencies(now, batch);
            }
        }
    }

    /// One job stands still.
    pub fn pause(&mut self, now: f64, id: JobId) -> Result<(), &'static str> {
        const DETAIL: &str = "paused by the operator";
        match self.jobs.get(&id).ok_or("has ended")?.phase {
            Phase::Ending(_) => return Err("is being ended"),
            Phase::Working => self.suspend(now, id, WaitReason::Paused, DETAIL.to_owned()),
            Phase::Probing | Phase::Idle | Phase::Suspended => {
                if !self.job(id).is_held() {
                    let standing = self.job(id).phase == Phase::Suspended;
                    self.withdraw(id);
                    if !standing {
                        self.set_phase(id, Phase::Idle);
                    }
                    self.wait(now, id, WaitReason::Paused, DETAIL.to_owned());
                }
            }
        }
        Ok(())
    }

    /// One job may go on; what else it waits for is tried at once.
    pub fn resume(&mut self, now: f64, id: JobId) -> Result<(), &'static str> {
        if self.paused {
            return Err("is held because all work is paused: `hyper2kvm resume` lets everything go on");
        }
        let job = self.jobs.get(&id).ok_or("has ended")?;
        if let Phase::Ending(_) = job.phase {
            return Err("is being ended");
        }
        if job.facts.state == JobState::Waiting {
            self.space_waiters.remove(&id);
            self.let_login_go(id);
            self.let_it_try(now, id);
            self.job(id).facts.counters.retry_at = None;
            self.release(id);
            let batch = self.job(id).facts.batch;
            self.look_at_dependencies(now, batch);
        }
        Ok(())
    }

    /// One job ends.
    pub fn cancel(&mut self, now: f64, id: JobId, keep_partial: bool) -> Result<(), &'static str> {
        let job = self.jobs.get(&id).ok_or("has ended")?;
        match job.phase {
            Phase::Ending(Ending::Cancel { .. }) => {}
            Phase::Working | Phase::Suspended | Phase::Ending(_) => {
                self.tell_to_end(now, id, Ending::Cancel { keep_partial });
            }
            Phase::Idle | Phase::Probing => {
                self.withdraw(id);
                self.set_phase(id, Phase::Idle);
                self.out.push(Action::Cancel { job: id, error: None, clean: !keep_partial });
                self.ended(now, id, JobState::Cancelled);
            }
        }
        Ok(())
    }

    /// One job ends here, so that another host goes on with it.
    pub fn release_to_others(&mut self, now: f64, id: JobId) -> Result<(), &'static str> {
        let job = self.jobs.get(&id).ok_or("has ended")?;
        match job.phase {
            Phase::Ending(Ending::Cancel { .. } | Ending::Release) => {}
            Phase::Working | Phase::Suspended | Phase::Ending(_) => {
                self.tell_to_end(now, id, Ending::Release);
            }
            Phase::Idle | Phase::Probing => {
                self.withdraw(id);
                self.set_phase(id, Phase::Idle);
                self.given_away(now, id);
            }
        }
        Ok(())
    }

    /// Another place in the queue.
    pub fn set_priority(&mut self, id: JobId, priority: i64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let was_ready = self.ready.remove(&(job.facts.priority, id));
        job.facts.priority = priority;
        if was_ready {
            self.ready.insert((priority, id));
        }
    }

    /// Start nothing new, or do again.
    pub fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// The service ends: every worker is told to checkpoint.
    pub fn stop(&mut self, now: f64) {
        self.stopping = true;
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            match self.job(id).phase {
                Phase::Working | Phase::Suspended => self.tell_to_end(now, id, Ending::Stop),
                Phase::Ending(_) => self.set_timer(id, Some(now + STOP_PATIENCE_S)),
                Phase::Idle | Phase::Probing => {}
            }
        }
    }

    /// Claims what can be claimed and hands out everything that has to be done.
    pub fn actions(&mut self, now: f64) -> Vec<Action> {
        self.look_at_windows(now);
        self.fire_timers(now);
        self.schedule(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Core::actions`] has to be asked again at the latest, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<f64> {
        let outage = self
            .outage_since
            .filter(|_| !self.outage_told)
            .map(|since| millis(since + self.policy.max_network_wait_s));
        let timer = self.timers.first().map(|(at, _)| *at);
        let space = self.next_space_check.filter(|_| !self.stopping);
        let windows = self.windows.next_due().filter(|_| !self.stopping);
        let servers = self.servers.next_due().filter(|_| !self.stopping);
        [outage, timer, space, windows, servers].into_iter().flatten().min().map(|at| at as f64 / 1000.0)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
pub(super) mod tests;
