//! `boot_test`: prove that the result boots, before anything else is done with it.
//!
//! Tried is what will be published, through a throw-away overlay. A guest that does not come up fails the job; one of which
//! nobody can tell is warned of. What is not here: how it is tried and judged ([`crate::pipeline::boot_test`]).

use std::path::PathBuf;

use serde_json::Value;

use crate::model::boot::Verdict;
use crate::model::error::{Error, Result};
use crate::model::job::Stage;
use crate::pipeline::boot_test::{self, BootTestOrder};
use crate::pipeline::publish::partial_name;
use crate::pipeline::target;
use crate::pipeline::worker::Job;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let dir = job.place.results.path();
    let images: Vec<PathBuf> =
        job.plan.disks.iter().map(|disk| dir.join(partial_name(job.plan, &disk.id))).collect();
    let machine = target::machine(job.plan, &job.checkpoint, &images)
        .ok_or_else(|| Error::internal("the plan holds no machine to be tried"))?;
    let order = BootTestOrder {
        options: job.plan.boot_test.clone(),
        passphrases: job.place.passphrases.clone(),
        console: job.place.console.clone(),
        screenshot: job.place.screenshot.clone(),
        ..BootTestOrder::new(machine, job.place.private())
    };
    let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
    let verdict = boot_test::run(&order, engine, job.control, &mut |_| {})?;
    tracing::info!(
        verdict = verdict.verdict.name(),
        seconds = verdict.seconds,
        evidence = verdict.evidence,
        "tried"
    );
    if let Some(error) = verdict.failure() {
        return Err(error);
    }
    if verdict.verdict == Verdict::Undetermined {
        job.warn(Stage::BootTest, format!("nobody can tell whether the guest boots: {}", verdict.evidence));
    }
    serde_json::to_value(&verdict)
        .map_err(|error| Error::internal(format!("the verdict cannot be told: {error}")))
}
