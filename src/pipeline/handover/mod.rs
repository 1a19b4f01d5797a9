//! The stage `libvirt`: a result that has its final names is handed to libvirt, and only then said to be complete.
//!
//! ```text
//!   names given ─▶ digests ─▶ show ▸ import ▸ define ▸ snapshot ▸ autostart ▸ start ▸ move ─▶ texts, report.json last
//!                                  │ failed, never started: the last first
//!                                  ▼
//!                           taken back, and the names with it
//! ```
//!
//! It runs when disks lie where the machine names them, and before `report.json`, whose presence says that all is done. The journal knows each
//! step before libvirt does. What is not here: what libvirt is told in which words ([`crate::libvirt`]), and how names are given
//! ([`super::publish`]).

#[cfg(feature = "libvirt")]
mod domain;
#[cfg(feature = "libvirt")]
mod guard;
#[cfg(feature = "libvirt")]
mod import;
#[cfg(feature = "libvirt")]
mod made;
mod record;
#[cfg_attr(not(feature = "libvirt"), path = "absent.rs")]
mod steps;

use std::borrow::Cow;

use serde_json::Value;

#[cfg(feature = "libvirt")]
pub(in crate::pipeline) use guard::{shared, stays};
#[cfg(feature = "libvirt")]
pub(in crate::pipeline) use import::taken;
pub use record::{DefinedDomain, Handover, Stand, Step};

use super::checkpoint::{Checkpoint, Intent, hex_sha256};
use super::publish;
use super::report::{self, Written};
use super::worker::Job;
use crate::disk::Interruption;
use crate::model::boot::{BootVerdict, Verdict};
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::handover::{HandedVolume, PlannedLibvirt};
use crate::model::job::Stage;
use crate::model::plan::Plan;
use crate::model::protocol::Published;
use crate::model::report::{Report, WrittenFile};
use crate::sys::failpoint;
use steps::Teller;
pub(in crate::pipeline) use steps::{is_there, stop};

/// What is to be handed over of a result with this report; none where libvirt is told nothing.
pub(super) fn due(plan: &Plan, report: &Report) -> Option<Handover> {
    let planned = plan.libvirt.clone()?;
    let held_back = runs_on(plan, &planned).or_else(|| not_proved(&planned, report));
    Some(Handover::new(planned, held_back))
}

/// Why a machine that is wanted to run may not: what it is a copy of runs on, with the same addresses.
fn runs_on(plan: &Plan, planned: &PlannedLibvirt) -> Option<String> {
    let is_isolated = plan.remote.as_ref().is_some_and(|remote| remote.isolated);
    ((planned.start || planned.autostart) && is_isolated).then(|| {
        "the machine is defined with its cards unplugged, and neither started nor set to start with the host: it is a copy of one that runs (`allow_live_clone: true` says that both may)"
            .to_owned()
    })
}

/// Why a machine that is wanted to run may not: its boot test ended without an answer. One that is off was switched off by somebody.
fn not_proved(planned: &PlannedLibvirt, report: &Report) -> Option<String> {
    if !planned.start && !planned.autostart {
        return None;
    }
    let result = report.pipeline.stages.get(&Stage::BootTest)?.result.clone()?;
    let found: BootVerdict = serde_json::from_value(result).ok()?;
    (found.verdict != Verdict::Booted).then(|| {
        "the machine is defined, and neither started nor set to start with the host: the boot test could not tell whether it comes up"
            .to_owned()
    })
}

/// Finishes what an earlier attempt had begun to take back: the work then begins anew.
pub(super) fn settle(job: &mut Job<'_>) -> Result<()> {
    let Some(Stand::Undoing(_)) = handover(&job.checkpoint).map(|handover| handover.stand) else {
        return Ok(());
    };
    turn_back(job)
}

/// Hands over what has its final names, as far as that has not happened yet.
pub(super) fn hand_over(job: &mut Job<'_>) -> Result<()> {
    let Some(handover) = handover(&job.checkpoint).filter(|handover| handover.stand != Stand::Told) else {
        return Ok(());
    };
    // A machine that was started is not taken back: there is nothing to cancel but the waiting.
    if !handover.is_past_undoing() {
        job.control.checkpoint()?;
    }
    match job.one_stage(Stage::Libvirt) {
        Ok(()) => conclude(job),
        Err(error) => Err(after(job, error.stage(Stage::Libvirt))),
    }
}

/// The stage: every step that is left.
pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let mut teller = Teller::of(job)?;
    if let Some(why) = handover(&job.checkpoint).and_then(|handover| handover.held_back.clone()) {
        job.warn(Stage::Libvirt, why);
    }
    while let Some(step) = handover(&job.checkpoint).and_then(Handover::next) {
        if step <= Step::Start {
            job.control.checkpoint()?;
        }
        job.meter.detail(Stage::Libvirt, step.words());
        // Whoever finds this looks what libvirt knows.
        record(job, |handover| handover.begins(step))?;
        failpoint::hit("handover.begun");
        teller.tell(job, step)?;
        failpoint::hit("handover.answered");
        record(job, |handover| handover.ends(step))?;
        failpoint::hit("handover.done");
        tracing::info!(step = step.words(), "libvirt was told");
    }
    let told = handover(&job.checkpoint).map(Handover::told);
    serde_json::to_value(told)
        .map_err(|error| Error::internal(format!("what libvirt was told cannot be told: {error}")))
}

/// What libvirt knows of an unfinished VM is taken back, unless its machine was started. For whoever removes all that is left of it.
pub(super) fn taken_back(checkpoint: &Checkpoint) -> Result<Cow<'_, Checkpoint>> {
    let mut undone = checkpoint.clone();
    let Some(handover) = undone.intent.as_mut().and_then(|intent| intent.handover.as_mut()) else {
        return Ok(Cow::Borrowed(checkpoint));
    };
    if steps::was_started(handover)? || !handover.turns_back() {
        return Ok(Cow::Borrowed(checkpoint));
    }
    steps::undo(handover)?;
    handover.is_undone();
    Ok(Cow::Owned(undone))
}

/// What was taken back has no final name any more: libvirt does not show it either.
pub(super) fn hide(taken_back: &Checkpoint) -> Result<()> {
    handover(taken_back).map_or(Ok(()), steps::hide)
}

/// What was begun with the libvirt of another host is neither gone on with nor taken back by this one's: there would be two machines, or one without
/// its disks.
pub(super) fn refuse_what_is_elsewhere(found: &Checkpoint, host: Option<&str>) -> Result<()> {
    if !found.is_of_another_host(host) || !found.intent.as_ref().is_some_and(Intent::is_libvirts) {
        return Ok(());
    }
    let other = found.host.as_deref().unwrap_or("another host");
    Err(Error::new(Kind::Exists, format!("{other} had begun to hand the result to its libvirt, and only it can go on"))
        .advice("let that host finish it (`hyper2kvm submit --takeover` there); or undefine the machine there and remove the VM's directory, then submit it again"))
}

/// Refuses to throw away what is needed to finish with a machine that was started: that is not taken back.
pub(super) fn refuse_what_was_started(found: &Checkpoint) -> Result<()> {
    let Some(handover) = handover(found) else { return Ok(()) };
    if !handover.is_past_undoing() && !steps::was_started(handover)? {
        return Ok(());
    }
    let name = &handover.planned.name;
    Err(Error::new(Kind::Exists, format!("libvirt has the machine {name}, which is not taken back"))
        .advice("`hyper2kvm retry` finishes what is left to do; or undefine the machine yourself and remove the VM's directory"))
}

/// Whether the machine that was made of the result has run, or may have: its source stays off.
pub(super) fn target_has_run(job: &Job<'_>) -> bool {
    let Some(handover) = handover(&job.checkpoint) else { return false };
    let of = (job.order.batch_id.as_str(), job.plan.vm_id.as_str());
    // What was not started was taken back; and a libvirt that cannot be asked may run it.
    handover.is_past_undoing() || steps::is_there(&handover.planned, of).unwrap_or(true)
}

fn handover(checkpoint: &Checkpoint) -> Option<&Handover> {
    checkpoint.intent.as_ref().and_then(|intent| intent.handover.as_ref())
}

/// Makes a change to what the journal says of it durable.
fn record(job: &mut Job<'_>, change: impl FnOnce(&mut Handover)) -> Result<()> {
    if let Some(handover) = job.checkpoint.intent.as_mut().and_then(|intent| intent.handover.as_mut()) {
        change(handover);
    }
    job.save()
}

/// A step failed: what may be tried again stays as it is, also where nobody does so by himself (a libvirt that is away undoes nothing either);
/// everything else is taken back. Gives what the job fails with.
fn after(job: &mut Job<'_>, error: Error) -> Error {
    let stays = match job.control.interruption() {
        Some(Interruption::Stop) => true,
        Some(Interruption::Cancel { .. }) => false,
        None => error.disposition() != Disposition::Permanent,
    };
    if stays {
        return error;
    }
    match turn_back(job) {
        Ok(()) => error,
        Err(left) => {
            tracing::error!(%left, "what libvirt was told could not be taken back");
            left.and_also(&[&error.details().cause])
        }
    }
}

/// Takes back what libvirt was told and the names with it, unless the machine was started.
fn turn_back(job: &mut Job<'_>) -> Result<()> {
    let was_started = handover(&job.checkpoint).map_or(Ok(true), steps::was_started)?;
    let mut turns = false;
    record(job, |handover| turns = !was_started && handover.turns_back())?;
    if !turns {
        return Ok(());
    }
    failpoint::hit("handover.undoing");
    let Some(mut intent) = job.checkpoint.intent.clone() else { return Ok(()) };
    if let Some(handover) = &mut intent.handover {
        steps::undo(handover)?;
        handover.is_undone();
    }
    failpoint::hit("handover.undone");
    // A snapshot was in them: they are other files now, of the same inodes.
    for rename in &mut intent.renames {
        rename.look_again(job.place.dirs())?;
    }
    publish::take_back(job.place.dirs(), &intent);
    intent.handover.as_ref().map_or(Ok(()), steps::hide)?;
    job.checkpoint.intent = None;
    job.save()
}

/// All is told: the report says so, and its texts may be written.
fn conclude(job: &mut Job<'_>) -> Result<()> {
    let Some(mut intent) = job.checkpoint.intent.clone() else { return Ok(()) };
    let Some(handover) = &mut intent.handover else { return Ok(()) };
    let told = handover.told();
    handover.is_told();
    if let (Some(defined), Some((_, text))) = (&handover.domain, &mut intent.domain) {
        text.clone_from(&defined.xml);
    }
    if !handover.planned.copy_disks {
        lies_in_pools(&told.volumes, &mut intent.outcome);
    }
    if let Some(mut report) = intent.outcome.content.take() {
        report::add_stage(&mut report, &job.checkpoint, Stage::Libvirt, serde_json::to_value(&told).ok());
        if let (Some(WrittenFile { sha256, .. }), Some((_, text))) = (&mut report.domain, &intent.domain) {
            *sha256 = hex_sha256(text.as_bytes());
        }
        report.libvirt = Some(told);
        let texts = Written::of(&report)?;
        put_texts(&mut intent, texts);
        intent.outcome.content = Some(report);
    }
    job.checkpoint.intent = Some(intent);
    job.save()
}

/// The report says also what was done at the source since it was composed; its texts are not written yet.
pub(super) fn tell_of_source(job: &mut Job<'_>) -> Result<()> {
    let Some(mut intent) = job.checkpoint.intent.clone() else { return Ok(()) };
    if let Some(mut report) = intent.outcome.content.take() {
        let news = job.checkpoint.warnings.iter().filter(|notice| !report.warnings.contains(notice));
        let news: Vec<_> = news.cloned().collect();
        report.warnings.extend(news);
        report.summary.total_warnings = report.warnings.len() as u64;
        report.acts = job.checkpoint.acts.clone();
        put_texts(&mut intent, Written::of(&report)?);
        intent.outcome.content = Some(report);
    }
    job.checkpoint.intent = Some(intent);
    job.save()
}

/// Results that were moved into pools are told where they are.
fn lies_in_pools(volumes: &[HandedVolume], outcome: &mut Published) {
    let artifacts = outcome.content.iter_mut().flat_map(|report| &mut report.artifacts);
    for artifact in artifacts {
        let Some(volume) = volumes.iter().find(|volume| volume.disk == artifact.disk_id) else { continue };
        if let Some(digest) = outcome.outputs.remove(&artifact.path) {
            outcome.outputs.insert(volume.path.clone(), digest);
        }
        artifact.path.clone_from(&volume.path);
    }
}

fn put_texts(intent: &mut Intent, texts: Written) {
    if let Some((_, report)) = &mut intent.report {
        *report = texts.report;
    }
    for ((_, page), text) in intent.pages.iter_mut().zip(texts.pages) {
        *page = text;
    }
}
