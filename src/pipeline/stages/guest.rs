//! The guest work of one VM beside its copy: overlays made, child started, heard, and what it made kept or thrown away.
//!
//! ```text
//!   load ▸ extraction ─────────── copies the source ──▶ partial ──┐
//!            └─ overlays ──▶ guest child ──▶ inspected ──▶ fixed ─┴─▶ marks in the journal ──▶ committed
//! ```
//!
//! An overlay counts from the moment that the journal names it with its mark: then it is complete, verified and
//! durable. One that the journal does not name was cut, and is thrown away. Repairs of a VM count together, or
//! not at all. A source elsewhere is not read for this: its overlay stands on the finished copy, which has the same content, and the work
//! begins when that is there. What is not here: what is told of it in the report (`inspect`, `fix`).

use std::path::PathBuf;
use std::sync::Arc;

use super::{growth, position};
use crate::disk::SourceDisk;
use crate::guest::facts::{self, FixOptions, WantedNic};
use crate::guest::inspect::Condition;
use crate::guest::work::{Event, Key, Order, OrderedDrive};
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestIdentity;
use crate::model::job::Stage;
use crate::model::manifest::{FstabMode, OnNoOs, OnUnsupportedGuest};
use crate::model::plan::{PlannedDisk, PlannedGuest, Preflight};
use crate::model::validation::{Findings, Rule};
use crate::pipeline::checkpoint::{FileMark, GuestRecord, Holds, OverlayMark};
use crate::pipeline::guest_child::{Bearable, GuestChild, GuestFiles, GuestLimits, Judgement, Objects};
use crate::pipeline::meter::Pass;
use crate::pipeline::preflight::{self, Seen};
use crate::pipeline::publish::overlay_name;
use crate::pipeline::worker::{GuestWork, Job};
use crate::sys::failpoint;

/// How the guest room says that there is nothing to repair, and which key allows that.
const NO_OS: &str = "pipeline.fix.on_no_os";
/// The same of a system that it cannot repair.
const UNSUPPORTED: &str = "pipeline.fix.on_unsupported_guest";

/// Starts the guest work, unless it was done by an earlier attempt or nobody wants it.
pub(super) fn begin(job: &mut Job<'_>) -> Result<()> {
    if !job.plan.opens_guest() || job.checkpoint.guest.is_some() || job.guest.is_some() {
        return Ok(());
    }
    let Some(place) = &job.place.guest else {
        return Err(Error::internal("the guest work has no place"));
    };
    let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
    let (mut drives, mut files, mut fresh) = (Vec::new(), GuestFiles::default(), Vec::new());
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources) {
        let path = overlay_path(job, disk);
        remove_overlay(job, disk)?;
        let size = opened.content().facts.virtual_size;
        if opened.source.is_remote() {
            let copy = copy_of(job, disk)?;
            engine.make_overlay_on_copy((&copy, job.plan.format_of(disk)), &path, size, job.control)?;
            files.sources.push(copy);
        } else {
            engine.make_overlay(&opened.source, &path, size, job.control)?;
            files.sources.extend(opened.source.paths());
        }
        let made =
            std::fs::metadata(&path).map_err(|error| Error::io(Kind::Output, "look at", &path, &error))?;
        fresh.push(made.len());
        drives.push(OrderedDrive {
            id: disk.id.clone(),
            path: path.clone(),
            format: "qcow2".to_owned(),
            grown_from: opened.grown.as_ref().map(|_| opened.source.facts.virtual_size),
        });
        files.overlays.push(path);
    }
    let guest = &job.plan.guest;
    let order = Order {
        kvm: job.kvm().works,
        memory_mb: None,
        temp: place.temp.clone(),
        log: place.log.clone(),
        drives,
        keys: keys(job),
        fix: job.plan.runs(Stage::Fix).then(|| options(guest)),
        diffs: false,
    };
    let limits = GuestLimits {
        stall_timeout_s: job.order.limits.stall_timeout_s,
        sandbox_required: job.order.limits.sandbox_required,
        bearable: bearable(job),
        objects: Objects(objects(job)),
    };
    let child = GuestChild::start(&job.bench.launcher, place, files, &order, limits, job.control)?;
    tracing::info!(kvm = order.kvm, fix = order.fix.is_some(), "the guest is opened");
    job.guest = Some(GuestWork { child, fresh, record: GuestRecord::default() });
    failpoint::hit("guest.started");
    Ok(())
}

/// The finished copy of a disk elsewhere: what is to be seen of the guest is seen there.
fn copy_of(job: &Job<'_>, disk: &PlannedDisk) -> Result<PathBuf> {
    let finished = job.checkpoint.disks.get(&disk.id).filter(|finished| finished.holds == Holds::Source);
    let finished = finished.ok_or_else(|| Error::internal(format!("disk {} was not copied", disk.id)))?;
    Ok(job.path(disk, &finished.partial))
}

/// Waits until the guest was looked at, or until it is certain that nothing of it can be told.
pub(super) fn await_inspection(job: &mut Job<'_>) -> Result<()> {
    while let Some(work) = &job.guest
        && work.record.identity.is_none()
        && work.record.skipped.is_none()
    {
        if !hear(job, Stage::Inspect)? {
            break;
        }
    }
    Ok(())
}

/// Waits until all is done; then what it made is durable, and in the journal.
pub(super) fn await_end(job: &mut Job<'_>, stage: Stage) -> Result<()> {
    // A child whose failure is borne has told its last.
    while job.guest.as_ref().is_some_and(|work| work.record.skipped.is_none()) && hear(job, stage)? {}
    if let Some(work) = job.guest.take() {
        let GuestWork { child, fresh, mut record } = work;
        drop(child);
        keep(job, &fresh, &mut record)?;
    }
    job.meter.passed(0, Pass::Guest, 1.0);
    Ok(())
}

/// Hears one event; says whether there may be more.
fn hear(job: &mut Job<'_>, stage: Stage) -> Result<bool> {
    job.control.checkpoint()?;
    let Some(work) = &mut job.guest else { return Ok(false) };
    let event = match work.child.next() {
        Ok(Some(event)) => event,
        Ok(None) => return Ok(false),
        Err(error) => {
            // An end from outside shows as a crash of the child.
            job.control.ended()?;
            return bear(job, stage, error).map(|()| false);
        }
    };
    match event {
        Event::Launched { seconds } => {
            tracing::info!(seconds, "the appliance runs");
            job.meter.passed(0, Pass::Guest, 0.4);
        }
        Event::Inspected { identity, condition, seconds } => {
            tracing::info!(seconds, os = identity.os_pretty, "the guest was looked at");
            work.record.identity = Some((*identity).clone());
            job.meter.passed(0, Pass::Guest, 0.6);
            preflight_inside(job, stage, *identity, *condition)?;
        }
        Event::Fixing { name } => job.meter.detail(stage, name),
        Event::Fixed { fixes, seconds, engine, emulated } => {
            tracing::info!(seconds, changes = fixes.len(), ?engine, "the guest is repaired");
            if emulated {
                job.warn(
                    stage,
                    "the guest has no virtio drivers: the machine gets SATA and e1000e".to_owned(),
                );
            }
            let Some(work) = &mut job.guest else { return Ok(false) };
            work.record.engine = Some(engine);
            work.record.emulated = emulated;
            work.record.fixes = fixes;
            work.record.seconds = seconds;
        }
        Event::Diff { .. } => {}
        Event::Warning { message } => job.warn(stage, message),
        // The child keeps these two to itself.
        Event::Done | Event::Failed { .. } => {}
    }
    Ok(true)
}

/// A failure that the manifest allows: the VM is converted as it is, and says so.
fn bear(job: &mut Job<'_>, stage: Stage, error: Error) -> Result<()> {
    if !bearable(job).bears(&error) {
        return Err(error);
    }
    // A system that is there and was not repaired has no drivers of ours.
    let emulated = error.details().place.field.as_deref() != Some(NO_OS);
    let why = error.details().cause.clone();
    job.warn(stage, format!("the guest is converted as it is: {why}"));
    if job.sources.iter().any(|opened| opened.grown.is_some()) {
        job.warn(stage, "disks grow, but not the partitions and file systems in them".to_owned());
    }
    if let Some(work) = &mut job.guest {
        work.record.skipped = Some(why);
        work.record.emulated = emulated;
        // Whatever was written to the overlays is not wanted.
        work.fresh.clear();
    }
    Ok(())
}

/// Which failures the manifest allows: by the key that does, or because it lowers the rule.
fn bearable(job: &Job<'_>) -> Bearable {
    let guest = &job.plan.guest;
    let mut fields = Vec::new();
    if guest.fix.on_no_os == OnNoOs::Skip {
        fields.push(NO_OS);
    }
    if guest.fix.on_unsupported_guest == OnUnsupportedGuest::Emulated {
        fields.push(UNSUPPORTED);
    }
    let weights = preflight::weights(job.plan, &job.order.limits);
    let lowered = weights
        .into_iter()
        .filter(|(rule, weight)| weight.lets_pass() && Rule::named(rule).is_some_and(|rule| !rule.guarded));
    Bearable { fields, rules: lowered.map(|(rule, _)| rule).collect(), all: false }
}

/// What the pre-flight has against a guest is said when it was looked at, not when the copy has ended.
fn objects(job: &Job<'_>) -> Option<Judgement> {
    if job.plan.preflight != Preflight::Full {
        return None;
    }
    let (plan, weights) = (job.plan.clone(), preflight::weights(job.plan, &job.order.limits));
    Some(Arc::new(move |event| {
        let Event::Inspected { identity, condition, .. } = event else { return None };
        let seen =
            Seen { identity: Some((**identity).clone()), condition: (**condition).clone(), error: None };
        let mut findings = Findings::new(weights.clone());
        preflight::judge(&plan, &seen, &mut findings);
        findings.failure()
    }))
}

/// What the pre-flight finds in the guest: told, and kept for the report.
fn preflight_inside(
    job: &mut Job<'_>,
    stage: Stage,
    identity: GuestIdentity,
    condition: Condition,
) -> Result<()> {
    if job.plan.preflight != Preflight::Full {
        return Ok(());
    }
    let mut findings = Findings::new(preflight::weights(job.plan, &job.order.limits));
    let seen = Seen { identity: Some(identity), condition, error: None };
    preflight::judge(job.plan, &seen, &mut findings);
    if let Some(work) = &mut job.guest {
        work.record.findings = findings.told().cloned().collect();
    }
    job.tell(stage, &findings)
}

/// Makes durable what the guest work wrote, and throws away what it did not.
fn keep(job: &mut Job<'_>, fresh: &[u64], record: &mut GuestRecord) -> Result<()> {
    let dir = &job.place.results;
    // Where nothing was changed, what mounting alone wrote (times, counters) is not wanted: the result is the source, bit by bit.
    let wanted = job.plan.runs(Stage::Fix) && record.skipped.is_none() && !record.fixes.is_empty();
    for (number, (disk, opened)) in job.plan.disks.iter().zip(&job.sources).enumerate() {
        let name = overlay_name(&disk.id);
        let path = dir.path().join(&name);
        let failed = |what: &str, error: &std::io::Error| Error::io(Kind::Output, what, &path, error);
        let file = dir.entry(&name).map_err(|error| failed("look at", &error))?.and_then(FileMark::of);
        let written = file.filter(|file| wanted && fresh.get(number).is_none_or(|size| file.size > *size));
        if written.is_none() {
            dir.remove(&name).map_err(|error| failed("remove", &error))?;
            continue;
        }
        dir.sync_file(&name).map_err(|error| failed("make durable", &error))?;
        let file = dir.entry(&name).map_err(|error| failed("look at", &error))?.and_then(FileMark::of);
        let file = file.ok_or_else(|| Error::new(Kind::Output, format!("{} is gone", path.display())))?;
        let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
        let virtual_size = engine.overlay_size(&path, job.control)?;
        let source = opened.origin().identity().to_vec();
        record.overlays.insert(disk.id.clone(), OverlayMark { name, file, source, virtual_size });
    }
    dir.sync().map_err(|error| Error::io(Kind::Output, "make durable", dir.path(), &error))?;
    failpoint::hit("fix.before-mark");
    job.checkpoint.guest = Some(record.clone());
    job.save()?;
    failpoint::hit("fix.after-mark");
    Ok(())
}

/// Puts what was repaired into the finished copies.
pub(super) fn commit(job: &mut Job<'_>) -> Result<()> {
    for (number, disk) in job.plan.disks.iter().enumerate() {
        let overlay = job.checkpoint.guest.as_ref().and_then(|record| record.overlays.get(&disk.id));
        let (Some(overlay), Some(finished)) = (overlay, job.checkpoint.disks.get(&disk.id)) else { continue };
        if finished.holds == Holds::Fixed {
            continue;
        }
        let (name, partial) = (overlay.name.clone(), finished.partial.clone());
        let (path, virtual_size) = (job.place.results.path().join(&name), overlay.virtual_size);
        job.control.checkpoint()?;
        job.meter
            .detail(Stage::Fix, format!("{}: putting the repairs into the result", position(number, job)));
        note(job, disk, |finished| finished.holds = Holds::Mixed)?;
        failpoint::hit("commit.before");
        let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
        let result = job.path(disk, &partial);
        engine.commit_overlay(&path, &result, job.plan.format_of(disk), job.control, &mut |_| {})?;
        let entry = job.dir(disk)?.entry(&partial);
        let entry = entry.map_err(|error| Error::io(Kind::Output, "look at", &result, &error))?;
        let file = entry.and_then(FileMark::of).ok_or_else(|| {
            Error::new(Kind::Output, format!("{} vanished while it was written", result.display()))
                .output(&result)
                .advice("something else changes files in the result directory: find it, then try again")
        })?;
        note(job, disk, |finished| {
            finished.holds = Holds::Fixed;
            finished.file = file;
            finished.virtual_size = virtual_size;
        })?;
        failpoint::hit("commit.after");
    }
    Ok(())
}

fn note(
    job: &mut Job<'_>,
    disk: &PlannedDisk,
    change: impl FnOnce(&mut crate::pipeline::checkpoint::FinishedDisk),
) -> Result<()> {
    if let Some(finished) = job.checkpoint.disks.get_mut(&disk.id) {
        change(finished);
    }
    job.save()
}

/// What a disk's result has to hold: its source, seen through what was repaired.
pub(super) fn content(job: &Job<'_>, number: usize, disk: &PlannedDisk) -> Result<SourceDisk> {
    let opened = job.sources.get(number).ok_or_else(|| Error::internal("a disk was not loaded"))?;
    let overlay = job.checkpoint.guest.as_ref().and_then(|record| record.overlays.get(&disk.id));
    match overlay {
        None => Ok(opened.content().clone()),
        Some(overlay) => {
            opened.source.seen_through(&job.place.results.path().join(&overlay.name), overlay.virtual_size)
        }
    }
}

/// Whether a disk's content is not its source's alone.
pub(super) fn is_repaired(job: &Job<'_>, disk: &PlannedDisk) -> bool {
    job.checkpoint.guest.as_ref().is_some_and(|record| record.overlays.contains_key(&disk.id))
}

/// Settles what of an earlier attempt's guest work counts: all of it, or nothing.
pub(super) fn keep_what_is_sound(job: &mut Job<'_>) -> Result<()> {
    let sound = job.checkpoint.guest.as_ref().is_some_and(|record| {
        job.plan.disks.iter().zip(&job.sources).all(|(disk, opened)| {
            let Some(overlay) = record.overlays.get(&disk.id) else { return true };
            super::load::same_files(&overlay.source, opened.origin().identity())
                && (is_there(job, overlay) || is_in_its_result(job, disk))
        })
    });
    if sound {
        return Ok(());
    }
    job.checkpoint.guest = None;
    for disk in &job.plan.disks {
        remove_overlay(job, disk)?;
        if job.checkpoint.disks.get(&disk.id).is_some_and(|finished| finished.holds != Holds::Source) {
            // Repairs that nothing can be compared with any more: the disk is copied again.
            job.checkpoint.disks.remove(&disk.id);
        }
    }
    Ok(())
}

/// Whether a disk that a commit was cut short on can be made whole: its very file, and its overlay.
pub(super) fn can_be_committed_again(job: &Job<'_>, disk: &PlannedDisk) -> bool {
    let Some(finished) = job.checkpoint.disks.get(&disk.id).filter(|disk| disk.holds == Holds::Mixed) else {
        return false;
    };
    let overlay = job.checkpoint.guest.as_ref().and_then(|record| record.overlays.get(&disk.id));
    let same_file = matches!(job.dir(disk).map(|dir| dir.entry(&finished.partial)),
        Ok(Ok(Some(entry))) if entry.is_file && entry.inode == finished.file.inode);
    same_file && overlay.is_some_and(|overlay| is_there(job, overlay))
}

fn is_there(job: &Job<'_>, overlay: &OverlayMark) -> bool {
    overlay.file.is_at(&job.place.results, &overlay.name).unwrap_or(false)
}

/// Whether a result holds the repairs, and nobody has to compare it with them any more.
fn is_in_its_result(job: &Job<'_>, disk: &PlannedDisk) -> bool {
    job.checkpoint.disks.get(&disk.id).is_some_and(|finished| {
        finished.holds == Holds::Fixed
            && (finished.validated || !job.plan.runs(Stage::Validate))
            && job.is_there(disk, finished).unwrap_or(false)
    })
}

/// The results hold all of it: the overlays may go.
pub(super) fn clear(job: &Job<'_>) -> Result<()> {
    growth::clear(job)?;
    job.plan.disks.iter().filter(|_| job.plan.opens_guest()).try_for_each(|disk| remove_overlay(job, disk))
}

fn remove_overlay(job: &Job<'_>, disk: &PlannedDisk) -> Result<()> {
    let removed = job.place.results.remove(&overlay_name(&disk.id));
    removed.map(drop).map_err(|error| Error::io(Kind::Output, "remove", &overlay_path(job, disk), &error))
}

fn overlay_path(job: &Job<'_>, disk: &PlannedDisk) -> PathBuf {
    job.place.results.path().join(overlay_name(&disk.id))
}

pub(super) fn keys(job: &Job<'_>) -> Vec<Key> {
    let planned = job.plan.guest.keys.iter().zip(&job.place.passphrases);
    planned
        .map(|(key, passphrase)| Key {
            uuid: key.uuid.clone(),
            device: key.device.clone(),
            passphrase: passphrase.clone(),
        })
        .collect()
}

fn options(guest: &PlannedGuest) -> FixOptions {
    let fix = &guest.fix;
    FixOptions {
        engine: fix.engine,
        fstab: match fix.fstab_mode {
            FstabMode::StabilizeAll => facts::FstabMode::StabilizeAll,
            FstabMode::BypathOnly => facts::FstabMode::BypathOnly,
            FstabMode::Noop => facts::FstabMode::Noop,
        },
        boot_loader: fix.update_grub,
        initramfs: fix.regen_initramfs,
        network: fix.network,
        remove_tools: fix.remove_vmware_tools,
        console: fix.console,
        backup: fix.backup,
        print_fstab: fix.print_fstab,
        root: fix.root.clone(),
        nics: guest
            .nics
            .iter()
            .map(|nic| WantedNic {
                mac: nic.mac.clone(),
                was: nic.was.clone(),
                addresses: nic.addresses.clone(),
                gateway: nic.gateway.clone(),
                dns: nic.dns.clone(),
            })
            .collect(),
        setup: guest.setup.clone().unwrap_or_default(),
    }
}
