//! Logins of remote sources, and how many jobs one server, host or datastore bears. Part of the core, so pure.
//!
//! A login that was refused once is not tried again by the next job: a server that is asked with a wrong password often enough locks the account. So
//! one refusal holds every job that has the login, until somebody lets one of them go (`resume`, `retry`) or its file is changed; and of a
//! login of which nothing is known yet, one job makes the trial while the others stay queued. What is not here: looking at files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::action::Action;
use super::core::{Core, JobId};
use super::job::{Ending, Phase};
use crate::model::error::Error;
use crate::model::job::{JobState, WaitReason};
use crate::model::plan::Plan;
use crate::model::remote::{LOGIN_RULE, RemoteNeed};

/// What a job waits for whose login was refused begins so: this text is how the queue tells it from one that lacks a privilege, which is no
/// concern of others.
const REFUSED: &str = "login refused: ";

/// How logins stand.
#[derive(Debug, Default)]
pub(super) struct Logins {
    /// They have worked since they were last refused.
    works: BTreeSet<String>,
    /// They were refused.
    refused: BTreeMap<String, Refused>,
    /// Whose trial it is.
    tried_by: BTreeMap<String, JobId>,
    /// Jobs that somebody has let go although their login was refused.
    let_go: BTreeSet<JobId>,
}

#[derive(Debug)]
struct Refused {
    /// What jobs wait for.
    detail: String,
    /// When the job began that was refused: what was changed since it may not have read.
    tried_at: f64,
}

impl Logins {
    pub(super) fn is_one_refused(&self) -> bool {
        !self.refused.is_empty()
    }
}

impl Core {
    pub(super) fn remote(&self, id: JobId) -> Option<&RemoteNeed> {
        self.jobs.get(&id)?.facts.remote.as_ref()
    }

    /// Why a job is not to try its login, if it is not.
    pub(super) fn login_blocks(&self, id: JobId) -> Option<String> {
        let detail = &self.logins.refused.get(&self.remote(id)?.login)?.detail;
        let has_worker = self.jobs.get(&id).is_some_and(|job| job.phase == Phase::Suspended);
        (!has_worker && !self.logins.let_go.contains(&id)).then(|| detail.clone())
    }

    /// Whether another job finds out whether the login works.
    pub(super) fn login_is_on_trial(&self, id: JobId) -> bool {
        let Some(remote) = self.remote(id).filter(|remote| !self.logins.works.contains(&remote.login)) else {
            return false;
        };
        let by = self.logins.tried_by.get(&remote.login);
        by.is_some_and(|other| *other != id && self.slots.contains(other))
    }

    /// Whether as many jobs as may be have their source on the same server, the same host of it, or one of the same datastores.
    pub(super) fn source_is_full(&self, id: JobId) -> bool {
        let Some(remote) = self.remote(id) else { return false };
        let others: Vec<&RemoteNeed> = self
            .on_server(&remote.server)
            .filter(|other| *other != id)
            .filter_map(|other| self.remote(other))
            .collect();
        let is_full = |limit: Option<usize>, is_there: &dyn Fn(&RemoteNeed) -> bool| {
            limit.is_some_and(|limit| others.iter().filter(|other| is_there(other)).count() >= limit)
        };
        let (host, stores) = (&remote.esxi_host, &remote.datastores);
        is_full(self.policy.per_vcenter, &|_| true)
            || (host.is_some() && is_full(self.policy.per_esxi_host, &|other| other.esxi_host == *host))
            || stores
                .iter()
                .any(|store| is_full(self.policy.per_datastore, &|other| other.datastores.contains(store)))
    }

    /// Jobs that run with their source on a server.
    pub(super) fn on_server<'c>(&'c self, server: &'c str) -> impl Iterator<Item = JobId> + 'c {
        let is_there = move |id: &JobId| self.remote(*id).is_some_and(|remote| remote.server == server);
        self.slots.iter().copied().filter(is_there)
    }

    /// The others that run with their source where a job has it.
    #[must_use]
    pub fn others_on_its_server(&self, id: JobId) -> Vec<JobId> {
        let remote = self.remote(id);
        remote
            .map(|remote| self.on_server(&remote.server).filter(|other| *other != id).collect())
            .unwrap_or_default()
    }

    /// A job begins: it may be the one that finds out.
    pub(super) fn try_login(&mut self, now: f64, id: JobId) {
        let Some(login) = self.remote(id).map(|remote| remote.login.clone()) else { return };
        self.job(id).login_tried_at = now;
        if !self.logins.works.contains(&login) {
            self.logins.tried_by.insert(login, id);
        }
    }

    /// A job has logged in and found its VM.
    pub fn let_in(&mut self, id: JobId) {
        self.login_works(id);
        self.server_answers(id);
    }

    /// A job's login was taken: all others that have it may go on.
    pub fn login_works(&mut self, id: JobId) {
        let Some(login) = self.remote(id).map(|remote| remote.login.clone()) else { return };
        self.logins.tried_by.remove(&login);
        self.logins.let_go.remove(&id);
        let was_refused = self.logins.refused.remove(&login).is_some();
        self.logins.works.insert(login.clone());
        if was_refused {
            self.release_login(&login);
        }
    }

    /// Somebody has changed what the login is made of: one of its jobs tries it.
    pub fn login_changed(&mut self, login: &str) {
        if self.logins.refused.remove(login).is_some() {
            self.release_login(login);
        }
    }

    fn release_login(&mut self, login: &str) {
        let is_held = |id: &JobId| {
            self.jobs.get(id).is_some_and(|job| job.facts.waiting_detail.starts_with(REFUSED))
                && self.remote(*id).is_some_and(|remote| remote.login == login)
        };
        let held: Vec<JobId> = self.waiting_for(WaitReason::Auth).filter(is_held).collect();
        for id in held {
            self.logins.let_go.remove(&id);
            self.release(id);
        }
    }

    /// Somebody brings a job back that had ended: what he may have mended is tried.
    pub fn try_login_again(&mut self, id: JobId) {
        self.logins.let_go.insert(id);
    }

    /// A job has ended: it tries nothing any more.
    pub(super) fn login_is_left(&mut self, id: JobId) {
        self.logins.let_go.remove(&id);
    }

    /// Somebody lets a job go that waits for its login.
    pub(super) fn let_login_go(&mut self, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.waits_for(WaitReason::Auth)) {
            self.logins.let_go.insert(id);
        }
    }

    /// A job waits for somebody who mends its login, or gives its account a privilege.
    pub(super) fn wait_for_login(&mut self, now: f64, id: JobId, error: &Error) {
        self.logins.let_go.remove(&id);
        let login = self.remote(id).map(|remote| remote.login.clone());
        let file = self.remote(id).and_then(|remote| remote.login_file.as_ref());
        let mended = file.map(|file| format!("; it is tried again when {} is changed", file.display()));
        let detail = match login.filter(|_| error.details().rule.as_deref() == Some(LOGIN_RULE)) {
            Some(login) => {
                let detail = format!("{REFUSED}{error}{}", mended.unwrap_or_default());
                // Whoever was let go with it would only be refused as well.
                let others = self.logins.let_go.iter().copied();
                let others: Vec<JobId> = others
                    .filter(|id| self.remote(*id).is_some_and(|remote| remote.login == login))
                    .collect();
                others.iter().for_each(|id| _ = self.logins.let_go.remove(id));
                self.logins.works.remove(&login);
                self.logins.tried_by.remove(&login);
                let tried_at = self.job(id).login_tried_at;
                self.logins.refused.insert(login, Refused { detail: detail.clone(), tried_at });
                detail
            }
            None => error.to_string(),
        };
        self.wait(now, id, WaitReason::Auth, detail);
    }

    /// An earlier daemon has left a job waiting for its login: it is as refused as it was.
    pub(super) fn found_waiting_for_login(&mut self, id: JobId) {
        let Some(login) = self.remote(id).map(|remote| remote.login.clone()) else { return };
        let facts = &self.job(id).facts;
        let (detail, tried_at) = (facts.waiting_detail.clone(), facts.waiting_since.unwrap_or_default());
        if detail.starts_with(REFUSED) {
            // Of several that wait for it, the last one that was refused counts: what it read need not be tried once more.
            let before = self.logins.refused.get(&login).map_or(0.0, |refused| refused.tried_at);
            let tried_at = tried_at.max(before);
            self.logins.refused.insert(login, Refused { detail, tried_at });
        }
    }

    /// Logins that were refused, and the files that say them.
    #[must_use]
    pub fn refused_logins(&self) -> BTreeMap<String, PathBuf> {
        let remotes = self.jobs.values().filter_map(|job| job.facts.remote.as_ref());
        let refused = remotes.filter(|remote| self.logins.refused.contains_key(&remote.login));
        refused.filter_map(|remote| Some((remote.login.clone(), remote.login_file.clone()?))).collect()
    }

    /// When the job began to which a login was refused; none if it is not refused.
    #[must_use]
    pub fn refused_login_tried_at(&self, login: &str) -> Option<f64> {
        self.logins.refused.get(login).map(|refused| refused.tried_at)
    }

    /// The VMs that a job stands for are jobs: it has ended, whatever it was told meanwhile.
    pub(super) fn expanded(&mut self, now: f64, id: JobId) {
        self.login_works(id);
        self.ended(now, id, JobState::Skipped);
    }

    /// Whether somebody has cancelled it, and its worker has not ended yet: what it stands for is not wanted either.
    pub(super) fn is_being_cancelled(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|job| matches!(job.phase, Phase::Ending(Ending::Cancel { .. })))
    }

    /// A job's VM was found, and its plan made by that. `changed`: it had been found before, as something else.
    pub(super) fn planned(&mut self, now: f64, id: JobId, plan: Box<Plan>, changed: Option<Error>) {
        self.let_in(id);
        let before = self.remote(id).map(|remote| remote.server.clone());
        let need = plan.remote.as_ref().map(|remote| remote.need());
        self.server_is_called(before, need.as_ref().map(|need| need.server.as_str()));
        let job = self.job(id);
        job.facts.remote = need;
        job.facts.counters.exact_need = None;
        self.out.push(Action::Plan { job: id, plan });
        match changed {
            None => {
                self.job(id).facts.counters.take_back();
                self.requeue(id);
            }
            Some(error) => self.count_failure(now, id, error),
        }
    }
}
