//! `convert`: the final format.
//!
//! What `extraction` wrote is in the final format already; for formats that are written as a stream
//! the one pass over the source happens here.

use serde_json::{Value, json};

use super::copying::copy_all;
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::model::plan::Compression;
use crate::pipeline::worker::Job;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let output = &job.plan.output;
    let mut told = json!({
        "format": output.format.name(),
        "compressed": output.compress != Compression::None,
    });
    if job.plan.copying_stage() == Stage::Convert {
        let copied = copy_all(job, Stage::Convert)?;
        told["disks"] = copied["disks"].clone();
    }
    Ok(told)
}
