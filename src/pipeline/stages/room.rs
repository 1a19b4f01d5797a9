//! Whether what is still to be written has room, on each file system that it goes to.
//!
//! Measured now that the sources are open, so better than what a service has reserved before. What is not here: that reservation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::copying::target;
use crate::disk::{Measure, SourceDisk};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{PlannedDisk, Preallocation};
use crate::model::protocol::WorkerEvent;
use crate::model::units::human_size;
use crate::pipeline::worker::Job;
use crate::sys::fs::{Space, allocated_bytes, free_bytes};

/// One file system that is written to.
struct Share {
    path: PathBuf,
    space: Space,
    need: u64,
}

/// Tells how much is still to be written, and refuses what has no room.
pub(super) fn check(job: &mut Job<'_>) -> Result<()> {
    let shares = shares(job)?;
    let bytes = shares.values().fold(0_u64, |sum, share| sum.saturating_add(share.need));
    job.meter.tell(WorkerEvent::Room { bytes });
    let own = free_bytes(job.place.results.path()).map(|space| space.fs_id).ok();
    shares.iter().try_for_each(|(fs_id, share)| check_one(job, share, own == Some(*fs_id)))
}

/// By file system, what is still to be written there.
fn shares(job: &Job<'_>) -> Result<BTreeMap<u64, Share>> {
    let mut shares = BTreeMap::<u64, Share>::new();
    let mut add = |path: PathBuf, need: u64| {
        let space = free_bytes(&path).map_err(|error| Error::io(Kind::Output, "look at", &path, &error))?;
        let share = shares.entry(space.fs_id).or_insert(Share { path, space, need: 0 });
        share.need = share.need.saturating_add(need);
        Ok::<(), Error>(())
    };
    let fixes = if job.checkpoint.guest.is_some() { 0 } else { job.plan.room_for_fixes() };
    add(job.place.results.path().to_owned(), fixes)?;
    let copied = |disk: &PlannedDisk| job.checkpoint.disks.contains_key(&disk.id);
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources).filter(|(disk, _)| !copied(disk)) {
        let begun = target(job, disk).path.symlink_metadata().map_or(0, |file| allocated_bytes(&file));
        let need = room(job, disk, opened.content(), &opened.measure).saturating_sub(begun);
        add(job.dir(disk)?.path().to_owned(), need)?;
    }
    Ok(shares)
}

fn room(job: &Job<'_>, disk: &PlannedDisk, content: &SourceDisk, measure: &Measure) -> u64 {
    match job.plan.preallocation_of(disk) {
        Preallocation::Falloc | Preallocation::Full => measure.required_bytes.max(content.facts.virtual_size),
        Preallocation::Off | Preallocation::Metadata => measure.required_bytes,
    }
}

/// What is still to be written has to fit, with what others have reserved and what has to stay free.
fn check_one(job: &Job<'_>, share: &Share, is_own: bool) -> Result<()> {
    let Share { path, space, need } = share;
    let limits = &job.order.limits;
    // Elsewhere the service has seen to what others need.
    let others = if is_own { limits.reserved_by_others_bytes } else { 0 };
    let usable = space.free.saturating_sub(limits.disk_reserve_bytes).saturating_sub(others);
    if *need <= usable {
        return Ok(());
    }
    Err(Error::new(
        Kind::DiskSpace,
        format!(
            "{} needs {} but only {} of {} may be used ({} stay free, {} are reserved by other jobs)",
            path.display(),
            human_size(*need),
            human_size(usable),
            human_size(space.free),
            human_size(limits.disk_reserve_bytes),
            human_size(others),
        ),
    )
    .advice("free some space there or choose another directory")
    .output(path)
    .space(*need, usable))
}
