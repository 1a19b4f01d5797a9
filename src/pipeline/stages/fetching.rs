//! Disks elsewhere that come to this machine whole before their results are written: where the guest is opened and the result is a stream, and
//! where QEMU lays the result out.
//!
//! ```text
//!   source elsewhere ── extraction ──▶ qcow2 beside the result ── copy, seen through the repairs ──▶ result
//! ```
//!
//! From then on that image is the source, like any file of this machine, for this attempt and for those that follow: only that the source
//! itself is still what it was is asked of where it lies. It goes when its result is published. What is not here: results that may be changed
//! later; they are copied as they are to be, and their repairs are put into them (see [`super::guest`]).

use serde_json::{Value, json};

use super::copying::changed;
use super::load::same_files;
use super::{growth, position};
use crate::disk::{CopyOutcome, Engine, OpenPolicy, SourceDisk, Target, open_source};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::{Compression, OutputFormat, PlannedDisk, Preallocation, SourceFormat};
use crate::pipeline::checkpoint::{FetchedDisk, FileMark};
use crate::pipeline::meter::Pass;
use crate::pipeline::names::{fetch_journal_name, fetched_name, fetches};
use crate::pipeline::worker::Job;
use crate::sys::failpoint;

/// The source to work with: what an earlier attempt has fetched of it, if that is whole and the source what it was. The other one is then
/// the source itself.
pub(super) fn settle(
    job: &mut Job<'_>,
    engine: &Engine,
    disk: &PlannedDisk,
    source: SourceDisk,
) -> Result<(SourceDisk, Option<SourceDisk>)> {
    if !source.is_remote() || !fetches(job.plan, disk) {
        return Ok((source, None));
    }
    let dir = &job.place.results;
    let failed = |name: &str, error: &std::io::Error| {
        Error::io(Kind::Output, "look for", &dir.path().join(name), error)
    };
    let name = fetched_name(&disk.id);
    if let Some(fetched) = job.checkpoint.fetched.get(&disk.id) {
        let is_there = fetched.file.is_at(dir, &name).map_err(|error| failed(&name, &error))?;
        let unchanged = same_files(&fetched.source, source.identity());
        if is_there && unchanged {
            return Ok((open(job, engine, disk)?, Some(source)));
        }
        job.checkpoint.fetched.remove(&disk.id);
        let why = if unchanged { "what was fetched of it was changed" } else { "its source has changed" };
        job.warn(Stage::Load, format!("disk {} is fetched again: {why} since the earlier attempt", disk.id));
    }
    let dir = &job.place.results;
    let journal = fetch_journal_name(&disk.id);
    // As with a result: one that was cut is gone on with, if the copy itself finds that it may be.
    if dir.entry(&journal).map_err(|error| failed(&journal, &error))?.is_none() {
        dir.remove(&name).map_err(|error| failed(&name, &error))?;
    }
    Ok((source, None))
}

/// Brings here what has to be here; then it is the source.
pub(super) fn run(job: &mut Job<'_>) -> Result<Vec<Value>> {
    let mut told = Vec::new();
    for (number, disk) in job.plan.disks.iter().enumerate() {
        if !is_wanted(job, number, disk) {
            continue;
        }
        job.control.checkpoint()?;
        job.meter.detail(Stage::Extraction, format!("{}: fetching", position(number, job)));
        let (fetched, mut telling) = fetch(job, number, disk)?;
        telling["id"] = json!(disk.id);
        told.push(telling);
        job.checkpoint.fetched.insert(disk.id.clone(), fetched);
        job.save()?;
        remove(job, &fetch_journal_name(&disk.id))?;
        failpoint::hit("partial.done");
        let engine = job.engine.clone().ok_or_else(|| Error::internal("nothing was loaded"))?;
        let local = open(job, &engine, disk)?;
        let grown = growth::seen(job, &engine, disk, &local)?;
        if let Some(opened) = job.sources.get_mut(number) {
            (opened.source, opened.fetched_from) = (local, Some(opened.source.clone()));
            opened.grown = grown;
        }
    }
    Ok(told)
}

/// Whether anybody will read it: a result that was proved is all that is needed of a disk.
fn is_wanted(job: &Job<'_>, number: usize, disk: &PlannedDisk) -> bool {
    let is_far = job.sources.get(number).is_some_and(|opened| opened.source.is_remote());
    let is_guest_done = !job.plan.opens_guest() || job.checkpoint.guest.is_some();
    let is_proved = |validated: bool| validated || !job.plan.runs(Stage::Validate);
    let is_copied = job.checkpoint.disks.get(&disk.id).is_some_and(|finished| is_proved(finished.validated));
    is_far && fetches(job.plan, disk) && !(is_guest_done && is_copied)
}

fn fetch(job: &mut Job<'_>, number: usize, disk: &PlannedDisk) -> Result<(FetchedDisk, Value)> {
    let engine = job.engine.clone().ok_or_else(|| Error::internal("nothing was loaded"))?;
    let opened = job.sources.get(number).ok_or_else(|| Error::internal("a disk was not loaded"))?;
    let source = opened.source.clone();
    let (outcome, bytes) = copy(job, &engine, number, disk, &source)?;
    let file = mark(job, disk)?;
    let mut told = json!({ "bytes": bytes, "seconds": (outcome.seconds * 1000.0).round() / 1000.0 });
    if outcome.kept_bytes > 0 {
        told["kept_bytes"] = json!(outcome.kept_bytes);
    }
    Ok((FetchedDisk { source: source.identity().to_vec(), file }, told))
}

/// Copies all of a disk that is to be changed here afterwards; the bytes that came.
pub(super) fn bring(
    job: &mut Job<'_>,
    engine: &Engine,
    number: usize,
    disk: &PlannedDisk,
    source: &SourceDisk,
) -> Result<u64> {
    let (outcome, bytes) = copy(job, engine, number, disk, source)?;
    Ok(bytes.saturating_sub(outcome.kept_bytes))
}

fn copy(
    job: &mut Job<'_>,
    engine: &Engine,
    number: usize,
    disk: &PlannedDisk,
    source: &SourceDisk,
) -> Result<(CopyOutcome, u64)> {
    let target = target(job, disk);
    let measure = engine.measure(source, &target, job.control)?;
    let meter = &mut job.meter;
    let outcome = engine.copy(source, &target, &measure, job.control, &mut |progress| {
        let part = progress.bytes_done as f64 / progress.bytes_total.max(1) as f64;
        meter.passed(number, Pass::Fetch, part.min(0.999));
    })?;
    let (seconds, kept_bytes) = (outcome.seconds, outcome.kept_bytes);
    tracing::info!(disk = disk.id, seconds, kept_bytes, engine = outcome.engine, "fetched");
    if let Some(why) = &outcome.restarted {
        meter.warn(Some(Stage::Extraction), format!("disk {} started over: {why}", disk.id));
    }
    source.check_unchanged(job.control).map_err(|error| changed(&error, disk))?;
    meter.passed(number, Pass::Fetch, 1.0);
    Ok((outcome, measure.bytes_to_copy))
}

/// What tells the file of what was fetched from any other.
pub(super) fn mark(job: &Job<'_>, disk: &PlannedDisk) -> Result<FileMark> {
    let path = job.place.results.path().join(fetched_name(&disk.id));
    let entry = job.place.results.entry(&fetched_name(&disk.id));
    let entry = entry.map_err(|error| Error::io(Kind::Output, "look at", &path, &error))?;
    entry.and_then(FileMark::of).ok_or_else(|| {
        Error::new(Kind::Output, format!("{} vanished while it was written", path.display()))
            .output(&path)
            .advice("something else changes files in the result directory: find it, then try again")
    })
}

/// What it still takes on this machine, besides the results.
pub(super) fn room(job: &Job<'_>) -> Result<u64> {
    let mut room = 0_u64;
    for (number, disk) in
        job.plan.disks.iter().enumerate().filter(|(number, disk)| is_wanted(job, *number, disk))
    {
        let (Some(engine), Some(opened)) = (&job.engine, job.sources.get(number)) else { continue };
        let target = target(job, disk);
        let begun = target.path.symlink_metadata().map_or(0, |file| crate::sys::fs::allocated_bytes(&file));
        let measure = engine.measure(&opened.source, &target, job.control)?;
        room = room.saturating_add(measure.required_bytes.saturating_sub(begun));
    }
    Ok(room)
}

/// Tells the meter of what is to come.
pub(super) fn announce(job: &mut Job<'_>) {
    for (number, disk) in job.plan.disks.iter().enumerate() {
        if is_wanted(job, number, disk)
            && let Some(opened) = job.sources.get(number)
        {
            job.meter.expect(number, Pass::Fetch, opened.source.facts.virtual_size);
        }
    }
}

/// The results hold all of it: what was fetched may go.
pub(super) fn clear(job: &Job<'_>) -> Result<()> {
    for disk in job.plan.disks.iter().filter(|disk| fetches(job.plan, disk)) {
        remove(job, &fetched_name(&disk.id))?;
        remove(job, &fetch_journal_name(&disk.id))?;
    }
    Ok(())
}

pub(super) fn remove(job: &Job<'_>, name: &str) -> Result<()> {
    let dir = &job.place.results;
    let removed = dir.remove(name);
    removed.map(drop).map_err(|error| Error::io(Kind::Output, "remove", &dir.path().join(name), &error))
}

fn target(job: &Job<'_>, disk: &PlannedDisk) -> Target {
    let path = |name: &str| job.place.results.path().join(name);
    Target {
        path: path(&fetched_name(&disk.id)),
        // What is changed here afterwards is plain bytes: each has its place.
        format: if job.plan.warm().is_some() { OutputFormat::Raw } else { OutputFormat::Qcow2 },
        compress: Compression::None,
        level: None,
        preallocation: Preallocation::Off,
        journal: Some(path(&fetch_journal_name(&disk.id))),
    }
}

fn open(job: &Job<'_>, engine: &Engine, disk: &PlannedDisk) -> Result<SourceDisk> {
    let path = job.place.results.path().join(fetched_name(&disk.id));
    let format = if job.plan.warm().is_some() { SourceFormat::Raw } else { SourceFormat::Qcow2 };
    open_source(path, format, &OpenPolicy::default(), engine, job.control)
}
