//! `report.json`, `batch_report.json`, and `<name>.error.json`: what is left to read when all is over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::acts::Acts;
use super::error::{Error, Kind};
use super::guest::GuestIdentity;
use super::handover::HandedOver;
use super::hook::HookRun;
use super::job::{JobState, Stage, WaitReason};
use super::plan::{InputManifest, OutputFormat};
use super::validation::Validation;

/// The version of all report formats.
pub const REPORT_VERSION: &str = "1.0";

/// How one stage went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageReport {
    /// Whether it ended well.
    pub success: bool,
    /// Seconds, over all attempts.
    pub duration: f64,
    /// When it first began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<f64>,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<f64>,
    /// What it found or did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The pipeline as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineReport {
    /// Whether all enabled stages ended well.
    pub success: bool,
    /// Seconds over all attempts.
    pub duration_seconds: f64,
    /// By stage name; stages that were off are absent.
    pub stages: BTreeMap<Stage, StageReport>,
}

/// One result file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Always `converted_disk` today.
    #[serde(rename = "type")]
    pub artifact_type: String,
    /// Where it is.
    pub path: PathBuf,
    /// Which disk.
    pub disk_id: String,
    /// Its format.
    pub format: OutputFormat,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// The same for people.
    pub size_human: String,
    /// What the guest sees.
    pub virtual_size_bytes: u64,
    /// Lowest boots.
    pub boot_order_hint: u32,
    /// Whether it is packed.
    pub compressed: bool,
    /// SHA-256 of the file in hex; null until computed.
    pub sha256: Option<String>,
    /// What read the source and wrote this: `qemu-img 10.0.2`.
    pub engine: String,
}

/// A file beside the results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WrittenFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its content in hex.
    pub sha256: String,
}

/// A note about a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// In which stage (`plan` before the first).
    pub stage: String,
    /// What.
    pub message: String,
    /// When, RFC 3339 UTC.
    pub timestamp: String,
}

/// What was changed inside a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FixReport {
    /// The fix.
    pub name: String,
    /// On which disk.
    pub disk: String,
    /// On which file.
    pub path: String,
    /// What it did.
    pub action: String,
    /// In detail.
    pub detail: String,
    /// Where the old content is.
    pub backup: Option<String>,
}

/// Numbers over the whole report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Stages that ran.
    pub total_stages: u64,
    /// Of them, those that ended well.
    pub successful_stages: u64,
    /// Of them, those that did not.
    pub failed_stages: u64,
    /// Warnings.
    pub total_warnings: u64,
    /// Errors.
    pub total_errors: u64,
    /// Result files.
    pub total_artifacts: u64,
    /// Disks that came in.
    pub input_disks: u64,
    /// Disks that went out.
    pub output_disks: u64,
}

/// `report.json` of one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: String,
    /// When it was made, RFC 3339 UTC.
    pub timestamp: String,
    /// The program's version.
    pub hyper2kvm_version: String,
    /// The batch.
    pub batch_id: String,
    /// The VM's id in it.
    pub vm_id: String,
    /// The VM's name.
    pub name: String,
    /// Which attempt ended it.
    pub attempt: u32,
    /// The stages.
    pub pipeline: PipelineReport,
    /// The result files, boot disk first.
    pub artifacts: Vec<Artifact>,
    /// `domain.xml`, if it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<WrittenFile>,
    /// What libvirt was told, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<HandedOver>,
    /// What is inside, if anybody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestIdentity>,
    /// What was changed inside the guest.
    pub fixes: Vec<FixReport>,
    /// Which hooks have run and how they ended; those of `on_success` are not yet among them when the file is written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRun>,
    /// What the pre-flight has found; what was only good to know is in here alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// What was done at the source, and what of it was undone.
    #[serde(default, skip_serializing_if = "Acts::is_empty")]
    pub acts: Acts,
    /// Stages of the profile that this version lacks.
    pub lacking_stages: Vec<Stage>,
    /// What a person should know.
    pub warnings: Vec<Notice>,
    /// What failed.
    pub errors: Vec<Notice>,
    /// What it was made from.
    pub input_manifest: InputManifest,
    /// Numbers.
    pub summary: Summary,
}

/// One VM of a batch that failed, in an error file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedVm {
    /// Which.
    pub vm_id: String,
    /// Its job.
    pub job_id: i64,
    /// The kind of failure.
    pub kind: Kind,
    /// Why.
    pub error: String,
}

/// `<name>.error.json`; what does not apply is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReport {
    /// The dropped file's name.
    pub filename: String,
    /// When, RFC 3339 UTC.
    pub timestamp: String,
    /// The batch, once there was one.
    pub batch_id: Option<String>,
    /// The VM, if it concerns one.
    pub vm_id: Option<String>,
    /// Its job.
    pub job_id: Option<i64>,
    /// How often it was tried.
    pub attempts: Option<u32>,
    /// `intake` or `job`.
    pub phase: String,
    /// The stage.
    pub stage: Option<Stage>,
    /// The kind.
    pub kind: Kind,
    /// What went wrong.
    pub error: String,
    /// The field in the drop, or in the file that `error` names.
    pub field: Option<String>,
    /// Its line.
    pub line: Option<u32>,
    /// Its column.
    pub column: Option<u32>,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// The source concerned.
    pub source: Option<String>,
    /// The output concerned.
    pub output: Option<PathBuf>,
    /// The last lines of a failed child.
    pub console_tail: Option<String>,
    /// The job's log.
    pub log: Option<PathBuf>,
    /// Of a batch of several: each that failed.
    pub failed_vms: Option<Vec<FailedVm>>,
}

impl ErrorReport {
    /// The report of a drop that was refused before there was a batch.
    #[must_use]
    pub fn refused(filename: &str, timestamp: String, error: &Error) -> ErrorReport {
        let details = error.details();
        ErrorReport {
            filename: filename.to_owned(),
            timestamp,
            batch_id: None,
            vm_id: None,
            job_id: None,
            attempts: None,
            phase: "intake".to_owned(),
            stage: details.stage,
            kind: details.kind,
            error: cause(filename, error),
            field: details.place.field.clone(),
            line: details.place.line,
            column: details.place.column,
            suggestion: suggestion(error),
            source: details.source.clone(),
            output: details.output.clone(),
            console_tail: details.console_tail.clone(),
            log: None,
            failed_vms: None,
        }
    }
}

/// The cause; if its place is in another file than the drop (a profile, say), with the name of that.
fn cause(filename: &str, error: &Error) -> String {
    let details = error.details();
    match details.place.file.as_deref().filter(|file| *file != Path::new(filename)) {
        Some(file) => format!("in {}: {}", file.display(), details.cause),
        None => details.cause.clone(),
    }
}

/// What an error file suggests: the advice, what is allowed there, or at least where to read about it.
fn suggestion(error: &Error) -> Option<String> {
    let details = error.details();
    let allowed = (!details.place.allowed.is_empty())
        .then(|| format!("allowed here: {}", details.place.allowed.join(", ")));
    let parts: Vec<String> = details.advice.iter().cloned().chain(allowed).collect();
    match (parts.is_empty(), details.kind) {
        (false, _) => Some(parts.join("; ")),
        (true, Kind::Manifest) => Some("`hyper2kvm schema manifest` tells what may stand there".to_owned()),
        (true, _) => None,
    }
}

/// What a VM was in for a while, in the timeline of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// `queued`, `running` or `waiting`.
    pub state: JobState,
    /// Why it waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_reason: Option<WaitReason>,
    /// At which stage it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// In which attempt; 0 before the first.
    pub attempt: u32,
    /// From when, epoch seconds.
    pub started_at: f64,
    /// Until when, epoch seconds.
    pub ended_at: f64,
}

/// Why a VM failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The kind.
    pub kind: Kind,
    /// The stage, if it was in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// What went wrong.
    pub cause: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// The last lines of a failed child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_tail: Option<String>,
}

impl Failure {
    /// What a report says of an error.
    #[must_use]
    pub fn of(error: &Error) -> Failure {
        let details = error.details();
        Failure {
            kind: details.kind,
            stage: details.stage,
            cause: details.cause.clone(),
            suggestion: suggestion(error),
            console_tail: details.console_tail.clone(),
        }
    }
}

/// One VM of a batch report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmResult {
    /// Which.
    pub vm_id: String,
    /// The manifest it came from.
    pub manifest: Option<String>,
    /// Whether it succeeded or was skipped.
    pub success: bool,
    /// Its final state.
    pub state: JobState,
    /// Its job, if it was one of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<i64>,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// Seconds.
    pub duration_seconds: f64,
    /// When it first began, epoch seconds.
    #[serde(default)]
    pub started_at: Option<f64>,
    /// When it ended, epoch seconds.
    #[serde(default)]
    pub completed_at: Option<f64>,
    /// When it ended, RFC 3339 UTC.
    pub timestamp: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The same in its parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Its result files and their SHA-256 in hex.
    #[serde(default)]
    pub outputs: BTreeMap<PathBuf, Option<String>>,
    /// What a person should know, also if it failed.
    #[serde(default)]
    pub warnings: Vec<Notice>,
    /// What it was in, one after the other, since it was accepted or last retried.
    #[serde(default)]
    pub timeline: Vec<Span>,
    /// Its `report.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_report: Option<serde_json::Value>,
}

/// The head of a batch report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchHead {
    /// Which.
    pub batch_id: String,
    /// The dropped file.
    pub manifest_path: Option<String>,
    /// Whether every VM succeeded or was skipped.
    pub success: bool,
    /// Seconds from the first start to the last end.
    pub duration_seconds: f64,
    /// VMs.
    pub total_vms: u64,
    /// VMs that ended.
    pub processed_vms: u64,
    /// VMs that succeeded or were skipped.
    pub successful_vms: u64,
    /// VMs that failed or were cancelled.
    pub failed_vms: u64,
    /// 0 to 1, four decimals.
    pub success_rate: f64,
}

/// A VM and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timed {
    /// Which.
    pub vm_id: String,
    /// Seconds.
    pub duration: f64,
}

/// Times over a batch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AggregateStats {
    /// Sum, seconds.
    pub total_duration: f64,
    /// Mean, seconds.
    pub average_duration: f64,
    /// The fastest that succeeded.
    pub fastest_conversion: Option<Timed>,
    /// The slowest that succeeded.
    pub slowest_conversion: Option<Timed>,
}

/// `batch_report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchReport {
    /// [`REPORT_VERSION`].
    pub version: String,
    /// `batch_conversion`.
    pub report_type: String,
    /// When, RFC 3339 UTC.
    pub timestamp: String,
    /// The whole.
    pub batch: BatchHead,
    /// Each VM.
    pub vm_results: Vec<VmResult>,
    /// Times.
    pub aggregate_stats: AggregateStats,
    /// What a person should know.
    pub warnings: Vec<Notice>,
    /// What failed.
    pub errors: Vec<Notice>,
}
