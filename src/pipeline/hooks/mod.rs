//! Hooks: what a manifest wants run between the stages of one VM.
//!
//! Every boundary goes through [`reached`]; what was started to run beside the next stage is taken in by [`collect`]. A hook goes through these states,
//! the first and the last of which are durable (see [`ledger`]):
//!
//! ```text
//!   (nothing) ─▶ started, nth time ─▶ it runs ─▶ ended ─▶ recorded: never run again while this work goes on
//!                     ▲                 │  │
//!                     └── it failed and is tried again, or was cut by a stop, a kill or a power cut
//! ```
//!
//! A hook that failed for good ends the job, unless it says `continue_on_error`; after the result is published nothing does. What is not here: how a
//! process is bound ([`runner`]), and which file may be run ([`crate::sys::trusted`]).

mod attempt;
mod consult;
mod host;
mod ledger;
mod request;
mod runner;
mod wire;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

pub(super) use consult::consult;
pub(super) use host::Host;
pub(super) use ledger::{Ledger, ledger_name};
use runner::INTERPRETER;
pub use runner::{interpreter, process_main};

use self::attempt::Attempts;
use super::worker::Job;
use crate::disk::Interruption;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::hook::{HookCall, HookRun, PlannedHook};
use crate::model::job::Stage;
use crate::model::manifest::HookStage;
use crate::model::plan::Plan;
use crate::model::protocol::Published;
use crate::sys::time::{now_epoch, rfc3339_utc};
use crate::sys::trusted::{self, Use};

/// How often it is looked whether a hook that runs beside others has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a hook ended that did not end well, besides what the report says of it.
#[derive(Debug)]
pub(super) struct Outcome {
    run: HookRun,
    /// The end of what it said.
    tail: String,
}

/// A hook that runs while the next stage does.
#[derive(Debug)]
pub(super) struct Beside {
    hook: PlannedHook,
    thread: JoinHandle<Result<Outcome>>,
}

/// Whether every hook can be run: better told now than after hours.
pub(super) fn ready(job: &Job<'_>) -> Result<()> {
    job.place.unfit.clone().map_or(Ok(()), Err)
}

/// A boundary was reached. An error ends the job.
pub(super) fn reached(job: &mut Job<'_>, point: HookStage) -> Result<()> {
    take_in(job, false)?;
    let hooks = job.plan.hooks.iter().filter(|hook| hook.stage == point);
    for hook in hooks {
        if let Some(run) = job.ledger.run_of(hook) {
            tracing::info!(hook = hook.name, status = run.status, "this hook has ended before");
            continue;
        }
        job.control.checkpoint()?;
        start(job, hook, None)?;
    }
    Ok(())
}

/// All that runs beside the stages is over. An error ends the job.
pub(super) fn collect(job: &mut Job<'_>) -> Result<()> {
    take_in(job, true)
}

/// The result is there: what these hooks do is only told.
pub(super) fn succeeded(job: &mut Job<'_>, mut published: Published) -> Result<Published> {
    if let Err(error) = reached(job, HookStage::OnSuccess).and_then(|()| collect(job)) {
        let message = format!("the result is published all the same: {}", error.details().cause);
        job.meter.warn(None, message);
    }
    if job.control.interruption() == Some(Interruption::Stop) && are_due(job.plan, &job.ledger) {
        return Err(Error::new(Kind::Cancelled, "stopped before all hooks had run"));
    }
    if let Some(report) = &mut published.content {
        report.hooks = runs(job);
    }
    job.meter.complete();
    Ok(published)
}

/// The work failed: what these hooks do changes nothing any more. Where it is tried again, they are not run.
pub(super) fn failed(job: &mut Job<'_>, error: &Error) {
    if !is_the_end(error, job.order.limits.gives_up) {
        return;
    }
    // A failure of an earlier attempt was another one.
    let mut told = job.ledger.forget(&[HookStage::OnFailure]);
    let hooks = job.plan.hooks.iter().filter(|hook| hook.stage == HookStage::OnFailure);
    for hook in hooks {
        told = told.and_then(|()| start(job, hook, Some(error)));
        if let Err(error) = std::mem::replace(&mut told, Ok(())) {
            job.meter.warn(None, error.details().cause.clone());
        }
    }
    if let Err(error) = collect(job) {
        job.meter.warn(None, error.details().cause.clone());
    }
}

/// Whether nobody will try it again: what only waits for somebody or something is no end.
pub(super) fn is_the_end(error: &Error, gives_up: bool) -> bool {
    match (error.disposition(), error.kind()) {
        (Disposition::Permanent, _) => true,
        (Disposition::NeedsOperator, kind) => kind != Kind::Auth,
        (Disposition::Transient, kind) => gives_up && kind != Kind::DiskSpace,
    }
}

/// A stage begins: hooks that saw what it is about to make anew run again after it.
pub(super) fn begins(job: &Job<'_>, stage: Stage) -> Result<()> {
    use HookStage::{PostConvert, PostExtraction, PostFix, PostValidate};
    let disks = || job.plan.disks.iter().map(|disk| job.checkpoint.disks.get(&disk.id));
    let outdated: &[HookStage] = match stage {
        Stage::Extraction if stage == job.plan.copying_stage() && disks().any(|disk| disk.is_none()) => {
            &[PostExtraction, PostFix, PostConvert, PostValidate]
        }
        Stage::Convert if stage == job.plan.copying_stage() && disks().any(|disk| disk.is_none()) => {
            &[PostConvert, PostValidate]
        }
        Stage::Fix if job.checkpoint.guest.is_none() => &[PostFix, PostConvert, PostValidate],
        Stage::Validate if disks().flatten().any(|disk| !disk.validated) => &[PostValidate],
        _ => &[],
    };
    job.ledger.forget(outdated)
}

/// How the hooks of a plan went, in its order.
pub(super) fn runs(job: &Job<'_>) -> Vec<HookRun> {
    job.plan.hooks.iter().filter_map(|hook| job.ledger.run_of(hook)).collect()
}

/// Whether something is still to be run once all is published.
pub(super) fn are_due(plan: &Plan, ledger: &Ledger) -> bool {
    plan.hooks.iter().any(|hook| hook.stage == HookStage::OnSuccess && ledger.run_of(hook).is_none())
}

/// Whether every file that hooks name is there and may be run; to be asked before the work begins, and outside of a sandbox.
pub fn check(plan: &Plan, roots: &[PathBuf]) -> Result<()> {
    for hook in &plan.hooks {
        let looked = match &hook.call {
            HookCall::Script { path, .. } => trusted::open(path, roots, Use::Program),
            HookCall::Python { module, .. } => trusted::open(&file_of(module, roots), roots, Use::Text),
            HookCall::Http { .. } => continue,
        };
        let field = format!("hooks.{}[{}]", hook.stage.name(), hook.number.saturating_sub(1));
        if let Err(error) = looked {
            return Err(Error::new(Kind::Hook, format!("the hook {}: {error}", hook.name))
                .rule("manifest.hook")
                .field(field)
                .advice(error.advice));
        }
        if matches!(hook.call, HookCall::Python { .. }) && interpreter().is_none() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("the hook {} needs `{}`, which is not on this machine", hook.name, INTERPRETER),
            )
            .rule("manifest.hook")
            .field(field)
            .advice("install it, or write the hook as a script"));
        }
    }
    Ok(())
}

/// Where a module lies: below the first of these directories that has it.
fn file_of(module: &Path, roots: &[PathBuf]) -> PathBuf {
    if module.is_absolute() {
        return module.to_owned();
    }
    let mut places = roots.iter().map(|root| root.join(module));
    let there = places.find(|path| path.symlink_metadata().is_ok());
    there.or_else(|| roots.first().map(|root| root.join(module))).unwrap_or_else(|| module.to_owned())
}

fn start(job: &mut Job<'_>, hook: &PlannedHook, failure: Option<&Error>) -> Result<()> {
    let Some(host) = job.place.hooks.clone() else {
        return Err(Error::internal("there is nobody to run hooks"));
    };
    let stage = stage_of(job, hook.stage);
    let secrets = job.place.passphrases.clone();
    let mut attempts = Attempts {
        host,
        control: job.control.clone(),
        ledger: job.ledger.clone(),
        hook: hook.clone(),
        roots: job.order.limits.hook_roots.clone(),
        memory_bytes: job.order.limits.child_memory_bytes,
        network: job.order.limits.retries.network,
        values: values(job, failure),
        secrets,
    };
    tracing::info!(hook = hook.name, stage = hook.stage.name(), "hook begins");
    if hook.beside {
        let thread = std::thread::Builder::new()
            .name("hook".to_owned())
            .spawn(move || attempts.run())
            .map_err(|error| Error::internal(format!("a hook cannot be started: {error}")))?;
        job.beside.push(Beside { hook: hook.clone(), thread });
        return Ok(());
    }
    job.meter.detail(stage, format!("hook {}", hook.name));
    let outcome = attempts.run()?;
    judge(job, hook, outcome)
}

/// Takes in what ran beside the stages: what has ended by now, or all of it.
fn take_in(job: &mut Job<'_>, wait: bool) -> Result<()> {
    let mut first = Ok(());
    for beside in std::mem::take(&mut job.beside) {
        if !wait && !beside.thread.is_finished() {
            job.beside.push(beside);
            continue;
        }
        if !beside.thread.is_finished() {
            let stage = stage_of(job, beside.hook.stage);
            job.meter.detail(stage, format!("waiting for the hook {}", beside.hook.name));
        }
        while !beside.thread.is_finished() {
            std::thread::sleep(LOOK_AGAIN);
        }
        let outcome = beside
            .thread
            .join()
            .unwrap_or_else(|_| Err(Error::internal("what runs a hook beside a stage has crashed")));
        let judged = outcome.and_then(|outcome| judge(job, &beside.hook, outcome));
        first = first.and(judged);
    }
    first
}

/// What the end of a hook means for the job.
fn judge(job: &mut Job<'_>, hook: &PlannedHook, outcome: Outcome) -> Result<()> {
    let Outcome { run, tail } = outcome;
    tracing::info!(hook = hook.name, status = run.status, attempts = run.attempts, "hook ended");
    if run.success {
        return Ok(());
    }
    let cause = format!("the hook {} ({}) failed: {}", hook.name, hook.stage.name(), run.status);
    if hook.continue_on_error {
        job.warn(stage_of(job, hook.stage), cause);
        return Ok(());
    }
    Err(Error::new(Kind::Hook, cause)
        .field(format!("hooks.{}[{}]", hook.stage.name(), hook.number.saturating_sub(1)))
        .advice("see what it said in the job's log; `continue_on_error: true` makes its failure a warning")
        .console_tail(tail))
}

/// In which stage a hook is shown: its own, or the last one.
fn stage_of(job: &Job<'_>, point: HookStage) -> Stage {
    let last = Stage::ALL.into_iter().rev().find(|stage| job.plan.runs(*stage));
    point.of().or(job.reached).or(last).unwrap_or(Stage::Load)
}

/// What only the run knows by name.
fn values(job: &Job<'_>, failure: Option<&Error>) -> Vec<(&'static str, String)> {
    let directory = job.place.results.path();
    let (name, path) = match job.plan.disks.first() {
        None => (String::new(), directory.to_owned()),
        Some(disk) => {
            let published = job.checkpoint.intent.as_ref().and_then(|intent| intent.renames.first());
            match published {
                Some(rename) => (rename.to.clone(), rename.path(job.place.dirs())),
                None => {
                    let name = format!("{}.{}", disk.stem(), job.plan.format_of(disk).name());
                    (name, job.partial_path(disk))
                }
            }
        }
    };
    let now = now_epoch();
    let directory = directory.display().to_string();
    vec![
        ("timestamp", format!("{now:.0}")),
        ("timestamp_iso", rfc3339_utc(now)),
        ("output_dir", directory.clone()),
        ("output_directory", directory),
        ("output_path", path.display().to_string()),
        ("output_filename", name),
        ("user", crate::sys::users::effective_name()),
        ("hostname", crate::sys::users::hostname()),
        ("pwd", "/".to_owned()),
        ("job_id", job.order.job_id.to_string()),
        ("batch_id", job.order.batch_id.clone()),
        ("vm_id", job.plan.vm_id.clone()),
        ("error", failure.map(|error| error.details().cause.clone()).unwrap_or_default()),
        ("error_kind", failure.map(|error| error.kind().to_string()).unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_somebody_or_is_tried_again_is_no_end() {
        let error = |kind| Error::new(kind, "failed");
        assert!(is_the_end(&error(Kind::Hook), false));
        assert!(is_the_end(&error(Kind::Source), false));
        assert!(!is_the_end(&error(Kind::Auth), true));
        assert!(!is_the_end(&error(Kind::Network), false));
        assert!(is_the_end(&error(Kind::Network), true));
        assert!(!is_the_end(&error(Kind::DiskSpace).transient(), true));
    }
}
