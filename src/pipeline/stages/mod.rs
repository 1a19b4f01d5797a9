//! The stages of this version, one file each, and what two of them share: copying a disk.
//!
//! A stage gets the VM as it is and brings it one step further; what it tells back goes into the
//! report. Bytes move exactly once: where the target can be written at any offset, `extraction` writes
//! it; where it can only be written as a stream (compressed, or a format without room for later
//! changes), `convert` does. What is not here: the order of the stages (see [`super::worker`]).

mod boot_test;
mod convert;
mod copying;
mod extraction;
mod fetching;
mod fix;
mod growth;
mod guest;
mod inspect;
mod load;
mod looking;
mod power;
mod sums;
mod validate;
pub(super) mod warm;

use serde_json::Value;

use super::handover;
use super::worker::Job;
use crate::model::error::Result;
use crate::model::job::Stage;

/// Runs one stage.
pub(super) fn run(stage: Stage, job: &mut Job<'_>) -> Result<Value> {
    match stage {
        Stage::Load => load::run(job),
        Stage::Extraction => extraction::run(job),
        Stage::Inspect => inspect::run(job),
        Stage::Fix => fix::run(job),
        Stage::Convert => convert::run(job),
        Stage::Validate => validate::run(job),
        Stage::BootTest => boot_test::run(job),
        Stage::Libvirt => handover::run(job),
    }
}

/// The results are as they will be published: what was kept beside them for later stages may go.
pub(super) fn clear(job: &Job<'_>) -> Result<()> {
    guest::clear(job)?;
    fetching::clear(job)?;
    job.plan.disks.iter().try_for_each(|disk| copying::forget_extents(job, disk))
}

/// `disk 1/2`
fn position(number: usize, job: &Job<'_>) -> String {
    format!("disk {}/{}", number + 1, job.plan.disks.len())
}
