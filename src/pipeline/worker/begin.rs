//! How a worker begins: with what earlier attempts have left, or anew.
//!
//! What is not here: how far a single copy is (see [`crate::disk`]), and what is removed when a job ends.

use crate::model::acts::Acts;
use crate::model::error::{Error, Kind, Result};
use crate::model::protocol::{Published, WorkOrder, WorkerEvent};
use crate::pipeline::checkpoint::{Checkpoint, Digests, Intent};
use crate::pipeline::directories::Directories;
use crate::pipeline::handover;
use crate::pipeline::hooks::{self, Ledger};
use crate::pipeline::publish::{self, Progress};
use crate::pipeline::workplace::Workplace;

/// What there is to do.
pub(super) enum Begun {
    /// An earlier attempt had published all.
    Published(Box<Published>),
    /// There is work to do.
    At(Box<Checkpoint>),
}

/// Finds out what earlier attempts left, and claims the names of the partial results.
pub(super) fn begin(
    place: &Workplace,
    order: &WorkOrder,
    ledger: &Ledger,
    emit: &mut dyn FnMut(WorkerEvent),
) -> Result<Begun> {
    let (dir, plan) = (&place.results, &order.plan);
    let claim = || -> Result<Begun> {
        let host = order.limits.lock.as_ref().map(|lock| lock.host.clone());
        let found = Checkpoint::read(dir, &plan.vm_id)?;
        let fresh = Checkpoint::new(order.job_id, &order.batch_id, plan, host);
        let fresh = match &found {
            Some(found) => fresh.marked(found, plan),
            None => fresh,
        };
        if let Some(rival) = publish::rival(dir, &plan.vm_id, &fresh.partials)? {
            return Err(Error::new(
                Kind::Output,
                format!("{rival} is being converted into {} with the same disk names", dir.path().display()),
            )
            .output(dir.path())
            .advice("choose another directory, or wait until it has ended")
            .transient());
        }
        let checkpoint = match found {
            None => fresh.with_acts(&order.acts),
            Some(found) => match go_on_from(place.dirs(), found, &fresh, hooks::are_due(plan, ledger))? {
                Begun::At(checkpoint) => checkpoint.with_acts(&order.acts),
                published @ Begun::Published(_) => return Ok(published),
            },
        };
        checkpoint.write(dir, &plan.vm_id)?;
        Ok(Begun::At(Box::new(checkpoint)))
    };
    let begun = dir
        .exclusively(claim)
        .map_err(|error| Error::io(Kind::Output, "lock", dir.path(), &error).output(dir.path()))??;
    let resumed = match &begun {
        Begun::Published(_) => true,
        Begun::At(checkpoint) => !checkpoint.disks.is_empty() || checkpoint.intent.is_some(),
    };
    emit(WorkerEvent::Started { pid: std::process::id(), resumed });
    Ok(begun)
}

/// What an earlier attempt's journal is worth; `due`: something is to be run once all is published.
fn go_on_from(dirs: Directories<'_>, found: Checkpoint, fresh: &Checkpoint, due: bool) -> Result<Begun> {
    let progress = found.intent.as_ref().map(|intent| publish::progress(dirs, intent)).transpose()?;
    let same_plan = found.plan_sha256 == fresh.plan_sha256;
    // Another host counts its jobs by itself; what it had published of this batch is this job's.
    let is_elsewhere = found.is_of_another_host(fresh.host.as_deref());
    let same_job = found.batch_id == fresh.batch_id && (found.job_id == fresh.job_id || is_elsewhere);
    if progress == Some(Progress::Unfinished) {
        handover::refuse_what_is_elsewhere(&found, fresh.host.as_deref())?;
    }
    match (progress, found.intent.as_ref()) {
        (Some(found_as), Some(intent)) if same_plan && same_job && is_over(found_as, intent) => match due {
            true => Ok(Begun::At(Box::new(found.taken_over_by(fresh)))),
            false => Ok(Begun::Published(Box::new(intent.outcome.clone()))),
        },
        // Its digests are still to be made.
        (Some(Progress::Complete), _) if same_plan && same_job => {
            Ok(Begun::At(Box::new(found.taken_over_by(fresh))))
        }
        // Another job's result, which nobody came back for: it stays, and this job does its own work.
        (Some(Progress::Complete), _) => Ok(Begun::At(Box::new(fresh.clone()))),
        (Some(Progress::Unfinished) | None, _) if same_plan => {
            Ok(Begun::At(Box::new(found.taken_over_by(fresh))))
        }
        _ => {
            publish::discard(dirs, &found)?;
            let acts = if same_job { found.acts } else { Acts::default() };
            Ok(Begun::At(Box::new(fresh.clone().with_acts(&acts))))
        }
    }
}

/// Whether nothing is left to do: all is published, with its digests, or was even taken away since.
pub(super) fn is_over(progress: Progress, intent: &Intent) -> bool {
    match (progress, &intent.digests) {
        (Progress::Complete, digests) => *digests == Digests::Unwanted,
        (_, digests) => digests.is_published(),
    }
}
