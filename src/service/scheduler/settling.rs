//! Ended batches on their way out: reports and moves happen elsewhere, and are recorded when done.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::core::BatchKey;
use super::{Report, Scheduler};
use crate::model::error::{Error, Result};
use crate::model::job::JobState;
use crate::service::passwords;
use crate::service::places::batch_directory;
use crate::service::queue::{DropState, released, taken_over};
use crate::service::settle::Settlement;
use crate::service::view::batch_report::History;
use crate::sys::time::now_epoch;

/// A drop that is still on its way is looked at again after this, and then after twice as long each
/// time: usually it is there in a moment, but its move can be stuck for as long as a disk is full.
const SETTLE_AGAIN_S: f64 = 0.05;

/// Settling that failed (a full disk) is tried again after this. Nothing waits longer.
const SETTLE_RETRY_S: f64 = 5.0;

/// How long views that are under way may take before their batch is settled.
const VIEWS_FIRST: Duration = Duration::from_secs(1);

/// What there is to do for a batch that is to be settled.
enum Next {
    /// It is open again, or gone.
    Nothing,
    /// The drop is still on its way to `processing/`: again in a moment.
    NotYet,
    Settle(Box<Settlement>),
}

/// Which batches are to be settled, and when.
///
/// One settlement of a batch at a time: a retry may end the batch again while the settlement of its
/// earlier end still writes and moves, and the later one has to have the last word.
#[derive(Debug, Default)]
pub(super) struct Settling {
    due: HashMap<BatchKey, f64>,
    under_way: HashSet<BatchKey>,
    /// How long a batch has last waited for its drop.
    waits: HashMap<BatchKey, f64>,
}

impl Settling {
    /// To be settled then, or earlier if that was said before.
    pub(super) fn due_at(&mut self, batch: BatchKey, at: f64) {
        let due = self.due.entry(batch).or_insert(at);
        *due = due.min(at);
    }

    /// A retry has opened it again.
    pub(super) fn reopened(&mut self, batch: BatchKey) {
        self.due.remove(&batch);
    }

    /// Whether it is being settled right now.
    pub(super) fn is_under_way(&self, batch: BatchKey) -> bool {
        self.under_way.contains(&batch)
    }

    /// Whether it has ended and is not settled yet.
    pub(super) fn has(&self, batch: BatchKey) -> bool {
        self.due.contains_key(&batch) || self.under_way.contains(&batch)
    }

    /// When the next one is due that is not being settled already.
    pub(super) fn next_due(&self) -> Option<f64> {
        let waiting = self.due.iter().filter(|(batch, _)| !self.under_way.contains(batch));
        waiting.map(|(_, at)| *at).reduce(f64::min)
    }

    /// What is due now, in the order of the batches; each is under way from here on.
    fn begin(&mut self, now: f64) -> Vec<BatchKey> {
        let is_due = |(batch, at): (&BatchKey, &f64)| {
            (*at <= now && !self.under_way.contains(batch)).then_some(*batch)
        };
        let mut due: Vec<BatchKey> = self.due.iter().filter_map(is_due).collect();
        due.sort_unstable();
        for batch in &due {
            self.due.remove(batch);
            self.under_way.insert(*batch);
        }
        due
    }

    /// Its settlement has come to an end, good or bad.
    fn ended(&mut self, batch: BatchKey) {
        self.under_way.remove(&batch);
        self.waits.remove(&batch);
    }

    /// Its drop is still on its way to `processing/`.
    fn not_yet(&mut self, batch: BatchKey, now: f64) {
        let last = self.waits.get(&batch);
        let wait = last.map_or(SETTLE_AGAIN_S, |last| (last * 2.0).min(SETTLE_RETRY_S));
        self.under_way.remove(&batch);
        self.waits.insert(batch, wait);
        self.due_at(batch, now + wait);
    }
}

impl Scheduler {
    /// Ended batches whose reports are due.
    pub(super) async fn settle_due(&mut self) {
        let now = now_epoch();
        for batch in self.unsettled.begin(now) {
            match self.settlement(batch).await {
                Ok(Next::Nothing) => self.unsettled.ended(batch),
                Ok(Next::NotYet) => self.unsettled.not_yet(batch, now),
                Ok(Next::Settle(settlement)) => {
                    let reports = self.reports.0.clone();
                    let views = self.outlook.views();
                    tokio::spawn(async move {
                        // What is still to be written under the batch's locks comes before these are given up.
                        views.flush(VIEWS_FIRST).await;
                        let ended_at = settlement.batch.ended_at.unwrap_or_default();
                        let done = tokio::task::spawn_blocking(move || settlement.carry_out()).await;
                        let outcome = done.unwrap_or_else(|_| Err(Error::internal("settling broke off")));
                        let _ = reports.send(Report::Settled { batch, ended_at, outcome }).await;
                    });
                }
                Err(error) => {
                    self.queue_failed(&error);
                    self.unsettled.ended(batch);
                    self.unsettled.due_at(batch, now + SETTLE_RETRY_S);
                }
            }
        }
    }

    async fn settlement(&self, batch: BatchKey) -> Result<Next> {
        let layout = self.settings.layout();
        let (output_dir, holds) = (self.settings.output_dir.clone(), self.parts.holds.clone());
        self.parts
            .queue
            .with(move |db| {
                // Before the rows: whoever claims a lock after that belongs to a later end.
                let claims = holds.claims();
                let Some(row) = db.batch_run(batch)?.filter(|row| row.ended_at.is_some()) else {
                    return Ok(Next::Nothing);
                };
                let Some(dropped) = db.dropped(row.drop_id)? else { return Ok(Next::Nothing) };
                // Before everything else is read: this is asked again and again.
                if dropped.identity.is_some() && dropped.state == DropState::Accepted {
                    return Ok(Next::NotYet);
                }
                let output_directory = batch_directory(&output_dir, &row);
                let rows = db.run_jobs(batch)?;
                let succeeded = rows
                    .iter()
                    .filter(|row| row.state == JobState::Succeeded)
                    .map(|row| db.plan(row.job_id))
                    .collect::<Result<_>>()?;
                let history = History { phases: db.phases(batch)?, warnings: db.warnings(batch)? };
                let now = now_epoch();
                let is_released = db.flag(&released(batch))?.is_some();
                let takes_over = db.flag(&taken_over(batch))?.is_some();
                let batch = row;
                let settlement = Settlement {
                    batch,
                    rows,
                    history,
                    succeeded,
                    dropped,
                    layout,
                    output_directory,
                    holds,
                    claims,
                    is_released,
                    takes_over,
                    now,
                };
                Ok(Next::Settle(Box::new(settlement)))
            })
            .await
    }

    /// `ended_at`: which end of the batch was settled.
    pub(super) async fn settled(&mut self, batch: BatchKey, ended_at: f64, outcome: Result<Option<PathBuf>>) {
        self.unsettled.ended(batch);
        match outcome {
            Ok(place) => {
                let kept = self.settings.layout().passwords();
                let recorded = self
                    .parts
                    .queue
                    .with(move |db| {
                        db.set_flag(&taken_over(batch), None)?;
                        let is_its_end = db.batch_settled(batch, ended_at, place.as_deref())?;
                        passwords::forget(db, &kept)?;
                        Ok(is_its_end)
                    })
                    .await;
                match recorded {
                    Ok(true) if self.show_last(batch).await => self.forget_batch(batch),
                    Ok(true) => self.unsettled.due_at(batch, now_epoch() + SETTLE_RETRY_S),
                    // A retry came in between; its end is settled in its turn.
                    Ok(false) => {}
                    Err(error) => {
                        self.queue_failed(&error);
                        self.unsettled.due_at(batch, now_epoch() + SETTLE_RETRY_S);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "an ended batch could not be put away; tried again");
                self.outlook.last_error = Some(error.to_string());
                self.outlook.status_changed();
                self.unsettled.due_at(batch, now_epoch() + SETTLE_RETRY_S);
            }
        }
    }

    fn forget_batch(&mut self, batch: BatchKey) {
        let live = &mut self.live;
        self.outlook.forget(batch);
        live.retain(|job, live| live.batch_key != batch || self.core.knows(*job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_ends_again_waits_for_the_settlement_of_its_earlier_end() {
        let mut settling = Settling::default();
        settling.due_at(1, 10.0);
        settling.due_at(2, 20.0);
        assert_eq!(settling.begin(15.0), [1]);
        settling.reopened(1);
        settling.due_at(1, 16.0);
        assert_eq!(settling.next_due(), Some(20.0), "what waits for a report is not waited for by the clock");
        assert_eq!(settling.begin(30.0), [2]);
        settling.ended(1);
        assert_eq!(settling.next_due(), Some(16.0));
        assert_eq!(settling.begin(30.0), [1]);
    }

    #[test]
    fn a_drop_that_is_stuck_is_looked_at_ever_less_often() {
        let mut settling = Settling::default();
        let mut now = 0.0;
        settling.due_at(1, now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(settling.begin(now), [1]);
            settling.not_yet(1, now);
            let next = settling.next_due().unwrap();
            waits.push(((next - now) * 100.0).round());
            now = next;
        }
        assert_eq!(waits, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 500.0, 500.0]);
        assert_eq!(settling.begin(now), [1]);
        settling.ended(1);
        settling.not_yet(1, now);
        assert_eq!(settling.next_due(), Some(now + SETTLE_AGAIN_S), "another end begins anew");
    }

    #[test]
    fn a_reopened_batch_is_not_settled() {
        let mut settling = Settling::default();
        settling.due_at(1, 10.0);
        settling.reopened(1);
        assert!(settling.begin(30.0).is_empty());
    }
}
