//! All decisions about jobs, without any IO: facts and the time go in, [`Action`]s come out.
//!
//! The shell around it (the scheduler task) carries the actions out in order: it records each
//! change in the queue before anything follows from it. So after a crash the queue is at most one
//! step behind what was done, and every step can be taken again. Nothing here reads a clock, a
//! file or the database; times are epoch seconds that the shell passes in.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use super::job::{Batch, Ending, Job, Phase};
pub use super::job::{BatchFacts, Counters, JobFacts};
pub use super::ledger::{Ledger, SpaceProbe, Verdict};
use super::policy::{CANCEL_PATIENCE_S, Policy, SPACE_RECHECK_S, SPACE_WAITERS_MAX, STOP_PATIENCE_S};
use crate::model::config::{OnNetworkTimeout, PauseScope};
use crate::model::error::{Disposition, Error, Kind};
use crate::model::job::{JobState, WaitReason};
use crate::model::protocol::{Published, WorkerCommand, WorkerOutcome};

/// A job's number in the queue.
pub type JobId = i64;

/// The number of one run of a batch in the queue.
pub type BatchKey = i64;

/// What the shell has to do. Changes of state have happened in the core already.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Measure the room for a job and answer with [`Core::probed`].
    Probe {
        /// Which.
        job: JobId,
    },
    /// Record that it runs, then start a worker.
    Start {
        /// Which.
        job: JobId,
        /// What was tried, this attempt included.
        counters: Counters,
        /// Bytes that other jobs may still write to its file system.
        reserved_by_others: u64,
    },
    /// Record that it runs, then let its standing worker go on.
    Continue {
        /// Which.
        job: JobId,
    },
    /// Record that it waits; with `suspend`, tell its worker to stand still.
    Wait {
        /// Which.
        job: JobId,
        /// Why.
        reason: WaitReason,
        /// For what exactly.
        detail: String,
        /// Since when.
        since: f64,
        /// What was tried.
        counters: Counters,
        /// Whether its worker has to be told.
        suspend: bool,
    },
    /// Record that it is queued (again).
    Requeue {
        /// Which.
        job: JobId,
        /// What was tried.
        counters: Counters,
    },
    /// Record that it succeeded.
    Succeed {
        /// Which.
        job: JobId,
        /// What was tried.
        counters: Counters,
        /// What its worker published.
        published: Published,
    },
    /// Record that it failed for good.
    Fail {
        /// Which.
        job: JobId,
        /// What was tried.
        counters: Counters,
        /// Why.
        error: Error,
    },
    /// Record that it was cancelled.
    Cancel {
        /// Which.
        job: JobId,
        /// Why, if it was not the operator who named this very job.
        error: Option<Error>,
        /// What it left behind has to be removed first: no worker did.
        clean: bool,
    },
    /// Tell its worker.
    Tell {
        /// Which.
        job: JobId,
        /// What.
        command: WorkerCommand,
    },
    /// Its worker did not listen.
    Kill {
        /// Which.
        job: JobId,
    },
    /// Every job of the batch has ended.
    BatchEnded {
        /// Which.
        batch: BatchKey,
    },
    /// The network has been away for longer than allowed.
    OutageTooLong {
        /// How long, in seconds.
        seconds: f64,
    },
}

/// How a worker came to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerEnd {
    /// It said so.
    Finished(WorkerOutcome),
    /// It did not: crashed, killed, or not even started.
    Crashed(Error),
}

/// The network, as far as it decides about jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing is in the way.
    #[default]
    Up,
    /// It is down.
    Down {
        /// Which link or route is missing, for people.
        why: String,
    },
}

/// The decisions and what they rest on.
#[derive(Debug)]
pub struct Core {
    policy: Policy,
    jobs: HashMap<JobId, Job>,
    batches: HashMap<BatchKey, Batch>,
    /// Jobs that could be claimed, in the order in which they will be.
    ready: BTreeSet<(i64, JobId)>,
    /// Of those, the ones that waited until now.
    released: Vec<JobId>,
    /// Jobs that take one of the places in which jobs run.
    slots: BTreeSet<JobId>,
    /// Jobs that wait for room.
    space_waiters: BTreeSet<JobId>,
    next_space_check: Option<u64>,
    timers: BTreeSet<(u64, JobId)>,
    ledger: Ledger,
    paused: bool,
    draining: bool,
    stopping: bool,
    network: Network,
    outage_since: Option<f64>,
    outage_told: bool,
    out: Vec<Action>,
    random: fn() -> f64,
}

/// Milliseconds, so that times can be ordered.
fn millis(at: f64) -> u64 {
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
        self.batches.insert(key, Batch { facts: batch, unfinished });
        for facts in new {
            let (id, state, waiting) = (facts.id, facts.state, facts.waiting);
            self.jobs.insert(id, Job { facts, phase: Phase::Idle, percentage: 0.0, timer: None });
            match (state, waiting) {
                (JobState::Running, _) => {
                    self.job(id).facts.counters.take_back();
                    self.requeue(id);
                }
                (JobState::Waiting, Some(WaitReason::Paused | WaitReason::Auth)) => {}
                (JobState::Waiting, Some(WaitReason::Retry)) => {
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
        let exact = job.facts.counters.exact_need;
        self.set_phase(id, Phase::Idle);
        if self.start_is_blocked(id) {
            return self.release(id);
        }
        let mut reserved_by_others = 0;
        if let Some(probe) = probe {
            let need = exact.unwrap_or(probe.need);
            match self.ledger.reserve(id, &probe, need, &self.policy) {
                Verdict::Fits { reserved_by_others: bytes } => reserved_by_others = bytes,
                Verdict::Full(detail) => {
                    self.space_waiters.insert(id);
                    self.next_space_check.get_or_insert(millis(now + SPACE_RECHECK_S));
                    return self.wait(now, id, WaitReason::DiskSpace, detail);
                }
            }
        }
        self.set_phase(id, Phase::Working);
        let job = self.job(id);
        let counters = &mut job.facts.counters;
        counters.attempt += 1;
        counters.retry_at = None;
        job.percentage = 0.0;
        job.facts.state = JobState::Running;
        job.facts.waiting = None;
        let counters = job.facts.counters.clone();
        self.out.push(Action::Start { job: id, counters, reserved_by_others });
    }

    /// How far a worker is, and how many bytes it has written.
    pub fn progressed(&mut self, id: JobId, percentage: f64, written: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.percentage = job.percentage.max(percentage);
            self.ledger.wrote(id, written);
        }
    }

    /// What a worker measured that it needs, for the next attempt.
    pub fn measured(&mut self, id: JobId, need: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.facts.counters.exact_need = Some(need);
        }
    }

    /// A worker is gone.
    pub fn worker_ended(&mut self, now: f64, id: JobId, end: WorkerEnd) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.has_worker()) else { return };
        let ending = match job.phase {
            Phase::Ending(ending) => Some(ending),
            _ => None,
        };
        self.set_timer(id, None);
        self.set_phase(id, Phase::Idle);
        if self.ledger.release(id) && !self.space_waiters.is_empty() {
            self.next_space_check = Some(millis(now));
        }
        match (ending, end) {
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
            (Some(Ending::Network), _) => self.network_wait_failed(now, id),
            (Some(Ending::Stop), WorkerEnd::Finished(WorkerOutcome::Failed { error })) => {
                self.failed(now, id, error);
            }
            (Some(Ending::Stop), _) => self.cut_short(id),
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

    /// Everything stands still, running jobs too; or may go on.
    pub fn pause_all(&mut self, now: f64, paused: bool) {
        self.paused = paused;
        if paused {
            for id in self.slots.clone() {
                if self.job(id).phase == Phase::Working {
                    self.suspend(now, id, WaitReason::Paused, "all work is paused".to_owned());
                }
            }
        } else {
            let waiting: Vec<JobId> = self.waiting_for(WaitReason::Paused).collect();
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
                if !self.job(id).waits_for(WaitReason::Paused) {
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

    /// Whether no worker is left.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.jobs.values().any(Job::has_worker)
    }

    /// Whether everything is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether nothing new is started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a job is known and has not ended.
    #[must_use]
    pub fn knows(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    /// Whether a batch has jobs that have not ended.
    #[must_use]
    pub fn knows_batch(&self, batch: BatchKey) -> bool {
        self.batches.contains_key(&batch)
    }

    /// Who has reserved what.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Claims what can be claimed and hands out everything that has to be done.
    pub fn actions(&mut self, now: f64) -> Vec<Action> {
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
        [outage, timer, space].into_iter().flatten().min().map(|at| at as f64 / 1000.0)
    }

    fn schedule(&mut self, now: f64) {
        if self.stopping {
            return;
        }
        self.hold_back(now);
        let mut seen = None;
        while self.slots.len() < self.policy.slots {
            let next = match seen {
                None => self.ready.first(),
                Some(seen) => self.ready.range((Bound::Excluded(seen), Bound::Unbounded)).next(),
            };
            let Some(&(priority, id)) = next else { break };
            seen = Some((priority, id));
            if self.start_is_blocked(id) || self.batch_is_full(id) {
                continue;
            }
            if self.job(id).phase == Phase::Suspended {
                self.ready.remove(&(priority, id));
                self.set_phase(id, Phase::Working);
                let job = self.job(id);
                job.facts.state = JobState::Running;
                job.facts.waiting = None;
                job.facts.waiting_since = None;
                self.out.push(Action::Continue { job: id });
            } else if self.space_waiters.len() < SPACE_WAITERS_MAX
                || self.job(id).waits_for(WaitReason::DiskSpace)
            {
                self.ready.remove(&(priority, id));
                self.set_phase(id, Phase::Probing);
                self.out.push(Action::Probe { job: id });
            }
        }
        self.settle_the_unclaimed(now);
    }

    /// What is paused, or needs a network that is away, waits for that; it is not merely queued.
    fn hold_back(&mut self, now: f64) {
        if !self.paused && self.network == Network::Up {
            return;
        }
        for (priority, id) in self.ready.clone() {
            let (reason, detail) = if self.paused {
                (WaitReason::Paused, "all work is paused".to_owned())
            } else if let Some(detail) = self.network_blocks(id) {
                (WaitReason::Network, detail)
            } else {
                continue;
            };
            self.ready.remove(&(priority, id));
            self.wait(now, id, reason, detail);
        }
    }

    /// Jobs whose wait is over but for which there is no slot are simply queued; those that wait
    /// for room go on doing so.
    fn settle_the_unclaimed(&mut self, now: f64) {
        for id in std::mem::take(&mut self.released) {
            let Some(job) = self.jobs.get(&id) else { continue };
            let key = (job.facts.priority, id);
            if job.facts.state != JobState::Waiting || !self.ready.contains(&key) {
                continue;
            }
            if job.waits_for(WaitReason::DiskSpace) {
                self.ready.remove(&key);
                self.space_waiters.insert(id);
                self.next_space_check.get_or_insert(millis(now + SPACE_RECHECK_S));
            } else {
                self.requeue(id);
            }
        }
    }

    fn start_is_blocked(&mut self, id: JobId) -> bool {
        self.stopping
            || self.paused
            || (self.draining && self.job(id).phase != Phase::Suspended)
            || self.network_blocks(id).is_some()
    }

    fn network_blocks(&self, id: JobId) -> Option<String> {
        let Network::Down { why } = &self.network else { return None };
        let concerned = match self.policy.pause_scope {
            PauseScope::All => true,
            PauseScope::NetworkJobs => self.jobs.get(&id).is_some_and(|job| job.facts.needs_network),
        };
        (self.policy.pause_on_network_down && concerned).then(|| why.clone())
    }

    fn batch_is_full(&self, id: JobId) -> bool {
        let batch_of = |id: &JobId| self.jobs.get(id).map(|job| job.facts.batch);
        let Some(limit) = batch_of(&id)
            .and_then(|batch| self.batches.get(&batch))
            .and_then(|batch| batch.facts.parallel_limit)
        else {
            return false;
        };
        self.slots.iter().filter(|other| batch_of(other) == batch_of(&id)).count() >= limit.max(1)
    }

    fn fire_timers(&mut self, now: f64) {
        let now_ms = millis(now);
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now_ms {
                break;
            }
            self.set_timer(id, None);
            let job = self.job(id);
            match job.phase {
                Phase::Ending(_) => self.out.push(Action::Kill { job: id }),
                _ if job.waits_for(WaitReason::Retry) => self.release(id),
                _ if job.waits_for(WaitReason::Network) => self.network_wait_is_over(now, id),
                _ => {}
            }
        }
        if self.next_space_check.is_some_and(|at| at <= now_ms) {
            for id in std::mem::take(&mut self.space_waiters) {
                self.release(id);
            }
            self.next_space_check = None;
        }
        if let Some(since) = self.outage_since
            && !self.outage_told
            && now - since >= self.policy.max_network_wait_s
        {
            self.outage_told = true;
            self.out.push(Action::OutageTooLong { seconds: now - since });
        }
    }

    fn network_wait_is_over(&mut self, now: f64, id: JobId) {
        match self.job(id).phase {
            Phase::Suspended => self.tell_to_end(now, id, Ending::Network),
            _ => self.network_wait_failed(now, id),
        }
    }

    fn network_wait_failed(&mut self, now: f64, id: JobId) {
        let error = Error::new(Kind::Network, "the network stayed away for too long")
            .advice("`hyper2kvm status` says what is missing; then `hyper2kvm retry`");
        match self.policy.on_network_timeout {
            OnNetworkTimeout::Wait => self.fail(now, id, error),
            OnNetworkTimeout::Fail => self.count_failure(now, id, error),
        }
    }

    /// A failure: what now?
    fn failed(&mut self, now: f64, id: JobId, error: Error) {
        let network_is_down = self.network_blocks(id);
        let stopping = self.stopping;
        let job = self.job(id);
        let counters = &mut job.facts.counters;
        if job.percentage > counters.best_percentage {
            counters.best_percentage = job.percentage;
            counters.failures = 0;
            counters.first_failure_at = None;
        }
        match (error.disposition(), error.kind()) {
            (Disposition::NeedsOperator, Kind::DiskSpace) => {
                counters.take_back();
                let details = error.details();
                counters.exact_need = details.need_bytes.or(counters.exact_need);
                let detail = error.to_string();
                self.space_waiters.insert(id);
                self.next_space_check.get_or_insert(millis(now + SPACE_RECHECK_S));
                self.wait(now, id, WaitReason::DiskSpace, detail);
            }
            (Disposition::NeedsOperator, Kind::Auth) => {
                counters.take_back();
                self.wait(now, id, WaitReason::Auth, error.to_string());
            }
            (Disposition::Transient, Kind::Network) if network_is_down.is_some() && !stopping => {
                counters.take_back();
                self.wait(now, id, WaitReason::Network, network_is_down.unwrap_or_default());
            }
            (Disposition::Transient, _) => self.count_failure(now, id, error),
            (Disposition::Permanent | Disposition::NeedsOperator, _) => self.fail(now, id, error),
        }
    }

    /// One more failure in a row: again after a while, or the end.
    fn count_failure(&mut self, now: f64, id: JobId, error: Error) {
        let counters = &mut self.job(id).facts.counters;
        counters.failures += 1;
        let (attempt, failures) = (counters.attempt, counters.failures);
        let first = *counters.first_failure_at.get_or_insert(now);
        if self.policy.gives_up(failures, first, now) {
            return self.fail(now, id, error);
        }
        let due = now + self.policy.backoff_s(failures, (self.random)());
        self.retry_later(now, id, due, format!("attempt {attempt} failed: {}", error.details().cause));
    }

    fn fail(&mut self, now: f64, id: JobId, error: Error) {
        let job = self.job(id);
        let counters = job.facts.counters.clone();
        self.out.push(Action::Fail { job: id, counters, error });
        self.ended(now, id, JobState::Failed);
    }

    fn retry_later(&mut self, now: f64, id: JobId, due: f64, detail: String) {
        self.job(id).facts.counters.retry_at = Some(due);
        self.wait(now, id, WaitReason::Retry, detail);
    }

    /// Its worker was stopped with the service: it goes on where it was, in the same attempt.
    fn cut_short(&mut self, id: JobId) {
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

    fn ended(&mut self, now: f64, id: JobId, state: JobState) {
        self.withdraw(id);
        self.set_timer(id, None);
        self.slots.remove(&id);
        self.ledger.release(id);
        let Some(job) = self.jobs.remove(&id) else { return };
        let Some(batch) = self.batches.get_mut(&job.facts.batch) else { return };
        batch.unfinished.remove(&id);
        batch.facts.members.insert(job.facts.vm.clone(), state);
        if state == JobState::Failed && !batch.facts.continue_on_error {
            self.give_up_the_rest(now, &job);
        }
        self.look_at_dependencies(now, job.facts.batch);
        self.close_batch(job.facts.batch);
    }

    fn close_batch(&mut self, batch: BatchKey) {
        if self.batches.get(&batch).is_some_and(|known| known.unfinished.is_empty()) {
            self.batches.remove(&batch);
            self.out.push(Action::BatchEnded { batch });
        }
    }

    /// `continue_on_error: false`: what has not started does not.
    fn give_up_the_rest(&mut self, now: f64, failed: &Job) {
        let Some(batch) = self.batches.get(&failed.facts.batch) else { return };
        for id in batch.unfinished.clone() {
            let Some(job) = self.jobs.get(&id).filter(|job| !job.has_worker()) else { continue };
            let cause = format!("`{}` was not started: `{}` failed", job.facts.vm, failed.facts.vm);
            let error =
                Error::new(Kind::Cancelled, cause).advice("`continue_on_error: true` lets the others go on");
            self.out.push(Action::Cancel { job: id, error: Some(error), clean: false });
            self.ended(now, id, JobState::Cancelled);
        }
    }

    /// Lets jobs wait for those they depend on, go when these succeeded, and fail when one did not.
    fn look_at_dependencies(&mut self, now: f64, batch: BatchKey) {
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

    /// Stops a running worker where it is.
    fn suspend(&mut self, now: f64, id: JobId, reason: WaitReason, detail: String) {
        self.set_phase(id, Phase::Suspended);
        self.record_wait(now, id, reason, detail, true);
    }

    /// A job without a running worker waits, unless it is known to wait for exactly that.
    fn wait(&mut self, now: f64, id: JobId, reason: WaitReason, detail: String) {
        let job = self.job(id);
        if job.waits_for(reason) && job.facts.waiting_detail == detail && reason != WaitReason::Retry {
            return self.arm_wait_timer(id);
        }
        self.record_wait(now, id, reason, detail, false);
    }

    fn record_wait(&mut self, now: f64, id: JobId, reason: WaitReason, detail: String, suspend: bool) {
        let job = self.job(id);
        let since = match job.facts.waiting_since {
            Some(since) if job.waits_for(reason) => since,
            _ => now,
        };
        job.facts.state = JobState::Waiting;
        job.facts.waiting = Some(reason);
        job.facts.waiting_since = Some(since);
        job.facts.waiting_detail.clone_from(&detail);
        let counters = job.facts.counters.clone();
        self.arm_wait_timer(id);
        self.out.push(Action::Wait { job: id, reason, detail, since, counters, suspend });
    }

    /// When a wait has to be looked at again.
    fn arm_wait_timer(&mut self, id: JobId) {
        let (max_wait, on_timeout, give_up) = (
            self.policy.max_network_wait_s,
            self.policy.on_network_timeout,
            self.policy.retry.give_up_after_s,
        );
        let job = self.job(id);
        let since = job.facts.waiting_since.unwrap_or_default();
        let due = match job.facts.waiting {
            Some(WaitReason::Retry) => job.facts.counters.retry_at,
            Some(WaitReason::Network) => Some(match on_timeout {
                OnNetworkTimeout::Fail => since + max_wait,
                OnNetworkTimeout::Wait => since + give_up,
            }),
            _ => None,
        };
        self.set_timer(id, due);
    }

    fn requeue(&mut self, id: JobId) {
        let job = self.job(id);
        job.facts.state = JobState::Queued;
        job.facts.waiting = None;
        job.facts.waiting_since = None;
        let counters = job.facts.counters.clone();
        self.out.push(Action::Requeue { job: id, counters });
        self.make_ready(id);
    }

    /// What it waited for is there: it may be claimed again.
    fn release(&mut self, id: JobId) {
        if matches!(self.job(id).phase, Phase::Idle | Phase::Suspended) {
            self.set_timer(id, None);
            self.make_ready(id);
            self.released.push(id);
        }
    }

    fn make_ready(&mut self, id: JobId) {
        let priority = self.job(id).facts.priority;
        self.ready.insert((priority, id));
    }

    fn withdraw(&mut self, id: JobId) {
        let priority = self.job(id).facts.priority;
        self.ready.remove(&(priority, id));
        self.space_waiters.remove(&id);
    }

    fn tell_to_end(&mut self, now: f64, id: JobId, ending: Ending) {
        let (command, patience) = match ending {
            Ending::Cancel { keep_partial } => (WorkerCommand::Cancel { keep_partial }, CANCEL_PATIENCE_S),
            Ending::Stop | Ending::Network => (WorkerCommand::Stop, STOP_PATIENCE_S),
        };
        self.withdraw(id);
        self.set_phase(id, Phase::Ending(ending));
        self.set_timer(id, Some(now + patience));
        self.out.push(Action::Tell { job: id, command });
    }

    /// A job that is in one of the sets above.
    fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("the core's sets hold only jobs that it knows")
    }

    fn set_phase(&mut self, id: JobId, phase: Phase) {
        let job = self.job(id);
        job.phase = phase;
        if job.holds_slot() {
            self.slots.insert(id);
        } else {
            self.slots.remove(&id);
        }
    }

    fn set_timer(&mut self, id: JobId, at: Option<f64>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(old) = job.timer.take() {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = at.map(millis) {
            job.timer = Some(at);
            self.timers.insert((at, id));
        }
    }

    fn waiting_for(&self, reason: WaitReason) -> impl Iterator<Item = JobId> + '_ {
        self.jobs.iter().filter(move |(_, job)| job.waits_for(reason)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
