//! `extraction`: the source's data comes to its final place, while the guest work goes on beside it.
//!
//! Where the final format can only be written as a stream, there is nothing to do for local sources
//! but to make sure that they are still what was loaded: `convert` reads them itself.

use serde_json::{Value, json};

use super::copying::{changed, copy_all};
use super::guest;
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::pipeline::worker::Job;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    guest::begin(job)?;
    if job.plan.copying_stage() == Stage::Extraction {
        return copy_all(job, Stage::Extraction);
    }
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources) {
        opened.source.check_unchanged().map_err(|error| changed(&error, disk))?;
    }
    Ok(json!({ "streamed": true }))
}
