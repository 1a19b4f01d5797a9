//! The disks: what opening them told, and what was left open.

use super::{Scene, Validator};
use crate::disk::{SourceDisk, odd_size};
use crate::model::error::{Error, Kind};
use crate::model::plan::PlannedDisk;
use crate::model::units::human_size;
use crate::model::validation::Findings;

pub(super) struct Disks;

impl Validator for Disks {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn applies(&self, _: &Scene<'_>) -> bool {
        true
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        for (disk, source) in scene.disks() {
            match source {
                Err(error) => findings.error("disk.unreadable", Some(&disk.id), error.clone()),
                Ok(source) => {
                    if disk
                        .resize
                        .is_some_and(|growth| growth.applied_to(source.facts.virtual_size).is_none())
                    {
                        findings.error(
                            "disk.shrinks",
                            Some(&disk.id),
                            shrinks(disk, source.facts.virtual_size),
                        );
                    }
                    if scene.looks_at_metadata() {
                        look_at_one(disk, source, findings);
                    }
                }
            }
        }
        for note in scene.plan.notes.iter().filter(|_| scene.looks_at_metadata()) {
            let error = Error::new(Kind::Source, note.message.clone()).advice(note.advice.clone());
            findings.add(&note.rule, note.about.as_deref(), error);
        }
    }
}

fn look_at_one(disk: &PlannedDisk, source: &SourceDisk, findings: &mut Findings) {
    let facts = &source.facts;
    let about = Some(disk.id.as_str());
    for warning in &source.warnings {
        let rule = if *warning == odd_size(facts.file_size) { "disk.odd_size" } else { "disk.note" };
        findings.add(rule, about, Error::new(Kind::Source, warning.clone()));
    }
    if let Some(told) = disk.bytes
        && told != facts.file_size
        && told != facts.virtual_size
    {
        let (file, seen) = (facts.file_size, facts.virtual_size);
        let cause =
            format!("the manifest says {told} bytes, but the file has {file} and the guest sees {seen}");
        let error = Error::new(Kind::Source, cause);
        findings.add(
            "disk.size",
            about,
            error.advice("see whether it is the disk that is meant, and all of it"),
        );
    }
    if disk.checksum.is_none() && disk.piece_checksums.is_empty() && !source.is_remote() {
        let error = Error::new(Kind::Source, "there is no checksum of it");
        findings.add(
            "disk.no_checksum",
            about,
            error.advice("`disks[].checksum` is checked while it is copied"),
        );
    }
    if !facts.backing.is_empty() {
        let error = Error::new(
            Kind::Source,
            format!("it is read as the last state of a chain of {} images", facts.backing.len() + 1),
        );
        findings.add("disk.chain_used", about, error);
    }
}

/// A result is never smaller than its source.
pub(in crate::pipeline) fn shrinks(disk: &PlannedDisk, now: u64) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("disk {} has {} ({now} bytes), and disks only grow", disk.id, human_size(now)),
    )
    .rule("disk.shrinks")
    .field("disks[].resize")
    .source(disk.source.display().to_string())
    .advice("give a size that is larger, or how much is to be added: `resize: \"+10GiB\"`")
}
