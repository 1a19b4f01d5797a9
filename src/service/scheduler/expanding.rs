//! What the task does when a worker has found the VMs that an entry of a batch stands for: they become jobs, and the entry's own job ends.
//!
//! The queue does that in one transaction. Before it can, it may have to be known which results of earlier runs, or of another host whose work is
//! taken over, are there, and a file system that is away takes its time to say so: so all of it happens elsewhere, and comes back as a report. What is not here: what each VM means (`admission`).

use std::sync::Arc;

use tokio::sync::oneshot;

use super::apply::Ended;
use super::core::{JobId, WorkerEnd};
use super::loading::{Run, to_load};
use super::{Report, Scheduler};
use crate::model::config::Settings;
use crate::model::error::{Error, Result};
use crate::model::job::Stage;
use crate::model::protocol::WorkerOutcome;
use crate::model::selection::SelectedVm;
use crate::pipeline::host_lock::Who;
use crate::service::admission::{Known, MAX_OFFERS, Results, find_out_places, unsteady};
use crate::service::queue::{Expansion, QueueHandle};
use crate::sys::time::now_epoch;

/// An entry whose VMs are jobs now, or why they are not.
pub(super) struct Expanded {
    job: JobId,
    recorded: oneshot::Sender<()>,
    outcome: Result<Vec<Run>>,
}

impl Scheduler {
    /// A worker has ended with this answer.
    pub(super) fn expand(&mut self, job: JobId, vms: Vec<SelectedVm>, recorded: oneshot::Sender<()>) {
        let (queue, results, settings) =
            (self.parts.queue.clone(), self.parts.results.clone(), Arc::clone(&self.settings));
        let who = self.parts.holds.who().clone();
        let reports = self.reports.0.clone();
        tokio::spawn(async move {
            let work = move || expand(job, &vms, &queue, (&results, &who), &settings);
            let made = tokio::task::spawn_blocking(work);
            let lost = |error| Err(Error::internal(format!("nobody makes its jobs: {error}")).transient());
            let outcome = made.await.unwrap_or_else(lost);
            let _ = reports.send(Report::Expanded(Expanded { job, recorded, outcome })).await;
        });
    }

    /// Its jobs are taken in before its own ends: else its batch could end between the two.
    pub(super) fn expanded(&mut self, expanded: Expanded) {
        let Expanded { job, recorded, outcome } = expanded;
        self.ended.insert(job, Ended { recorded });
        match outcome {
            Ok(runs) => {
                let jobs = runs.iter().flat_map(|run| &run.jobs).map(|row| row.job_id);
                let new: Vec<JobId> = jobs.filter(|id| !self.core.knows(*id)).collect();
                let is_cancelled = self.core.is_being_cancelled(job);
                for run in runs {
                    self.outlook.changed(run.batch.batch_key, now_epoch());
                    self.take_in(run);
                }
                self.core.worker_ended(now_epoch(), job, WorkerEnd::Expanded);
                // It has ended with the transaction that made them.
                self.worker_may_go(job);
                for id in new.into_iter().filter(|_| is_cancelled) {
                    // One that has ended by being taken in needs nothing.
                    let _ = self.core.cancel(now_epoch(), id, false);
                }
            }
            Err(error) => {
                let error = error.stage(Stage::Load);
                let end = WorkerEnd::Finished(WorkerOutcome::Failed { error });
                self.core.worker_ended(now_epoch(), job, end);
            }
        }
    }
}

fn expand(
    job: JobId,
    vms: &[SelectedVm],
    queue: &QueueHandle,
    (results, who): (&Results, &Who),
    settings: &Arc<Settings>,
) -> Result<Vec<Run>> {
    let mut known = Known::default();
    for _ in 0..MAX_OFFERS {
        let (vms, settings, told) = (vms.to_vec(), Arc::clone(settings), known.clone());
        let (expansion, runs) = queue.with_blocking(move |db| {
            let expansion = db.expand(job, &vms, &settings, &told)?;
            let batch = match &expansion {
                Expansion::Done(batch) => db.batch_run(*batch)?,
                Expansion::Refused(_) | Expansion::Asks(_) => None,
            };
            Ok((expansion, to_load(db, batch.into_iter().collect())?))
        })?;
        match expansion {
            Expansion::Done(_) => return Ok(runs),
            Expansion::Refused(error) => return Err(error),
            Expansion::Asks(mut paths) => {
                // Only whoever takes over asks for what another host has left.
                find_out_places(&mut paths, (who, true), &mut known)?;
                results.find_out(&paths, &mut known)?;
            }
        }
    }
    Err(unsteady())
}
