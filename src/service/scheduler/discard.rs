//! What a cancelled job left in its directory is removed, elsewhere, and its end recorded after that.
//!
//! What is not here: what it left at its source ([`super::sources`]).

use super::action::Action;
use super::core::{BatchKey, JobId};
use super::{Report, Scheduler};
use crate::model::error::{Error, Result};
use crate::pipeline::publish;
use crate::service::places;

impl Scheduler {
    /// Removes what a cancelled job left behind, elsewhere; its end is recorded after that.
    pub(super) async fn discard(&mut self, job: JobId, error: Option<Error>) -> Result<()> {
        let (plan, run) = self.parts.queue.with(move |db| Ok((db.plan(job)?, db.run_of(job)?))).await?;
        let Some(run) = run else { return Ok(()) };
        let (batch, above) = (run.batch_key, self.output_directory(&run));
        self.discarding.insert(job);
        let (reports, leftovers) = (self.reports.0.clone(), self.parts.leftovers.clone());
        let (holds, queue) = (self.parts.holds.clone(), self.parts.queue.clone());
        let (batch_id, vm) = (run.batch_id.clone(), plan.vm_id.clone());
        tokio::spawn(async move {
            leftovers.gone().await;
            let removed = tokio::task::spawn_blocking(move || {
                let acts = publish::acts(&plan, job);
                let abandon = || publish::abandon(&plan, Some(holds.who().id()));
                (acts, places::where_it_lies(&holds, (&run.batch_id, &above), &plan, abandon))
            });
            if let Ok((acts, removed)) = removed.await {
                // The journal is gone: from here on only the queue knows.
                let kept = match acts {
                    Some(acts) => queue.with(move |db| db.add_acts(job, &acts)).await,
                    None => Ok(()),
                };
                if let Err(error) = removed.and(kept) {
                    tracing::warn!(job, batch = batch_id, vm, %error, "its partial results could not be removed");
                }
            }
            let _ = reports.send(Report::Discarded { job, batch, error }).await;
        });
        Ok(())
    }

    /// What it left behind is gone: now its end may be recorded, and so may its batch's.
    pub(super) fn discarded(&mut self, job: JobId, batch: BatchKey, error: Option<Error>) {
        self.discarding.remove(&job);
        self.line.push_back(Action::Cancel { job, error, clean: false });
        if !self.core.knows_batch(batch) {
            self.line.push_back(Action::BatchEnded { batch });
        }
    }
}
