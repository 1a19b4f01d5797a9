//! What a VM left in its output directory, and what becomes of it once its worker has ended: the journal goes, all goes, or some of it counts no more.
//!
//! What is not here: what a worker itself cleans up when its work ends early.

use std::io;
use std::path::PathBuf;

use super::checkpoint::{Checkpoint, journal_name, lock_name};
use super::directories::{Directories, Others, open_others};
use super::handover;
use super::hooks::{Ledger, ledger_name};
use super::host_lock::HostFence;
use super::publish::{
    Progress, discard, failed, partial_name, partial_names, partial_names_elsewhere, progress,
};
use crate::model::acts::Acts;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::HookStage;
use crate::model::plan::{Plan, PlannedDisk};
use crate::model::protocol::HeldLock;
use crate::sys::dir::Dir;

/// The outcome is recorded elsewhere: the journal that proved it may go, unless another host has the directory by now. Harmless if there is
/// none.
pub fn forget(plan: &Plan, lock: Option<HeldLock>) -> Result<()> {
    let Some((dir, others)) = open_if_there(plan)? else { return Ok(()) };
    let dir = dir.guarded(lock.map(HostFence::of).as_ref().map(HostFence::guard));
    let Some(checkpoint) = Checkpoint::read(&dir, &plan.vm_id)? else { return Ok(()) };
    match &checkpoint.intent {
        Some(intent) if progress(Directories::new(&dir, &others), intent)? == Progress::Complete => {
            dir.remove(&ledger_name(&plan.vm_id)).map_err(failed("remove", &dir, "the record of hooks"))?;
            dir.remove(&journal_name(&plan.vm_id)).map_err(failed("remove", &dir, "the journal"))?;
            dir.sync().map_err(failed("make durable", &dir, "."))
        }
        _ => Ok(()),
    }
}

/// What a job's worker has written down of what it did at the source, if its journal is there. Some of it may not have been heard of.
#[must_use]
pub fn acts(plan: &Plan, job_id: i64) -> Option<Acts> {
    let dir = Dir::open(&plan.output.directory).ok()?;
    let journal = Checkpoint::read(&dir, &plan.vm_id).ok()??;
    (journal.job_id == job_id && !journal.acts.is_empty()).then_some(journal.acts)
}

/// Removes all that an unfinished VM left in its output directory, and in those of its disks: partial results, journal, lock.
///
/// Refused while a worker is at it, and of what another host than this one, or a machine that was started, still needs; harmless if there is nothing.
/// Published results stay.
pub fn abandon(plan: &Plan, host: Option<&str>) -> Result<()> {
    let Some((dir, others)) = open_if_there(plan)? else { return Ok(()) };
    let dirs = Directories::new(&dir, &others);
    let lock = lock_name(&plan.vm_id);
    if dir.is_locked(&lock).map_err(failed("look at the lock", &dir, &lock))? {
        return Err(at_work(&dir, plan));
    }
    if let Some(checkpoint) = Checkpoint::read(&dir, &plan.vm_id)? {
        refuse_what_is_needed(dirs, &checkpoint, host)?;
        discard(dirs, &checkpoint)?;
        for (directory, names) in partial_names_elsewhere(plan, &checkpoint.mark) {
            let Some(dir) = dirs.at(Some(&directory)) else { continue };
            names
                .iter()
                .try_for_each(|name| dir.remove(name).map(drop).map_err(failed("remove", dir, name)))?;
            dir.sync().map_err(failed("make durable", dir, "."))?;
        }
    }
    for name in partial_names(plan) {
        dir.remove(&name).map_err(failed("remove", &dir, &name))?;
    }
    for name in [journal_name(&plan.vm_id), lock] {
        dir.remove(&name).map_err(failed("remove", &dir, &name))?;
    }
    dir.sync().map_err(failed("make durable", &dir, "."))
}

fn refuse_what_is_needed(dirs: Directories<'_>, checkpoint: &Checkpoint, host: Option<&str>) -> Result<()> {
    let Some(intent) = &checkpoint.intent else { return Ok(()) };
    if progress(dirs, intent)? != Progress::Unfinished {
        return Ok(());
    }
    handover::refuse_what_is_elsewhere(checkpoint, host)?;
    handover::refuse_what_was_started(checkpoint)
}

/// Throws away what `stage` and those behind it made, so that a next worker begins again there.
pub fn rewind(plan: &Plan, stage: Stage, host: Option<&str>) -> Result<()> {
    match stage {
        Stage::Validate => {}
        // Nothing that these make is gone on from.
        Stage::BootTest | Stage::Libvirt => return Ok(()),
        // The bytes are made by these together: repairs that are in a result cannot be taken out again.
        Stage::Load | Stage::Extraction | Stage::Inspect | Stage::Fix | Stage::Convert => {
            return abandon(plan, host);
        }
    }
    let Some((dir, _)) = open_if_there(plan)? else { return Ok(()) };
    if dir.is_locked(&lock_name(&plan.vm_id)).map_err(failed("look at the lock", &dir, "."))? {
        return Err(at_work(&dir, plan));
    }
    let Some(mut checkpoint) = Checkpoint::read(&dir, &plan.vm_id)? else { return Ok(()) };
    for disk in checkpoint.disks.values_mut() {
        disk.validated = false;
        disk.sha256 = None;
    }
    Ledger::open(&dir, plan)?.forget(&[HookStage::PostValidate])?;
    checkpoint.write(&dir, &plan.vm_id)
}

/// The partial results of a plan that may be there.
#[must_use]
pub fn partials(plan: &Plan) -> Vec<PathBuf> {
    let journal = Dir::open(&plan.output.directory).ok().map(|dir| Checkpoint::read(&dir, &plan.vm_id));
    let mark = journal.and_then(|read| read.ok().flatten()).map(|journal| journal.mark).unwrap_or_default();
    let path = |disk: &PlannedDisk| {
        let directory = disk.elsewhere().unwrap_or(&plan.output.directory);
        directory.join(partial_name(plan, disk, &mark))
    };
    plan.disks.iter().map(path).collect()
}

fn open_if_there(plan: &Plan) -> Result<Option<(Dir, Others)>> {
    match Dir::open(&plan.output.directory) {
        Ok(dir) => Ok(Some((dir, open_others(plan)?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(Kind::Output, "open", &plan.output.directory, &error)),
    }
}

fn at_work(dir: &Dir, plan: &Plan) -> Error {
    Error::new(Kind::Output, format!("a worker is at `{}` in {}", plan.vm_id, dir.path().display()))
        .output(dir.path())
        .advice("wait until it has ended, or end it")
}
