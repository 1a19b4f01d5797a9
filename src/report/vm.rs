//! The page of one VM: what it was, what was made of it and how, what a person should know, and how the result is started.

use super::page::{Line, Page, Piece, name, words};
use super::{moment, moment_of};
use crate::model::boot::{BootVerdict, Verdict};
use crate::model::guest::GuestIdentity;
use crate::model::handover::HandedOver;
use crate::model::hook::HookRun;
use crate::model::job::Stage;
use crate::model::report::{FixReport, Notice, Report, StageReport};
use crate::model::units::{human_duration, human_size};

/// The page of a VM's report.
#[must_use]
pub fn vm_page(report: &Report) -> Page {
    let mut page = Page::default();
    page.heading(1, name(&report.name));
    page.paragraph(vec![
        Piece::Words(format!(
            "Converted by hyper2kvm {} in {}, as",
            report.hyper2kvm_version,
            human_duration(report.pipeline.duration_seconds)
        )),
        Piece::Name(report.vm_id.clone()),
        Piece::Words("of the batch".to_owned()),
        Piece::Name(report.batch_id.clone()),
        Piece::Words(format!("(attempt {}). Report of {}.", report.attempt, moment_of(&report.timestamp))),
    ]);
    page.table(&["", ""], facts(report));
    page.section(
        "Results",
        &["file", "format", "size", "the guest sees", "SHA-256", "made by"],
        results(report),
    );
    page.section("Stages", &["stage", "began", "took", "what it did"], stages(report));
    page.section(
        "Changes inside the guest",
        &["repair", "disk", "file", "action", "detail", "old content"],
        fixes(report),
    );
    page.section("Pre-flight", &["severity", "rule", "about", "found", "what to do"], preflight(report));
    page.section("Hooks", &["hook", "when", "ended", "attempts", "took"], hooks(report));
    notices(&mut page, "Warnings", &report.warnings);
    notices(&mut page, "Errors", &report.errors);
    if !report.lacking_stages.is_empty() {
        let stages: Vec<&str> = report.lacking_stages.iter().map(|stage| stage.name()).collect();
        page.heading(2, words("Not done"));
        page.paragraph(words(format!(
            "This version cannot do what its profile asks for: {}.",
            stages.join(", ")
        )));
    }
    how_to_start(&mut page, report);
    page
}

fn facts(report: &Report) -> Vec<Vec<Line>> {
    let mut rows = Vec::new();
    let mut fact = |what: &str, line: Line| rows.push(vec![words(what), line]);
    let input = &report.input_manifest;
    for (what, said) in [
        ("manifest", &input.path),
        ("source", &input.source_provider),
        ("machine there", &input.source_vm_name),
        ("its id there", &input.source_vm_id),
    ] {
        if let Some(said) = said {
            fact(what, name(said));
        }
    }
    for disk in disks_of(report, Stage::Load) {
        let text = |key: &str| disk[key].as_str().unwrap_or_default().to_owned();
        let size = disk["virtual_size_bytes"].as_u64().map(human_size).unwrap_or_default();
        let member = disk["member"].as_str().map(|member| format!(":{member}")).unwrap_or_default();
        fact(
            "made of",
            vec![
                Piece::Name(text("source") + &member),
                Piece::Words(format!("({}, {size})", text("format"))),
            ],
        );
    }
    if let Some(guest) = &report.guest {
        fact("guest", words(system(guest)));
        if let Some(host) = &guest.hostname {
            fact("its name", name(host));
        }
    }
    fact("comes up", words(boot(report)));
    if let Some(told) = &report.libvirt {
        if let Some(domain) = &told.domain {
            fact("in libvirt", name(domain));
        }
        for volume in &told.volumes {
            fact("in a pool", name(format!("{}/{}", volume.pool, volume.volume)));
        }
        if let Some(replaced) = &told.replaced {
            fact("took the place of", name(replaced.to_string_lossy()));
        }
        if let Some(why) = &told.held_back {
            fact("not started", words(why));
        }
    }
    rows
}

/// `Debian GNU/Linux 12 (bookworm), x86_64, bios`
fn system(guest: &GuestIdentity) -> String {
    let known = guest.os_pretty.as_deref().or(guest.os_id.as_deref()).unwrap_or("unknown");
    let firmware = match serde_json::to_value(guest.firmware) {
        Ok(serde_json::Value::String(firmware)) => firmware,
        _ => String::new(),
    };
    let rest = guest.architecture.iter().cloned().chain([firmware]);
    std::iter::once(known.to_owned()).chain(rest).collect::<Vec<_>>().join(", ")
}

/// What the boot test found, in a line.
pub(super) fn boot(report: &Report) -> String {
    let result = report.pipeline.stages.get(&Stage::BootTest).and_then(|stage| stage.result.clone());
    let found = result.and_then(|result| serde_json::from_value::<BootVerdict>(result).ok());
    match found {
        None => "not tried".to_owned(),
        Some(found) => {
            let how = format!("after {:.0} s ({}, {})", found.seconds, found.accel, found.firmware);
            match found.verdict {
                Verdict::Booted => format!("booted {how}: {}", found.evidence),
                Verdict::Failed => format!("failed {how}: {}", found.error.unwrap_or(found.evidence)),
                Verdict::Undetermined => {
                    format!("undetermined {how}: {}", found.error.unwrap_or(found.evidence))
                }
            }
        }
    }
}

fn results(report: &Report) -> Vec<Vec<Line>> {
    let digest = |sha256: &Option<String>| match sha256 {
        Some(sha256) => name(sha256),
        None => words("not made"),
    };
    let disks = report.artifacts.iter().map(|artifact| {
        let packed = if artifact.compressed { ", packed" } else { "" };
        vec![
            name(artifact.path.to_string_lossy()),
            words(format!("{}{packed}", artifact.format.name())),
            words(human_size(artifact.size_bytes)),
            words(human_size(artifact.virtual_size_bytes)),
            digest(&artifact.sha256),
            words(&artifact.engine),
        ]
    });
    let domain = report.domain.iter().map(|domain| {
        vec![
            name(domain.path.to_string_lossy()),
            words("libvirt domain"),
            words(""),
            words(""),
            name(&domain.sha256),
            words("hyper2kvm"),
        ]
    });
    disks.chain(domain).collect()
}

fn stages(report: &Report) -> Vec<Vec<Line>> {
    let row = |(stage, told): (&Stage, &StageReport)| {
        let began = told.started_at.map(moment).unwrap_or_default();
        let ended = if told.success { "" } else { " (failed)" };
        vec![
            words(stage.name()),
            words(began),
            words(format!("{:.1} s{ended}", told.duration)),
            words(done(*stage, told, report)),
        ]
    };
    report.pipeline.stages.iter().map(row).collect()
}

/// What a stage did, in a few words.
fn done(stage: Stage, told: &StageReport, report: &Report) -> String {
    if let Some(error) = &told.error {
        return error.clone();
    }
    let disks = disks_of(report, stage);
    let result = told.result.as_ref();
    match stage {
        Stage::Load => format!("{} opened", counted(disks.len(), "disk")),
        Stage::Extraction | Stage::Convert if !disks.is_empty() => {
            let bytes: u64 = disks.iter().filter_map(|disk| disk["bytes"].as_u64()).sum();
            format!("{} copied", human_size(bytes))
        }
        Stage::Extraction | Stage::Convert => String::new(),
        Stage::Inspect => report.guest.as_ref().map(system).unwrap_or_default(),
        Stage::Fix => match result.and_then(|result| result["skipped"].as_str()) {
            Some(why) => format!("skipped: {why}"),
            None => counted(report.fixes.len(), "change"),
        },
        Stage::Validate => {
            let proved = disks.iter().filter(|disk| disk["identical"].as_bool() == Some(true)).count();
            format!("{} of {} proved to hold what the source held", proved, counted(disks.len(), "disk"))
        }
        Stage::BootTest => boot(report),
        Stage::Libvirt => report.libvirt.as_ref().map(handed_over).unwrap_or_default(),
    }
}

/// What libvirt was told, in a line.
fn handed_over(told: &HandedOver) -> String {
    let mut parts = Vec::new();
    parts.extend(
        (!told.volumes.is_empty()).then(|| format!("{} in pools", counted(told.volumes.len(), "disk"))),
    );
    parts.extend(told.domain.as_ref().map(|name| format!("defined as {name}")));
    parts.extend(told.snapshot.as_ref().map(|name| format!("snapshot {name}")));
    parts.extend(told.autostart.then(|| "starts with the host".to_owned()));
    parts.extend(told.started.then(|| "started".to_owned()));
    parts.extend(told.held_back.as_ref().map(|_| "not started".to_owned()));
    parts.join(", ")
}

/// What a stage told of each disk.
pub(super) fn disks_of(report: &Report, stage: Stage) -> Vec<serde_json::Value> {
    let result = report.pipeline.stages.get(&stage).and_then(|told| told.result.as_ref());
    result.and_then(|result| result["disks"].as_array()).cloned().unwrap_or_default()
}

fn fixes(report: &Report) -> Vec<Vec<Line>> {
    let row = |fix: &FixReport| {
        vec![
            words(&fix.name),
            name(&fix.disk),
            name(&fix.path),
            words(&fix.action),
            words(&fix.detail),
            fix.backup.as_ref().map_or_else(Vec::new, name),
        ]
    };
    report.fixes.iter().map(row).collect()
}

/// What the pre-flight found and did not fail for.
fn preflight(report: &Report) -> Vec<Vec<Line>> {
    let found = report.validation.iter().flat_map(|validation| &validation.results);
    found
        .map(|finding| {
            let optional = |text: &Option<String>| words(text.as_deref().unwrap_or("–"));
            vec![
                words(finding.severity.name()),
                words(finding.rule.as_str()),
                optional(&finding.about),
                words(finding.message.as_str()),
                optional(&finding.suggestion),
            ]
        })
        .collect()
}

fn hooks(report: &Report) -> Vec<Vec<Line>> {
    let row = |run: &HookRun| {
        let verdict = if run.success { "" } else { "failed: " };
        vec![
            name(&run.name),
            words(run.stage.name()),
            words(format!("{verdict}{}", run.status)),
            words(run.attempts.to_string()),
            words(format!("{:.1} s", run.seconds)),
        ]
    };
    report.hooks.iter().map(row).collect()
}

fn notices(page: &mut Page, title: &'static str, notices: &[Notice]) {
    if notices.is_empty() {
        return;
    }
    page.heading(2, words(title));
    page.list(notices.iter().map(|notice| words(format!("{}: {}", notice.stage, notice.message))).collect());
}

fn how_to_start(page: &mut Page, report: &Report) {
    let Some(first) = report.artifacts.first() else { return };
    page.heading(2, words("How to start it"));
    if let Some(told) = &report.libvirt
        && let Some(domain) = &told.domain
    {
        page.paragraph(words(match told.started {
            true => "It was started. To see how it is:",
            false => "libvirt knows it. Once the old machine is off and stays off:",
        }));
        let task = if told.started { "domstate" } else { "start" };
        page.commands([vec!["virsh", "-c", told.uri.as_str(), task, domain.as_str()]]);
        return;
    }
    match &report.domain {
        Some(domain) => {
            page.paragraph(words("With libvirt, once the old machine is off and stays off:"));
            let (path, name) = (domain.path.to_string_lossy(), &report.name);
            page.commands([vec!["virsh", "define", &*path], vec!["virsh", "start", name.as_str()]]);
        }
        None => {
            page.paragraph(words(
                "There is no domain for libvirt. To see whether it comes up, in a machine without a network:",
            ));
            let paths: Vec<_> =
                report.artifacts.iter().map(|artifact| artifact.path.to_string_lossy()).collect();
            let command = ["hyper2kvm", "boot-test"].into_iter().chain(paths.iter().map(|path| &**path));
            page.commands([command.collect()]);
        }
    }
    if first.sha256.is_some() {
        page.paragraph(words("To see that a file is still the one that was made, compare what sha256sum says of it with the digest above."));
    }
}

/// `1 disk`, `2 disks`
pub(super) fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
