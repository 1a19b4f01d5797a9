//! What workers did at sources: kept in the queue as it is told.
//!
//! What is not here: what an act is ([`crate::model::acts`]).

use super::Scheduler;
use super::core::JobId;
use crate::model::acts::Acts;

impl Scheduler {
    /// A worker tells what it has done, or is about to do. It is in the VM's journal already.
    pub(super) async fn acts_told(&mut self, job: JobId, acts: Acts) {
        self.core.source_stands(job, acts.is_shut_down());
        if let Err(error) = self.parts.queue.with(move |db| db.set_acts(job, &acts)).await {
            self.queue_failed(&error);
        }
    }
}
