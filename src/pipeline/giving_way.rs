//! A source gives way to its result: what its plan wants changed there, once the result is there and libvirt was told.
//!
//! ```text
//!   all that is wanted is written down ─▶ seen: what was before ─▶ changed ─▶ done        (for each, the name last)
//!                                 └ failed: a warning; stays intended, and is tried again when the job is over
//! ```
//!
//! A failure is none of the migration's: the result is whole. A source that runs again gives no way: somebody has started it, so it is no source that has
//! moved. What is not here: the calls ([`super::remote::power`]), and taking it back.

use super::publish::{self, Progress};
use super::remote::acts::{self, Book};
use super::remote::power as source;
use super::remote::{Whom, find_again, log_in};
use super::worker::Job;
use super::{handover, texts};
use crate::disk::Control;
use crate::model::acts::{Act, ActKind, ActState, Acts};
use crate::model::error::Result;
use crate::model::job::Stage;
use crate::model::plan::Plan;
use crate::model::remote::PlannedAfter;
use crate::sys::failpoint;
use crate::sys::time::{now_epoch, rfc3339_utc};
use crate::vsphere::inventory::{Power, VmRef};
use crate::vsphere::{Client, power};

/// Changes what is wanted, as far as that is possible now.
pub(super) fn give_way(job: &mut Job<'_>) -> Result<()> {
    let (place, plan, order, control) = (job.place, job.plan, job.order, job.control);
    let (Some(planned), Some(access)) = (&plan.remote, &place.access) else { return Ok(()) };
    let is_told = match &job.checkpoint.intent {
        Some(intent) => {
            publish::progress(place.dirs(), intent)? != Progress::Unfinished
                || texts::have_begun(place.dirs().main(), intent)?
        }
        None => true,
    };
    // The report that is being written says how it went.
    if planned.after.is_nothing() || is_told {
        return Ok(());
    }
    let stage = job.reached.unwrap_or(Stage::Load);
    if intend(&mut job.checkpoint.acts, &planned.after, now_epoch()) {
        job.keep()?;
    }
    failpoint::hit("acts.intended");
    let note = |at: f64| note(plan, &order.batch_id, order.job_id, at);
    let mut warnings = Vec::new();
    let from = (access, planned.as_ref(), &order.limits.remote);
    let changed = finish(from, control, job, &note, &mut warnings);
    control.ended()?;
    match changed {
        Ok(None) => {}
        Ok(Some(why)) => job.warn(stage, why),
        Err(error) => warnings.push(error.to_string()),
    }
    for warning in warnings {
        job.warn(
            stage,
            format!("the source was not changed as it was to be, which is tried again: {warning}"),
        );
    }
    handover::tell_of_source(job)
}

/// Writes down what is wanted and not known yet; true: something was.
fn intend(acts: &mut Acts, after: &PlannedAfter, now: f64) -> bool {
    let wanted = [
        after.annotate.then(|| ActKind::Annotated { before: String::new() }),
        after.disconnect_nics.then(|| ActKind::NicsDisconnected { keys: Vec::new() }),
        after.disable_autostart.then(|| ActKind::AutostartDisabled { before: String::new() }),
        after
            .rename_suffix
            .is_some()
            .then(|| ActKind::Renamed { before: String::new(), after: String::new() }),
    ];
    let mut is_new = false;
    for kind in wanted.into_iter().flatten() {
        let is_same = |act: &Act| std::mem::discriminant(&act.what) == std::mem::discriminant(&kind);
        if !acts.all().any(|(_, act)| is_same(act)) {
            acts.intend(kind, now);
            is_new = true;
        }
    }
    is_new
}

/// Does what is intended and not done. What fails is told in `warnings`, and the others are done all the same. Why nothing is to be done any more comes
/// back, if that is so.
pub(super) fn finish(
    whom: Whom<'_>,
    control: &Control,
    book: &mut dyn Book,
    note: &dyn Fn(f64) -> String,
    warnings: &mut Vec<String>,
) -> Result<Option<String>> {
    let is_due = |act: &Act| act.state == ActState::Intended && act.what.is_for_the_result();
    let due: Vec<(usize, Act)> =
        book.acts().all().filter(|(_, act)| is_due(act)).map(|(number, act)| (number, act.clone())).collect();
    if due.is_empty() {
        return Ok(None);
    }
    let numbers: Vec<usize> = due.iter().map(|(number, _)| *number).collect();
    let (client, planned) = (log_in(whom, control)?, whom.1);
    let Some(vm) = find_again(&client, planned)? else {
        acts::lose(book, &numbers)?;
        return Ok(Some(format!("{} is not there any more: nothing was changed there", planned.shown())));
    };
    if power::power(&client, &vm)? == Power::On {
        numbers.into_iter().try_for_each(|number| acts::undone(book, number))?;
        return Ok(Some(format!(
            "{} runs again since it was copied: nothing was changed there, and what was written to it since is not in the result",
            planned.shown()
        )));
    }
    for (number, act) in due {
        let suffix = planned.after.rename_suffix.as_deref();
        let changed = one((&client, &vm), book, (number, &act), suffix, note);
        if let Err(error) = changed {
            control.ended()?;
            tracing::warn!(%error, act = act.what.shown(), "the source was not changed");
            warnings.push(error.to_string());
        }
    }
    Ok(None)
}

fn one(
    (client, vm): (&Client, &VmRef),
    book: &mut dyn Book,
    (number, act): (usize, &Act),
    suffix: Option<&str>,
    note: &dyn Fn(f64) -> String,
) -> Result<()> {
    let Some(seen) = source::foreseen(client, vm, &act.what, suffix)? else {
        return acts::undone(book, number);
    };
    if seen != act.what {
        book.acts().specify(number, seen.clone())?;
        book.keep()?;
    }
    source::change(client, vm, &seen, &note(act.intended_at))?;
    acts::done(book, number, seen)
}

/// What the notes of a source say of where it went.
pub(super) fn note(plan: &Plan, batch_id: &str, job_id: i64, at: f64) -> String {
    let job = if job_id > 0 { format!(" (job {job_id})") } else { String::new() };
    let where_to = match &plan.libvirt {
        Some(planned) => format!("to {} as {}", planned.uri, planned.name),
        None => format!("to {}", plan.output.directory.display()),
    };
    let line = format!("moved {} {where_to} by {batch_id}/{}{job}", rfc3339_utc(at), plan.vm_id);
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
