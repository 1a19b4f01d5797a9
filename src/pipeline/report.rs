//! The report of one VM: put together from the plan and the journal, when all is done.
//!
//! Durations count all attempts: what a disk cost is what somebody waited for it, whether or not a
//! crash came in between. What is not here: reports of batches (the service and the command line
//! write those), what its pages look like ([`crate::report`]), and where it is put.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checkpoint::Checkpoint;
use crate::model::error::{Error, Result};
use crate::model::hook::HookRun;
use crate::model::job::Stage;
use crate::model::plan::{Compression, Plan};
use crate::model::report::{
    Artifact, Notice, PipelineReport, REPORT_VERSION, Report, StageReport, Summary, WrittenFile,
};
use crate::model::units::human_size;
use crate::model::validation::Validation;
use crate::report::vm_page;
use crate::sys::time::rfc3339_utc;

/// What a stage of this attempt found or did.
pub(super) type StageResults = BTreeMap<Stage, serde_json::Value>;

/// What this attempt knows and the journal does not.
pub(super) struct Found {
    /// Of its stages.
    pub(super) results: StageResults,
    /// How its hooks went.
    pub(super) hooks: Vec<HookRun>,
    /// What the pre-flight came to.
    pub(super) validation: Validation,
}

/// Puts the report together. `paths` are the results' final places, in the plan's order; `domain` is what is written for libvirt.
pub(super) fn compose(
    plan: &Plan,
    attempt: u32,
    checkpoint: &Checkpoint,
    found: Found,
    (paths, domain): (&[PathBuf], Option<WrittenFile>),
    now: f64,
) -> Report {
    let Found { mut results, hooks, validation } = found;
    let stages: BTreeMap<Stage, StageReport> = checkpoint
        .stage_seconds
        .iter()
        .filter(|(stage, _)| plan.runs(**stage))
        .map(|(stage, _)| (*stage, ended(checkpoint, *stage, results.remove(stage))))
        .collect();
    let artifacts = artifacts(plan, checkpoint, paths);
    let warnings = warnings(plan, checkpoint, now);
    let summary = Summary {
        total_stages: stages.len() as u64,
        successful_stages: stages.len() as u64,
        failed_stages: 0,
        total_warnings: warnings.len() as u64,
        total_errors: 0,
        total_artifacts: artifacts.len() as u64,
        input_disks: plan.disks.len() as u64,
        output_disks: artifacts.len() as u64,
    };
    Report {
        version: REPORT_VERSION.to_owned(),
        timestamp: rfc3339_utc(now),
        hyper2kvm_version: env!("CARGO_PKG_VERSION").to_owned(),
        batch_id: checkpoint.batch_id.clone(),
        vm_id: plan.vm_id.clone(),
        name: plan.name.clone(),
        attempt,
        pipeline: PipelineReport {
            success: true,
            duration_seconds: rounded(checkpoint.stage_seconds.values().sum()),
            stages,
        },
        artifacts,
        domain,
        libvirt: None,
        guest: checkpoint.guest.as_ref().and_then(|guest| guest.identity.clone()),
        fixes: checkpoint.guest.as_ref().map(|guest| guest.fixes.clone()).unwrap_or_default(),
        hooks,
        validation: Some(validation),
        acts: checkpoint.acts.clone(),
        lacking_stages: plan.lacking.clone(),
        warnings,
        errors: Vec::new(),
        input_manifest: plan.input.clone(),
        summary,
    }
}

/// How a stage went that ended well.
fn ended(checkpoint: &Checkpoint, stage: Stage, result: Option<serde_json::Value>) -> StageReport {
    let (began, ended) = checkpoint.stage_times.get(&stage).copied().unzip();
    StageReport {
        success: true,
        duration: rounded(checkpoint.stage_seconds.get(&stage).copied().unwrap_or_default()),
        started_at: began.map(rounded),
        ended_at: ended.map(rounded),
        result,
        error: None,
    }
}

/// Adds a stage that ended when the report was composed already, with its warnings.
pub(super) fn add_stage(
    report: &mut Report,
    checkpoint: &Checkpoint,
    stage: Stage,
    result: Option<serde_json::Value>,
) {
    report.pipeline.stages.insert(stage, ended(checkpoint, stage, result));
    report.pipeline.duration_seconds = rounded(checkpoint.stage_seconds.values().sum());
    let count = report.pipeline.stages.len() as u64;
    (report.summary.total_stages, report.summary.successful_stages) = (count, count);
    let news = checkpoint.warnings.iter().filter(|notice| notice.stage == stage.name());
    let news: Vec<Notice> = news.filter(|notice| !report.warnings.contains(notice)).cloned().collect();
    report.warnings.extend(news);
    report.summary.total_warnings = report.warnings.len() as u64;
}

fn artifacts(plan: &Plan, checkpoint: &Checkpoint, paths: &[PathBuf]) -> Vec<Artifact> {
    plan.disks
        .iter()
        .zip(paths)
        .filter_map(|(disk, path)| {
            let finished = checkpoint.disks.get(&disk.id)?;
            Some(Artifact {
                artifact_type: "converted_disk".to_owned(),
                path: path.clone(),
                disk_id: disk.id.clone(),
                format: plan.format_of(disk),
                size_bytes: finished.file.size,
                size_human: human_size(finished.file.size),
                virtual_size_bytes: finished.virtual_size,
                boot_order_hint: disk.boot_order_hint,
                compressed: plan.output.compress != Compression::None,
                sha256: finished.sha256.clone(),
                engine: finished.engine.clone(),
            })
        })
        .collect()
}

/// Those of the plan, those of the work, and one for what this version cannot do.
fn warnings(plan: &Plan, checkpoint: &Checkpoint, now: f64) -> Vec<Notice> {
    let mut warnings: Vec<Notice> = plan
        .warnings
        .iter()
        .map(|message| Notice {
            stage: "plan".to_owned(),
            message: message.clone(),
            timestamp: rfc3339_utc(now),
        })
        .collect();
    warnings.extend(checkpoint.warnings.iter().cloned());
    warnings
}

/// To the millisecond: more is noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The report as the files hold it.
#[derive(Debug)]
pub(super) struct Written {
    /// `report.json`.
    pub(super) report: String,
    /// Its pages: Markdown, plain text.
    pub(super) pages: [String; 2],
}

impl Written {
    /// The texts of a report.
    pub(super) fn of(report: &Report) -> Result<Written> {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Error::internal(format!("the report cannot be written: {error}")))?;
        let page = vm_page(report);
        Ok(Written { report: text + "\n", pages: [page.markdown(), page.text()] })
    }
}
