//! `progress/<batch-id>.json` and `status.json`: what monitors read. Pure data; times are epoch seconds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::job::{BatchState, JobState, Stage, WaitReason};
use super::protocol::DiskProgress;
use super::warm::Pass;

/// The value of `schema` in a progress file.
pub const PROGRESS_SCHEMA: &str = "hyper2kvm.progress/1";

/// The coarse status of a VM that the Python program's monitors know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmStatus {
    /// Queued, or waiting before a start.
    Pending,
    /// Running, or waiting after a start.
    InProgress,
    /// Succeeded.
    Completed,
    /// Failed or cancelled.
    Failed,
    /// Nothing was to be done.
    Skipped,
}

impl VmStatus {
    /// The status of a job in this state.
    #[must_use]
    pub fn of(state: JobState, started: bool) -> VmStatus {
        match state {
            JobState::Queued => VmStatus::Pending,
            JobState::Waiting if !started => VmStatus::Pending,
            JobState::Waiting | JobState::Running => VmStatus::InProgress,
            JobState::Succeeded => VmStatus::Completed,
            JobState::Failed | JobState::Cancelled => VmStatus::Failed,
            JobState::Skipped => VmStatus::Skipped,
        }
    }
}

/// How many VMs are in which status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Not started.
    pub pending: u64,
    /// At work.
    pub in_progress: u64,
    /// Succeeded.
    pub completed: u64,
    /// Failed or cancelled.
    pub failed: u64,
    /// Nothing to do.
    pub skipped: u64,
}

/// One VM of a progress file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmProgress {
    /// Its id.
    pub vm_id: String,
    /// The job's number.
    pub job_id: i64,
    /// Coarse.
    pub status: VmStatus,
    /// Fine.
    pub state: JobState,
    /// Why it waits.
    pub waiting_reason: Option<WaitReason>,
    /// Which attempt.
    pub attempt: u32,
    /// Whether this attempt goes on from an earlier one's partial results.
    pub resumed: bool,
    /// When its worker started.
    pub started_at: Option<f64>,
    /// When it ended.
    pub completed_at: Option<f64>,
    /// From start to end, in seconds.
    pub duration: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// The stage it is at.
    pub current_stage: Option<Stage>,
    /// At what there.
    pub stage_detail: Option<String>,
    /// Since when.
    pub stage_started_at: Option<f64>,
    /// Stages that ended well in this attempt.
    pub stages_completed: Vec<Stage>,
    /// 0 to 100, weighted by work.
    pub progress_percentage: f64,
    /// Bytes, by disk id.
    pub disks: BTreeMap<String, DiskProgress>,
    /// Of a warm migration: its passes so far; of very many the first and the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<Pass>,
    /// Between two of them: when the next one is due, unless somebody asks for it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_pass_at: Option<f64>,
}

/// A whole progress file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchProgress {
    /// [`PROGRESS_SCHEMA`].
    pub schema: String,
    /// The batch.
    pub batch_id: String,
    /// How many VMs it has.
    pub total_vms: u64,
    /// What it is in.
    pub state: BatchState,
    /// Why it waits, if all that is left waits.
    pub waiting_reason: Option<WaitReason>,
    /// When its first worker started.
    pub started_at: Option<f64>,
    /// When anything last changed.
    pub updated_at: f64,
    /// When this file was last written.
    pub heartbeat_at: f64,
    /// When its last VM ended.
    pub completed_at: Option<f64>,
    /// How many VMs are in which status.
    pub counts: Counts,
    /// (completed + failed + skipped) / total, 0 to 100.
    pub completion_percentage: f64,
    /// Weighted by work, 0 to 100.
    pub progress_percentage: f64,
    /// Seconds, once it can be told.
    pub estimated_time_remaining: Option<f64>,
    /// By VM id.
    pub vms: BTreeMap<String, VmProgress>,
}

/// One file system in `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilesystemStatus {
    /// A directory on it.
    pub path: String,
    /// Bytes free.
    pub free: u64,
    /// Bytes reserved by jobs.
    pub reserved: u64,
}

/// How notifications stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutboxStatus {
    /// Events that a receiver has not been told of yet.
    pub pending: u64,
    /// Messages that were given up within `retention.history_s`.
    pub given_up: u64,
    /// Why the newest message that did not arrive at its first try did not.
    pub last_error: Option<String>,
}

/// What is remembered of profiles, since the service started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileStatus {
    /// Profiles that are remembered.
    pub kept: u64,
    /// How often one was asked for that was remembered and still as it was read.
    pub hits: u64,
    /// How often one had to be read.
    pub misses: u64,
    /// How often one was remembered and a file of its chain had changed, come or gone; it was read then.
    pub invalidations: u64,
}

/// Whether a libvirt answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LibvirtState {
    /// It did when it was last asked.
    Answers,
    /// It did not, or not in time.
    Silent,
    /// Nothing of it is installed or listens.
    Absent,
    /// Nobody needed it.
    #[default]
    NotAsked,
}

impl LibvirtState {
    /// As people are told it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            LibvirtState::Answers => "answers",
            LibvirtState::Silent => "silent",
            LibvirtState::Absent => "absent",
            LibvirtState::NotAsked => "not asked",
        }
    }
}

/// How a libvirt stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LibvirtStatus {
    /// Which one.
    pub uri: String,
    /// Whether it answers.
    pub state: LibvirtState,
    /// In its words, or ours.
    pub detail: Option<String>,
    /// Since when it is known to be so.
    pub since: Option<f64>,
}

/// A server of remote sources that does not answer although the network is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerAway {
    /// Which: host and port, or its stored credential as long as only that is known.
    pub server: String,
    /// Since when.
    pub since: f64,
    /// When a job tries again; null while one does.
    pub next_at: Option<f64>,
    /// What it did, or did not.
    pub detail: String,
}

/// `status.json`, and what `status --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// Of the daemon.
    pub pid: u32,
    /// When it started.
    pub started_at: f64,
    /// When this was made.
    pub heartbeat_at: f64,
    /// Whether it takes drops.
    pub ready: bool,
    /// `up`, `down`, or `unwatched`.
    pub network: String,
    /// `network_monitor.required_interfaces` that do not exist here.
    #[serde(default)]
    pub network_missing: Vec<String>,
    /// Servers of remote sources whose jobs wait for them.
    #[serde(default)]
    pub servers_away: Vec<ServerAway>,
    /// Whether all work is paused.
    pub paused: bool,
    /// Whether nothing new is started.
    pub draining: bool,
    /// Jobs by state.
    pub counts: BTreeMap<String, u64>,
    /// Waiting jobs by reason.
    pub waiting: BTreeMap<String, u64>,
    /// All copies together.
    pub bytes_per_second: u64,
    /// Seconds until all is done, once it can be told.
    pub estimated_time_remaining: Option<f64>,
    /// When the oldest snapshot of ours on a source was made.
    pub oldest_snapshot_at: Option<f64>,
    /// Where results go.
    pub filesystems: Vec<FilesystemStatus>,
    /// Notifications; null while they are switched off.
    #[serde(default)]
    pub notifications: Option<OutboxStatus>,
    /// What is remembered of profiles.
    #[serde(default)]
    pub profiles: ProfileStatus,
    /// How `libvirt.uri` stands.
    #[serde(default)]
    pub libvirt: LibvirtStatus,
    /// The newest failure of the daemon itself or of a job.
    pub last_error: Option<String>,
}
