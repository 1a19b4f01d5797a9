//! What a drop means: new work, more of a batch that ran before, nothing to do, or a refusal.
//!
//! Pure decisions over what the queue knows; the queue looks that up and calls this inside the
//! transaction that accepts the drop, so that no two drops decide on the same knowledge. What has to be
//! looked up in the file system, `results` does before, elsewhere. The rules, in the order in which they
//! are asked:
//!
//! 1. The same content as a batch that has not ended is a duplicate of it.
//! 2. Content that wholly succeeded before is done: every VM is skipped (unless `rerun: all`).
//! 3. A named batch that has not ended takes nothing else under its name.
//! 4. A named batch that has ended continues; so does a single-VM stem that did not wholly succeed.
//! 5. A stem that other content holds, by having succeeded or by not having ended, becomes `<stem>-2`.
//! 6. In a batch that continues, a VM that succeeded with this content and whose results are still
//!    there is skipped; failed, cancelled and new ones run; one that succeeded with other content
//!    is refused unless `rerun` says `changed` or `all`, and its result then lies beside the old one.

mod places;
mod results;
mod submit;

pub use places::Place;
pub(in crate::service) use places::find_out as find_out_places;
pub use results::{Known, Results};
pub(in crate::service) use submit::{MAX_OFFERS, submit, unsteady};

use crate::model::error::{Error, Kind, Result};
use crate::model::job::{BatchState, JobState};
use crate::model::plan::OnExists;
use crate::model::planner::{BatchName, Rerun};

/// The longest id (see `model::units::is_id`).
const MAX_ID: usize = 128;

/// What the queue knows of the newest run of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBatch {
    /// Its id.
    pub batch_id: String,
    /// The stem it was named after, if it was.
    pub stem: Option<String>,
    /// Its content.
    pub content_sha256: String,
    /// How it ended; none while it has not.
    pub outcome: Option<BatchState>,
}

/// What is asked about a submission as a whole.
#[derive(Debug, Clone, Copy)]
pub struct BatchQuestion<'a> {
    /// What it is to be called.
    pub name: &'a BatchName,
    /// Its content.
    pub content_sha256: &'a str,
    /// What it wants done again.
    pub rerun: Rerun,
    /// A batch with this content that has not ended.
    pub same_unfinished: Option<&'a str>,
    /// A batch with this content wholly succeeded, and nothing has replaced its results since.
    pub same_completed: bool,
}

/// What becomes of a submission as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchDecision {
    /// A batch that there has not been.
    New {
        /// Its id.
        batch_id: String,
    },
    /// A further run of a batch that has ended; each VM is asked about.
    Continue {
        /// Its id.
        batch_id: String,
    },
    /// All of it was done before.
    AllDone {
        /// The id under which that is told.
        batch_id: String,
    },
}

impl BatchDecision {
    /// The batch's id.
    #[must_use]
    pub fn batch_id(&self) -> &str {
        match self {
            BatchDecision::New { batch_id }
            | BatchDecision::Continue { batch_id }
            | BatchDecision::AllDone { batch_id } => batch_id,
        }
    }
}

/// Decides about a submission; `known` tells the newest run of a batch id. An error of kind
/// `duplicate` is a refusal; `known`'s own errors are passed on.
pub fn decide_batch(
    question: &BatchQuestion<'_>,
    mut known: impl FnMut(&str) -> Result<Option<KnownBatch>>,
) -> Result<BatchDecision> {
    if let Some(batch_id) = question.same_unfinished {
        return Err(duplicate(
            format!("batch `{batch_id}` has the same content and has not ended"),
            batch_id,
        ));
    }
    let done = question.same_completed && question.rerun != Rerun::All;
    match question.name {
        BatchName::Named(batch_id) => {
            let batch_id = batch_id.clone();
            match known(&batch_id)? {
                Some(batch) if batch.outcome.is_none() => {
                    Err(duplicate(format!("batch `{batch_id}` has not ended"), &batch_id))
                }
                _ if done => Ok(BatchDecision::AllDone { batch_id }),
                Some(_) => Ok(BatchDecision::Continue { batch_id }),
                None => Ok(BatchDecision::New { batch_id }),
            }
        }
        BatchName::Stem(stem) => {
            let (batch_id, taken) = choose_number(stem, question, &mut known)?;
            Ok(match (done, taken) {
                (true, _) => BatchDecision::AllDone { batch_id },
                (false, true) => BatchDecision::Continue { batch_id },
                (false, false) => BatchDecision::New { batch_id },
            })
        }
    }
}

/// Which of `<stem>`, `<stem>-2`, … a single-VM manifest runs as, and whether that ran before.
fn choose_number(
    stem: &str,
    question: &BatchQuestion<'_>,
    known: &mut impl FnMut(&str) -> Result<Option<KnownBatch>>,
) -> Result<(String, bool)> {
    let mut open: Option<String> = None;
    for number in 1u64.. {
        let batch_id = numbered(stem, number);
        let Some(batch) = known(&batch_id)? else {
            return Ok(open.map_or((batch_id, false), |open| (open, true)));
        };
        let ended_of_stem = batch.stem.as_deref() == Some(stem) && batch.outcome.is_some();
        if ended_of_stem && batch.content_sha256 == question.content_sha256 {
            return Ok((batch_id, true));
        }
        // A rerun that was asked for by name is meant for the batch it changes, not for one beside it.
        let continues = batch.outcome != Some(BatchState::Completed)
            || matches!(question.rerun, Rerun::Changed | Rerun::All);
        if ended_of_stem && continues && open.is_none() {
            open = Some(batch_id);
        }
    }
    Err(Error::internal("there are no numbers left for this name"))
}

/// `web`, `web-2`, …, cut so that it stays an id.
fn numbered(stem: &str, number: u64) -> String {
    if number == 1 {
        return stem.to_owned();
    }
    let suffix = format!("-{number}");
    let kept: String = stem.chars().take(MAX_ID - suffix.len()).collect();
    format!("{kept}{suffix}")
}

fn duplicate(cause: String, batch_id: &str) -> Error {
    Error::new(Kind::Duplicate, cause).advice(format!(
        "see `hyper2kvm list` and `hyper2kvm watch {batch_id}`; wait until it has ended, or cancel it first"
    ))
}

/// A result of a VM in an earlier run of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastSuccess {
    /// The job.
    pub job_id: i64,
    /// What it was made from.
    pub content_sha256: String,
    /// All its result files are there, and are still its own.
    pub intact: bool,
    /// Something of it is there.
    pub in_the_way: bool,
}

/// What is asked about one VM of a batch that continues.
#[derive(Debug, Clone, Copy)]
pub struct VmQuestion<'a> {
    /// Its batch.
    pub batch_id: &'a str,
    /// Its id.
    pub vm_id: &'a str,
    /// Its content now.
    pub content_sha256: &'a str,
    /// What is wanted done again.
    pub rerun: Rerun,
    /// What is to happen to results that are there.
    pub on_exists: OnExists,
    /// What its newest job came to; none for a new VM.
    pub last: Option<JobState>,
    /// Its earlier results, newest first.
    pub successes: &'a [PastSuccess],
}

/// What becomes of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmDecision {
    /// It runs; its result goes where the manifest says.
    Run,
    /// It runs; an earlier result is there, so the new one goes beside it.
    RunBeside,
    /// It was done by this job.
    AlreadyDone {
        /// Which.
        job_id: i64,
    },
}

/// Decides about one VM of a batch that continues. An error of kind `duplicate` is a refusal of the
/// whole submission.
pub fn decide_vm(question: &VmQuestion<'_>) -> Result<VmDecision> {
    let run = if question.on_exists != OnExists::Replace
        && question.successes.iter().any(|success| success.in_the_way)
    {
        VmDecision::RunBeside
    } else {
        VmDecision::Run
    };
    if question.rerun == Rerun::All {
        return Ok(run);
    }
    let same = |success: &&PastSuccess| success.content_sha256 == question.content_sha256;
    if let Some(done) = question.successes.iter().filter(same).find(|success| success.intact) {
        return Ok(VmDecision::AlreadyDone { job_id: done.job_id });
    }
    let succeeded_last = matches!(question.last, Some(JobState::Succeeded | JobState::Skipped));
    let changed = question.successes.first().is_some_and(|success| !same(&success));
    if succeeded_last && changed && question.rerun == Rerun::Failed {
        return Err(Error::new(
            Kind::Duplicate,
            format!(
                "`{}` succeeded in batch `{}`, and its manifest has changed since",
                question.vm_id, question.batch_id
            ),
        )
        .field("rerun")
        .allowed(["failed", "changed", "all"])
        .advice("write `rerun: changed` to convert it again, or drop it under another name"));
    }
    Ok(run)
}

#[cfg(test)]
mod tests;
