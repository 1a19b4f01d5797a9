//! Disks whose result is larger than their source: how the source is seen with room behind it.
//!
//! An empty overlay of the result's size stands on the source. Copied, measured and compared is what it shows: the source, then zeros; so
//! that every format is written at its final size at once, laid out beforehand where that is asked for. It holds nothing, is made anew by
//! every attempt, and the journal does not know it. The source is never written to. What is not here: what grows inside (see `guest::grow`).

use crate::disk::{Engine, SourceDisk};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::PlannedDisk;
use crate::pipeline::preflight::shrinks;
use crate::pipeline::publish::grown_name;
use crate::pipeline::worker::Job;

/// A source as its result will show it, if that is larger.
pub(super) fn seen(
    job: &Job<'_>,
    engine: &Engine,
    disk: &PlannedDisk,
    source: &SourceDisk,
) -> Result<Option<SourceDisk>> {
    let Some(growth) = disk.resize else { return Ok(None) };
    let now = source.facts.virtual_size;
    let Some(size) = growth.applied_to(now) else {
        return Err(shrinks(disk, now));
    };
    if size == now {
        return Ok(None);
    }
    remove(job, disk)?;
    let path = job.place.results.path().join(grown_name(&disk.id));
    engine.make_overlay(source, &path, size, job.control)?;
    tracing::info!(disk = disk.id, from = now, to = size, "the disk grows");
    source.seen_through(&path, size).map(Some)
}

/// The results have their sizes: the overlays may go.
pub(super) fn clear(job: &Job<'_>) -> Result<()> {
    job.plan.disks.iter().filter(|disk| disk.resize.is_some()).try_for_each(|disk| remove(job, disk))
}

fn remove(job: &Job<'_>, disk: &PlannedDisk) -> Result<()> {
    let (dir, name) = (&job.place.results, grown_name(&disk.id));
    let removed = dir.remove(&name);
    removed.map(drop).map_err(|error| Error::io(Kind::Output, "remove", &dir.path().join(&name), &error))
}
