//! What the queue's tables hold, as values: a dropped file, a run of a batch, a job.
//!
//! Rows carry what the scheduler and the views need all the time; what is large and rarely needed
//! (a job's plan, a drop's bytes) is asked for apart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::types::Type;
use rusqlite::{Error as SqliteError, Row};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::acts::Acts;
use crate::model::api::JobView;
use crate::model::error::Error;
use crate::model::job::{BatchState, JobState, Stage, WaitReason};
use crate::model::remote::RemoteNeed;
use crate::model::warm::WarmJob;
use crate::model::window::Window;

/// What makes a file the same file: it is not enough that the name is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its content, in nanoseconds since the epoch.
    pub mtime_ns: i64,
}

/// A file of a drop that is a disk. It is moved from place to place and never copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedFile {
    /// Its name, which it keeps.
    pub name: String,
    /// Which file it is.
    pub identity: FileIdentity,
}

/// How far an accepted drop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropState {
    /// Its row is durable; the file may still lie in the drop directory.
    Accepted,
    /// The file lies in `processing/` (or there never was one).
    Moved,
    /// Its batch has ended and the file lies in `processed/` or `failed/`.
    Settled,
}

impl DropState {
    pub(super) fn name(self) -> &'static str {
        match self {
            DropState::Accepted => "accepted",
            DropState::Moved => "moved",
            DropState::Settled => "settled",
        }
    }

    fn parse(name: &str) -> Option<DropState> {
        [DropState::Accepted, DropState::Moved, DropState::Settled]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// An accepted drop, without its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct DropRow {
    /// Its number.
    pub drop_id: i64,
    /// The file's name.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// The file it was read from; none for what came through the control API.
    pub identity: Option<FileIdentity>,
    /// The files of a disk, the one after which the drop is called first; empty for a manifest.
    pub files: Vec<DroppedFile>,
    /// How far it has come.
    pub state: DropState,
    /// Its name in `processing/`; none for what came through the control API.
    pub processing_name: Option<String>,
    /// Where it lies since its batch ended.
    pub settled_path: Option<PathBuf>,
    /// Epoch seconds.
    pub accepted_at: f64,
}

pub(super) const DROP_COLUMNS: &str = "drop_id, name, sha256, dev, inode, size, mtime_ns, state, \
     processing_name, settled_path, accepted_at, files";

impl DropRow {
    /// Whether it is a directory wherever it lies: a disk of several files.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.files.len() > 1
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<DropRow> {
        let identity = match (row.get::<_, Option<i64>>("dev")?, row.get::<_, Option<i64>>("inode")?) {
            (Some(dev), Some(inode)) => Some(FileIdentity {
                dev: dev as u64,
                inode: inode as u64,
                size: row.get::<_, i64>("size")? as u64,
                mtime_ns: row.get::<_, Option<i64>>("mtime_ns")?.unwrap_or_default(),
            }),
            _ => None,
        };
        Ok(DropRow {
            drop_id: row.get("drop_id")?,
            name: row.get("name")?,
            sha256: row.get("sha256")?,
            identity,
            files: match row.get::<_, Option<String>>("files")? {
                Some(_) => json(row, "files")?,
                None => Vec::new(),
            },
            state: named(row, "state", DropState::parse)?,
            processing_name: row.get("processing_name")?,
            settled_path: row.get::<_, Option<String>>("settled_path")?.map(PathBuf::from),
            accepted_at: row.get("accepted_at")?,
        })
    }
}

/// One run of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRow {
    /// The run's number in the database.
    pub batch_key: i64,
    /// The batch's id, shared by all its runs.
    pub batch_id: String,
    /// Counts from 1; a batch that continues gets a further run.
    pub run: u32,
    /// SHA-256 of its effective content.
    pub content_sha256: String,
    /// The batch's output directory, if the submission names one.
    pub output_directory: Option<PathBuf>,
    /// At most this many of its jobs at a time.
    pub parallel_limit: Option<u32>,
    /// Whether its other jobs go on when one fails.
    pub continue_on_error: Option<bool>,
    /// When its jobs may work, if that is limited.
    pub window: Option<Window>,
    /// The drop it came from.
    pub drop_id: i64,
    /// Epoch seconds.
    pub accepted_at: f64,
    /// When its last job ended; none while one has not.
    pub ended_at: Option<f64>,
    /// How it ended.
    pub outcome: Option<BatchState>,
    /// When its drop was moved and its reports were written.
    pub settled_at: Option<f64>,
}

pub(super) const BATCH_COLUMNS: &str = "batch_key, batch_id, run, content_sha256, output_directory, \
     parallel_limit, continue_on_error, window, drop_id, accepted_at, ended_at, outcome, settled_at";

impl BatchRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<BatchRow> {
        Ok(BatchRow {
            batch_key: row.get("batch_key")?,
            batch_id: row.get("batch_id")?,
            run: row.get("run")?,
            content_sha256: row.get("content_sha256")?,
            output_directory: row.get::<_, Option<String>>("output_directory")?.map(PathBuf::from),
            parallel_limit: row.get("parallel_limit")?,
            continue_on_error: row.get("continue_on_error")?,
            window: match row.get::<_, Option<String>>("window")? {
                Some(_) => json(row, "window")?,
                None => None,
            },
            drop_id: row.get("drop_id")?,
            accepted_at: row.get("accepted_at")?,
            ended_at: row.get("ended_at")?,
            outcome: maybe_named(row, "outcome", batch_state)?,
            settled_at: row.get("settled_at")?,
        })
    }
}

/// Why and since when a job waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Why.
    pub reason: WaitReason,
    /// For what exactly.
    pub detail: String,
    /// Epoch seconds.
    pub since: f64,
}

/// A job, without its plan (see [`super::Db::plan`]).
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Its number.
    pub job_id: i64,
    /// The run of the batch that it belongs to.
    pub batch_key: i64,
    /// Its batch.
    pub batch_id: String,
    /// Its VM's id in the batch.
    pub vm_id: String,
    /// Its VM's name.
    pub vm_name: String,
    /// What it is in.
    pub state: JobState,
    /// Why it waits; there exactly while it does.
    pub waiting: Option<Waiting>,
    /// Not to be started before (epoch seconds).
    pub not_before: Option<f64>,
    /// Lower first.
    pub priority: i64,
    /// Which attempt; 0 before the first.
    pub attempt: u32,
    /// Whether that attempt was cut short by no fault of the job, so that its number is used again.
    pub cut_short: bool,
    /// Failures since it last made progress.
    pub failures: u32,
    /// The first of them.
    pub first_failure_at: Option<f64>,
    /// When it was accepted.
    pub submitted_at: f64,
    /// When its first worker started (since it was last retried by the operator).
    pub started_at: Option<f64>,
    /// When it ended.
    pub completed_at: Option<f64>,
    /// The daemon whose worker is at it; there exactly while it runs.
    pub owner: Option<String>,
    /// Until when that daemon vouches for it.
    pub lease_until: Option<f64>,
    /// What it may still write.
    pub need_bytes: Option<u64>,
    /// Whether its inputs or outputs need the network.
    pub needs_network: bool,
    /// Which server has its source, and who logs in there, if that is remote.
    pub remote: Option<RemoteNeed>,
    /// VMs of its batch that have to succeed first.
    pub depends_on: Vec<String>,
    /// Whether its manifest was refused: there is no plan for it.
    pub refused: bool,
    /// SHA-256 of its effective manifest.
    pub content_sha256: String,
    /// Where its results go.
    pub output_directory: PathBuf,
    /// Its result files and their SHA-256.
    pub outputs: BTreeMap<PathBuf, Option<String>>,
    /// Its `report.json`.
    pub report: Option<PathBuf>,
    /// Whether the running attempt goes on from an earlier one's partial results.
    pub resumed: bool,
    /// The stage it is at.
    pub current_stage: Option<Stage>,
    /// At what there.
    pub stage_detail: Option<String>,
    /// Since when.
    pub stage_started_at: Option<f64>,
    /// Stages that ended well in this attempt.
    pub stages_completed: Vec<Stage>,
    /// 0 to 100.
    pub progress_percentage: f64,
    /// What it last failed with.
    pub error: Option<Error>,
    /// What was done at its source.
    pub acts: Acts,
    /// How its VM is migrated while it runs, if it is, and how far that is.
    pub warm: Option<WarmJob>,
}

/// The columns of a job; the query joins `job` with `batch`.
pub(super) const JOB_COLUMNS: &str = "job.job_id, job.batch_key, batch.batch_id, job.vm_id, job.vm_name, \
     job.state, job.waiting_reason, job.waiting_detail, job.waiting_since, job.not_before, job.priority, \
     job.attempt, job.cut_short, job.failures, job.first_failure_at, job.submitted_at, job.started_at, job.completed_at, \
     job.owner, job.lease_until, job.need_bytes, job.needs_network, job.remote, job.depends_on, job.refused, job.content_sha256, \
     job.output_directory, job.outputs, job.report, job.resumed, job.current_stage, job.stage_detail, \
     job.stage_started_at, job.stages_completed, job.progress_percentage, job.error, job.acts, job.warm";

impl JobRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<JobRow> {
        let waiting = match maybe_named(row, "waiting_reason", wait_reason)? {
            None => None,
            Some(reason) => Some(Waiting {
                reason,
                detail: row.get::<_, Option<String>>("waiting_detail")?.unwrap_or_default(),
                since: row.get::<_, Option<f64>>("waiting_since")?.unwrap_or_default(),
            }),
        };
        Ok(JobRow {
            job_id: row.get("job_id")?,
            batch_key: row.get("batch_key")?,
            batch_id: row.get("batch_id")?,
            vm_id: row.get("vm_id")?,
            vm_name: row.get("vm_name")?,
            state: named(row, "state", JobState::parse)?,
            waiting,
            not_before: row.get("not_before")?,
            priority: row.get("priority")?,
            attempt: row.get("attempt")?,
            cut_short: row.get("cut_short")?,
            failures: row.get("failures")?,
            first_failure_at: row.get("first_failure_at")?,
            submitted_at: row.get("submitted_at")?,
            started_at: row.get("started_at")?,
            completed_at: row.get("completed_at")?,
            owner: row.get("owner")?,
            lease_until: row.get("lease_until")?,
            need_bytes: row.get::<_, Option<i64>>("need_bytes")?.map(|bytes| bytes as u64),
            needs_network: row.get("needs_network")?,
            remote: match row.get::<_, Option<String>>("remote")? {
                Some(_) => json(row, "remote")?,
                None => None,
            },
            depends_on: json(row, "depends_on")?,
            refused: row.get("refused")?,
            content_sha256: row.get("content_sha256")?,
            output_directory: PathBuf::from(row.get::<_, String>("output_directory")?),
            outputs: json(row, "outputs")?,
            report: row.get::<_, Option<String>>("report")?.map(PathBuf::from),
            resumed: row.get("resumed")?,
            current_stage: maybe_named(row, "current_stage", |name| Stage::parse(name).ok())?,
            stage_detail: row.get("stage_detail")?,
            stage_started_at: row.get("stage_started_at")?,
            stages_completed: json(row, "stages_completed")?,
            progress_percentage: row.get("progress_percentage")?,
            error: match row.get::<_, Option<String>>("error")? {
                None => None,
                Some(_) => json(row, "error")?,
            },
            acts: match row.get::<_, Option<String>>("acts")? {
                None => Acts::default(),
                Some(_) => json(row, "acts")?,
            },
            warm: match row.get::<_, Option<String>>("warm")? {
                None => None,
                Some(_) => json(row, "warm")?,
            },
        })
    }

    /// The job as `list` prints it.
    #[must_use]
    pub fn view(&self) -> JobView {
        JobView {
            job_id: self.job_id,
            batch_id: self.batch_id.clone(),
            vm_id: self.vm_id.clone(),
            state: self.state,
            waiting_reason: self.waiting.as_ref().map(|waiting| waiting.reason),
            waiting_detail: self.waiting.as_ref().map(|waiting| waiting.detail.clone()),
            current_stage: self.current_stage,
            progress_percentage: self.progress_percentage,
            attempt: self.attempt,
            priority: self.priority,
            submitted_at: self.submitted_at,
            started_at: self.started_at,
            completed_at: self.completed_at,
            error: self.error.as_ref().map(ToString::to_string),
        }
    }
}

pub(super) fn batch_state(name: &str) -> Option<BatchState> {
    [BatchState::Completed, BatchState::Failed, BatchState::Cancelled]
        .into_iter()
        .find(|state| state.name() == name)
}

pub(super) fn wait_reason(name: &str) -> Option<WaitReason> {
    WaitReason::ALL.into_iter().find(|reason| reason.name() == name)
}

/// A column that holds one of our names.
pub(super) fn named<T>(
    row: &Row<'_>,
    column: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let name: String = row.get(column)?;
    parse(&name).ok_or_else(|| unreadable(row, column, format!("`{name}` is no {column}").into()))
}

pub(super) fn maybe_named<T>(
    row: &Row<'_>,
    column: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    match row.get::<_, Option<String>>(column)? {
        None => Ok(None),
        Some(_) => named(row, column, parse).map(Some),
    }
}

/// A column that holds JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(row, column, error.into()))
}

fn unreadable(row: &Row<'_>, column: &str, error: Box<dyn std::error::Error + Send + Sync>) -> SqliteError {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    SqliteError::FromSqlConversionFailure(index, Type::Text, error)
}
