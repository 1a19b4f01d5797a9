//! `load`: resolve what is named, look at it, refuse what cannot succeed, before any byte moves.
//!
//! Everything that can be known beforehand is found out here by the pre-flight, and told together: the formats (by content), what is
//! hostile or broken, room on the target, names that are taken. Then it is settled what of an earlier attempt can be kept. What is not
//! here: any change to a file other than our own partial results; and checksums, which are made beside the copy.

use serde_json::{Value, json};

use super::copying::{forget_extents, settle_journal, target};
use super::{fetching, growth, guest, looking, position, power, sums};
use crate::disk::{Engine, FileIdentity, OpenPolicy, SourceDisk, open_source};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::VsphereMode;
use crate::model::plan::{PlannedDisk, Preallocation};
use crate::model::protocol::WorkerEvent;
use crate::model::remote::PlannedRemote;
use crate::model::validation::Findings;
use crate::pipeline::meter::Pass;
use crate::pipeline::preflight::{self, Fit, Scene};
use crate::pipeline::remote::snapshots::{self, Standing, Watch};
use crate::pipeline::remote::{self, Source};
use crate::pipeline::worker::{Job, Opened};
use crate::source;
use crate::sys::fs::allocated_bytes;

/// What opening a guest costs, as so many bytes copied: some ten seconds.
const GUEST_WORK_BYTES: u64 = 1 << 30;
/// What a boot costs likewise: some forty seconds, and a few minutes where the guest is emulated.
const BOOT_BYTES: u64 = 4 << 30;
const EMULATED_BOOT_BYTES: u64 = 16 << 30;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let mut findings = Findings::new(preflight::weights(job.plan, &job.order.limits));
    let engine = engine(job);
    let mut remote = ask(job)?;
    let foreseen = remote.as_mut().map_or(Ok(None), |source| looking::before_shutdown(job, source))?;
    let mut remote = remote.map(|source| power::off(job, source)).transpose()?;
    let standing = remote.as_mut().map_or(Ok(None), |source| hold_still(job, source))?;
    let sources = open_by_any_way(job, engine.as_ref().ok(), &mut remote)?;
    let (sources, memory) = looking::remembered(job, sources);
    let scene = Scene {
        plan: job.plan,
        limits: &job.order.limits,
        launcher: &job.bench.launcher,
        control: job.control,
        sources: &sources,
        machine: remote.as_ref().map(|remote| &remote.untouched),
        transport: remote.as_ref().map(|remote| remote.ways.chosen()),
        no_engine: engine.as_ref().err(),
        results: Some(job.place.dirs()),
        programs: job.place.hooks.clone(),
        kvm: &|| job.kvm().clone(),
    };
    preflight::run(&scene, &mut findings);
    job.control.checkpoint()?;
    let looked = match (&engine, &memory) {
        (Ok(engine), Some(memory)) => looking::look(job, engine, &sources, memory, &mut findings)?,
        _ => None,
    };
    tell(job, &findings)?;
    let engine = engine?;
    let mut described = Vec::new();
    for (number, (disk, source)) in job.plan.disks.iter().zip(sources).enumerate() {
        job.control.checkpoint()?;
        job.meter.detail(Stage::Load, position(number, job));
        let source = source?;
        refuse_checksum(disk, &source)?;
        let (source, fetched_from) = fetching::settle(job, &engine, disk, source)?;
        let (source, served) = match needs_qemu(job, disk) && !source.is_remote() {
            true => source.for_qemu(job.control)?,
            false => (source, None),
        };
        let grown = growth::seen(job, &engine, disk, &source)?;
        let content = grown.as_ref().unwrap_or(&source);
        let mut told = describe(disk, fetched_from.as_ref().unwrap_or(&source), grown.as_ref());
        let measure = engine.measure(content, &target(job, disk), job.control)?;
        if source.is_remote() {
            told["bytes_to_fetch"] = json!(measure.data_bytes);
        }
        described.push(told);
        job.sources.push(Opened { source, fetched_from, _served: served, grown, measure });
    }
    job.engine = Some(engine);
    keep_what_is_finished(job)?;
    announce(job);
    let fits: Vec<Fit<'_>> = job.plan.disks.iter().zip(&job.sources).map(|pair| fit(job, pair)).collect();
    let fixes = if job.checkpoint.guest.is_some() { 0 } else { job.plan.room_for_fixes() };
    let fixes = fixes.saturating_add(fetching::room(job)?);
    let bytes = fits.iter().fold(fixes, |sum, fit| sum.saturating_add(fit.need));
    job.meter.tell(WorkerEvent::Room { bytes });
    preflight::check_fit(job.plan, &job.order.limits, &fits, fixes, &mut findings);
    tell(job, &findings)?;
    let mut told = json!({ "disks": described });
    for (name, looked) in [("look_before_shutdown", foreseen), ("look", looked)] {
        if let Some(looked) = looked {
            told[name] = looked;
        }
    }
    if let (Some(planned), Some(source)) = (&job.plan.remote, &remote) {
        told["remote"] = json!({
            "host": source.description().vm.host,
            "vm": source.machine.path,
            "moref": source.machine.moref,
            "mode": planned.mode,
            "transport": source.ways.chosen(),
            "ways": source.ways.all(),
            "connections": remote::connections(planned, &job.order.limits.remote),
            "was_shut_down": job.checkpoint.acts.is_shut_down(),
        });
        if let Some(standing) = standing {
            told["remote"]["as_of"] = json!(standing.as_of);
            told["remote"]["quiesced"] = json!(standing.quiesced);
            told["remote"]["snapshot"] = json!(standing.name);
        }
    }
    job.ways = remote.map(|remote| remote.ways);
    Ok(told)
}

/// Opens every source. By the first bytes it shows whether the way by which those of a VM elsewhere are to come does; else the next one is taken.
fn open_by_any_way(
    job: &mut Job<'_>,
    engine: Option<&Engine>,
    remote: &mut Option<Source>,
) -> Result<Vec<Result<SourceDisk>>> {
    loop {
        let sources = open_all(job, engine, remote.as_ref())?;
        let Some(source) = remote else { return Ok(sources) };
        let left = sources.iter().find_map(|opened| source.ways.after(opened.as_ref().err()?));
        let Some(left) = left else { return Ok(sources) };
        let why = left.left.clone().unwrap_or_default();
        let words = left.transport.words();
        source.ways.leave(&[left]);
        let next = source.ways.chosen().words();
        job.warn(Stage::Load, format!("the disks do not come over {words} ({why}): they come over {next}"));
    }
}

/// A VM that runs on is read as of a snapshot, which is made when nothing stands against it but that it runs. One that is off is read as it is: what
/// an attempt has left that looked into it while it ran goes.
fn hold_still(job: &mut Job<'_>, source: &mut Source) -> Result<Option<Standing>> {
    let plan = job.plan;
    let is_copied_once = |remote: &&PlannedRemote| remote.mode != VsphereMode::Warm;
    let Some(remote) = plan.remote.as_deref().filter(is_copied_once) else { return Ok(None) };
    let Some(planned) = remote.snapshot.as_ref().filter(|_| source.runs()) else {
        return snapshots::clear(job, source).map(|()| None);
    };
    may_be_acted_on(job, source)?;
    job.meter.detail(Stage::Load, "makes a snapshot of the VM");
    let standing = snapshots::stand(job, source, planned)?;
    job.watch = Some(Watch::over(source, &standing, planned, job.control)?);
    let how = match standing.quiesced {
        true => "its guest stood still",
        false => "as if its power had failed then",
    };
    job.warn(Stage::Load, format!("the result is the VM as of {}, {how}: it runs on", standing.as_of));
    Ok(Some(standing))
}

/// Whether nothing that can be known before stands against doing something at the source.
pub(super) fn may_be_acted_on(job: &mut Job<'_>, source: &Source) -> Result<()> {
    let (plan, place) = (job.plan, job.place);
    let mut findings = Findings::new(preflight::weights(plan, &job.order.limits));
    let scene = Scene {
        plan,
        limits: &job.order.limits,
        launcher: &job.bench.launcher,
        control: job.control,
        sources: &[],
        machine: Some(&source.untouched),
        transport: Some(source.ways.chosen()),
        no_engine: None,
        results: Some(place.dirs()),
        programs: None,
        kvm: &|| job.kvm().clone(),
    };
    preflight::before_acts(&scene, &mut findings);
    match findings.failure() {
        Some(_) => tell(job, &findings),
        None => Ok(()),
    }
}

/// Opens every source, also behind one that cannot be opened: all that is wrong is told together.
fn open_all(
    job: &mut Job<'_>,
    engine: Option<&Engine>,
    remote: Option<&Source>,
) -> Result<Vec<Result<SourceDisk>>> {
    let Some(engine) = engine.filter(|_| remote.is_none_or(Source::holds_still)) else {
        return Ok(Vec::new());
    };
    let mut sources = Vec::new();
    for (number, disk) in job.plan.disks.iter().enumerate() {
        job.control.checkpoint()?;
        job.meter.detail(Stage::Load, position(number, job));
        let opened = open(job, engine, disk, remote);
        // What was cut short has found nothing.
        job.control.ended()?;
        sources.push(opened);
    }
    Ok(sources)
}

/// What was found so far: told, and kept for the report.
pub(super) fn tell(job: &mut Job<'_>, findings: &Findings) -> Result<()> {
    job.findings = findings.told().cloned().collect();
    job.tell(Stage::Load, findings)
}

fn fit<'j>(job: &Job<'j>, (disk, opened): (&'j PlannedDisk, &Opened)) -> Fit<'j> {
    let (virtual_size, measured) = (opened.content().facts.virtual_size, &opened.measure);
    let laid_out = if job.plan.preallocation_of(disk).lays_out() { virtual_size } else { 0 };
    let required_bytes = measured.required_bytes.max(laid_out);
    let begun = target(job, disk).path.symlink_metadata().map_or(0, |file| allocated_bytes(&file));
    let is_copied = job.checkpoint.disks.contains_key(&disk.id);
    Fit {
        disk,
        virtual_size,
        required_bytes,
        data_bytes: measured.bytes_to_copy,
        need: if is_copied { 0 } else { required_bytes.saturating_sub(begun) },
    }
}

/// Whether QEMU opens the source itself: for its guest, for an overlay that makes it larger, or to lay out a result beforehand.
fn needs_qemu(job: &Job<'_>, disk: &PlannedDisk) -> bool {
    let is_laid_out = job.plan.preallocation_of(disk) != Preallocation::Off;
    job.plan.opens_guest() || disk.resize.is_some() || is_laid_out
}

pub(super) fn engine(job: &Job<'_>) -> Result<Engine> {
    let limits = &job.order.limits;
    let mut engine = Engine::find(job.bench.launcher.clone())?;
    engine.memory_bytes = limits.child_memory_bytes;
    engine.stall_timeout_s = limits.stall_timeout_s;
    engine.sandbox_required = limits.sandbox_required;
    engine.looks_again = job.plan.runs(Stage::Validate);
    Ok(engine)
}

/// Looks for the VM, if it is elsewhere. One that has become another one since its plan was made is told, so that it gets another plan.
pub(super) fn ask(job: &mut Job<'_>) -> Result<Option<Source>> {
    let (Some(planned), Some(access)) = (&job.plan.remote, &job.place.access) else { return Ok(None) };
    job.meter.detail(Stage::Load, format!("looks for {}", planned.shown()));
    let mut source = remote::ask(access, planned, &job.order.limits.remote, job.control)?;
    source.equip(access, &job.bench.launcher, &job.order.limits);
    source.ways.leave(&job.checkpoint.ways_left);
    source.leave_out(&snapshots::ours(job));
    job.meter.detail(Stage::Load, format!("reads over {}", source.ways.chosen().words()));
    match source.changed(job.plan) {
        None => Ok(Some(source)),
        Some(error) => {
            job.meter.tell(WorkerEvent::Described(Box::new(source.description())));
            Err(error)
        }
    }
}

fn open(job: &Job<'_>, engine: &Engine, disk: &PlannedDisk, remote: Option<&Source>) -> Result<SourceDisk> {
    if let (Some(planned), Some(source)) = (&job.plan.remote, remote) {
        return source.open(disk, remote::connections(planned, &job.order.limits.remote));
    }
    let policy = OpenPolicy {
        backing_chain: disk.backing_chain,
        allowed_paths: &disk.allowed_paths,
        read_roots: &job.order.limits.read_roots,
    };
    let place = source::place_of(disk)?;
    open_source(place, disk.source_format, &policy, engine, job.control)
}

/// A checksum is one of a file: what lies on a server is not read twice for it.
fn refuse_checksum(disk: &PlannedDisk, source: &SourceDisk) -> Result<()> {
    if !source.is_remote() || (disk.checksum.is_none() && disk.piece_checksums.is_empty()) {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("the checksum of disk {} cannot be checked: it is read from a server", disk.id))
        .field("disks[].checksum")
        .source(source.path.display().to_string())
        .advice("leave the checksum out: every piece is looked at when it is written, and the result is held against what was read"))
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

/// Settles which disks of an earlier attempt are good: same source, and the very file that was finished.
fn keep_what_is_finished(job: &mut Job<'_>) -> Result<()> {
    guest::keep_what_is_sound(job)?;
    let mut restarted = Vec::new();
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources) {
        let dir = job.place.dirs().of(disk)?;
        let partial = job.partial(disk);
        if let Some(finished) = job.checkpoint.disks.get(&disk.id) {
            let unchanged = same_files(&finished.source, opened.origin().identity());
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
        let why = match unchanged {
            true => "its partial result was changed",
            false if !job.checkpoint.ways_left.is_empty() => {
                "it comes another way, or its source has changed,"
            }
            false => "its source has changed",
        };
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
        if job.plan.libvirt.as_ref().is_some_and(|planned| planned.pools.contains_key(&disk.id)) {
            job.meter.expect(number, Pass::Import, total);
        }
        let seen = opened.content().facts.virtual_size;
        job.meter.disk(&disk.id, total, if finished.is_some() { total } else { 0 }, seen);
    }
    fetching::announce(job);
    if job.plan.opens_guest() {
        job.meter.expect(0, Pass::Guest, GUEST_WORK_BYTES);
        if job.checkpoint.guest.is_some() {
            job.meter.passed(0, Pass::Guest, 1.0);
        }
    }
    if job.plan.runs(Stage::BootTest) {
        let kvm = job.kvm().works;
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
