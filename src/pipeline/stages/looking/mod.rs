//! A look into the guest of a source elsewhere before a byte of it is copied: where the manifest says `preflight: full`.
//!
//! ```text
//!   disks, opened where they are ─▶ served to an appliance, through overlays that are thrown away ─▶ Seen ─▶ judged with all other rules
//!        └── what was read of them is kept ──▶ the copy, which does not ask for it again
//! ```
//!
//! It needs disks that hold still: of a VM that is off, or as of a snapshot, whoever has opened them. A VM that is to be shut down is looked into before that, too
//! ([`running`]). What was looked into is in the journal: another attempt looks again
//! only if the disks are others by then. A read that failed is a failure of the network, and never one of the guest; a look that would take too much is given up, and
//! the guest is judged when its disks are here, as without it. What is not here: the rules ([`preflight::judge`]), and disks of this machine, which are looked
//! into beside their copy (see [`super::guest`]).

mod running;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

pub(super) use running::before_shutdown;

use super::guest;
use super::load::same_files;
use crate::disk::{Bounds, Engine, FileIdentity, Memory, SourceDisk};
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::remote::{NOT_OPENED_RULE, streams_note};
use crate::model::validation::Findings;
use crate::pipeline::examine::{Opening, Rehearsal};
use crate::pipeline::guest_child::{Bearable, GuestLimits, Objects};
use crate::pipeline::preflight::{self, Seen};
use crate::pipeline::worker::Job;

/// What an appliance is looked for in, where it is missing.
const NO_LIBGUESTFS: &str = "host.libguestfs";

type Opened = Vec<Result<SourceDisk>>;

/// Whether somebody has asked for it, and there may be a guest.
fn is_wanted(job: &Job<'_>) -> bool {
    job.plan.remote.as_ref().is_some_and(|remote| remote.looks_first) && job.plan.opens_guest()
}

/// The sources so that what a look reads of them is kept for the copy, if somebody is to look.
pub(super) fn remembered(job: &Job<'_>, sources: Opened) -> (Opened, Option<Arc<Memory>>) {
    let is_whole = sources.len() == job.plan.disks.len() && sources.iter().all(Result::is_ok);
    if !is_wanted(job) || !is_whole || same_files(&job.checkpoint.looked, &identities(&sources)) {
        return (sources, None);
    }
    let memory = Memory::new(Bounds::default());
    let kept = sources.into_iter().enumerate();
    (kept.map(|(number, disk)| disk.map(|disk| disk.remembered(number, &memory))).collect(), Some(memory))
}

fn identities(sources: &Opened) -> Vec<FileIdentity> {
    sources.iter().flatten().flat_map(SourceDisk::identity).cloned().collect()
}

/// Looks, and says for the report what that took; nothing if there was no looking.
pub(super) fn look(
    job: &mut Job<'_>,
    engine: &Engine,
    sources: &Opened,
    memory: &Memory,
    findings: &mut Findings,
) -> Result<Option<Value>> {
    let disks: Vec<SourceDisk> = sources.iter().flatten().cloned().collect();
    if disks.iter().any(SourceDisk::is_read_once) {
        let note = streams_note();
        findings.add(&note.rule, None, Error::new(Kind::Source, note.message).advice(note.advice));
        return Ok(None);
    }
    if findings.told().any(|finding| finding.rule == NO_LIBGUESTFS) {
        return Ok(None);
    }
    let (seen, told) = see(job, engine, &disks, memory, findings)?;
    let Some(seen) = seen else { return Ok(Some(told)) };
    preflight::judge(job.plan, &seen, findings);
    if findings.failure().is_none() {
        job.checkpoint.looked = identities(sources);
        job.save()?;
    }
    Ok(Some(told))
}

/// What a look shows of the guest, and what it took for the report. It shows nothing where it was given up, which is told.
fn see(
    job: &mut Job<'_>,
    engine: &Engine,
    disks: &[SourceDisk],
    memory: &Memory,
    findings: &mut Findings,
) -> Result<(Option<Seen>, Value)> {
    let begun = Instant::now();
    let found = inside(job, engine, disks);
    memory.is_enough();
    // An end from outside shows as a crash of the appliance, …
    job.control.ended()?;
    let (bytes_read, seconds) = (memory.bytes_read(), begun.elapsed().as_secs_f64());
    tracing::info!(bytes_read, seconds, "looked into the guest before its copy");
    let told = json!({ "bytes_read": bytes_read, "seconds": (seconds * 1000.0).round() / 1000.0 });
    // … and a server that does not answer as a damaged disk.
    match memory.failure() {
        Some(error) if error.details().rule.as_deref() == Some(NOT_OPENED_RULE) => {
            findings.add(NOT_OPENED_RULE, None, error);
            return Ok((None, told));
        }
        Some(error) => return Err(error),
        None => {}
    }
    let seen = match found {
        Ok(found) => Seen { identity: Some(found.identity), condition: found.condition, error: None },
        Err(error) if error.disposition() == Disposition::Permanent => {
            Seen { error: Some(error), ..Seen::default() }
        }
        Err(error) => return Err(error),
    };
    Ok((Some(seen), told))
}

fn inside(job: &mut Job<'_>, engine: &Engine, disks: &[SourceDisk]) -> Result<Rehearsal> {
    let place = job.place.guest.as_ref().ok_or_else(|| Error::internal("the guest work has no place"))?;
    let overlays: Vec<PathBuf> =
        (0..disks.len()).map(|number| place.temp.join(format!("look-{number}.qcow2"))).collect();
    let opening = Opening {
        engine,
        control: job.control,
        place,
        limits: GuestLimits {
            stall_timeout_s: job.order.limits.stall_timeout_s,
            sandbox_required: job.order.limits.sandbox_required,
            bearable: Bearable::default(),
            objects: Objects::default(),
        },
        kvm: job.kvm().works,
    };
    let keys = guest::keys(job);
    let meter = &mut job.meter;
    let found = opening.work(disks, &overlays, keys, None, &mut |what| {
        meter.detail(Stage::Load, format!("looks into the guest: {what}"));
    });
    for overlay in overlays {
        if let Err(error) = std::fs::remove_file(&overlay) {
            tracing::debug!(path = %overlay.display(), %error, "an overlay stays until the work is over");
        }
    }
    found
}
