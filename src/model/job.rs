//! What a job and a batch can be in, and the only place where that changes.
//!
//! A job is one VM; a batch is one submission. [`JobState::after`] is the whole state machine: who
//! wants to change a job asks it, and a change that is not in its table is refused. Nothing here
//! knows time, files or the database.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Error, Kind, Result};

/// The fixed row of stages that every VM goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Resolve what is named, check it, refuse what cannot succeed.
    Load,
    /// Bring the source's data to this machine.
    Extraction,
    /// Find out what guest is inside.
    Inspect,
    /// Repair the guest for KVM.
    Fix,
    /// Write the final format.
    Convert,
    /// Prove that the result holds what the source held.
    Validate,
    /// Prove that the result boots.
    BootTest,
    /// Hand the result to libvirt.
    Libvirt,
}

impl Stage {
    /// In the order in which they run.
    pub const ALL: [Stage; 8] = [
        Stage::Load,
        Stage::Extraction,
        Stage::Inspect,
        Stage::Fix,
        Stage::Convert,
        Stage::Validate,
        Stage::BootTest,
        Stage::Libvirt,
    ];

    /// The stages that this build can do: libvirt is told by one that knows it.
    pub const BUILT: &[Stage] =
        if cfg!(feature = "libvirt") { &Stage::ALL } else { Stage::ALL.split_at(7).0 };

    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Load => "load",
            Stage::Extraction => "extraction",
            Stage::Inspect => "inspect",
            Stage::Fix => "fix",
            Stage::Convert => "convert",
            Stage::Validate => "validate",
            Stage::BootTest => "boot_test",
            Stage::Libvirt => "libvirt",
        }
    }

    /// The stage of this name.
    pub fn parse(name: &str) -> Result<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name).ok_or_else(|| {
            Error::new(Kind::Manifest, format!("there is no stage `{name}`"))
                .allowed(Stage::ALL.map(Stage::name))
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The network is down.
    Network,
    /// The next attempt is due later.
    Retry,
    /// An operator paused it.
    Paused,
    /// Another job has to end first.
    Dependency,
    /// There is no room for what it will write.
    DiskSpace,
    /// Its maintenance window is closed.
    Window,
    /// The cutover has not been asked for.
    Cutover,
    /// libvirt does not answer.
    Libvirt,
    /// A login was refused.
    Auth,
    /// Somebody else has the source open.
    SourceBusy,
}

impl WaitReason {
    /// Every reason.
    pub const ALL: [WaitReason; 10] = [
        WaitReason::Network,
        WaitReason::Retry,
        WaitReason::Paused,
        WaitReason::Dependency,
        WaitReason::DiskSpace,
        WaitReason::Window,
        WaitReason::Cutover,
        WaitReason::Libvirt,
        WaitReason::Auth,
        WaitReason::SourceBusy,
    ];

    /// Whether the wait lasts until a person does something that nobody has done yet. A network that is down is told of as itself.
    #[must_use]
    pub fn asks_for_somebody(self) -> bool {
        match self {
            WaitReason::DiskSpace | WaitReason::Libvirt | WaitReason::Auth | WaitReason::SourceBusy => true,
            WaitReason::Network
            | WaitReason::Retry
            | WaitReason::Paused
            | WaitReason::Dependency
            | WaitReason::Window
            | WaitReason::Cutover => false,
        }
    }

    /// Whether it ends at a time that was set: the work is tried again then.
    #[must_use]
    pub fn is_tried_again(self) -> bool {
        matches!(self, WaitReason::Retry | WaitReason::Libvirt | WaitReason::Cutover)
    }

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WaitReason::Network => "network",
            WaitReason::Retry => "retry",
            WaitReason::Paused => "paused",
            WaitReason::Dependency => "dependency",
            WaitReason::DiskSpace => "disk_space",
            WaitReason::Window => "window",
            WaitReason::Cutover => "cutover",
            WaitReason::Libvirt => "libvirt",
            WaitReason::Auth => "auth",
            WaitReason::SourceBusy => "source_busy",
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a job is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; no worker yet.
    Queued,
    /// A worker is at it and holds a slot.
    Running,
    /// Cannot go on now; holds no slot. The reason is kept beside the state.
    Waiting,
    /// The result is complete, checked and published.
    Succeeded,
    /// It ended without a result.
    Failed,
    /// The operator ended it.
    Cancelled,
    /// There was nothing to do (done before).
    Skipped,
}

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobChange {
    /// A slot is free and everything it needs is there: a worker starts, or one that stood still goes on.
    Claim,
    /// It has to wait.
    Wait,
    /// What it waited for is there, or its worker is gone and it has to be started again.
    Requeue,
    /// The worker published the result.
    Succeed,
    /// It failed for good.
    Fail,
    /// The operator ended it.
    Cancel,
    /// There is nothing to do.
    Skip,
    /// The operator wants an ended job tried again.
    Retry,
}

impl JobState {
    /// Every state.
    pub const ALL: [JobState; 7] = [
        JobState::Queued,
        JobState::Running,
        JobState::Waiting,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Skipped,
    ];

    /// The name in files and in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Waiting => "waiting",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Skipped => "skipped",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<JobState> {
        JobState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the job has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Skipped)
    }

    /// The whole state machine: the state after a change, or why there is none.
    pub fn after(self, change: JobChange) -> Result<JobState> {
        use JobChange as C;
        use JobState as S;
        match (self, change) {
            (S::Queued | S::Waiting, C::Claim) => Ok(S::Running),
            (S::Queued | S::Running | S::Waiting, C::Wait) => Ok(S::Waiting),
            (S::Running | S::Waiting, C::Requeue) => Ok(S::Queued),
            (S::Running, C::Succeed) => Ok(S::Succeeded),
            (S::Queued | S::Running | S::Waiting, C::Fail) => Ok(S::Failed),
            (S::Queued | S::Running | S::Waiting, C::Cancel) => Ok(S::Cancelled),
            (S::Queued, C::Skip) => Ok(S::Skipped),
            (S::Failed | S::Cancelled, C::Retry) => Ok(S::Queued),
            (state, change) => Err(Error::internal(format!("a job that is {state} cannot {change:?}"))),
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a batch is in: always derived from its jobs, never set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// No job has started.
    Queued,
    /// A job runs, or some have ended and others are queued.
    Running,
    /// Nothing runs, and what has not ended waits.
    Waiting,
    /// Every job succeeded or was skipped.
    Completed,
    /// All have ended and one failed.
    Failed,
    /// All have ended, none failed, and one was cancelled.
    Cancelled,
}

impl BatchState {
    /// The state of a batch whose jobs are in these states.
    pub fn of(jobs: impl IntoIterator<Item = JobState>) -> BatchState {
        let mut seen = [false; JobState::ALL.len()];
        for state in jobs {
            seen[state as usize] = true;
        }
        let has = |state: JobState| seen[state as usize];
        let ended_some = JobState::ALL.into_iter().any(|state| state.is_final() && has(state));
        if has(JobState::Running) || (has(JobState::Queued) && ended_some) {
            BatchState::Running
        } else if has(JobState::Waiting) {
            BatchState::Waiting
        } else if has(JobState::Queued) {
            BatchState::Queued
        } else if has(JobState::Failed) {
            BatchState::Failed
        } else if has(JobState::Cancelled) {
            BatchState::Cancelled
        } else {
            BatchState::Completed
        }
    }

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BatchState::Queued => "queued",
            BatchState::Running => "running",
            BatchState::Waiting => "waiting",
            BatchState::Completed => "completed",
            BatchState::Failed => "failed",
            BatchState::Cancelled => "cancelled",
        }
    }

    /// Whether every job has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, BatchState::Completed | BatchState::Failed | BatchState::Cancelled)
    }
}

impl fmt::Display for BatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_job_ends_only_once() {
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            for change in
                [JobChange::Succeed, JobChange::Fail, JobChange::Cancel, JobChange::Skip, JobChange::Claim]
            {
                assert!(state.after(change).is_err(), "{state} took {change:?}");
            }
        }
    }

    #[test]
    fn only_a_running_job_can_succeed() {
        for state in JobState::ALL {
            assert_eq!(state.after(JobChange::Succeed).is_ok(), state == JobState::Running);
        }
    }

    #[test]
    fn what_succeeded_is_never_retried() {
        assert!(JobState::Succeeded.after(JobChange::Retry).is_err());
        assert_eq!(JobState::Failed.after(JobChange::Retry).unwrap(), JobState::Queued);
    }

    #[test]
    fn a_batch_is_what_its_jobs_make_it() {
        use JobState as S;
        let of = |states: &[S]| BatchState::of(states.iter().copied());
        assert_eq!(of(&[]), BatchState::Completed);
        assert_eq!(of(&[S::Queued, S::Queued]), BatchState::Queued);
        assert_eq!(of(&[S::Queued, S::Succeeded]), BatchState::Running);
        assert_eq!(of(&[S::Waiting, S::Succeeded]), BatchState::Waiting);
        assert_eq!(of(&[S::Running, S::Waiting]), BatchState::Running);
        assert_eq!(of(&[S::Succeeded, S::Failed, S::Cancelled]), BatchState::Failed);
        assert_eq!(of(&[S::Succeeded, S::Cancelled]), BatchState::Cancelled);
        assert_eq!(of(&[S::Succeeded, S::Skipped]), BatchState::Completed);
    }
}
