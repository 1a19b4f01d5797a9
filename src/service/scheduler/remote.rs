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

/// What tells a file from one that somebody has changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileMark {
    /// Device, inode, size, time.
    file: (u64, u64, u64, i64, i64),
    /// When it became that, in epoch seconds, whatever time it says of itself.
    changed_at: f64,
}

/// The files of refused logins, as they were when they were first looked at; none that is not there.
#[derive(Debug, Default)]
pub(super) struct LoginFiles {
    seen: BTreeMap<String, Option<FileMark>>,
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
    pub(super) fn logins_seen(&mut self, marks: Vec<(String, Option<FileMark>)>) {
        self.logins.is_looking = false;
        for (login, mark) in marks {
            let tried_at = self.core.refused_login_tried_at(&login).unwrap_or(f64::INFINITY);
            if is_mended(self.logins.seen.get(&login).copied(), mark, tried_at, now_epoch()) {
                tracing::info!(login, "it was changed and is tried again");
                self.logins.seen.remove(&login);
                self.core.login_changed(&login);
            } else {
                self.logins.seen.insert(login, mark);
            }
        }
    }
}

/// Whether a file is another one than when its login was refused, to a job that began at `tried_at`. `before`: how it was found then, if it was looked at.
fn is_mended(before: Option<Option<FileMark>>, file: Option<FileMark>, tried_at: f64, now: f64) -> bool {
    match (before, file) {
        (Some(before), file) => before.map(|before| before.file) != file.map(|file| file.file),
        // Whoever was refused may have read what it was before. What lies in the future says nothing of that.
        (None, Some(file)) => (tried_at..=now).contains(&file.changed_at),
        (None, None) => false,
    }
}

fn mark(file: &Path) -> Option<FileMark> {
    let file = std::fs::metadata(file).ok()?;
    let changed_at = file.ctime() as f64 + file.ctime_nsec() as f64 / 1e9;
    Some(FileMark {
        file: (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()),
        changed_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64, changed_at: f64) -> Option<FileMark> {
        Some(FileMark { file: (1, inode, 3, 4, 5), changed_at })
    }

    #[test]
    fn a_login_is_tried_again_when_its_file_was_changed_since_the_job_began_that_was_refused() {
        let (tried_at, now) = (100.0, 110.0);
        let first_look = |found| is_mended(None, found, tried_at, now);
        assert!(!first_look(file(1, 90.0)), "that is what was read");
        assert!(first_look(file(1, 105.0)), "mended while the login was under way");
        assert!(!first_look(file(1, 500.0)) && !first_look(None));
        let later = |found| is_mended(Some(file(1, 105.0)), found, tried_at, now);
        assert!(!later(file(1, 105.0)) && !later(file(1, 108.0)), "its mode is no other login");
        assert!(later(file(2, 108.0)) && later(None));
    }
}
