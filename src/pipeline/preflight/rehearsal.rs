//! A pre-flight without a job: what `validate --deep` and `submit --check` look at.
//!
//! Sources are opened and measured as a worker would, by whoever asks, with what binds a worker. Nothing is written but overlays of a guest that is
//! looked at, which are thrown away. What is not here: reading a manifest.

use std::sync::Arc;

use super::{Fit, Scene, Seen, check_fit, judge, run, weights};
use crate::disk::{Bounds, Control, Engine, Memory, OpenPolicy, SourceDisk, Target, open_source};
use crate::guest::work::Key;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{Plan, Preflight};
use crate::model::protocol::WorkLimits;
use crate::model::remote::streams_note;
use crate::model::validation::Findings;
use crate::pipeline::directories::{Directories, open_others};
use crate::pipeline::hooks::Host;
use crate::pipeline::keys;
use crate::pipeline::library::DiskProcessor;
use crate::pipeline::remote::{self, Access, Source};
use crate::source;
use crate::sys::dir::Dir;
use crate::sys::kvm;
use crate::sys::process::Launcher;

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The guest is opened, if the plan does that and its pre-flight is `full`.
    IntoGuests,
    /// Only what can be told without that.
    AtDisks,
}

/// Looks at all that a job with this plan would look at; `beginning` hears what takes long. What `control` ends has found nothing that counts.
pub fn rehearse(
    plan: &Plan,
    limits: &WorkLimits,
    launcher: &Launcher,
    look: Look,
    control: &Control,
    beginning: &mut dyn FnMut(&str),
) -> Findings {
    let mut findings = Findings::new(weights(plan, limits));
    let engine = Engine::find(launcher.clone());
    let mut asked = match ask(plan, limits, launcher, control) {
        Ok(asked) => asked,
        Err(error) => {
            findings.error("disk.missing", None, error);
            return findings;
        }
    };
    if plan.is_to_be_described() {
        let error = Error::new(Kind::Source, "the VM is asked for when the job runs");
        findings.add("source.not_asked", None, error.advice("`hyper2kvm validate --deep` asks at once"));
    }
    let sources: Vec<Result<SourceDisk>> = match (&engine, &mut asked) {
        (Ok(_), Some((source, _))) if !source.is_off() => Vec::new(),
        (Ok(_), Some((source, connections))) => source.open_all(&plan.disks, *connections),
        (Ok(engine), None) => plan.disks.iter().map(|disk| open(disk, limits, engine, control)).collect(),
        (Err(_), _) => Vec::new(),
    };
    let programs = match limits.preflight.validators.is_empty() {
        true => None,
        false => Host::start(launcher.stub()).ok().map(Arc::new),
    };
    let (results, others) = (Dir::open(&plan.output.directory).ok(), open_others(plan).unwrap_or_default());
    let scene = Scene {
        plan,
        limits,
        launcher,
        control,
        sources: &sources,
        machine: asked.as_ref().map(|(source, _)| &source.machine),
        transport: asked.as_ref().map(|(source, _)| source.ways.chosen()),
        no_engine: engine.as_ref().err(),
        results: results.as_ref().map(|results| Directories::new(results, &others)),
        programs,
        kvm: &|| kvm::probe(launcher),
    };
    run(&scene, &mut findings);
    if sources.len() < plan.disks.len() {
        not_opened(plan, "its disks were not opened", &mut findings);
        return findings;
    }
    let (Ok(engine), Ok(disks)) = (engine, sources.into_iter().collect::<Result<Vec<_>>>()) else {
        not_opened(plan, "its disks cannot be opened", &mut findings);
        return findings;
    };
    if let Err(error) = measure(plan, limits, &engine, &disks, control, &mut findings) {
        findings.error("disk.unreadable", None, error);
    }
    if !plan.opens_guest() || plan.preflight != Preflight::Full {
        return findings;
    }
    match look {
        Look::AtDisks => not_opened(plan, "it is looked at when the job runs", &mut findings),
        Look::IntoGuests
            if findings.found().iter().any(|raised| raised.finding.rule == "host.libguestfs") =>
        {
            not_opened(plan, "libguestfs is not there", &mut findings);
        }
        Look::IntoGuests if disks.iter().any(SourceDisk::is_read_once) => {
            // A plan that was to look into it says so itself.
            if !plan.notes.contains(&streams_note()) {
                not_opened(
                    plan,
                    "its disks come as streams, which are read once: when the job runs",
                    &mut findings,
                );
            }
        }
        Look::IntoGuests => {
            let memory = Memory::new(Bounds::default());
            let kept = disks.into_iter().enumerate();
            let disks: Vec<SourceDisk> =
                kept.map(|(number, disk)| disk.remembered(number, &memory)).collect();
            let processor = DiskProcessor { engine, control: control.clone() };
            let seen = match guest_keys(plan) {
                Ok(keys) => match processor.look(&disks, keys, beginning) {
                    Ok(found) => {
                        Seen { identity: Some(found.identity), condition: found.condition, error: None }
                    }
                    Err(error) => Seen { error: Some(error), ..Seen::default() },
                },
                Err(error) => {
                    findings.error("manifest.invalid", None, error);
                    return findings;
                }
            };
            // A server that does not answer looks like a damaged disk from inside.
            match memory.failure() {
                Some(error) => findings.error("disk.unreadable", None, error),
                None => judge(plan, &seen, &mut findings),
            }
        }
    }
    findings
}

/// The VM, if it is elsewhere and was found when the plan was made.
fn ask(
    plan: &Plan,
    limits: &WorkLimits,
    launcher: &Launcher,
    control: &Control,
) -> Result<Option<(Source, u32)>> {
    let Some(planned) = plan.remote.as_ref().filter(|remote| remote.found.is_some()) else { return Ok(None) };
    let access = Access::read(planned)?;
    let mut source = remote::ask(&access, planned, &limits.remote, control)?;
    source.equip(&access, launcher, limits);
    match source.changed(plan) {
        None => Ok(Some((source, remote::connections(planned, &limits.remote)))),
        Some(error) => Err(error),
    }
}

fn open(
    disk: &crate::model::plan::PlannedDisk,
    limits: &WorkLimits,
    engine: &Engine,
    control: &Control,
) -> Result<SourceDisk> {
    let policy = OpenPolicy {
        backing_chain: disk.backing_chain,
        allowed_paths: &disk.allowed_paths,
        read_roots: &limits.read_roots,
    };
    open_source(source::place_of(disk)?, disk.source_format, &policy, engine, control)
}

fn measure(
    plan: &Plan,
    limits: &WorkLimits,
    engine: &Engine,
    disks: &[SourceDisk],
    control: &Control,
    findings: &mut Findings,
) -> Result<()> {
    let mut fits = Vec::new();
    for (disk, source) in plan.disks.iter().zip(disks) {
        let preallocation = plan.preallocation_of(disk);
        let target = Target {
            path: plan.result_path(disk),
            format: plan.format_of(disk),
            compress: plan.output.compress,
            level: plan.output.compress_level,
            preallocation,
            journal: None,
        };
        let measured = engine.measure(source, &target, control)?;
        source.check_unchanged(control)?;
        let size = source.facts.virtual_size;
        let virtual_size = disk.resize.and_then(|growth| growth.applied_to(size)).unwrap_or(size);
        let laid_out = if preallocation.lays_out() { virtual_size } else { 0 };
        let required_bytes = measured.required_bytes.max(laid_out);
        let data_bytes = measured.bytes_to_copy;
        fits.push(Fit { disk, virtual_size, required_bytes, data_bytes, need: required_bytes });
    }
    check_fit(plan, limits, &fits, plan.room_for_fixes(), findings);
    Ok(())
}

fn not_opened(plan: &Plan, why: &str, findings: &mut Findings) {
    if plan.opens_guest() && plan.preflight == Preflight::Full {
        findings.add(
            "guest.not_opened",
            None,
            Error::new(Kind::Guest, format!("the guest was not looked at: {why}"))
                .advice("`hyper2kvm validate --deep` looks into it"),
        );
    }
}

fn guest_keys(plan: &Plan) -> Result<Vec<Key>> {
    let key = |key: &crate::model::plan::PlannedKey| {
        let passphrase = keys::planned(&key.source)?;
        Ok(Key { uuid: key.uuid.clone(), device: key.device.clone(), passphrase })
    };
    plan.guest.keys.iter().map(key).collect()
}
