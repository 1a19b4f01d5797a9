//! A source that runs and is to be shut down: when all else is ready, as the last thing before its first byte is read.
//!
//! ```text
//!   found, it runs ─▶ allowed? window? pre-flight, room ─▶ act written down ─▶ shut down ─▶ looked at again ─▶ opened
//! ```
//!
//! It is done once for a job: a source that runs again although it was shut down was started by somebody, who is not worked against. What is not
//! here: starting it again when nothing comes of the work ([`crate::pipeline::remote::power`], and who undoes acts).

use super::load;
use crate::model::acts::{ActKind, ActState};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::model::protocol::WorkerEvent;
use crate::model::remote::{PlannedShutdown, WINDOW_RULE};
use crate::model::validation::Findings;
use crate::pipeline::preflight::{self, Fit, Scene};
use crate::pipeline::remote::{Source, acts};
use crate::pipeline::worker::Job;
use crate::sys::time::now_epoch;
use crate::vsphere::power::WentOff;

/// The source, off, if it is to be shut down; else as it is.
pub(super) fn off(job: &mut Job<'_>, source: Source) -> Result<Source> {
    let Some(planned) = job.plan.remote.as_ref().and_then(|remote| remote.shutdown) else {
        return Ok(source);
    };
    let known = job.checkpoint.acts.shut_down().map(|(number, act)| (number, act.state));
    if source.is_off() {
        // It went off after the attempt before had died.
        if let Some((number, ActState::Intended)) = known {
            acts::done(job, number, ActKind::ShutDown { forced: false })?;
        }
        return Ok(source);
    }
    if !source.runs() {
        // What else it may be is a rule of the pre-flight.
        return Ok(source);
    }
    if let Some((number, ActState::Done)) = known {
        acts::undone(job, number)?;
        return Err(Error::new(Kind::Source, format!("{} runs again although it was shut down for the copy", source.machine.path))
            .rule("source.running")
            .source(source.machine.path.clone())
            .advice("somebody has started it, or something that watches over it (high availability, for one): see who; `hyper2kvm retry` shuts it down again"));
    }
    if known.is_none() {
        all_else_is_ready(job, &source)?;
    }
    shut_down(job, source, planned, known.map(|(number, _)| number))
}

/// Whether a source that is to be shut down would be now, for the first time.
pub(super) fn is_due(job: &Job<'_>, source: &Source) -> bool {
    source.runs() && job.checkpoint.acts.shut_down().is_none()
}

/// Whatever can be known while it runs: rules that are broken, names that are taken, libvirt, networks, and room for all that it may hold.
pub(super) fn all_else_is_ready(job: &mut Job<'_>, source: &Source) -> Result<()> {
    if !job.order.limits.remote.allow_shutdown {
        return Err(Error::new(Kind::Source, "the VM runs, and this host does not allow that sources are shut down")
            .rule("source.running")
            .advice("have its administrator set `sources.allow_shutdown: true`, or shut it down by hand; then `hyper2kvm retry`"));
    }
    in_time(job)?;
    let mut found = Findings::new(preflight::weights(job.plan, &job.order.limits));
    let scene = Scene {
        plan: job.plan,
        limits: &job.order.limits,
        launcher: &job.bench.launcher,
        control: job.control,
        sources: &[],
        machine: Some(&source.untouched),
        transport: Some(source.ways.chosen()),
        no_engine: None,
        results: Some(job.place.dirs()),
        programs: job.place.hooks.clone(),
        kvm: &|| job.kvm().clone(),
    };
    preflight::run(&scene, &mut found);
    let fits = fits(job, source);
    let bytes = fits.iter().fold(job.plan.room_for_fixes(), |sum, fit| sum.saturating_add(fit.need));
    job.meter.tell(WorkerEvent::Room { bytes });
    preflight::check_fit(job.plan, &job.order.limits, &fits, job.plan.room_for_fixes(), &mut found);
    job.control.checkpoint()?;
    // What is only worth a word is told by the pre-flight that follows, which sees the disks, too.
    match found.failure() {
        Some(_) => load::tell(job, &found),
        None => Ok(()),
    }
}

/// Refuses to begin with what may only begin in a window that has closed.
fn in_time(job: &Job<'_>) -> Result<()> {
    match job.order.limits.remote.shutdown_until {
        Some(until) if now_epoch() >= until => {
            Err(Error::new(Kind::Source, "the window in which the source may be shut down has closed")
                .rule(WINDOW_RULE)
                .advice("nothing is wrong: it goes on when the window opens again")
                .transient())
        }
        _ => Ok(()),
    }
}

/// What the results may take: as much as the disks hold, and not more than their machine has on its datastores.
fn fits<'j>(job: &Job<'j>, source: &Source) -> Vec<Fit<'j>> {
    let all: u64 = job.plan.disks.iter().map(|disk| disk.bytes.unwrap_or_default()).sum();
    let used = source.machine.used_bytes.unwrap_or(all).min(all);
    let share = |bytes: u64| match all {
        0 => 0,
        all => u64::try_from(u128::from(bytes) * u128::from(used) / u128::from(all)).unwrap_or(bytes),
    };
    let fit = |disk: &'j PlannedDisk| {
        let virtual_size = disk.bytes.unwrap_or_default();
        let laid_out = job.plan.preallocation_of(disk).lays_out();
        let required_bytes = if laid_out { virtual_size } else { share(virtual_size) };
        let is_copied = job.checkpoint.disks.contains_key(&disk.id);
        let need = if is_copied { 0 } else { required_bytes };
        Fit { disk, virtual_size, required_bytes, data_bytes: required_bytes, need }
    };
    job.plan.disks.iter().map(fit).collect()
}

fn shut_down(
    job: &mut Job<'_>,
    source: Source,
    planned: PlannedShutdown,
    intended: Option<usize>,
) -> Result<Source> {
    if intended.is_none() {
        in_time(job)?;
    }
    job.control.checkpoint()?;
    let number = match intended {
        Some(number) => number,
        None => acts::intend(job, ActKind::ShutDown { forced: false })?,
    };
    tracing::warn!(vm = source.machine.path, "the source is shut down");
    job.meter.detail(Stage::Load, format!("shuts {} down", source.machine.name));
    let meter = &mut job.meter;
    let went = source.shut_down(planned, intended.is_some(), &mut |text| meter.detail(Stage::Load, text))?;
    match went {
        // Somebody else has done it, and so starts it again if that is wanted.
        WentOff::Before => acts::undone(job, number)?,
        WentOff::ByItself | WentOff::Forced => {
            let forced = went == WentOff::Forced;
            if forced {
                let text =
                    format!("the power of {} was CUT: its guest did not shut down", source.machine.name);
                job.warn(Stage::Load, text);
            }
            acts::done(job, number, ActKind::ShutDown { forced })?;
        }
    }
    job.control.checkpoint()?;
    source.again(job.plan)
}
