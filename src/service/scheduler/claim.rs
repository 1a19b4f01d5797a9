//! Which job is next: order, slots, and what holds jobs back. Part of the core, so pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::action::{Action, Network};
use super::core::{ALL_PAUSED, Core, JobId, millis};
use super::job::{Ending, Phase};
use super::ledger::SpaceProbe;
use super::policy::SPACE_WAITERS_MAX;
use crate::model::config::PauseScope;
use crate::model::job::{JobState, WaitReason};

impl Core {
    pub(super) fn schedule(&mut self, now: f64) {
        if self.stopping {
            return;
        }
        self.look_at_servers(now);
        self.hold_back(now);
        let crowded = self.crowded();
        let mut seen = None;
        while self.slots.len() < self.policy.slots {
            let next = match seen {
                None => self.ready.first(),
                Some(seen) => self.ready.range((Bound::Excluded(seen), Bound::Unbounded)).next(),
            };
            let Some(&(priority, id)) = next else { break };
            seen = Some((priority, id));
            if self.start_is_blocked(id)
                || self.batch_is_full(id)
                || self.source_is_full(id)
                || self.job(id).file_system.is_some_and(|file_system| self.target_is_full(id, file_system))
                || self.login_is_on_trial(id)
            {
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
            } else if self.job(id).waits_for(WaitReason::DiskSpace)
                || self.job(id).file_system.is_none_or(|file_system| !crowded.contains(&file_system))
            {
                self.ready.remove(&(priority, id));
                self.set_phase(id, Phase::Probing);
                self.try_login(now, id);
                self.out.push(Action::Probe { job: id });
            }
        }
        self.settle_the_unclaimed();
    }

    /// File systems on which so many jobs wait for room that those behind them are not even asked.
    fn crowded(&self) -> BTreeSet<u64> {
        let mut waiters: BTreeMap<u64, usize> = BTreeMap::new();
        let of = |id: &JobId| self.jobs.get(id).and_then(|job| job.file_system);
        for file_system in self.space_waiters.iter().filter_map(of) {
            *waiters.entry(file_system).or_default() += 1;
        }
        waiters
            .into_iter()
            .filter(|(_, count)| *count >= SPACE_WAITERS_MAX)
            .map(|(file_system, _)| file_system)
            .collect()
    }

    /// Whether as many other jobs as may be write to a file system.
    fn target_is_full(&self, id: JobId, file_system: u64) -> bool {
        self.policy.per_target_fs.is_some_and(|limit| {
            let others = self.slots.iter().filter(|other| **other != id);
            others.filter(|other| self.ledger.is_on(**other, file_system)).count() >= limit
        })
    }

    /// The first file system that a job would write to where as many others do as may.
    pub(super) fn full_target(&self, id: JobId, probe: &SpaceProbe) -> Option<u64> {
        probe.file_systems().find(|file_system| self.target_is_full(id, *file_system))
    }

    /// Whether a job for which there is no room stays queued behind all those that wait for some.
    pub(super) fn is_behind_many(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|job| {
            !job.waits_for(WaitReason::DiskSpace)
                && job.file_system.is_some_and(|file_system| self.crowded().contains(&file_system))
        })
    }

    /// What is paused, outside its window, needs a network or a server that is away or has a login that was refused, waits for that; it is not merely queued.
    pub(super) fn hold_back(&mut self, now: f64) {
        let is_open = self.network == Network::Up && !self.windows.is_one_closed();
        let is_one_held = self.logins.is_one_refused() || self.servers.is_one_away();
        if !self.paused && is_open && !is_one_held {
            return;
        }
        for (priority, id) in self.ready.clone() {
            let (reason, detail) = if self.paused {
                (WaitReason::Paused, ALL_PAUSED.to_owned())
            } else if let Some(detail) = self.window_blocks(id) {
                (WaitReason::Window, detail)
            } else if let Some(detail) = self.network_blocks(id).or_else(|| self.server_blocks(id)) {
                (WaitReason::Network, detail)
            } else if let Some(detail) = self.login_blocks(id) {
                (WaitReason::Auth, detail)
            } else {
                continue;
            };
            self.ready.remove(&(priority, id));
            self.wait(now, id, reason, detail);
        }
    }

    /// Jobs whose wait is over but for which there is no slot are simply queued. Those that wait for
    /// room stay ready until they were asked: else the first of them would be asked again and again,
    /// and one that fits behind them never.
    pub(super) fn settle_the_unclaimed(&mut self) {
        for id in std::mem::take(&mut self.released) {
            let Some(job) = self.jobs.get(&id) else { continue };
            let key = (job.facts.priority, id);
            if job.facts.state != JobState::Waiting || !self.ready.contains(&key) {
                continue;
            }
            if !job.waits_for(WaitReason::DiskSpace) {
                self.requeue(id);
            }
        }
    }

    pub(super) fn start_is_blocked(&mut self, id: JobId) -> bool {
        self.stopping
            || self.paused
            || (self.draining && self.job(id).phase != Phase::Suspended)
            || self.window_blocks(id).is_some()
            || self.network_blocks(id).is_some()
            || self.server_blocks(id).is_some()
            || self.login_blocks(id).is_some()
    }

    pub(super) fn network_blocks(&self, id: JobId) -> Option<String> {
        let Network::Down { why } = &self.network else { return None };
        let concerned = match self.policy.pause_scope {
            PauseScope::All => true,
            PauseScope::NetworkJobs => self.jobs.get(&id).is_some_and(|job| job.facts.needs_network),
        };
        (self.policy.pause_on_network_down && concerned).then(|| why.clone())
    }

    pub(super) fn batch_is_full(&self, id: JobId) -> bool {
        let batch_of = |id: &JobId| self.jobs.get(id).map(|job| job.facts.batch);
        let Some(limit) = batch_of(&id)
            .and_then(|batch| self.batches.get(&batch))
            .and_then(|batch| batch.facts.parallel_limit)
        else {
            return false;
        };
        self.slots.iter().filter(|other| batch_of(other) == batch_of(&id)).count() >= limit.max(1)
    }

    pub(super) fn fire_timers(&mut self, now: f64) {
        let now_ms = millis(now);
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now_ms {
                break;
            }
            self.set_timer(id, None);
            let job = self.job(id);
            match job.phase {
                Phase::Ending(_) => self.out.push(Action::Kill { job: id }),
                _ if job.is_tried_again() => self.release(id),
                _ if job.waits_for(WaitReason::Network) => self.network_wait_is_over(now, id),
                _ => {}
            }
        }
        self.ask_for_room(now);
        if let Some(since) = self.outage_since
            && !self.outage_told
            && now - since >= self.policy.max_network_wait_s
        {
            self.outage_told = true;
            self.out.push(Action::OutageTooLong { seconds: now - since });
        }
    }

    pub(super) fn network_wait_is_over(&mut self, now: f64, id: JobId) {
        match self.job(id).phase {
            Phase::Suspended => self.tell_to_end(now, id, Ending::Network),
            _ => self.network_wait_failed(now, id),
        }
    }
}
