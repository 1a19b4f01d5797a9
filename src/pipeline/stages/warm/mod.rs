//! Warm migration: passes over a VM that runs, until the last one over a VM that is off.
//!
//! ```text
//!   runs:  freeze (snapshot) ─▶ disk by disk: all in use, or what has changed ─▶ durable ─▶ change id ─▶ thaw ─▶ waits for its next pass
//!   off:                        disk by disk: what has changed                ─▶ durable ─▶ goes on like any VM that is off
//! ```
//!
//! The copies are plain bytes beside the results, in which changes are put in their places; what the results are made of is settled by the last pass.
//! Nothing of the guest is looked at or repaired before. What is not here: when passes are made (the scheduler), what is asked of the server
//! (`pipeline::remote`), and what happens to a copy that is whole ([`super::fetching`]).

mod source;

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;

use super::{fetching, load, position, power};
use crate::disk::Engine;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::model::protocol::WorkerEvent;
use crate::model::units::human_size;
use crate::model::warm::{Pass, PassKind};
use crate::pipeline::checkpoint::FetchedDisk;
use crate::pipeline::meter;
use crate::pipeline::names::{fetch_journal_name, fetched_name};
use crate::pipeline::passes::{Passes, WarmCopy};
use crate::pipeline::remote::{Changes, Moment, Source};
use crate::pipeline::worker::Job;
use crate::sys::failpoint;
use crate::sys::time::now_epoch;

/// So many passes are kept for the report, the first among them.
const MOST_PASSES: usize = 64;

/// What a run has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) enum Run {
    /// A pass is made, and others follow: the job waits.
    Waits,
    /// What there is to copy lies still, or is here.
    GoesOn,
}

/// Makes the passes that are due now.
pub(in crate::pipeline) fn run(job: &mut Job<'_>) -> Result<Run> {
    if job.plan.warm().is_none() || job.checkpoint.intent.is_some() {
        return Ok(Run::GoesOn);
    }
    if job.order.job_id == 0 {
        return Err(Error::new(Kind::Unsupported, "a VM is migrated while it runs by the service alone")
            .field("source.vsphere.mode")
            .advice(
                "hand the manifest to it: `hyper2kvm submit`; or leave out `mode` and shut the VM down",
            ));
    }
    let source = timed(job, Stage::Load, look)?;
    if made(job).is_over {
        if source.is_off() {
            return Ok(Run::GoesOn);
        }
        job.warn(Stage::Load, "the VM runs again since its last pass: there will be another one".to_owned());
        passes(job).is_over = false;
        job.checkpoint.fetched.clear();
        job.save()?;
    }
    timed(job, Stage::Extraction, |job| pass_by_pass(job, source))
}

/// A part of the work that counts for a stage.
fn timed<T>(job: &mut Job<'_>, stage: Stage, work: impl FnOnce(&mut Job<'_>) -> Result<T>) -> Result<T> {
    job.reached = Some(stage);
    job.meter.tell(WorkerEvent::StageStarted { stage });
    let (start, began_at) = (Instant::now(), now_epoch());
    let done = work(job);
    *job.checkpoint.stage_seconds.entry(stage).or_default() += start.elapsed().as_secs_f64();
    job.checkpoint.stage_times.entry(stage).or_insert((began_at, began_at)).1 = now_epoch();
    done.map_err(|error| error.stage(stage))
}

/// Looks for the VM, and whether its disks can be copied while it runs.
fn look(job: &mut Job<'_>) -> Result<Source> {
    let start = Instant::now();
    let found = load::ask(job)?;
    let source = found.ok_or_else(|| Error::internal("a VM that is migrated warm is nowhere"))?;
    load::may_be_acted_on(job, &source)?;
    let result = json!({ "vm": source.machine.path, "power": source.machine.power.name() });
    let seconds = start.elapsed().as_secs_f64();
    job.meter.tell(WorkerEvent::StageFinished { stage: Stage::Load, seconds, result });
    Ok(source)
}

fn pass_by_pass(job: &mut Job<'_>, mut source: Source) -> Result<Run> {
    let engine = load::engine(job)?;
    announce(job, &source);
    if made(job).is_ending {
        // Whoever made it has died since. As of its snapshot nothing has changed: another pass over that would tell nothing of the guest.
        end(job, &mut source)?;
    }
    source::track(job, &source)?;
    let is_going_off = job.checkpoint.acts.shut_down().is_some();
    let ends = job.order.cuts_over || is_going_off;
    if !source.is_off() {
        // Also before the end: what is copied now need not be copied while it is off.
        let is_shut_down = job.plan.remote.as_ref().is_some_and(|remote| remote.shutdown.is_some());
        let still_runs = ends && !is_shut_down;
        one_pass(job, &engine, &mut source, PassKind::Changes, still_runs)?;
        if !ends || still_runs {
            return Ok(Run::Waits);
        }
    } else if !ends {
        one_pass(job, &engine, &mut source, PassKind::Changes, false)?;
        return Ok(Run::Waits);
    }
    let mut source = power::off(job, source)?;
    if !source.is_off() {
        return Err(Error::new(Kind::Source, format!("{} was to be off and runs", source.machine.path))
            .rule("source.running")
            .source(source.machine.path.clone())
            .advice("see who has started it; what it changes is copied by another pass")
            .transient());
    }
    one_pass(job, &engine, &mut source, PassKind::Last, false)?;
    let connections = source::connections(job);
    for disk in &job.plan.disks {
        let origin = source.open(disk, connections)?;
        let file = fetching::mark(job, disk)?;
        let fetched = FetchedDisk { source: origin.identity().to_vec(), file };
        job.checkpoint.fetched.insert(disk.id.clone(), fetched);
    }
    passes(job).is_over = true;
    job.save()?;
    failpoint::hit("warm.over");
    Ok(Run::GoesOn)
}

/// One pass over all disks.
fn one_pass(
    job: &mut Job<'_>,
    engine: &Engine,
    source: &mut Source,
    kind: PassKind,
    still_runs: bool,
) -> Result<()> {
    let (start, started_at) = (Instant::now(), now_epoch());
    let number = made(job).made.last().map_or(1, |pass| pass.number.saturating_add(1));
    let snapshot = source::freeze(job, source)?;
    let moment = source.at(snapshot.as_deref())?;
    let mut moved = BTreeMap::new();
    // What the first one moves says nothing of what changes, however much of it was here already.
    let mut is_full = number == 1;
    for (at, disk) in job.plan.disks.iter().enumerate() {
        job.control.checkpoint()?;
        let (bytes, was_whole) = one_disk(job, engine, &moment, (number, at), disk)?;
        is_full |= was_whole;
        moved.insert(disk.id.clone(), bytes);
    }
    let pass = Pass {
        number,
        kind: if is_full && kind == PassKind::Changes { PassKind::Full } else { kind },
        started_at,
        seconds: (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        bytes: moved.values().sum(),
        disks: moved,
        still_runs,
    };
    let passes = passes(job);
    passes.made.push(pass);
    if passes.made.len() > MOST_PASSES {
        passes.made.remove(1);
    }
    passes.is_ending = true;
    job.save()?;
    failpoint::hit("warm.passed");
    end(job, source)
}

/// What follows a pass that is complete: it is told, and what was frozen for it goes.
fn end(job: &mut Job<'_>, source: &mut Source) -> Result<()> {
    let newest = made(job).made.last().cloned();
    newest.into_iter().for_each(|pass| job.meter.tell(WorkerEvent::Passed(pass)));
    source::thaw(job, source)?;
    passes(job).is_ending = false;
    Ok(())
}

/// Brings the copy of one disk to this moment: how many bytes that took, and whether all of it was copied.
fn one_disk(
    job: &mut Job<'_>,
    engine: &Engine,
    moment: &Moment<'_>,
    (number, at): (u32, usize),
    disk: &PlannedDisk,
) -> Result<(u64, bool)> {
    let connections = source::connections(job);
    // Asked before anything is read: what is written after this moment is in the next pass.
    let change_id = moment.change_id(disk)?;
    let told = |job: &mut Job<'_>, what: String| {
        let detail = format!("pass {number}, {}: {what}", position(at, job));
        job.meter.detail(Stage::Extraction, detail);
    };
    let outcome = match known_changes(job, moment, disk)? {
        Some(areas) => {
            let total: u64 = areas.iter().map(|area| area.end.saturating_sub(area.start)).sum();
            told(job, format!("{} have changed", human_size(total)));
            let source = moment.open_all(disk, connections)?;
            job.meter.disk(&disk.id, total, 0, source.facts.virtual_size);
            let path = job.place.results.path().join(fetched_name(&disk.id));
            let meter = &mut job.meter;
            let patched = engine.patch(&source, &areas, &path, job.control, &mut |done| {
                meter.moved(at, &disk.id, meter::Pass::Fetch, done as f64 / total.max(1) as f64);
            })?;
            source.check_unchanged(job.control)?;
            (patched.bytes, false)
        }
        None => {
            told(job, "all that is in use".to_owned());
            let source = moment.open(disk, connections)?;
            let copied = fetching::bring(job, engine, at, disk, &source)?;
            (copied, true)
        }
    };
    let file = fetching::mark(job, disk)?;
    failpoint::hit("warm.patched");
    let copy = WarmCopy { inode: file.inode, size: file.size, change_id };
    passes(job).copies.insert(disk.id.clone(), copy);
    job.save()?;
    fetching::remove(job, &fetch_journal_name(&disk.id))?;
    Ok(outcome)
}

/// What has changed of a disk since its copy was made; none: there is no copy, or nobody knows.
fn known_changes(
    job: &mut Job<'_>,
    moment: &Moment<'_>,
    disk: &PlannedDisk,
) -> Result<Option<Vec<std::ops::Range<u64>>>> {
    let Some(copy) = made(job).copies.get(&disk.id).cloned() else { return Ok(None) };
    let entry = job.place.results.entry(&fetched_name(&disk.id));
    let entry = entry.map_err(|error| {
        Error::io(Kind::Output, "look for", &job.place.results.path().join(fetched_name(&disk.id)), &error)
    })?;
    let is_there =
        entry.is_some_and(|entry| entry.is_file && (entry.inode, entry.size) == (copy.inode, copy.size));
    let lost = match (&copy.change_id, is_there) {
        (_, false) => "its copy is not there any more, or is another file".to_owned(),
        (None, true) => "the server had not begun to keep account of its changes".to_owned(),
        (Some(since), true) => match moment.changes(disk, since)? {
            Changes::Areas(areas) => return Ok(Some(areas)),
            Changes::Lost(why) => why,
        },
    };
    job.warn(Stage::Extraction, format!("disk {} is copied whole again: {lost}", disk.id));
    passes(job).copies.remove(&disk.id);
    job.save()?;
    fetching::remove(job, &fetched_name(&disk.id))?;
    Ok(None)
}

/// Tells the meter of all that is to come, so that a pass is only a part of it.
fn announce(job: &mut Job<'_>, source: &Source) {
    let validates = job.plan.runs(Stage::Validate);
    for (number, disk) in job.plan.disks.iter().enumerate() {
        let bytes = source.capacity(disk);
        for pass in [meter::Pass::Fetch, meter::Pass::Copy] {
            job.meter.expect(number, pass, bytes);
        }
        if validates {
            job.meter.expect(number, meter::Pass::Compare, bytes);
            job.meter.expect(number, meter::Pass::Hash, bytes);
        }
    }
}

/// The passes that are made, for the report; none where there are none.
pub(in crate::pipeline) fn told(job: &Job<'_>) -> Option<serde_json::Value> {
    let passes = job.checkpoint.passes.as_ref().filter(|passes| !passes.made.is_empty())?;
    Some(json!(passes.made))
}

fn made<'p>(job: &'p mut Job<'_>) -> &'p Passes {
    passes(job)
}

fn passes<'p>(job: &'p mut Job<'_>) -> &'p mut Passes {
    job.checkpoint.passes.get_or_insert_default()
}
