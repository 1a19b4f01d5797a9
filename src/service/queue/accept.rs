//! Acceptance: a drop becomes rows, or a refusal, in one transaction.
//!
//! What a drop means is decided in `admission`; this looks up what that needs to know, and writes
//! what it decided. A refused drop leaves no row; one drop's refusal does not touch the others of
//! the same call; a database that fails refuses nobody: the whole call fails and changes nothing.
//!
//! Nothing here looks at a file: whether an earlier result is still there may take for ever to answer
//! (a mount that is away), and everybody waits for this thread. What has to be known is asked back
//! ([`Admission::Asks`]) and comes in as [`Known`] with the next offer. Passwords are written, beside the queue itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::db::Db;
use super::drops::Brought;
use super::elsewhere::{Claim, Done};
use super::history::taken_over;
use super::now;
use super::rows::FileIdentity;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::JobState;
use crate::model::plan::Plan;
use crate::model::planner::{Rerun, Submission, VmSubmission};
use crate::model::redaction;
use crate::service::admission::{
    BatchDecision, BatchQuestion, Known, PastSuccess, VmDecision, VmQuestion, decide_batch, decide_vm,
};
use crate::service::passwords;

/// A file that was read and parsed and asks to be accepted.
#[derive(Debug, Clone)]
pub struct NewDrop {
    /// Its bytes, as they are kept: without the secrets that it holds.
    pub bytes: Vec<u8>,
    /// How many the file has.
    pub size: usize,
    /// SHA-256 of what is kept, in hex. One of a secret could be guessed at much faster than what the plan holds of it.
    pub sha256: String,
    /// The file they were read from; none for what came through the control API.
    pub identity: Option<FileIdentity>,
    /// What is in it.
    pub submission: Submission,
    /// The disk that was dropped, and for which the bytes were made; none for a manifest.
    pub brought: Option<Brought>,
    /// How its output directories are looked at before it is accepted; none: its jobs find out when they start.
    pub claim: Option<Claim>,
}

impl NewDrop {
    /// A drop of these bytes, and what they were parsed to.
    #[must_use]
    pub fn new(bytes: Vec<u8>, identity: Option<FileIdentity>, submission: Submission) -> NewDrop {
        let size = bytes.len();
        // A VM that is refused or switched off may hold one, too.
        let bytes = redaction::without_secrets(&bytes).unwrap_or(bytes);
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        NewDrop { bytes, size, sha256, identity, submission, brought: None, claim: None }
    }

    /// A disk, by the manifest that was made for it.
    #[must_use]
    pub fn of_disk(bytes: Vec<u8>, brought: Brought, submission: Submission) -> NewDrop {
        let identity = brought.files.first().map(|file| file.identity);
        let drop = NewDrop::new(bytes, identity, submission);
        let size = identity.map_or(drop.size, |identity| identity.size as usize);
        NewDrop { size, brought: Some(brought), ..drop }
    }
}

/// What became of a drop.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// Its rows are there.
    Accepted {
        /// The drop.
        drop_id: i64,
        /// Its batch.
        batch_id: String,
        /// The run of the batch.
        batch_key: i64,
        /// Its name in `processing/`, if there is a file to move there.
        processing_name: Option<String>,
        /// Its jobs, in the order of the manifest.
        jobs: Vec<i64>,
    },
    /// It was refused; nothing was written.
    Refused(Error),
    /// Nothing was written: first it has to be known which of these results of earlier runs are there; and of checkpoints, what another
    /// host has left where they lie.
    Asks(BTreeSet<PathBuf>),
}

/// Makes the plans of a submission for a batch id and a suffix of the VMs' result directories.
pub type PlanFn<'a> = dyn Fn(&Submission, &str, &str) -> Result<Vec<Plan>> + 'a;

/// Why a drop got no rows.
pub(super) enum Stop {
    /// It is refused; the others go on.
    Refused(Error),
    /// Too little is known about it; the others go on.
    Asks(BTreeSet<PathBuf>),
    /// The queue failed; nobody goes on.
    Broken(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Broken(error)
    }
}

/// A VM and what was decided about it.
pub(super) struct Decided<'a> {
    pub(super) vm: &'a VmSubmission,
    pub(super) plan: Plan,
    pub(super) done_by: Option<Done>,
}

/// More numbers than anybody reruns one VM.
const MAX_RERUNS: u32 = 10_000;

/// The longest name of a file.
const MAX_FILE_NAME_BYTES: usize = 255;

impl Db {
    /// Accepts or refuses drops, in their order, in one transaction; `known`: which earlier results are there.
    pub fn accept(
        &mut self,
        drops: &[NewDrop],
        settings: &Settings,
        known: &Known,
    ) -> Result<Vec<Admission>> {
        let plans = |submission: &Submission, batch_id: &str, suffix: &str| {
            submission.plans(batch_id, suffix, settings)
        };
        self.accept_with(drops, &plans, known)
    }

    /// The same, with other plans than those that the submission itself makes.
    pub fn accept_with(
        &mut self,
        drops: &[NewDrop],
        plans: &PlanFn<'_>,
        known: &Known,
    ) -> Result<Vec<Admission>> {
        self.atomically(|db| drops.iter().map(|drop| db.accept_one(drop, plans, known)).collect())
    }

    fn accept_one(&mut self, drop: &NewDrop, plans: &PlanFn<'_>, known: &Known) -> Result<Admission> {
        let mut answer = None;
        let outcome = self.atomically(|db| {
            db.admit(drop, plans, known).map_err(|stop| match stop {
                Stop::Broken(error) => error,
                Stop::Refused(error) => {
                    answer = Some(Admission::Refused(error.clone()));
                    error
                }
                Stop::Asks(results) => {
                    answer = Some(Admission::Asks(results));
                    Error::internal("undone: something has to be known first")
                }
            })
        });
        match (outcome, answer) {
            (Err(_), Some(answer)) => Ok(answer),
            (outcome, _) => outcome,
        }
    }

    fn admit(&mut self, drop: &NewDrop, plans: &PlanFn<'_>, known: &Known) -> Result<Admission, Stop> {
        let decision = self.decide(&drop.submission).map_err(|stop| match stop {
            Stop::Refused(error) => Stop::Refused(passwords::told_of_refusal(error, &drop.submission)),
            other => other,
        })?;
        let batch_id = decision.batch_id().to_owned();
        let processing_name = match drop.identity {
            None => None,
            Some(_) => Some(self.free_processing_name(&batch_id, &drop.submission.filename)?),
        };
        // The plan of a disk names it where it will lie: nothing is started before it does.
        let moved = match (&drop.brought, &processing_name) {
            (Some(brought), Some(name)) => Some(drop.submission.following(&brought.moves(name))),
            _ => None,
        };
        let submission = moved.as_ref().unwrap_or(&drop.submission);
        let mut decided = self.decide_vms(submission, &decision, plans, known)?;
        self.check_outputs(&decided)?;
        if let Some(claim) = drop.claim {
            let asked = look_at(&mut decided, decision.batch_id(), claim, known)?;
            if !asked.is_empty() {
                return Err(Stop::Asks(asked));
            }
        }

        // Before the rows: a job that is there without its password could not do its work.
        let passwords =
            passwords::of(decided.iter().map(|one| (one.vm, &one.plan))).map_err(Stop::Refused)?;
        passwords::keep(&passwords).map_err(|error| match error.kind() {
            // The queue has no room either.
            Kind::DiskSpace => Stop::Broken(error),
            _ => Stop::Refused(error),
        })?;
        let at = now();
        let drop_id = self.insert_drop(drop, submission, processing_name.as_deref(), at)?;
        let batch_key = self.insert_batch(&batch_id, submission, drop_id, at)?;
        let mut jobs = Vec::with_capacity(decided.len());
        for one in &decided {
            jobs.push(self.insert_job(batch_key, one, at)?);
        }
        for vm in &submission.refused {
            jobs.push(self.insert_refused(batch_key, vm, at)?);
        }
        if drop.claim.is_some_and(|claim| claim.takeover) {
            let left = known.left_elsewhere().map_err(Stop::Refused)?;
            self.set_flag(&taken_over(batch_key), Some(&left))?;
        }
        self.follow_batch(batch_key)?;
        self.tell_batch_end(batch_key)?;
        Ok(Admission::Accepted { drop_id, batch_id, batch_key, processing_name, jobs })
    }

    fn decide(&mut self, submission: &Submission) -> Result<BatchDecision, Stop> {
        let content = &submission.content_sha256;
        let same_unfinished: Option<String> = self.first(
            "SELECT batch_id FROM batch WHERE content_sha256 = ?1 AND ended_at IS NULL LIMIT 1",
            [content],
            |row| row.get(0),
        )?;
        let question = BatchQuestion {
            name: &submission.name,
            content_sha256: content,
            rerun: rerun_of_all(submission),
            same_unfinished: same_unfinished.as_deref(),
            same_completed: self.completed_with(content)?.is_some(),
        };
        let mut broken = None;
        let decision = decide_batch(&question, |batch_id| {
            self.known_batch(batch_id).inspect_err(|error| broken = Some(error.clone()))
        });
        match (decision, broken) {
            (_, Some(error)) => Err(Stop::Broken(error)),
            (decision, None) => decision.map_err(Stop::Refused),
        }
    }

    pub(super) fn decide_vms<'a>(
        &mut self,
        submission: &'a Submission,
        decision: &BatchDecision,
        plans: &PlanFn<'_>,
        known: &Known,
    ) -> Result<Vec<Decided<'a>>, Stop> {
        let batch_id = decision.batch_id();
        let (past, unknown) = match decision {
            BatchDecision::Continue { .. } => self.past_of_all(submission, batch_id, known)?,
            BatchDecision::New { .. } | BatchDecision::AllDone { .. } => Default::default(),
        };
        if !unknown.is_empty() {
            return Err(Stop::Asks(unknown));
        }
        let planned = plans(submission, batch_id, "").map_err(Stop::Refused)?;
        if planned.len() != submission.vms.len() {
            return Err(Stop::Broken(Error::internal("a submission has other plans than VMs")));
        }
        let done_in = match decision {
            BatchDecision::AllDone { .. } => self.completed_with(&submission.content_sha256)?,
            BatchDecision::New { .. } | BatchDecision::Continue { .. } => None,
        };
        let mut decided = Vec::with_capacity(planned.len());
        for (index, (vm, plan)) in submission.vms.iter().zip(planned).enumerate() {
            let one = match (decision, done_in) {
                (BatchDecision::AllDone { .. }, Some(run)) => {
                    Decided { vm, plan, done_by: self.job_of_content(run, vm)?.map(Done::Job) }
                }
                // Whom an entry stands for has to be asked again: each of them is decided about then.
                (BatchDecision::Continue { .. }, _) if plan.stands_for_others() => {
                    Decided { vm, plan, done_by: None }
                }
                (BatchDecision::Continue { .. }, _) => {
                    let past = past.get(index).map_or(&[][..], Vec::as_slice);
                    self.decide_vm(submission, index, (batch_id, past), plan, plans)?
                }
                _ => Decided { vm, plan, done_by: None },
            };
            decided.push(one);
        }
        Ok(decided)
    }

    fn decide_vm<'a>(
        &mut self,
        submission: &'a Submission,
        index: usize,
        (batch_id, successes): (&str, &[PastSuccess]),
        plan: Plan,
        plans: &PlanFn<'_>,
    ) -> Result<Decided<'a>, Stop> {
        let vm = &submission.vms[index];
        let last: Option<String> = self.first(
            "SELECT job.state FROM job JOIN batch USING (batch_key) WHERE batch.batch_id = ?1 AND job.vm_id = ?2
             ORDER BY batch.run DESC LIMIT 1",
            [batch_id, &vm.vm_id],
            |row| row.get(0),
        )?;
        let question = VmQuestion {
            batch_id,
            vm_id: &vm.vm_id,
            content_sha256: &vm.content_sha256,
            rerun: vm.rerun.unwrap_or(submission.rerun),
            on_exists: plan.output.on_exists,
            last: last.as_deref().and_then(JobState::parse),
            successes,
        };
        Ok(match decide_vm(&question).map_err(Stop::Refused)? {
            VmDecision::Run => Decided { vm, plan, done_by: None },
            VmDecision::AlreadyDone { job_id } => Decided { vm, plan, done_by: Some(Done::Job(job_id)) },
            VmDecision::RunBeside => {
                let plan = self.plan_beside(submission, index, batch_id, plan, plans)?;
                Decided { vm, plan, done_by: None }
            }
        })
    }

    /// The plan of a VM whose result goes to `<vm-id>-2`, or the next number that holds no result.
    fn plan_beside(
        &mut self,
        submission: &Submission,
        index: usize,
        batch_id: &str,
        plan: Plan,
        plans: &PlanFn<'_>,
    ) -> Result<Plan, Stop> {
        let alone = Submission { vms: vec![submission.vms[index].clone()], ..submission.clone_without_vms() };
        for number in 2..MAX_RERUNS {
            let suffix = format!("-{number}");
            let mut planned = plans(&alone, batch_id, &suffix).map_err(Stop::Refused)?;
            let Some(beside) = planned.pop() else { break };
            if beside.output.directory == plan.output.directory {
                // The manifest names the directory: the result cannot lie beside the old one.
                return Ok(plan);
            }
            let holds_a_result = self.first(
                "SELECT 1 FROM job WHERE output_directory = ?1 AND state IN ('succeeded', 'skipped')
                     AND replaced_by IS NULL LIMIT 1",
                [beside.output.directory.to_string_lossy()],
                |_| Ok(()),
            )?;
            if holds_a_result.is_none() {
                return Ok(beside);
            }
        }
        Err(Stop::Broken(Error::internal("there are no numbers left for this VM's results")))
    }

    /// No two VMs that will run write to one place: not in this submission, not beside unfinished jobs.
    pub(super) fn check_outputs(&self, decided: &[Decided<'_>]) -> Result<(), Stop> {
        let mut seen: BTreeMap<&Path, &str> = BTreeMap::new();
        for one in decided.iter().filter(|one| one.done_by.is_none()) {
            let directory = one.plan.output.directory.as_path();
            if let Some(other) = seen.insert(directory, &one.vm.vm_id) {
                return Err(Stop::Refused(
                    Error::new(
                        Kind::Manifest,
                        format!(
                            "`{other}` and `{}` both put their result into {}",
                            one.vm.vm_id,
                            directory.display()
                        ),
                    )
                    .field("output.directory")
                    .advice("give each VM a directory of its own"),
                ));
            }
            self.refuse_taken_output(directory, 0).map_err(|error| match error.kind() {
                Kind::Exists => Stop::Refused(error),
                _ => Stop::Broken(error),
            })?;
        }
        Ok(())
    }

    /// `<batch-id>-<name>`, or with a number where an earlier run's file still lies there.
    fn free_processing_name(&self, batch_id: &str, name: &str) -> Result<String> {
        for number in 1u32.. {
            let candidate = processing_name(batch_id, name, number);
            let taken = self.first(
                "SELECT 1 FROM dropped WHERE processing_name = ?1 AND state IN ('accepted', 'moved')",
                [&candidate],
                |_| Ok(()),
            )?;
            if taken.is_none() {
                return Ok(candidate);
            }
        }
        Err(Error::internal("there are no names left in processing/"))
    }
}

/// What is wanted of the whole: where one VM is to run in any case, the batch is not simply done.
fn rerun_of_all(submission: &Submission) -> Rerun {
    match submission.vms.iter().any(|vm| vm.rerun == Some(Rerun::All)) {
        true => Rerun::All,
        false => submission.rerun,
    }
}

/// Refuses what another host works at, and leaves out the VMs that it has finished; gives what has to be known for this.
pub(super) fn look_at(
    decided: &mut [Decided<'_>],
    batch_id: &str,
    claim: Claim,
    known: &Known,
) -> Result<BTreeSet<PathBuf>, Stop> {
    let mut asked = BTreeSet::new();
    for one in decided.iter_mut().filter(|one| one.done_by.is_none()) {
        let made = claim.made_elsewhere(batch_id, one.vm, &one.plan, known, &mut asked);
        one.done_by = made.map_err(Stop::Refused)?;
    }
    Ok(asked)
}

/// `<batch-id>-<name>`, numbered from the second on, cut in the middle where a file name cannot be as long.
fn processing_name(batch_id: &str, name: &str, number: u32) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    };
    let tail = if number == 1 { extension.to_owned() } else { format!("-{number}{extension}") };
    let mut head = format!("{batch_id}-{stem}");
    let mut room = MAX_FILE_NAME_BYTES.saturating_sub(tail.len()).min(head.len());
    while !head.is_char_boundary(room) {
        room -= 1;
    }
    head.truncate(room);
    head + &tail
}
