//! `extraction`: the source's data comes to its final place, while the guest work goes on beside it.
//!
//! Where the final format can only be written as a stream, there is nothing to do for local sources
//! but to make sure that they are still what was loaded: `convert` reads them itself. A source elsewhere is read once, over its network: the guest
//! work on it follows its copy, which is its result where that may be changed later, and else is made for that (see [`super::fetching`]).

use serde_json::{Value, json};

use super::copying::{changed, copy_all};
use super::{fetching, guest, warm};
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::pipeline::worker::Job;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let fetched = fetching::run(job)?;
    if !job.sources.iter().any(|opened| opened.source.is_remote()) {
        guest::begin(job)?;
    }
    let mut told = json!({});
    if !fetched.is_empty() {
        told["fetched"] = json!(fetched);
    }
    if let Some(passes) = warm::told(job) {
        told["passes"] = passes;
    }
    if job.plan.copying_stage() == Stage::Extraction {
        told["disks"] = copy_all(job, Stage::Extraction)?["disks"].take();
        return Ok(told);
    }
    for (disk, opened) in job.plan.disks.iter().zip(&job.sources) {
        opened.origin().check_unchanged(job.control).map_err(|error| changed(&error, disk))?;
    }
    told["streamed"] = json!(true);
    Ok(told)
}
