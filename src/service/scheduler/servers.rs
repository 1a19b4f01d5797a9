//! Servers of remote sources that do not answer although the network is up. Part of the core, so pure.
//!
//! ```text
//!              three failures in a row, of whichever jobs                the one that tries fails: again, later
//!   answers ────────────────────────────────────────────▶ away ────────────────────────────────────────▶ away
//!      ▲                                                    │ the one that tries is answered (or, where
//!      └────────────────────────────────────────────────────┘ others were answered, too: gets bytes)
//! ```
//!
//! While a server is away its jobs wait, and one of them at a time tries, after delays that grow as those of `retry` do. Waiting costs no
//! attempt, and neither does a trial in which nobody was reached, if the server has ever answered: one that never did may be nobody's. Jobs that
//! run are left alone: they have their own patience, and a byte that one of them gets is news for all. What is not here: a network that is
//! down, and logins that are refused.

use std::collections::{BTreeMap, BTreeSet};

use super::action::Action;
use super::core::{Core, JobId, millis};
use super::job::{Job, Phase};
use crate::model::error::Error;
use crate::model::job::{JobState, Stage, WaitReason};
use crate::model::progress::ServerAway;
use crate::model::remote::RemoteNeed;

/// So many failures in a row of the jobs of one server mean that it is away.
const FAILURES: u32 = 3;

/// Whoever was chosen to try may be held back by something else: after so long another one is chosen.
const CHOOSE_AGAIN_S: f64 = 60.0;

/// What a job waits for whose server is away begins so: by this the queue tells it from one that waits for the network.
const AWAY: &str = "its server is away: ";

/// How servers stand.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// Those of which the last that was heard is a failure.
    known: BTreeMap<String, Server>,
    /// Those that have let a job in.
    answered: BTreeSet<String>,
    /// What servers are called that only their credential had named, since one of their jobs found its VM.
    called: BTreeMap<String, String>,
    /// What jobs had still to copy when they were last heard.
    left: BTreeMap<JobId, u64>,
}

#[derive(Debug, Default)]
struct Server {
    /// In a row.
    failures: u32,
    /// In the last of them nobody answered at all.
    unreached: bool,
    away: Option<Away>,
}

#[derive(Debug, Clone)]
struct Away {
    since: f64,
    cause: String,
    /// How often it was tried in vain.
    tries: u32,
    /// When it is tried next, or somebody else is chosen to try.
    due: f64,
    tried_by: Option<JobId>,
    tried_last: Option<JobId>,
}

impl Servers {
    pub(super) fn is_one_away(&self) -> bool {
        self.known.values().any(|server| server.away.is_some())
    }

    /// When they have to be looked at.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.known.values().filter_map(|server| Some(millis(server.away.as_ref()?.due))).min()
    }

    fn away(&mut self, name: &str) -> Option<&mut Away> {
        self.known.get_mut(name)?.away.as_mut()
    }
}

fn detail(server: &str, cause: &str) -> String {
    format!("{AWAY}{server}: {cause}")
}

impl Core {
    fn server_of(&self, id: JobId) -> Option<&str> {
        let name = &self.remote(id)?.server;
        Some(self.servers.called.get(name).unwrap_or(name))
    }

    /// A job's VM was found on a server that had another name until then.
    pub(super) fn server_is_called(&mut self, before: Option<String>, now: Option<&str>) {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            self.servers.called.insert(before, now.to_owned());
        }
    }

    /// Why a job is not to ask its server, if it is not.
    pub(super) fn server_blocks(&self, id: JobId) -> Option<String> {
        let name = self.server_of(id)?;
        let away = self.servers.known.get(name)?.away.as_ref()?;
        let may = away.tried_by == Some(id) || self.jobs.get(&id).is_some_and(Job::has_worker);
        (!may).then(|| detail(name, &away.cause))
    }

    /// Whether a job waits because its server is away.
    pub(super) fn waits_for_server(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|job| {
            job.waits_for(WaitReason::Network) && job.facts.waiting_detail.starts_with(AWAY)
        })
    }

    /// A job lost its server, or did not reach it, while the network was up.
    pub(super) fn server_failed(&mut self, now: f64, id: JobId, error: Error) {
        let Some(name) = self.server_of(id).map(str::to_owned) else {
            return self.count_failure(now, id, error);
        };
        let unreached = error.details().stage == Some(Stage::Load);
        let server = self.servers.known.entry(name.clone()).or_default();
        server.failures += 1;
        server.unreached = unreached;
        let before = server.away.take();
        if before.is_none() && server.failures < FAILURES {
            return self.count_failure(now, id, error);
        }
        let was_its_trial = before.as_ref().is_none_or(|away| away.tried_by == Some(id));
        let cause = error.details().cause.clone();
        let away = match before {
            Some(away) if !was_its_trial => away,
            before => {
                let tries = before.as_ref().map_or(0, |away| away.tries) + 1;
                let due = now + self.policy.retry.backoff_s(tries, (self.random)());
                if before.is_none() {
                    self.out.push(Action::Server { server: name.clone(), why: Some(cause.clone()) });
                }
                let since = before.map_or(now, |away| away.since);
                Away { since, cause, tries, due, tried_by: None, tried_last: Some(id) }
            }
        };
        let told = detail(&name, &away.cause);
        self.servers.known.entry(name.clone()).or_default().away = Some(away);
        for other in self.waiting_for_server(&name) {
            self.wait(now, other, WaitReason::Network, told.clone());
        }
        // One that was answered and then lost what came has failed like any other.
        if !unreached || !self.has_ever_answered(&name) {
            return self.count_failure(now, id, error);
        }
        let first = *self.job(id).facts.counters.first_failure_at.get_or_insert(now);
        if now - first >= self.policy.retry.give_up_after_s {
            return self.fail(now, id, error);
        }
        self.job(id).facts.counters.take_back();
        self.wait(now, id, WaitReason::Network, told);
    }

    /// A job was let in and found its VM.
    pub(super) fn server_answers(&mut self, id: JobId) {
        let Some(name) = self.server_of(id).map(str::to_owned) else { return };
        if self.servers.known.get(&name).is_some_and(|server| server.unreached) {
            self.server_is_back(&name);
        }
        self.servers.answered.insert(name);
    }

    /// Whether it let a job in, now or in the time of an earlier daemon: then it has told where a VM is.
    fn has_ever_answered(&self, name: &str) -> bool {
        let remotes = || self.jobs.values().filter_map(|job| job.facts.remote.as_ref());
        let has_told = |remote: &RemoteNeed| remote.server == name && !remote.datastores.is_empty();
        self.servers.answered.contains(name) || remotes().any(has_told)
    }

    /// How much a running job has still to copy: less than before means that bytes came.
    pub fn left_to_copy(&mut self, id: JobId, bytes: u64) {
        if self.servers.known.is_empty() {
            return self.servers.left.clear();
        }
        let before = self.servers.left.insert(id, bytes);
        if before.is_some_and(|before| bytes < before)
            && let Some(name) = self.server_of(id).map(str::to_owned)
        {
            self.server_is_back(&name);
        }
    }

    /// A job has ended.
    pub(super) fn leaves_its_server(&mut self, now: f64, id: JobId, state: JobState) {
        let Some(name) = self.server_of(id).map(str::to_owned) else { return };
        self.servers.left.remove(&id);
        if state == JobState::Succeeded {
            return self.server_is_back(&name);
        }
        if let Some(away) = self.servers.away(&name).filter(|away| away.tried_by == Some(id)) {
            (away.tried_by, away.due) = (None, now);
        }
    }

    fn server_is_back(&mut self, name: &str) {
        let Some(server) = self.servers.known.remove(name) else { return };
        if server.away.is_some() {
            self.out.push(Action::Server { server: name.to_owned(), why: None });
        }
        for id in self.waiting_for_server(name) {
            self.release(id);
        }
    }

    /// Lets one job of each server try whose time it is.
    pub(super) fn look_at_servers(&mut self, now: f64) {
        let is_due =
            |server: &Server| server.away.as_ref().is_some_and(|away| millis(away.due) <= millis(now));
        let known = self.servers.known.iter();
        let due: Vec<String> =
            known.filter(|(_, server)| is_due(server)).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(away) = self.servers.away(&name).cloned() else { continue };
            let is_trying = away.tried_by.filter(|id| self.is_trying(*id));
            let chosen = is_trying.or_else(|| self.who_tries(&name, away.tried_last));
            match (chosen, self.servers.away(&name)) {
                (Some(id), Some(away)) => {
                    (away.tried_by, away.due) = (Some(id), now + CHOOSE_AGAIN_S);
                    if is_trying.is_none() {
                        self.release(id);
                    }
                }
                // Nobody asks for it any more: who does later finds out.
                _ => _ = self.servers.known.remove(&name),
            }
        }
    }

    /// Who waits for a server tries in the order of the queue, but not twice running.
    fn who_tries(&self, name: &str, last: Option<JobId>) -> Option<JobId> {
        let place = |id: &JobId| {
            let priority = self.jobs.get(id).map_or(0, |job| job.facts.priority);
            (Some(*id) == last, priority, *id)
        };
        let ready = self.ready.iter().map(|(_, id)| *id).filter(|id| self.server_of(*id) == Some(name));
        self.waiting_for_server(name).into_iter().chain(ready).min_by_key(place)
    }

    fn is_trying(&self, id: JobId) -> bool {
        self.jobs
            .get(&id)
            .is_some_and(|job| job.phase != Phase::Idle || self.ready.contains(&(job.facts.priority, id)))
    }

    fn waiting_for_server(&self, name: &str) -> Vec<JobId> {
        let is_its = |id: &JobId| self.waits_for_server(*id) && self.server_of(*id) == Some(name);
        self.waiting_for(WaitReason::Network).filter(is_its).collect()
    }

    /// Somebody lets a job go whose server is away: it tries now, if no other one does.
    pub(super) fn let_it_try(&mut self, now: f64, id: JobId) {
        let Some(name) = self.server_of(id).filter(|_| self.waits_for_server(id)).map(str::to_owned) else {
            return;
        };
        let Some(other) = self.servers.away(&name).map(|away| away.tried_by) else { return };
        if other.is_none_or(|other| !self.is_trying(other))
            && let Some(away) = self.servers.away(&name)
        {
            (away.tried_by, away.due) = (Some(id), now + CHOOSE_AGAIN_S);
        }
    }

    /// An earlier daemon has left a job waiting for the network, or for its server: that is tried by one at once.
    pub(super) fn found_waiting_for_network(&mut self, now: f64, id: JobId) {
        if self.waits_for_server(id)
            && let Some(name) = self.server_of(id).map(str::to_owned)
        {
            let facts = &self.job(id).facts;
            let (since, told) = (facts.waiting_since.unwrap_or(now), facts.waiting_detail.clone());
            let cause = told.strip_prefix(&detail(&name, "")).unwrap_or_default().to_owned();
            let server = self.servers.known.entry(name).or_insert_with(|| Server {
                failures: FAILURES,
                unreached: true,
                away: Some(Away { since, cause, tries: 1, due: now, tried_by: None, tried_last: None }),
            });
            if let Some(away) = &mut server.away {
                away.since = away.since.min(since);
            }
        }
        self.release(id);
    }

    /// Those that are away, for people.
    #[must_use]
    pub fn servers_away(&self) -> Vec<ServerAway> {
        let shown = |(name, server): (&String, &Server)| {
            let away = server.away.as_ref()?;
            let next_at = away.tried_by.is_none().then_some(away.due);
            Some(ServerAway { server: name.clone(), since: away.since, next_at, detail: away.cause.clone() })
        };
        self.servers.known.iter().filter_map(shown).collect()
    }
}
