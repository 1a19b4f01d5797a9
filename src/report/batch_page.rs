//! The page of a batch: how it went, what failed and what to do about it, and each VM in a row.

use std::path::PathBuf;

use super::page::{Line, Page, Piece, name, words};
use super::vm::counted;
use super::{moment_of, report_of, verdict};
use crate::model::job::JobState;
use crate::model::report::{BatchReport, VmResult};
use crate::model::units::{human_duration, human_size};

/// The page of a batch's report.
#[must_use]
pub fn batch_page(report: &BatchReport) -> Page {
    let (head, stats) = (&report.batch, &report.aggregate_stats);
    let mut page = Page::default();
    page.heading(1, vec![Piece::Words("Batch".to_owned()), Piece::Name(head.batch_id.clone())]);
    let went = match head.successful_vms == head.total_vms {
        true => format!("All {} succeeded", counted(head.total_vms as usize, "VM")),
        false => format!("{} of {} succeeded", head.successful_vms, counted(head.total_vms as usize, "VM")),
    };
    page.paragraph(words(format!(
        "{went}, in {}. Report of {}.",
        human_duration(head.duration_seconds),
        moment_of(&report.timestamp)
    )));
    let mut facts: Vec<Vec<Line>> = Vec::new();
    let mut fact = |what: &str, line: Line| facts.push(vec![words(what), line]);
    if let Some(manifest) = &head.manifest_path {
        fact("manifest", name(manifest));
    }
    for (what, number) in
        [("VMs", head.total_vms), ("ended", head.processed_vms), ("failed", head.failed_vms)]
    {
        fact(what, words(number.to_string()));
    }
    fact("results", words(human_size(report.vm_results.iter().map(size).sum())));
    fact(
        "work",
        words(format!(
            "{} in all, {} a VM",
            human_duration(stats.total_duration),
            human_duration(stats.average_duration)
        )),
    );
    for (what, timed) in [("fastest", &stats.fastest_conversion), ("slowest", &stats.slowest_conversion)] {
        if let Some(timed) = timed {
            fact(what, vec![Piece::Name(timed.vm_id.clone()), Piece::Words(human_duration(timed.duration))]);
        }
    }
    page.table(&["", ""], facts);
    page.section("What failed", &["VM", "kind", "stage", "cause", "what to do"], failures(report));
    page.section("VMs", &["VM", "state", "took", "attempts", "size", "warnings"], vms(report));
    page.section("Files", &["VM", "file", "SHA-256"], files(report));
    if !report.warnings.is_empty() {
        page.heading(2, words("Warnings"));
        page.list(
            report
                .warnings
                .iter()
                .map(|notice| words(format!("{}: {}", notice.stage, notice.message)))
                .collect(),
        );
    }
    page
}

fn failures(report: &BatchReport) -> Vec<Vec<Line>> {
    let row = |vm: &VmResult| {
        let (kind, stage, cause, advice) = match &vm.failure {
            Some(failure) => (
                failure.kind.name(),
                failure.stage.map_or("", |stage| stage.name()),
                failure.cause.clone(),
                failure.suggestion.clone().unwrap_or_default(),
            ),
            None => ("", "", vm.error.clone().unwrap_or_default(), String::new()),
        };
        vec![name(&vm.vm_id), words(kind), words(stage), words(cause), words(advice)]
    };
    let is_bad = |vm: &&VmResult| vm.error.is_some() || vm.state == JobState::Failed;
    report.vm_results.iter().filter(is_bad).map(row).collect()
}

fn vms(report: &BatchReport) -> Vec<Vec<Line>> {
    let row = |vm: &VmResult| {
        vec![
            name(&vm.vm_id),
            words(verdict(vm.state)),
            words(human_duration(vm.duration_seconds)),
            words(vm.attempts.to_string()),
            words(human_size(size(vm))),
            words(vm.warnings.len().to_string()),
        ]
    };
    report.vm_results.iter().map(row).collect()
}

fn files(report: &BatchReport) -> Vec<Vec<Line>> {
    let of = |vm: &VmResult| -> Vec<Vec<Line>> {
        let file = |(path, sha256): (&PathBuf, &Option<String>)| {
            let digest = sha256.as_ref().map_or_else(|| words("not made"), name);
            vec![name(&vm.vm_id), name(path.to_string_lossy()), digest]
        };
        vm.outputs.iter().map(file).collect()
    };
    report.vm_results.iter().flat_map(of).collect()
}

/// Bytes of a VM's result files.
pub(super) fn size(vm: &VmResult) -> u64 {
    report_of(vm).map_or(0, |report| report.artifacts.iter().map(|artifact| artifact.size_bytes).sum())
}
