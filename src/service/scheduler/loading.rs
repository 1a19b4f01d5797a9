//! What the queue holds becomes what the core knows: runs of batches that are new, that an earlier
//! daemon left, or that a retry has opened again.

use std::collections::BTreeMap;

use super::Scheduler;
use super::core::{BatchFacts, Counters, JobFacts};
use crate::model::error::Result;
use crate::model::job::JobState;
use crate::service::queue::{BatchRow, Db, JobRow, released};
use crate::sys::time::now_epoch;

/// So many batches are taken in at a time, so that commands are answered in between.
const LOAD_CHUNK: u32 = 200;

/// One run of a batch, as it is taken in.
pub(super) struct Run {
    pub(super) batch: BatchRow,
    pub(super) jobs: Vec<JobRow>,
    /// By VM, the attempts that earlier runs of the batch have numbered.
    used_before: BTreeMap<String, u32>,
    /// It is about a disk that was dropped and is still on its way to `processing/`.
    awaits_disk: bool,
    /// It was being given away to another host when an earlier daemon died.
    is_released: bool,
    /// The operator has brought jobs of it back.
    pub(super) is_retried: bool,
}

impl Scheduler {
    /// New rows of the queue, in chunks.
    pub(super) async fn take_in_rows(&mut self) {
        if !self.more_rows || self.stopping.is_some() || self.queue_rests(now_epoch()) {
            return;
        }
        let (after, awaited) = (self.loaded_up_to, self.awaiting_disks.clone());
        let rows = self.parts.queue.with(move |db| {
            let awaited: Vec<BatchRow> = awaited
                .into_iter()
                .filter_map(|batch| db.batch_run(batch).transpose())
                .collect::<Result<_>>()?;
            let batches = db.unsettled_after(after, LOAD_CHUNK)?;
            Ok((to_load(db, awaited)?, to_load(db, batches)?))
        });
        match rows.await {
            Err(error) => self.queue_failed(&error),
            Ok((awaited, rows)) => {
                self.awaiting_disks.clear();
                awaited.into_iter().for_each(|run| self.take_in(run));
                self.more_rows = rows.len() == LOAD_CHUNK as usize;
                for run in rows {
                    self.loaded_up_to = self.loaded_up_to.max(run.batch.batch_key);
                    self.take_in(run);
                }
            }
        }
    }

    /// One run of a batch, new or of an earlier daemon or brought back by a retry.
    ///
    /// A disk that was dropped is not worked on before it lies where the plan looks for it: intake tells when it does.
    pub(super) fn take_in(&mut self, run: Run) {
        let Run { batch, jobs, used_before, awaits_disk, is_released, is_retried } = run;
        if awaits_disk && !is_released {
            self.awaiting_disks.insert(batch.batch_key);
            return;
        }
        let facts = BatchFacts {
            key: batch.batch_key,
            parallel_limit: batch.parallel_limit.map(|limit| limit as usize),
            continue_on_error: batch.continue_on_error.unwrap_or(true),
            window: batch.window,
            members: jobs.iter().map(|row| (row.vm_id.clone(), row.state)).collect(),
        };
        let used = |row: &JobRow| used_before.get(&row.vm_id).copied().unwrap_or_default();
        let open = jobs.into_iter().filter(|row| !row.state.is_final());
        let open: Vec<JobFacts> = open.map(|row| facts_of(used(&row), row)).collect();
        self.outlook.changed(batch.batch_key, now_epoch());
        // Before it there may have been nothing to move.
        if !open.is_empty() {
            self.stall.moved(now_epoch());
        }
        let released: Vec<_> = open.iter().filter(|_| is_released).map(|job| job.id).collect();
        let failed = jobs_failed(&facts).filter(|_| !is_retried).map(str::to_owned);
        let key = facts.key;
        self.core.load(now_epoch(), facts, open);
        // The daemon before may have died between a failure and what follows from it.
        if let Some(failed) = failed {
            self.core.give_up_the_rest(now_epoch(), key, &failed);
        }
        for job in released {
            // One that has ended by being taken in needs nothing.
            let _ = self.core.release_to_others(now_epoch(), job);
        }
    }
}

/// The VM whose failure ends a batch that does not go on after one.
fn jobs_failed(facts: &BatchFacts) -> Option<&str> {
    let mut members = facts.members.iter().filter(|_| !facts.continue_on_error);
    members.find(|(_, state)| **state == JobState::Failed).map(|(vm, _)| vm.as_str())
}

/// Runs with their jobs.
pub(super) fn with_jobs(db: &mut Db, batches: Vec<BatchRow>) -> Result<Vec<(BatchRow, Vec<JobRow>)>> {
    batches
        .into_iter()
        .map(|batch| {
            let jobs = db.run_jobs(batch.batch_key)?;
            Ok((batch, jobs))
        })
        .collect()
}

/// Runs with all that the core has to know of them.
pub(super) fn to_load(db: &mut Db, batches: Vec<BatchRow>) -> Result<Vec<Run>> {
    let runs = with_jobs(db, batches)?;
    let load = |(batch, jobs): (BatchRow, Vec<JobRow>)| {
        let used_before = if batch.run > 1 { db.attempts_before(&batch)? } else { BTreeMap::new() };
        let awaits_disk = db.awaits_disk(&batch)?;
        let is_released = db.flag(&released(batch.batch_key))?.is_some();
        Ok(Run { batch, jobs, used_before, awaits_disk, is_released, is_retried: false })
    };
    runs.into_iter().map(load).collect()
}

fn facts_of(used_before: u32, row: JobRow) -> JobFacts {
    let waiting = row.waiting;
    JobFacts {
        id: row.job_id,
        batch: row.batch_key,
        vm: row.vm_id,
        state: row.state,
        waiting: waiting.as_ref().map(|waiting| waiting.reason),
        waiting_since: waiting.as_ref().map(|waiting| waiting.since),
        waiting_detail: waiting.map(|waiting| waiting.detail).unwrap_or_default(),
        priority: row.priority,
        needs_network: row.needs_network,
        is_shut_down: row.acts.is_shut_down(),
        remote: row.remote,
        warm: row.warm,
        depends_on: row.depends_on,
        counters: Counters {
            attempt: row.attempt,
            cut_short: row.cut_short,
            used_before,
            failures: row.failures,
            first_failure_at: row.first_failure_at,
            best_percentage: if row.failures > 0 { row.progress_percentage } else { 0.0 },
            retry_at: row.not_before,
            exact_need: row.need_bytes,
        },
    }
}
