//! What the control API and the command line exchange: the JSON that scripts rely on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::acts::Acts;
use super::error::{Error, Kind};
use super::job::{BatchState, JobState, Stage, WaitReason};
use super::parse::MAX_COMPLAINTS;
use super::progress::Status;
use super::validation::Validation;

/// A job as `list`, `show` and `submit` print it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// Its number.
    pub job_id: i64,
    /// Its batch.
    pub batch_id: String,
    /// Its VM.
    pub vm_id: String,
    /// What it is in.
    pub state: JobState,
    /// Why it waits.
    pub waiting_reason: Option<WaitReason>,
    /// For what exactly.
    pub waiting_detail: Option<String>,
    /// Where it is.
    pub current_stage: Option<Stage>,
    /// How far.
    pub progress_percentage: f64,
    /// Which attempt (0 before the first).
    pub attempt: u32,
    /// Lower first.
    pub priority: i64,
    /// Epoch seconds.
    pub submitted_at: f64,
    /// Epoch seconds.
    pub started_at: Option<f64>,
    /// Epoch seconds.
    pub completed_at: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// `{"jobs": […]}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobView>,
}

/// What is looked for by `list`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this batch.
    pub batch: Option<String>,
    /// At most this many, newest first; none: all.
    pub limit: Option<u32>,
}

/// What happened to a job, as `show` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobEvent {
    /// Epoch seconds.
    pub at: f64,
    /// Which attempt.
    pub attempt: u32,
    /// For people.
    pub message: String,
}

/// All of one job, as `show` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetails {
    /// The job.
    #[serde(flatten)]
    pub job: JobView,
    /// Its batch's state.
    pub batch_state: BatchState,
    /// Where its results go.
    pub output_directory: String,
    /// Its result files, once there are some.
    pub outputs: Vec<String>,
    /// Its log.
    pub log: Option<String>,
    /// What it failed with, whole.
    pub failure: Option<serde_json::Value>,
    /// What was done at its source, and what of it was undone.
    #[serde(default)]
    pub acts: Acts,
    /// What happened to it.
    pub events: Vec<JobEvent>,
}

/// A file handed over by `submit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// The file's name (without directories).
    pub filename: String,
    /// The directory that relative paths in it count from (absolute).
    pub base_directory: String,
    /// The content.
    pub content: String,
    /// Go on with what another host has begun in its output directory, if that host has released it or gives no sign of life.
    #[serde(default)]
    pub takeover: bool,
}

/// What happened to jobs that a command acted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Acted {
    /// For people: `cancelled`, `paused`…
    pub message: String,
    /// The jobs, as they are now.
    pub jobs: Vec<JobView>,
}

/// What `prune` removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// Whether nothing was really removed.
    pub dry_run: bool,
    /// Ended batches taken out of the queue.
    pub batches: u64,
    /// Log files.
    pub logs: u64,
    /// Partial results.
    pub partials: u64,
    /// Bytes that became free.
    pub bytes: u64,
}

/// What `retry` acts on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryRequest {
    /// Begin again at this stage, throwing away what later stages made.
    pub from: Option<Stage>,
    /// Of a batch: only the jobs that failed.
    pub failed: bool,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// There is no such job or batch (HTTP 404, exit 5).
    NoSuchJob,
    /// It cannot be done in this state (HTTP 409, exit 1).
    WrongState,
    /// The request or the manifest in it is malformed (HTTP 422, exit 2).
    Invalid,
    /// The asker may not (HTTP 403, exit 1).
    NotAllowed,
    /// It was tried and failed (HTTP 500, exit 1).
    Failed,
}

/// A command that was not carried out: every answer of the control API but success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// For scripts.
    pub code: RefusalCode,
    /// For people.
    pub error: Error,
}

impl Refusal {
    /// It was tried and failed.
    #[must_use]
    pub fn failed(error: Error) -> Refusal {
        Refusal { code: RefusalCode::Failed, error }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::failed(error)
    }
}

/// What `cancel` may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CancelRequest {
    /// Leave partial results that a retry can go on from.
    pub keep_partial: bool,
}

/// What `rollback` may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// Only say what would be done, or is still to be.
    pub dry_run: bool,
}

/// How far a source is given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolledBack {
    /// Whose source it is.
    pub job: JobView,
    /// Whether nothing was asked for.
    pub dry_run: bool,
    /// Whether nothing is left to do.
    pub done: bool,
    /// What is left, in the order in which it is done.
    pub steps: Vec<String>,
    /// Why it has not worked so far; it is tried again.
    pub error: Option<String>,
}

/// What `priority` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorityRequest {
    /// Lower first.
    pub priority: i64,
}

/// What `drain` may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// `false` takes it back.
    pub on: bool,
}

impl Default for DrainRequest {
    fn default() -> DrainRequest {
        DrainRequest { on: true }
    }
}

/// What `prune` may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PruneRequest {
    /// Only say what would go.
    pub dry_run: bool,
}

/// A command that answers with a word for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Said {
    /// For people.
    pub message: String,
}

/// One moment of all that is going on: a line of the watch without a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// How the service stands.
    pub status: Status,
    /// What runs, what waits, and the next ones in the queue.
    pub jobs: Vec<JobView>,
}

/// Figures since the queue began, as the Python program's `stats` gave them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// When the service started, epoch seconds.
    pub daemon_start_time: f64,
    /// Since then.
    pub uptime_seconds: f64,
    /// Jobs that succeeded.
    pub total_processed: u64,
    /// Jobs that failed.
    pub total_failed: u64,
    /// Of those two, the part that succeeded; null before the first.
    pub success_rate_percent: Option<f64>,
    /// Over the jobs of `recent_completed`; null before the first.
    pub average_processing_time_seconds: Option<f64>,
    /// Jobs that have not ended.
    pub current_queue_depth: u64,
    /// Jobs that run.
    pub current_jobs: Vec<JobView>,
    /// The last ten that succeeded, newest first.
    pub recent_completed: Vec<JobView>,
}

/// An error as JSON for people's scripts; the names are those of `.error.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorView {
    /// What sort of failure.
    pub kind: Kind,
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// In which file.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Column, from 1.
    pub column: Option<u32>,
    /// Path of the field.
    pub field: Option<String>,
    /// What is allowed there.
    pub allowed: Vec<String>,
    /// In which stage.
    pub stage: Option<Stage>,
    /// The source concerned.
    pub source: Option<String>,
    /// The output concerned.
    pub output: Option<String>,
    /// The last lines a failed child printed.
    pub console_tail: Option<String>,
}

impl From<&Error> for ErrorView {
    fn from(error: &Error) -> ErrorView {
        let details = error.details();
        let place = &details.place;
        ErrorView {
            kind: details.kind,
            error: details.cause.clone(),
            suggestion: details.advice.clone(),
            file: place.file.as_ref().map(|file| file.display().to_string()),
            line: place.line,
            column: place.column,
            field: place.field.clone(),
            allowed: place.allowed.clone(),
            stage: details.stage,
            source: details.source.clone(),
            output: details.output.as_ref().map(|output| output.display().to_string()),
            console_tail: details.console_tail.clone(),
        }
    }
}

/// What is wrong with one input of `validate`, or of `submit --check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputCheck {
    /// Which.
    pub path: String,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// All that is wrong, in the order of the file's lines; of very many the first.
    pub errors: Vec<ErrorView>,
    /// What a person should know, though nothing is wrong.
    pub warnings: Vec<String>,
    /// All that the pre-flight found, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// When it works, of a batch that has a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
}

/// `{"inputs": […]}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// The inputs.
    pub inputs: Vec<InputCheck>,
}

impl InputCheck {
    /// What is wrong with this input: in the order of its lines, and no more than a person reads.
    #[must_use]
    pub fn of(path: &str, errors: &[Error]) -> InputCheck {
        let mut errors: Vec<ErrorView> = errors.iter().map(ErrorView::from).collect();
        let is_more = errors.len() > MAX_COMPLAINTS;
        errors.truncate(MAX_COMPLAINTS);
        // What stands in no line comes last.
        errors.sort_by_key(|error| (error.line.is_none(), error.line, error.column));
        let more = format!("more than {MAX_COMPLAINTS} errors: the others are told when these are mended");
        InputCheck {
            path: path.to_owned(),
            ok: errors.is_empty(),
            errors,
            warnings: is_more.then_some(more).into_iter().collect(),
            validation: None,
            window: None,
        }
    }
}

impl ErrorView {
    /// `file:line:column: field: error (allowed: …); suggestion`; `path` where the error names no file.
    #[must_use]
    pub fn line(&self, path: &str) -> String {
        let mut text = self.file.clone().unwrap_or_else(|| path.to_owned());
        if let (Some(line), Some(column)) = (self.line, self.column) {
            text.push_str(&format!(":{line}:{column}"));
        }
        text.push_str(": ");
        if let Some(field) = &self.field {
            text.push_str(&format!("{field}: "));
        }
        text.push_str(&self.error);
        if !self.allowed.is_empty() {
            text.push_str(&format!(" (allowed: {})", self.allowed.join(", ")));
        }
        if let Some(suggestion) = &self.suggestion {
            text.push_str(&format!("; {suggestion}"));
        }
        text
    }
}
