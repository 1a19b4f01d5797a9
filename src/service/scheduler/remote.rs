//! What the task does about remote sources: plans that follow from what a worker has found, and files of logins that are mended.
//!
//! What is not here: what follows for jobs, which the core decides ([`super::logins`]).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::core::{JobId, WorkerEnd};
use super::{Report, Scheduler};
use crate::model::error::Error;
use crate::model::job::Stage;
use crate::model::plan::Plan;
use crate::model::planner;
use crate::model::protocol::{RemoteLimits, WorkerOutcome};
use crate::model::remote::CHANGED_RULE;
use crate::sys::time::now_epoch;

/// How often the files of logins that were refused are looked at.
const LOOK_S: f64 = 5.0;

/// What tells a file from one that somebody has changed: device, inode, size, time; none if it is not there.
pub(super) type FileMark = Option<(u64, u64, u64, i64, i64)>;

/// The files of refused logins, as they were when that was heard of.
#[derive(Debug, Default)]
pub(super) struct LoginFiles {
    seen: BTreeMap<String, FileMark>,
    look_at: f64,
    is_looking: bool,
}

impl Scheduler {
    /// What a worker has found before it ended becomes a plan.
    pub(super) async fn planned(&mut self, job: JobId, end: WorkerEnd) -> WorkerEnd {
        let Some(description) = self.described.remove(&job) else { return end };
        let changed = match &end {
            WorkerEnd::Finished(WorkerOutcome::Stopped) => None,
            WorkerEnd::Finished(WorkerOutcome::Failed { error })
                if error.details().rule.as_deref() == Some(CHANGED_RULE) =>
            {
                Some(error.clone())
            }
            _ => return end,
        };
        let failed = |error: Error| {
            let error = error.stage(Stage::Load);
            WorkerEnd::Finished(WorkerOutcome::Failed { error })
        };
        let plan: Plan = match self.parts.queue.with(move |db| db.plan(job)).await {
            Ok(plan) => plan,
            Err(error) => return failed(error.transient()),
        };
        match planner::describe(&plan, &description, &self.settings) {
            Ok(plan) => WorkerEnd::Planned { plan: Box::new(plan), changed },
            Err(error) => failed(error),
        }
    }

    /// How a worker of this plan asks and reads: what others of the same server have of the connections is not his.
    pub(super) fn remote_limits(&self, job: JobId, plan: &Plan) -> RemoteLimits {
        let Some(remote) = &plan.remote else { return RemoteLimits::default() };
        let all = self.settings.limits.connections_per_host;
        let others = self.core.others_on_its_server(job);
        let taken: u32 =
            others.iter().filter_map(|other| self.live.get(other)).map(|live| live.connections).sum();
        RemoteLimits {
            connections: Some(all.saturating_sub(taken).clamp(1, remote.connections.max(1))),
            shutdown_until: self.core.may_shut_down_until(job, now_epoch()),
            ..RemoteLimits::of(&self.settings)
        }
    }

    /// A server is away, or is back.
    pub(super) fn tell_server(&mut self, server: &str, why: Option<&str>) {
        match why {
            Some(why) => {
                tracing::warn!(server, why, "it is away: its jobs wait, and one at a time tries");
                self.outlook.last_error = Some(format!("{server} is away: {why}"));
            }
            None => tracing::info!(server, "it is back: its jobs go on"),
        }
        self.outlook.status_changed();
    }

    /// Looks, elsewhere, whether a login that was refused has been mended.
    pub(super) fn look_at_logins(&mut self, now: f64) {
        let refused = self.core.refused_logins();
        self.logins.seen.retain(|login, _| refused.contains_key(login));
        let is_new = refused.keys().any(|login| !self.logins.seen.contains_key(login));
        if refused.is_empty() || self.logins.is_looking || (now < self.logins.look_at && !is_new) {
            return;
        }
        self.logins.is_looking = true;
        self.logins.look_at = now + LOOK_S;
        let reports = self.reports.0.clone();
        tokio::task::spawn_blocking(move || {
            let marks = refused.into_iter().map(|(login, file)| (login, mark(&file))).collect();
            let _ = reports.blocking_send(Report::Logins(marks));
        });
    }

    /// When they are looked at next.
    pub(super) fn logins_due(&self) -> Option<f64> {
        (!self.logins.seen.is_empty()).then_some(self.logins.look_at)
    }

    /// How the files are.
    pub(super) fn logins_seen(&mut self, marks: Vec<(String, FileMark)>) {
        self.logins.is_looking = false;
        for (login, mark) in marks {
            match self.logins.seen.get(&login) {
                None => _ = self.logins.seen.insert(login, mark),
                Some(before) if *before == mark => {}
                Some(_) => {
                    tracing::info!(login, "it was changed and is tried again");
                    self.logins.seen.remove(&login);
                    self.core.login_changed(&login);
                }
            }
        }
    }
}

fn mark(file: &Path) -> FileMark {
    let file = std::fs::metadata(file).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}
