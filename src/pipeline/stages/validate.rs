//! `validate`: prove that the result holds what the source holds, and what was repaired of it.
//!
//! Per disk: the image's own structure, its size, and its content; at last that the source is still what it was when all began. What we copied
//! was looked at when it was written, so that it has to lie there now; what was repaired since, and what QEMU copied, is compared byte by
//! byte. A result that fails is thrown away, so that no later attempt takes it for good. What is not here: whether a guest boots from it, and
//! its digest, which follows when it is published.

use serde_json::{Value, json};

use super::copying::{changed, forget_extents, target};
use super::{guest, position};
use crate::disk::Depth;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::pipeline::meter::Pass;
use crate::pipeline::worker::Job;
use crate::sys::failpoint;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let mut told = Vec::new();
    for (number, disk) in job.plan.disks.iter().enumerate() {
        if !job.checkpoint.disks.get(&disk.id).is_some_and(|finished| finished.validated) {
            job.control.checkpoint()?;
            if let Err(error) = validate_one(job, number, disk) {
                if error.kind() == Kind::Validation {
                    throw_away(job, disk);
                }
                return Err(error);
            }
            failpoint::hit("validate.done");
        }
        told.push(json!({
            "id": disk.id,
            "identical": true,
            "checked": job.plan.output.check_image_integrity,
            "read_back": job.plan.output.read_back,
        }));
    }
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources) {
        opened.origin().check_unchanged(job.control).map_err(|error| changed(&error, disk))?;
    }
    Ok(json!({ "disks": told }))
}

fn validate_one(job: &mut Job<'_>, number: usize, disk: &PlannedDisk) -> Result<()> {
    let target = target(job, disk);
    let where_ = position(number, job);
    let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
    let content = guest::content(job, number, disk)?;
    let extents = job.path(disk, &job.extents(disk));
    let (control, meter) = (job.control, &mut job.meter);

    if job.plan.output.check_image_integrity {
        meter.detail(Stage::Validate, format!("{where_}: structure"));
        engine.check(&target.path, target.format, control)?;
    }
    meter.detail(Stage::Validate, format!("{where_}: comparing with the source"));
    let mut compared = |part| meter.passed(number, Pass::Compare, part);
    let (path, format) = (&target.path, target.format);
    // What an earlier run has written was seen by nobody since.
    let is_ours = job.copied.contains(&disk.id);
    let depth = if job.plan.output.read_back || !is_ours { Depth::Medium } else { Depth::Tables };
    if !engine.read_back(&content, (path, format), &extents, depth, control, &mut compared)? {
        engine.compare(&content, path, format, control, &mut compared)?;
    }
    meter.passed(number, Pass::Compare, 1.0);
    content.check_unchanged(job.control).map_err(|error| changed(&error, disk))?;

    let still_there =
        job.checkpoint.disks.get(&disk.id).map(|finished| job.is_there(disk, finished)).transpose()?;
    if still_there != Some(true) {
        return Err(Error::new(
            Kind::Validation,
            format!("{} changed while it was checked", target.path.display()),
        )
        .output(&target.path)
        .advice("something else changes files in the result directory: find it, then retry"));
    }
    if let Some(finished) = job.checkpoint.disks.get_mut(&disk.id) {
        finished.validated = true;
    }
    job.save()?;
    forget_extents(job, disk)
}

/// A result that is not what it should be must not be gone on from.
fn throw_away(job: &mut Job<'_>, disk: &PlannedDisk) {
    if let Some(finished) = job.checkpoint.disks.remove(&disk.id)
        && let Ok(dir) = job.dir(disk)
        && let Err(error) = dir.remove(&finished.partial)
    {
        tracing::warn!(%error, "a result that failed its check stays");
    }
    if let Err(error) = forget_extents(job, disk) {
        tracing::warn!(%error, "what is known of a result that failed its check stays");
    }
}
