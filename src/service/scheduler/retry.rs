//! Jobs that have ended, brought back by the operator.

use std::collections::{HashSet, VecDeque};

use super::commands::wrong_state;
use super::core::{Action, Core, JobId};
use super::{Scheduler, with_jobs};
use crate::model::api::{Acted, Refusal, RefusalCode, RetryRequest};
use crate::model::error::{Error, Kind};
use crate::pipeline::publish;
use crate::service::queue::{Change, JobRow};

impl Scheduler {
    /// Brings back what failed or was cancelled.
    pub(super) async fn retry(&mut self, target: &str, request: &RetryRequest) -> Result<Acted, Refusal> {
        let named = self.find(target).await?;
        let is_meant = |row: &&JobRow| match named.is_batch {
            true if request.failed => row.state.name() == "failed",
            true => matches!(row.state.name(), "failed" | "cancelled"),
            false => true,
        };
        let meant: Vec<&JobRow> = named.jobs.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let error = Error::new(Kind::Cancelled, format!("no job of `{target}` failed or was cancelled"))
                .advice("`hyper2kvm list` shows their states");
            return Err(Refusal { code: RefusalCode::WrongState, error });
        }
        for row in &meant {
            if row.state.after(crate::model::job::JobChange::Retry).is_err() {
                return Err(wrong_state(row, "retry", "has not failed"));
            }
        }
        self.refuse_while_ending(&meant).await?;
        if let Some(stage) = request.from {
            for row in &meant {
                let job = row.job_id;
                let plan = self.parts.queue.with(move |db| db.plan(job)).await?;
                let rewound = tokio::task::spawn_blocking(move || publish::rewind(&plan, stage)).await;
                rewound.map_err(|_| Error::internal("rewinding broke off"))??;
            }
        }
        let jobs: Vec<JobId> = meant.iter().map(|row| row.job_id).collect();
        let all = jobs.clone();
        let message = match request.from {
            Some(stage) => format!("retried by the operator from {stage}"),
            None => "retried by the operator".to_owned(),
        };
        let changed = self.parts.queue.with(move |db| {
            let batches = db.atomically(|db| {
                let mut keys = Vec::new();
                for job in jobs {
                    let row = db.transition(job, Change::Retry, &message)?;
                    keys.push(row.batch_key);
                }
                keys.dedup();
                keys.into_iter().map(|key| db.batch_run(key)).collect::<Result<Vec<_>, _>>()
            })?;
            with_jobs(db, batches.into_iter().flatten().collect())
        });
        for (batch, rows) in changed.await? {
            self.unsettled.reopened(batch.batch_key);
            for row in &rows {
                self.live.remove(&row.job_id);
            }
            self.take_in(&batch, rows);
        }
        self.carry_out().await;
        self.acted("queued again", all).await
    }

    /// A retry loads the whole batch again. A job of it that has ended here and not yet in the queue
    /// would be loaded as one that is open, and would run once more.
    async fn refuse_while_ending(&self, meant: &[&JobRow]) -> Result<(), Refusal> {
        let mut batches: Vec<_> = meant.iter().map(|row| row.batch_key).collect();
        batches.dedup();
        let members = self.parts.queue.with(move |db| {
            let members: Result<Vec<_>, Error> = batches.into_iter().map(|key| db.run_jobs(key)).collect();
            Ok(members?.concat())
        });
        let ending = members.await?.into_iter().find(|row| {
            !row.state.is_final() && is_ending(row.job_id, &self.core, &self.discarding, &self.line)
        });
        ending.map_or(Ok(()), |row| Err(still_ending(&row)))
    }
}

/// Whether the core has let go of a job whose end the queue does not know yet: what it left behind
/// is being removed, or the queue cannot be written.
fn is_ending(job: JobId, core: &Core, discarding: &HashSet<JobId>, line: &VecDeque<Action>) -> bool {
    !core.knows(job) && (discarding.contains(&job) || line.iter().any(|action| action.job() == Some(job)))
}

fn still_ending(row: &JobRow) -> Refusal {
    let cause = format!(
        "cannot retry a job of this batch yet: the end of job {} ({}/{}) is still being recorded",
        row.job_id, row.batch_id, row.vm_id
    );
    let error = Error::new(Kind::Cancelled, cause).advice("try again when `hyper2kvm list` shows its end");
    Refusal { code: RefusalCode::WrongState, error }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::core::{BatchFacts, Counters, JobFacts};
    use super::super::policy::Policy;
    use super::*;
    use crate::model::config::Settings;
    use crate::model::job::JobState;

    #[test]
    fn a_job_is_ending_while_only_the_queue_thinks_that_it_is_open() {
        let mut core = Core::new(Policy::of(&Settings::defaults(Path::new("/s"), 2)), || 0.5);
        let facts = JobFacts {
            id: 4,
            batch: 1,
            vm: "vm".to_owned(),
            state: JobState::Queued,
            waiting: None,
            waiting_detail: String::new(),
            waiting_since: None,
            priority: 100,
            needs_network: false,
            depends_on: Vec::new(),
            counters: Counters::default(),
        };
        let members = BTreeMap::from([("vm".to_owned(), JobState::Queued)]);
        core.load(
            0.0,
            BatchFacts { key: 1, parallel_limit: None, continue_on_error: true, members },
            vec![facts],
        );
        let discarding = HashSet::from([1]);
        let line = VecDeque::from([
            Action::BatchEnded { batch: 3 },
            Action::Cancel { job: 2, error: None, clean: true },
            Action::Probe { job: 4 },
        ]);
        let ending = |job| is_ending(job, &core, &discarding, &line);
        assert!(ending(1), "its partial results are being removed");
        assert!(ending(2), "its end waits in line");
        assert!(!ending(3), "that is a batch");
        assert!(!ending(4), "it is open here too");
    }
}
