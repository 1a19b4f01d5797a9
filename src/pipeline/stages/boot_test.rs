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
use crate::pipeline::meter::Pass;
use crate::pipeline::target;
use crate::pipeline::worker::Job;

/// Of the time that a guest may take, most take about one part in so many.
const USUAL_SHARE: f64 = 8.0;
/// So much of the guest's last line is shown.
const SAYING_CHARACTERS: usize = 80;

pub(super) fn run(job: &mut Job<'_>) -> Result<Value> {
    let images: Vec<PathBuf> = job.plan.disks.iter().map(|disk| job.partial_path(disk)).collect();
    let machine = target::machine(job.plan, &job.checkpoint, &images)
        .ok_or_else(|| Error::internal("the plan holds no machine to be tried"))?;
    let order = BootTestOrder {
        options: job.plan.boot_test.clone(),
        passphrases: job.place.passphrases.clone(),
        console: job.place.console.clone(),
        screenshot: job.place.screenshot.clone(),
        place: job.place.tried_in.clone(),
        ..BootTestOrder::new(machine, job.place.private())
    };
    let engine = job.engine.as_ref().ok_or_else(|| Error::internal("nothing was loaded"))?;
    let meter = &mut job.meter;
    let verdict = boot_test::run(&order, engine, job.control, &mut |moment| {
        let saying: String = moment.saying.chars().take(SAYING_CHARACTERS).collect();
        meter.detail(Stage::BootTest, format!("running for {:.0} s: {saying}", moment.seconds));
        // Nobody knows how long a guest takes; most take a small part of what they may.
        let usual_s = moment.limit_s / USUAL_SHARE;
        meter.passed(0, Pass::Boot, 1.0 - (-moment.seconds / usual_s).exp());
    })?;
    job.meter.passed(0, Pass::Boot, 1.0);
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
