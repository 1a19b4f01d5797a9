//! What a pass does at its source: has changes tracked, freezes and thaws. All of it goes through the ledger of acts.
//!
//! What is not here: what is undone when the work ends, whichever way it does ([`crate::pipeline::remote::acts`]).

use crate::model::acts::{ActKind, ActState};
use crate::model::error::{Error, Result};
use crate::model::job::Stage;
use crate::pipeline::remote::snapshots::{self, Watch};
use crate::pipeline::remote::{self, Source, acts};
use crate::pipeline::worker::Job;

/// On how many connections it is read.
pub(super) fn connections(job: &Job<'_>) -> u32 {
    job.plan.remote.as_ref().map_or(1, |planned| remote::connections(planned, &job.order.limits.remote))
}

/// Has account kept of changes, if it is not.
pub(super) fn track(job: &mut Job<'_>, source: &Source) -> Result<()> {
    let is_on = source.machine.change_tracking;
    let known = {
        let mut outstanding = job.checkpoint.acts.outstanding();
        let known = outstanding.find(|(_, act)| act.what == ActKind::ChangeTracking);
        known.map(|(number, act)| (number, act.state))
    };
    match known {
        Some((number, ActState::Intended)) if is_on => {
            return acts::done(job, number, ActKind::ChangeTracking);
        }
        // Somebody has switched it off; what it knew is lost.
        Some((number, _)) if !is_on => acts::undone(job, number)?,
        _ if is_on => return Ok(()),
        _ => {}
    }
    let number = acts::intend(job, ActKind::ChangeTracking)?;
    source.track_changes()?;
    acts::done(job, number, ActKind::ChangeTracking)
}

/// What a VM that runs is read as of; one that an earlier run has left is as good as another one. A VM that is off needs none.
pub(super) fn freeze(job: &mut Job<'_>, source: &mut Source) -> Result<Option<String>> {
    if source.is_off() {
        return snapshots::clear(job, source).map(|()| None);
    }
    let planned = job.plan.remote.as_ref().and_then(|remote| remote.snapshot);
    let planned = planned.ok_or_else(|| Error::internal("nobody said how snapshots are made"))?;
    job.meter.detail(Stage::Extraction, "makes a snapshot of the VM");
    let standing = snapshots::stand(job, source, &planned)?;
    job.watch = Some(Watch::over(source, &standing, &planned, job.control)?);
    Ok(Some(standing.moref))
}

/// What was frozen for a pass goes.
pub(super) fn thaw(job: &mut Job<'_>, source: &mut Source) -> Result<()> {
    // It would see that the snapshot is gone.
    job.watch = None;
    snapshots::clear(job, source)
}
