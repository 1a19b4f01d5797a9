//! Ended batches on their way out: reports and moves happen elsewhere, and are recorded when done.

use super::core::BatchKey;
use super::{Report, Scheduler};
use crate::model::error::{Error, Result};
use crate::model::job::JobState;
use crate::service::settle::{Settled, Settlement};
use crate::sys::time::now_epoch;

/// A drop that is still on its way is looked at again after this.
const SETTLE_AGAIN_S: f64 = 0.05;

/// Settling that failed (a full disk) is tried again after this.
const SETTLE_RETRY_S: f64 = 5.0;

impl Scheduler {
    /// Ended batches whose reports are due.
    pub(super) async fn settle_due(&mut self) {
        let now = now_epoch();
        let due: Vec<BatchKey> =
            self.unsettled.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
        for batch in due {
            self.unsettled.remove(&batch);
            match self.settlement(batch).await {
                Ok(None) => {}
                Ok(Some(settlement)) => {
                    let reports = self.reports.0.clone();
                    tokio::spawn(async move {
                        let done = tokio::task::spawn_blocking(move || settlement.carry_out()).await;
                        let outcome = done.unwrap_or_else(|_| Err(Error::internal("settling broke off")));
                        let _ = reports.send(Report::Settled(batch, outcome)).await;
                    });
                }
                Err(error) => {
                    self.queue_failed(&error);
                    self.unsettled.insert(batch, now + SETTLE_RETRY_S);
                }
            }
        }
    }

    async fn settlement(&self, batch: BatchKey) -> Result<Option<Settlement>> {
        let layout = self.settings.layout();
        let output_dir = self.settings.output_dir.clone();
        self.parts
            .queue
            .with(move |db| {
                let Some(row) = db.batch_run(batch)?.filter(|row| row.ended_at.is_some()) else {
                    return Ok(None);
                };
                let Some(dropped) = db.dropped(row.drop_id)? else { return Ok(None) };
                let output_directory =
                    row.output_directory.clone().unwrap_or_else(|| output_dir.join(&row.batch_id));
                let rows = db.run_jobs(batch)?;
                let succeeded = rows
                    .iter()
                    .filter(|row| row.state == JobState::Succeeded)
                    .map(|row| db.plan(row.job_id))
                    .collect::<Result<_>>()?;
                let now = now_epoch();
                Ok(Some(Settlement { batch: row, rows, succeeded, dropped, layout, output_directory, now }))
            })
            .await
    }

    pub(super) async fn settled(&mut self, batch: BatchKey, outcome: Result<Settled>) {
        match outcome {
            Ok(Settled::NotYet) => drop(self.unsettled.insert(batch, now_epoch() + SETTLE_AGAIN_S)),
            Ok(Settled::Done(place)) => {
                let recorded =
                    self.parts.queue.with(move |db| db.batch_settled(batch, place.as_deref())).await;
                match recorded {
                    Ok(()) => self.forget_batch(batch),
                    Err(error) => {
                        self.queue_failed(&error);
                        self.unsettled.insert(batch, now_epoch() + SETTLE_RETRY_S);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "an ended batch could not be put away; tried again");
                self.outlook.last_error = Some(error.to_string());
                self.outlook.status_changed();
                self.unsettled.insert(batch, now_epoch() + SETTLE_RETRY_S);
            }
        }
    }

    fn forget_batch(&mut self, batch: BatchKey) {
        let live = &mut self.live;
        self.outlook.forget(batch);
        live.retain(|job, live| live.batch_key != batch || self.core.knows(*job));
    }
}
