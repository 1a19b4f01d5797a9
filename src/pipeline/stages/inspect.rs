//! `inspect`: what guest is inside, as the guest work found it while the disks were copied.
//!
//! Where nothing is repaired, the guest work ends here, and what it wrote is thrown away.

use serde_json::{Value, json};

use super::guest;
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::pipeline::worker::Job;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    guest::begin(job)?;
    guest::await_inspection(job)?;
    if !job.plan.runs(Stage::Fix) {
        guest::await_end(job, Stage::Inspect)?;
    }
    let record = job.guest.as_ref().map(|work| &work.record).or(job.checkpoint.guest.as_ref());
    let identity = record.and_then(|record| record.identity.as_ref());
    Ok(json!({ "guest": identity }))
}
