//! Copying a disk: from its source straight into its final format, beside its final place.
//!
//! A disk is finished when its bytes are durable, its source has the checksum that it has to have and is still what it was, and the journal
//! says so: in this order. What is not here: in which stage that happens.

use std::io::ErrorKind;

use serde_json::{Value, json};

use super::{guest, position, sums};
use crate::disk::{CopyOutcome, Target};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::pipeline::checkpoint::{FileMark, FinishedDisk, Holds};
use crate::pipeline::meter::Pass;
use crate::pipeline::worker::Job;
use crate::sys::failpoint;

/// What a disk is copied into.
pub(super) fn target(job: &Job<'_>, disk: &PlannedDisk) -> Target {
    let output = &job.plan.output;
    Target {
        path: job.partial_path(disk),
        format: job.plan.format_of(disk),
        compress: output.compress,
        level: output.compress_level,
        preallocation: job.plan.preallocation_of(disk),
        journal: None,
    }
}

/// Copies every disk that is not finished.
pub(super) fn copy_all(job: &mut Job<'_>, stage: Stage) -> Result<Value> {
    let mut told = Vec::new();
    for (number, disk) in job.plan.disks.iter().enumerate() {
        if let Some(finished) = job.checkpoint.disks.get(&disk.id) {
            told.push(json!({ "id": disk.id, "bytes": finished.bytes_copied, "kept": true }));
            continue;
        }
        job.control.checkpoint()?;
        job.meter.detail(stage, position(number, job));
        let (finished, outcome) = copy_one(job, stage, number, disk)?;
        let seconds = (outcome.seconds * 1000.0).round() / 1000.0;
        let mut copied = json!({ "id": disk.id, "bytes": finished.bytes_copied, "seconds": seconds });
        match outcome.kept_bytes {
            0 => _ = job.copied.insert(disk.id.clone()),
            kept => copied["kept_bytes"] = json!(kept),
        }
        told.push(copied);
        let file = finished.file;
        job.checkpoint.disks.insert(disk.id.clone(), finished);
        job.save()?;
        settle_journal(job, disk)?;
        if may_be_hashed(job, number, disk) {
            let path = job.partial_path(disk);
            job.early.begin(&disk.id, &path, file, job.control);
        }
        failpoint::hit("partial.done");
    }
    Ok(json!({ "disks": told }))
}

/// Whether the digest of a disk that was just finished is begun at once: nothing changes it any more, and storage has nobody else to serve. So not
/// of one that will be read back from the medium, nor while other disks are copied from files.
fn may_be_hashed(job: &Job<'_>, number: usize, disk: &PlannedDisk) -> bool {
    let is_proved_by_tables = !job.plan.output.read_back && job.copied.contains(&disk.id);
    let is_alone = job.plan.remote.is_some() || number + 1 == job.plan.disks.len();
    job.plan.runs(Stage::Validate) && !job.plan.opens_guest() && is_proved_by_tables && is_alone
}

/// A copy that is recorded as finished is not gone on with: its journal becomes what the result is held against.
pub(super) fn settle_journal(job: &Job<'_>, disk: &PlannedDisk) -> Result<()> {
    let (dir, from) = (job.dir(disk)?, job.copy_journal(disk));
    match dir.rename_over(&from, &job.extents(disk)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(Kind::Output, "rename", &dir.path().join(&from), &error))
        }
        _ => Ok(()),
    }
}

/// The result was held against it, or is no more.
pub(super) fn forget_extents(job: &Job<'_>, disk: &PlannedDisk) -> Result<()> {
    let (dir, name) = (job.dir(disk)?, job.extents(disk));
    let removed = dir.remove(&name);
    removed.map(drop).map_err(|error| Error::io(Kind::Output, "remove", &dir.path().join(&name), &error))
}

fn copy_one(
    job: &mut Job<'_>,
    stage: Stage,
    number: usize,
    disk: &PlannedDisk,
) -> Result<(FinishedDisk, CopyOutcome)> {
    let dir = job.place.dirs().of(disk)?;
    let partial = job.partial(disk);
    let repaired = guest::is_repaired(job, disk) && stage == Stage::Convert;
    // What repairs show is made anew by every run that needs them: only a copy of the source itself is gone on with.
    let journal = (!repaired).then(|| job.path(disk, &job.copy_journal(disk)));
    let target = Target { journal, ..target(job, disk) };
    if repaired {
        // What a cut copy left; also a link that somebody else put there: removed, never followed.
        dir.remove(&partial).map_err(|error| Error::io(Kind::Output, "remove", &target.path, &error))?;
    }
    let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
    let opened = job.sources.get(number).ok_or_else(|| Error::internal("a disk was not loaded"))?;
    let content = guest::content(job, number, disk)?;
    let (from, measure) = match repaired {
        true => (&content, &engine.measure(&content, &target, job.control)?),
        false => (opened.content(), &opened.measure),
    };
    let sums = sums::begin(job.plan, number, &opened.source, job.control)?;
    let meter = &mut job.meter;
    let copied = engine.copy(from, &target, measure, job.control, &mut |progress| {
        let part = progress.bytes_done as f64 / progress.bytes_total.max(1) as f64;
        if let Some(sums) = &sums {
            meter.passed(number, Pass::Checksum, sums.follow(part));
        }
        // Only what is durable is all of it.
        meter.copied(number, &disk.id, part.min(0.999));
    });
    // A source that cannot be read may be one that was spoiled on its way, which its checksum says best.
    if let (Some(sums), None | Some(Kind::Source)) = (sums, copied.as_ref().err().map(Error::kind)) {
        let limit = engine.stall_timeout_s;
        sums.hold(limit, job.control, &mut |done| meter.passed(number, Pass::Checksum, done))?;
        meter.passed(number, Pass::Checksum, 1.0);
    }
    let outcome = copied?;
    let (seconds, kept_bytes) = (outcome.seconds, outcome.kept_bytes);
    tracing::info!(disk = disk.id, seconds, kept_bytes, engine = outcome.engine, "copied");
    if let Some(why) = &outcome.restarted {
        meter.warn(Some(stage), format!("disk {} started over: {why}", disk.id));
    }
    from.check_unchanged(job.control).map_err(|error| changed(&error, disk))?;
    let lost = |why: &str| {
        Error::new(Kind::Output, format!("{} {why}", target.path.display()))
            .output(&target.path)
            .advice("something else changes files in the result directory: find it, then try again")
    };
    let entry = dir
        .entry(&partial)
        .map_err(|error| Error::io(Kind::Output, "look at", &target.path, &error))?
        .ok_or_else(|| lost("vanished while it was written"))?;
    let file = FileMark::of(entry).ok_or_else(|| lost("is not a plain file any more"))?;
    meter.copied(number, &disk.id, 1.0);
    let finished = FinishedDisk {
        source: opened.origin().identity().to_vec(),
        source_format: opened.origin().format,
        partial,
        file,
        virtual_size: outcome.virtual_size,
        bytes_copied: opened.measure.bytes_to_copy,
        engine: outcome.engine.clone(),
        validated: false,
        sha256: None,
        holds: if repaired { Holds::Fixed } else { Holds::Source },
    };
    Ok((finished, outcome))
}

/// The words that operators look for.
pub(super) fn changed(error: &Error, disk: &PlannedDisk) -> Error {
    if error.kind() != Kind::Source {
        return error.clone();
    }
    Error::new(
        Kind::Source,
        format!("disk {}: the source changed during the copy: {}", disk.id, error.details().cause),
    )
    .source(disk.source.display().to_string())
    .advice("make sure that the VM is off and that nothing else writes to its disk, then retry")
}
