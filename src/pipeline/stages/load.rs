//! `load`: resolve what is named, look at it, refuse what cannot succeed, before any byte moves.
//!
//! Everything that can be known beforehand is found out here: the formats (by content), what is
//! hostile or broken, room on the target, names that are taken. Then it is settled what of an earlier attempt can be kept. What is not
//! here: any change to a file other than our own partial results; and checksums, which are made beside the copy.

use serde_json::{Value, json};

use super::copying::{forget_extents, settle_journal, target};
use super::{growth, guest, position, room, sums};
use crate::disk::{Engine, FileIdentity, OpenPolicy, SourceDisk, open_source};
use crate::guest::{GuestfsPresence, virt_v2v};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::FixEngine;
use crate::model::plan::{PlannedDisk, Preallocation};
use crate::pipeline::boot_test;
use crate::pipeline::meter::Pass;
use crate::pipeline::publish::Names;
use crate::pipeline::worker::{Job, Opened};
use crate::source;
use crate::sys::kvm;

/// What opening a guest costs, as so many bytes copied: some ten seconds.
const GUEST_WORK_BYTES: u64 = 1 << 30;
/// What a boot costs likewise: some forty seconds, and a few minutes where the guest is emulated.
const BOOT_BYTES: u64 = 4 << 30;
const EMULATED_BOOT_BYTES: u64 = 16 << 30;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    // Before anything costs time: a result that is there is the commonest reason for there being nothing to do.
    Names::choose(job.plan, job.place.dirs())?;
    check_machine(job)?;
    let engine = engine(job)?;
    let mut described = Vec::new();
    for (number, disk) in job.plan.disks.iter().enumerate() {
        job.control.checkpoint()?;
        job.meter.detail(Stage::Load, position(number, job));
        let source = open(job, &engine, disk)?;
        let (source, served) = match needs_qemu(job, disk) {
            true => source.for_qemu(job.control)?,
            false => (source, None),
        };
        let grown = growth::seen(job, &engine, disk, &source)?;
        let content = grown.as_ref().unwrap_or(&source);
        described.push(describe(disk, &source, grown.as_ref()));
        let measure = engine.measure(content, &target(job, disk), job.control)?;
        for warning in source.warnings.clone() {
            job.warn(Stage::Load, format!("disk {}: {warning}", disk.id));
        }
        warn_of_size(job, disk, &source);
        job.sources.push(Opened { source, _served: served, grown, measure });
    }
    job.engine = Some(engine);
    keep_what_is_finished(job)?;
    announce(job);
    room::check(job)?;
    Ok(json!({ "disks": described }))
}

/// Whether QEMU opens the source itself: for its guest, for an overlay that makes it larger, or to lay out a result beforehand.
fn needs_qemu(job: &Job<'_>, disk: &PlannedDisk) -> bool {
    let is_laid_out = job.plan.preallocation_of(disk) != Preallocation::Off;
    job.plan.opens_guest() || disk.resize.is_some() || is_laid_out
}

/// What is missing on this machine is told before hours are spent.
fn check_machine(job: &Job<'_>) -> Result<()> {
    if let Some(machine) = job.plan.machine.as_ref().filter(|_| job.plan.runs(Stage::BootTest)) {
        boot_test::check_host(machine)?;
    }
    if !job.plan.opens_guest() {
        return Ok(());
    }
    if job.plan.runs(Stage::Fix) && job.plan.guest.fix.engine == FixEngine::VirtV2v {
        virt_v2v::check_host()?;
    }
    let why = match crate::guest::presence() {
        GuestfsPresence::Found { .. } => return Ok(()),
        GuestfsPresence::NotBuilt => "this build of hyper2kvm has no support for it".to_owned(),
        GuestfsPresence::Missing { why } | GuestfsPresence::Broken { why } => why,
    };
    Err(Error::new(Kind::Unsupported, format!("guests cannot be opened without libguestfs: {why}"))
        .advice("install it (`apt-get install libguestfs0 libguestfs-tools`, `dnf install libguestfs`), or convert bytes only: `profile: none`, `convert --no-fix`"))
}

fn engine(job: &Job<'_>) -> Result<Engine> {
    let limits = &job.order.limits;
    let mut engine = Engine::find(job.bench.launcher.clone())?;
    engine.memory_bytes = limits.child_memory_bytes;
    engine.stall_timeout_s = limits.stall_timeout_s;
    engine.sandbox_required = limits.sandbox_required;
    engine.looks_again = job.plan.runs(Stage::Validate);
    Ok(engine)
}

fn open(job: &Job<'_>, engine: &Engine, disk: &PlannedDisk) -> Result<SourceDisk> {
    let policy = OpenPolicy {
        backing_chain: disk.backing_chain,
        allowed_paths: &disk.allowed_paths,
        read_roots: &job.order.limits.read_roots,
    };
    let place = source::place_of(disk)?;
    open_source(place, disk.source_format, &policy, engine, job.control)
}

fn describe(disk: &PlannedDisk, source: &SourceDisk, grown: Option<&SourceDisk>) -> Value {
    let facts = &source.facts;
    let mut told = json!({
        "id": disk.id,
        "source": source.path,
        "format": source.format.name(),
        "subformat": facts.subformat,
        "virtual_size_bytes": facts.virtual_size,
        "file_size_bytes": facts.file_size,
        "files": source.paths(),
    });
    if let Some(member) = source.member() {
        told["member"] = json!(member);
    }
    if let Some(grown) = grown {
        told["grows_to_bytes"] = json!(grown.facts.virtual_size);
    }
    told
}

fn warn_of_size(job: &mut Job<'_>, disk: &PlannedDisk, source: &SourceDisk) {
    let Some(told) = disk.bytes else { return };
    let (file, seen) = (source.facts.file_size, source.facts.virtual_size);
    if told != file && told != seen {
        job.warn(
            Stage::Load,
            format!(
                "disk {}: the manifest says {told} bytes, but the file has {file} and the guest sees {seen}",
                disk.id
            ),
        );
    }
}

/// Settles which disks of an earlier attempt are good: same source, and the very file that was finished.
fn keep_what_is_finished(job: &mut Job<'_>) -> Result<()> {
    guest::keep_what_is_sound(job)?;
    let mut restarted = Vec::new();
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources) {
        let dir = job.place.dirs().of(disk)?;
        let partial = job.partial(disk);
        if let Some(finished) = job.checkpoint.disks.get(&disk.id) {
            let unchanged = same_files(&finished.source, opened.source.identity());
            let there = job.is_there(disk, finished)?;
            settle_journal(job, disk)?;
            if unchanged && (there || guest::can_be_committed_again(job, disk)) {
                continue;
            }
            job.checkpoint.disks.remove(&disk.id);
            restarted.push((disk.id.clone(), unchanged));
        }
        forget_extents(job, disk)?;
        let journal = job.copy_journal(disk);
        // A copy that was cut is gone on with, if the copy itself finds that it may be.
        let is_cut = dir.entry(&journal).is_ok_and(|entry| entry.is_some());
        if !is_cut {
            dir.remove(&partial)
                .map_err(|error| Error::io(Kind::Output, "remove", &dir.path().join(&partial), &error))?;
        }
    }
    // A repaired disk that starts over needs its repairs again; they may be gone with it.
    guest::keep_what_is_sound(job)?;
    for (id, unchanged) in restarted {
        let why = if unchanged { "its partial result was changed" } else { "its source has changed" };
        job.warn(Stage::Load, format!("disk {id} starts over: {why} since the earlier attempt"));
    }
    job.save()
}

/// Whether the files are what they were, for this host or for another one.
pub(super) fn same_files(before: &[FileIdentity], now: &[FileIdentity]) -> bool {
    let is_same = |(before, now): (&FileIdentity, &FileIdentity)| before.is_same_elsewhere(now);
    before.len() == now.len() && before.iter().zip(now).all(is_same)
}

/// Tells the meter of all passes that are to come.
fn announce(job: &mut Job<'_>) {
    let validate = job.plan.runs(Stage::Validate);
    for (number, (disk, opened)) in job.plan.disks.iter().zip(&job.sources).enumerate() {
        let measure = &opened.measure;
        let finished = job.checkpoint.disks.get(&disk.id);
        let total = measure.bytes_to_copy;
        if sums::has_any(job.plan, disk) {
            job.meter.expect(number, Pass::Checksum, opened.source.stored_bytes());
        }
        job.meter.expect(number, Pass::Copy, total);
        if validate {
            job.meter.expect(number, Pass::Compare, total);
            job.meter.expect(number, Pass::Hash, total);
        }
        let seen = opened.content().facts.virtual_size;
        job.meter.disk(&disk.id, total, if finished.is_some() { total } else { 0 }, seen);
    }
    if job.plan.opens_guest() {
        job.meter.expect(0, Pass::Guest, GUEST_WORK_BYTES);
        if job.checkpoint.guest.is_some() {
            job.meter.passed(0, Pass::Guest, 1.0);
        }
    }
    if job.plan.runs(Stage::BootTest) {
        let kvm = kvm::probe(&job.bench.launcher).works;
        job.meter.expect(0, Pass::Boot, if kvm { BOOT_BYTES } else { EMULATED_BOOT_BYTES });
    }
    for (number, disk) in job.plan.disks.iter().enumerate() {
        let Some(finished) = job.checkpoint.disks.get(&disk.id) else { continue };
        job.meter.passed(number, Pass::Checksum, 1.0);
        job.meter.passed(number, Pass::Copy, 1.0);
        if finished.validated {
            job.meter.passed(number, Pass::Compare, 1.0);
            job.meter.passed(number, Pass::Hash, 1.0);
        }
    }
}
