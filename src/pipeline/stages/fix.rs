//! `fix`: the guest is repaired for KVM, and its results hold the repairs.
//!
//! The repairs were made on overlays, beside the copy. Here they are waited for, and put into the copies; formats
//! that are written as a stream are written from the repaired disks by `convert`.

use serde_json::{Value, json};

use super::guest;
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::pipeline::worker::Job;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    guest::begin(job)?;
    guest::await_end(job, Stage::Fix)?;
    if job.plan.copying_stage() == Stage::Extraction {
        guest::commit(job)?;
    }
    let record = job.checkpoint.guest.as_ref();
    Ok(json!({
        "engine": record.and_then(|record| record.engine),
        "seconds": record.map_or(0.0, |record| record.seconds),
        "changes": record.map_or(0, |record| record.fixes.len()),
        "disks": record.map(|record| record.overlays.keys().collect::<Vec<_>>()).unwrap_or_default(),
        "skipped": record.and_then(|record| record.skipped.as_ref()),
    }))
}
