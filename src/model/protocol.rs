//! What a worker is told and what it tells: the lines on its two pipes.
//!
//! The first line on a worker's standard input is its [`WorkOrder`]; every further line is a
//! [`WorkerCommand`]. Every line on its standard output is a [`WorkerEvent`]. All are JSON without
//! line breaks. A worker that loses its standard input stops as if told [`WorkerCommand::Stop`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::acts::Acts;
use super::bandwidth::Rate;
use super::config::{PreflightSettings, Settings, VcConnectionSettings};
use super::error::Error;
use super::job::Stage;
use super::plan::Plan;
use super::remote::Description;
use super::report::Report;
use super::retry::Retries;
use super::selection::SelectedVm;
use super::warm::Pass;

/// Everything a worker has to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkOrder {
    /// The job's number in the queue; 0 for a one-shot conversion.
    pub job_id: i64,
    /// The batch's id.
    pub batch_id: String,
    /// Counts from 1.
    pub attempt: u32,
    /// What to do.
    pub plan: Plan,
    /// The machine's part of it.
    pub limits: WorkLimits,
    /// What earlier attempts did at the source, as far as it was heard of.
    #[serde(default, skip_serializing_if = "Acts::is_empty")]
    pub acts: Acts,
    /// Whether its source is to be left alone: all that is to be done is to undo what must not stay there.
    #[serde(default)]
    pub settle: Option<Settle>,
    /// Of a warm migration: its next pass is to be the last one.
    #[serde(default)]
    pub cuts_over: bool,
}

/// An order whose only purpose is to undo what was done at a source. It needs no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// The result has taken the source's place: what belongs to the work alone goes.
    Succeeded,
    /// Nothing came of it: all goes.
    GivenBack,
    /// Somebody wants it back: what was made of it is stopped, and all goes.
    RolledBack,
}

/// What the machine grants one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkLimits {
    /// A private directory for working files; made by the worker, removed when it ends.
    pub work_dir: PathBuf,
    /// No progress for this long fails the copy.
    pub stall_timeout_s: f64,
    /// Roots below which sources may be read; empty: bound only by permissions.
    pub read_roots: Vec<PathBuf>,
    /// Roots below which results may be written; empty: bound only by permissions.
    pub write_roots: Vec<PathBuf>,
    /// Bytes that stay free on the result's file system.
    pub disk_reserve_bytes: u64,
    /// Bytes there that other jobs have reserved.
    pub reserved_by_others_bytes: u64,
    /// How fast it may read its sources, until it is told otherwise; none: as it was told before.
    #[serde(default)]
    pub reading: Rate,
    /// Whether a sandbox that cannot be applied is an error (in the unit) or a warning (elsewhere).
    pub sandbox_required: bool,
    /// Address-space limit for every child.
    pub child_memory_bytes: u64,
    /// Partial results are kept after a cancel.
    pub keep_partial: bool,
    /// Roots below which lies what hooks may run; empty: nothing.
    #[serde(default)]
    pub hook_roots: Vec<PathBuf>,
    /// When operations are tried again within this attempt.
    #[serde(default)]
    pub retries: Retries,
    /// What the administrator says of the pre-flight.
    #[serde(default)]
    pub preflight: PreflightSettings,
    /// Whether a failure that could pass would be the job's end all the same.
    #[serde(default)]
    pub gives_up: bool,
    /// The attempt's log, beside which lies what else is to be kept of it; none: nothing is kept. Set by whoever starts the worker.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// How remote sources are asked and read.
    #[serde(default)]
    pub remote: RemoteLimits,
    /// The lock under which it writes its results; none: nobody else can.
    #[serde(default)]
    pub lock: Option<HeldLock>,
}

/// How remote sources are asked and read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoteLimits {
    /// When a server that does not answer is asked again.
    pub connection: VcConnectionSettings,
    /// On at most so many connections; none: as many as the plan says.
    pub connections: Option<u32>,
    /// Where VMware's library is, unless the credential says so.
    pub vddk_libdir: Option<PathBuf>,
    /// Whether this host allows that sources are shut down.
    pub allow_shutdown: bool,
    /// Until when its window allows it, epoch seconds; none: always.
    pub shutdown_until: Option<f64>,
}

impl RemoteLimits {
    /// As a configuration has it, for somebody who shares a server with nobody and has no window.
    #[must_use]
    pub fn of(settings: &Settings) -> RemoteLimits {
        RemoteLimits {
            connection: settings.vc_connection.clone(),
            connections: None,
            vddk_libdir: settings.vddk.libdir.clone(),
            allow_shutdown: settings.sources.allow_shutdown,
            shutdown_until: None,
        }
    }
}

/// A lock of this host on a directory with results, as whoever writes there holds it against the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// Where it lies.
    pub directory: PathBuf,
    /// What tells this holding of it from every other.
    pub token: String,
    /// What tells this host from every other.
    pub host: String,
}

/// Address space for one child: qemu-img needs little, but maps much.
pub const CHILD_MEMORY_BYTES: u64 = 4 << 30;

impl WorkLimits {
    /// For work outside a service: nobody else writes here, and only permissions bind.
    #[must_use]
    pub fn unbound(work_dir: PathBuf, stall_timeout_s: f64) -> WorkLimits {
        WorkLimits {
            work_dir,
            stall_timeout_s,
            read_roots: Vec::new(),
            write_roots: Vec::new(),
            disk_reserve_bytes: 0,
            reserved_by_others_bytes: 0,
            reading: None,
            sandbox_required: false,
            child_memory_bytes: CHILD_MEMORY_BYTES,
            keep_partial: false,
            hook_roots: Vec::new(),
            retries: Retries::default(),
            preflight: PreflightSettings::default(),
            gives_up: true,
            log: None,
            remote: RemoteLimits::default(),
            lock: None,
        }
    }
}

/// What a running worker can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum WorkerCommand {
    /// Stand still; children are stopped where they are.
    Pause,
    /// Go on.
    Resume,
    /// Read sources at this rate from now on.
    Read {
        /// In a second; none: as fast as it goes.
        bytes: Rate,
    },
    /// End and clean up.
    Cancel {
        /// Leave partial results that a later attempt can go on from.
        keep_partial: bool,
    },
    /// End at once, keeping what a next start can go on from.
    Stop,
    /// The outcome is durable: what proves it to a next start may go. Only after [`WorkerEvent::Finished`].
    Recorded,
}

/// Bytes of one disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DiskProgress {
    /// What has to be copied.
    pub bytes_total: u64,
    /// What has been copied.
    pub bytes_done: u64,
    /// Smoothed over the last seconds.
    pub bytes_per_second: u64,
    /// What the guest sees.
    pub virtual_size: u64,
}

/// What a finished worker left behind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The directory.
    pub directory: PathBuf,
    /// Result files and their SHA-256 (null if not computed).
    pub outputs: BTreeMap<PathBuf, Option<String>>,
    /// `report.json`, if one was asked for.
    pub report: Option<PathBuf>,
    /// What it says (also if no file was asked for).
    #[serde(default)]
    pub content: Option<Box<Report>>,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum WorkerOutcome {
    /// The result is complete, checked, durable and published.
    Succeeded(Published),
    /// It failed.
    Failed {
        /// Why.
        error: Error,
    },
    /// It was told to cancel, and has cleaned up.
    Cancelled,
    /// It was told to stop (or lost its service) and can go on later; or it was only to ask what its VM is.
    Stopped,
}

/// What a worker tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WorkerEvent {
    /// It runs and has read its order.
    Started {
        /// Its process id.
        pid: u32,
        /// Whether it goes on from an earlier attempt's partial results.
        resumed: bool,
    },
    /// A stage began.
    StageStarted {
        /// Which.
        stage: Stage,
    },
    /// What the stage is at, for people: `disk 1/2`.
    StageDetail {
        /// Which.
        stage: Stage,
        /// At what.
        detail: String,
    },
    /// A stage ended well.
    StageFinished {
        /// Which.
        stage: Stage,
        /// How long it took.
        seconds: f64,
        /// What it found or did, for the report.
        result: serde_json::Value,
    },
    /// Bytes of one disk.
    Disk {
        /// Whose.
        disk: String,
        /// How many.
        #[serde(flatten)]
        progress: DiskProgress,
    },
    /// Overall, weighted by work, 0 to 100; never falls within an attempt.
    Progress {
        /// How far.
        percentage: f64,
    },
    /// What its VM is: its plan does not know that, or knows something else, so it ends, to begin with another one.
    Described(Box<Description>),
    /// Which VMs its entry of a batch stands for: each of them becomes a job.
    Selected {
        /// They.
        vms: Vec<SelectedVm>,
    },
    /// What was done at its source by now, told before it is done and after.
    Acts {
        /// All of it.
        acts: Acts,
    },
    /// A pass of a warm migration is complete and durable. A worker that ends without a result after one waits for the next.
    Passed(Pass),
    /// What it will still write where its results go, now that it has looked at its sources.
    Room {
        /// Bytes.
        bytes: u64,
    },
    /// Alive, though nothing else is to be told.
    Heartbeat,
    /// Something a person should know.
    Warning {
        /// In which stage, if in one.
        stage: Option<Stage>,
        /// What.
        message: String,
    },
    /// It stands still.
    Paused,
    /// It goes on.
    Resumed,
    /// The last line.
    Finished(WorkerOutcome),
}
