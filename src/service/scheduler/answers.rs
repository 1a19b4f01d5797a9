//! What the core says of itself when it is asked. What is not here: anything that changes it.

use std::collections::BTreeSet;

use super::core::{BatchKey, Core, JobId};
use super::job::{Job, Phase};
use super::ledger::Ledger;

impl Core {
    /// Jobs that were paused by their own names.
    #[must_use]
    pub fn held(&self) -> BTreeSet<JobId> {
        self.jobs.iter().filter(|(_, job)| job.is_held()).map(|(id, _)| *id).collect()
    }

    /// Whether no worker is left.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.jobs.values().any(Job::has_worker)
    }

    /// Whether everything is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether nothing new is started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a job is known and has not ended.
    #[must_use]
    pub fn knows(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    /// Whether a job has a worker that works: it neither stands still nor was told to end.
    #[must_use]
    pub fn is_at_work(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.phase == Phase::Working)
    }

    /// Whether a batch has jobs that have not ended.
    #[must_use]
    pub fn knows_batch(&self, batch: BatchKey) -> bool {
        self.batches.contains_key(&batch)
    }

    /// Who has reserved what.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
