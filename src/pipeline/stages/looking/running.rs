//! A look into the guest of a source that is to be shut down, while it still runs: what cannot be converted is told before anybody misses it.
//!
//! ```text
//!   all else is ready ─▶ snapshot, written down ─▶ disks as of it, looked into ─▶ judged ─▶ snapshot removed ─▶ shut down, looked into again
//! ```
//!
//! It is seen as if its power had failed: whether it sleeps, or was not shut down as it should be, only shows when it is off. Where it cannot be looked into (too
//! little room for a snapshot, a disk that none holds, a way that does only when it is off), nobody is kept from shutting it down for that: such
//! a guest is `guest.not_opened`. Whoever dies in between leaves a snapshot that is written down, for the next attempt to go on with. What is
//! not here: looking itself, and VMs that run on, which are copied as of their snapshot anyway.

use serde_json::Value;

use super::see;
use crate::disk::{Bounds, Engine, Memory, SourceDisk};
use crate::guest::inspect::Condition;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::{SnapshotQuiesce, VsphereTransport};
use crate::model::remote::{NOT_OPENED_RULE, PlannedSnapshot};
use crate::model::validation::Findings;
use crate::pipeline::preflight::{self, Seen};
use crate::pipeline::remote::snapshots::{self, Watch};
use crate::pipeline::remote::{self, Source};
use crate::pipeline::stages::{load, power};
use crate::pipeline::worker::Job;

/// Nobody copies it, so its guest need not stand still.
const FOR_A_LOOK: PlannedSnapshot =
    PlannedSnapshot { quiesce: SnapshotQuiesce::No, ..PlannedSnapshot::USUAL };
/// What may be so only because it runs: no reason to leave it running.
const OF_ITS_RUNNING: [&str; 3] = ["guest.file_system", "guest.hibernated", "guest.unclean"];

/// Looks, where that is asked for and the source is about to be shut down; says for the report what it took.
pub(in crate::pipeline::stages) fn before_shutdown(
    job: &mut Job<'_>,
    source: &mut Source,
) -> Result<Option<Value>> {
    if !job.plan.looks_before_shutdown() || !power::is_due(job, source) {
        return Ok(None);
    }
    power::all_else_is_ready(job, source)?;
    let mut findings = Findings::new(preflight::weights(job.plan, &job.order.limits));
    let looked = look(job, source, &mut findings);
    job.control.ended()?;
    let cleared = snapshots::clear(job, source);
    let looked = looked?;
    cleared?;
    match findings.failure() {
        Some(_) => load::tell(job, &findings).map(|()| None),
        None => Ok(looked),
    }
}

fn look(job: &mut Job<'_>, source: &mut Source, findings: &mut Findings) -> Result<Option<Value>> {
    let engine = load::engine(job)?;
    let _watch;
    let opened = match source.ways.chosen() {
        way @ (VsphereTransport::Nfc | VsphereTransport::Ssh) => {
            let why = format!("what comes over {} can only be looked into when the VM is off", way.words());
            Err(Error::new(Kind::Unsupported, why))
        }
        _ => match freeze(job, source) {
            Ok(watch) => {
                _watch = watch;
                open(job, source)
            }
            Err(error) => Err(error),
        },
    };
    let disks = match opened {
        Ok(disks) => disks,
        Err(error) => return not_opened(error, findings).map(|()| None),
    };
    let memory = Memory::new(Bounds::default());
    let numbered = disks.into_iter().enumerate();
    let disks: Vec<SourceDisk> = numbered.map(|(number, disk)| disk.remembered(number, &memory)).collect();
    seen(job, &engine, (&disks, &memory), findings)
}

/// Has the source hold still, and somebody look after that.
fn freeze(job: &mut Job<'_>, source: &mut Source) -> Result<Watch> {
    job.meter
        .detail(Stage::Load, "makes a snapshot of the VM, to look into its guest before it is shut down");
    let standing = snapshots::stand(job, source, &FOR_A_LOOK)?;
    Watch::over(source, &standing, &FOR_A_LOOK, job.control)
}

fn open(job: &Job<'_>, source: &Source) -> Result<Vec<SourceDisk>> {
    let Some(planned) = &job.plan.remote else { return Ok(Vec::new()) };
    let connections = remote::connections(planned, &job.order.limits.remote);
    job.plan.disks.iter().map(|disk| source.open(disk, connections)).collect()
}

fn seen(
    job: &mut Job<'_>,
    engine: &Engine,
    (disks, memory): (&[SourceDisk], &Memory),
    findings: &mut Findings,
) -> Result<Option<Value>> {
    let (seen, told) = see(job, engine, disks, memory, findings)?;
    let Some(seen) = seen else { return Ok(Some(told)) };
    let is_of_its_running =
        |error: &Error| error.details().rule.as_deref().is_none_or(|rule| OF_ITS_RUNNING.contains(&rule));
    let (torn, error): (Option<Error>, Option<Error>) = match seen.error {
        Some(error) if is_of_its_running(&error) => (Some(error), None),
        error => (None, error),
    };
    if let Some(torn) = torn {
        not_opened(torn, findings)?;
    }
    let condition = Condition { asleep: Vec::new(), unclean: Vec::new(), ..seen.condition };
    preflight::judge(job.plan, &Seen { condition, error, ..seen }, findings);
    Ok(Some(told))
}

/// It is looked into when it is off. What may pass is tried again; that an account may not make and remove snapshots is no reason to wait for another one.
fn not_opened(error: Error, findings: &mut Findings) -> Result<()> {
    let is_forbidden = error.kind() == Kind::Auth && error.details().rule.is_none();
    let is_for_good = error.disposition() == Disposition::Permanent && error.kind() != Kind::Cancelled;
    if !is_forbidden && !is_for_good {
        return Err(error);
    }
    tracing::info!(%error, "the guest cannot be looked into before its shutdown");
    let why = format!("the guest cannot be looked into while it runs: {}", error.details().cause);
    findings.add(
        NOT_OPENED_RULE,
        None,
        Error::new(Kind::Source, why).advice(
            "it is looked into when it is off; to have that seen to first, copy the VM with `mode: clone`",
        ),
    );
    Ok(())
}
