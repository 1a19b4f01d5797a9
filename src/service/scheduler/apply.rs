//! Carries out what the core decided: the queue first, then whatever follows.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::core::{Action, Counters, JobId, WorkerEnd};
use super::{Report, Scheduler};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::job::{JobState, WaitReason};
use crate::model::plan::Plan;
use crate::model::protocol::{CHILD_MEMORY_BYTES, WorkLimits, WorkOrder, WorkerCommand};
use crate::service::queue::{Change, Db, JobRow, StageMark, Tries};
use crate::service::view::live::Live;
use crate::service::{space, watchdog};
use crate::sys::failpoint;
use crate::sys::time::now_epoch;

/// How long a daemon vouches for its running jobs at a time.
pub(super) const LEASE_S: f64 = 60.0;

/// So many changes go into one transaction.
const CHUNK: usize = 500;

/// So often the same thing is tried while the queue refuses it.
const MAX_REFUSALS: u32 = 30;

/// A worker that waits to hear that its outcome is recorded.
pub(super) struct Ended {
    pub(super) recorded: oneshot::Sender<()>,
}

impl Scheduler {
    /// Asks the core what to do and does it, until there is nothing left or the queue fails.
    pub(super) async fn carry_out(&mut self) {
        self.line.extend(self.core.actions(now_epoch()));
        while !self.line.is_empty() && !self.queue_rests(now_epoch()) {
            // After a refusal one by one, so that only what is refused itself is ever given up.
            let most = if self.refusals == 0 { CHUNK } else { 1 };
            let recordable =
                self.line.iter().take(most).take_while(|action| change(action).is_some()).count();
            if recordable > 0 {
                let group: Vec<Action> = self.line.iter().take(recordable).cloned().collect();
                match self.record(&group).await {
                    Ok(rows) => {
                        self.queue_works();
                        self.refusals = 0;
                        self.line.drain(..recordable);
                        for (action, row) in group.into_iter().zip(rows) {
                            self.follow(&action, &row);
                        }
                    }
                    Err(error) => return self.stand_in_line(&error),
                }
            } else if let Some(action) = self.line.front().cloned() {
                match self.perform(&action).await {
                    Ok(()) => {
                        self.refusals = 0;
                        self.line.pop_front();
                    }
                    Err(error) => return self.stand_in_line(&error),
                }
            }
            self.line.extend(self.core.actions(now_epoch()));
        }
    }

    /// What could not be done is done again. A disk that is full or fails may come back, and what was
    /// decided is as true then; but what is refused as our own defect again and again must not hold
    /// up everything behind it.
    fn stand_in_line(&mut self, error: &Error) {
        self.queue_failed(error);
        self.refusals += 1;
        if error.kind() == Kind::Internal && self.refusals > MAX_REFUSALS {
            let action = self.line.pop_front();
            tracing::error!(%error, ?action, "given up");
            self.refusals = 0;
        }
    }

    /// Several changes of rows as one transaction.
    async fn record(&self, group: &[Action]) -> Result<Vec<JobRow>> {
        let with_mark = |recorded: Recorded| {
            let mark = self.live.get(&recorded.job).map(Live::mark);
            Recorded { mark, ..recorded }
        };
        let changes: Vec<Recorded> = group.iter().filter_map(change).map(with_mark).collect();
        let ends = group.iter().any(|action| matches!(action, Action::Succeed { .. } | Action::Fail { .. }));
        if ends {
            failpoint::hit("outcome.before-record");
        }
        let rows = self
            .parts
            .queue
            .with(move |db| db.atomically(|db| changes.into_iter().map(|change| change.write(db)).collect()))
            .await?;
        if ends {
            failpoint::hit("outcome.after-record");
        }
        Ok(rows)
    }

    /// What follows from a change that is durable now.
    fn follow(&mut self, action: &Action, row: &JobRow) {
        self.outlook.changed(row.batch_key, now_epoch());
        self.stall.moved(now_epoch());
        match action {
            Action::Wait { job, suspend, reason, .. } => {
                if *reason == WaitReason::Libvirt {
                    self.libvirt_is_away();
                }
                if *suspend {
                    self.supervisor.tell(*job, WorkerCommand::Pause);
                    if let Some(live) = self.live.get_mut(job) {
                        live.stand_still();
                    }
                }
                self.worker_may_go(*job);
            }
            Action::Succeed { job, .. } | Action::Fail { job, .. } | Action::Cancel { job, .. } => {
                self.worker_may_go(*job);
                self.sources.job_ended(row, now_epoch());
                self.outlook.job_ended(row);
                tracing::info!(
                    job, batch = %row.batch_id, vm = %row.vm_id,
                    stage = row.error.as_ref().and_then(|error| error.details().stage).map(tracing::field::display),
                    error = row.error.as_ref().map(tracing::field::display), "{}", row.state
                );
            }
            Action::Requeue { job, .. } => self.worker_may_go(*job),
            _ => {}
        }
    }

    /// Its outcome is durable.
    pub(super) fn worker_may_go(&mut self, job: JobId) {
        if let Some(ended) = self.ended.remove(&job) {
            let _ = ended.recorded.send(());
        }
    }

    /// An action that is more than a change of a row. An error means: again later.
    async fn perform(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Probe { job } => self.probe(*job).await,
            Action::Start { job, counters, reserved_by_others, kept_free } => {
                self.start_worker(*job, counters, (*reserved_by_others, *kept_free)).await
            }
            Action::Continue { job } => self.continue_worker(*job).await,
            Action::Plan { job, plan } => {
                let (job, plan) = (*job, plan.clone());
                self.parts.queue.with(move |db| db.set_plan(job, &plan)).await
            }
            Action::Cancel { job, error, clean: true } => {
                self.discard(*job, error.clone()).await?;
                Ok(())
            }
            Action::Tell { job, command } => {
                self.supervisor.tell(*job, command.clone());
                Ok(())
            }
            Action::Kill { job } => {
                let live = self.live.get(job).map(|live| (live.batch.as_str(), live.vm.as_str()));
                let (batch, vm) = live.unzip();
                tracing::warn!(job, batch, vm, "its worker does not listen and is killed");
                self.supervisor.kill(*job);
                Ok(())
            }
            Action::BatchEnded { batch } => {
                self.unsettled.due_at(*batch, now_epoch());
                self.outlook.at_once(*batch, now_epoch());
                Ok(())
            }
            Action::Server { server, why } => {
                self.tell_server(server, why.as_deref());
                Ok(())
            }
            Action::OutageTooLong { seconds } => {
                let text = format!("the network has been down for {seconds:.0} s");
                tracing::error!("{text}");
                self.outlook.last_error = Some(text);
                self.outlook.status_changed();
                self.tell_outage(*seconds).await
            }
            // Recorded in groups.
            Action::Wait { .. }
            | Action::Requeue { .. }
            | Action::Succeed { .. }
            | Action::Fail { .. }
            | Action::Cancel { .. } => Ok(()),
        }
    }

    /// Takes the locks of a job's directories and measures its room, elsewhere.
    async fn probe(&mut self, job: JobId) -> Result<()> {
        let (reports, leftovers) = (self.reports.0.clone(), self.parts.leftovers.clone());
        let wanted = self.wanted(job).await?;
        tokio::spawn(async move {
            // No job starts unasked, so none starts beside a worker of an earlier daemon.
            leftovers.gone().await;
            let (batch, plan) = (wanted.batch.clone(), wanted.plan.clone());
            let outcome = match wanted.hold().await {
                Err(error) => Err(error),
                Ok(()) => {
                    let looked = tokio::task::spawn_blocking(move || space::probe(&plan));
                    Ok(match tokio::time::timeout(space::PROBE_LIMIT, looked).await {
                        Ok(Ok(probe)) => probe,
                        Ok(Err(_)) | Err(_) => None,
                    })
                }
            };
            let _ = reports.send(Report::Probed { job, batch, outcome }).await;
        });
        Ok(())
    }

    /// `room`: what other jobs may still write to its file system, and what stays free there.
    async fn start_worker(&mut self, job: JobId, counters: &Counters, room: (u64, u64)) -> Result<()> {
        let claim = self.claim(counters);
        let message = format!("attempt {} starts", counters.attempt);
        let claimed = self.parts.queue.with(move |db| {
            db.atomically(|db| {
                db.set_rolled_back(job, false)?;
                Ok((db.transition(job, claim, &message)?, db.plan(job)?))
            })
        });
        let (row, plan) = claimed.await?;
        failpoint::hit("scheduler.before-spawn");
        self.live.insert(job, Live::starting(&row, &plan));
        self.outlook.changed(row.batch_key, now_epoch());
        self.sources.stop(job);
        let log = self.settings.layout().job_log(&row.batch_id, &row.vm_id, counters.attempt);
        let order = self.order(&row, plan, counters, room);
        tracing::info!(job, batch = %row.batch_id, vm = %row.vm_id, attempt = counters.attempt, "running");
        let started = match &order.limits.lock {
            Some(_) => self.supervisor.start(&order, &log).await,
            None => Err(Error::new(Kind::Output, "its output directory changed hands").transient()),
        };
        if let Err(error) = started {
            self.core.worker_ended(now_epoch(), job, WorkerEnd::Crashed(error));
        }
        failpoint::hit("scheduler.after-spawn");
        Ok(())
    }

    fn order(
        &mut self,
        row: &JobRow,
        plan: Plan,
        counters: &Counters,
        (reserved_by_others_bytes, disk_reserve_bytes): (u64, u64),
    ) -> WorkOrder {
        let remote = self.remote_limits(row.job_id, &plan);
        if let (Some(live), Some(connections)) = (self.live.get_mut(&row.job_id), remote.connections) {
            live.connections = connections;
        }
        let lock = self.parts.holds.lock_above(&row.batch_id, &row.output_directory);
        let reading = self.part_of_newcomer(row.job_id);
        let settings = &self.settings;
        let read_roots = read_roots(settings, &plan);
        WorkOrder {
            job_id: row.job_id,
            batch_id: row.batch_id.clone(),
            attempt: counters.attempt,
            plan: plan.without_draft(),
            limits: WorkLimits {
                work_dir: settings.work_dir.join(row.job_id.to_string()),
                stall_timeout_s: settings.stall_timeout_s,
                read_roots,
                write_roots: settings.paths.write.clone(),
                disk_reserve_bytes,
                reserved_by_others_bytes,
                reading,
                sandbox_required: watchdog::is_supervised(),
                child_memory_bytes: CHILD_MEMORY_BYTES,
                keep_partial: false,
                hook_roots: settings.hooks.allowed_dirs.clone(),
                retries: settings.retry.operations,
                preflight: settings.preflight.clone(),
                gives_up: self.core.would_give_up(now_epoch(), counters),
                log: None,
                remote,
                lock,
            },
            acts: row.acts.clone(),
            settle: None,
            cuts_over: self.core.cuts_over(now_epoch(), row.job_id),
        }
    }

    fn claim(&self, counters: &Counters) -> Change {
        Change::Claim {
            owner: self.parts.owner.clone(),
            lease_until: now_epoch() + LEASE_S,
            attempt: counters.attempt,
            need_bytes: None,
        }
    }

    async fn continue_worker(&mut self, job: JobId) -> Result<()> {
        let (owner, lease_until) = (self.parts.owner.clone(), now_epoch() + LEASE_S);
        let row = self
            .parts
            .queue
            .with(move |db| {
                let attempt = db.job(job)?.map_or(1, |row| row.attempt);
                let claim = Change::Claim { owner, lease_until, attempt, need_bytes: None };
                db.transition(job, claim, "goes on")
            })
            .await?;
        self.supervisor.tell(job, WorkerCommand::Resume);
        self.outlook.changed(row.batch_key, now_epoch());
        Ok(())
    }

    /// Removes what is older than the settings keep, elsewhere.
    pub(super) fn prune_in_background(&self) {
        let (queue, settings) = (self.parts.queue.clone(), self.settings.clone());
        let holds = self.parts.holds.clone();
        tokio::spawn(async move {
            // At once after a start there is enough to do.
            tokio::time::sleep(Duration::from_secs(1)).await;
            match crate::service::retention::prune(&queue, &settings, &holds, false).await {
                Ok(pruned) if pruned.batches + pruned.logs + pruned.partials > 0 => {
                    tracing::info!(
                        batches = pruned.batches,
                        logs = pruned.logs,
                        partials = pruned.partials,
                        "old things were removed"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "old things could not be removed"),
            }
        });
    }
}

/// A change of one row, ready to be written.
struct Recorded {
    job: JobId,
    change: Change,
    tries: Option<Tries>,
    error: Option<Error>,
    message: String,
    /// How far its worker had come, so that what was shown stays shown.
    mark: Option<StageMark>,
}

impl Recorded {
    fn write(self, db: &mut Db) -> Result<JobRow> {
        let missing = || Error::internal("a job that is being decided about is not in the queue");
        let before = db.job(self.job)?.ok_or_else(missing)?;
        if let Some(mark) = &self.mark {
            db.mark_stage(self.job, mark)?;
        }
        match (&self.change, before.state) {
            // The same wait in other words.
            (Change::Wait { reason, detail, .. }, JobState::Waiting)
                if before.waiting.as_ref().is_some_and(|waiting| waiting.reason == *reason)
                    && !reason.is_tried_again() =>
            {
                db.set_waiting_detail(self.job, detail)?;
            }
            (Change::Requeue, JobState::Queued) => {}
            // It stood for others, and has ended with the transaction that made them.
            (_, JobState::Skipped) => {}
            // A worker that was told to stand still had just published: it ends as one that runs.
            (Change::Succeed(_), JobState::Waiting | JobState::Queued) => {
                let claim = Change::Claim {
                    owner: "ended while it stood still".to_owned(),
                    lease_until: 0.0,
                    attempt: before.attempt,
                    need_bytes: None,
                };
                db.transition(self.job, claim, "goes on")?;
                db.transition(self.job, self.change, &self.message)?;
            }
            _ => drop(db.transition(self.job, self.change, &self.message)?),
        }
        if let Some(tries) = &self.tries {
            db.set_tries(self.job, tries)?;
        }
        if let Some(error) = &self.error {
            db.set_error(self.job, error)?;
        }
        db.job(self.job)?.ok_or_else(missing)
    }
}

fn tries(counters: &Counters) -> Tries {
    Tries {
        attempt: counters.attempt,
        cut_short: counters.cut_short,
        failures: counters.failures,
        first_failure_at: counters.first_failure_at,
        need_bytes: counters.exact_need,
    }
}

/// The change of a row that an action comes to, if it is no more than that.
fn change(action: &Action) -> Option<Recorded> {
    let recorded = match action {
        Action::Wait { job, reason, detail, counters, .. } => Recorded {
            job: *job,
            change: Change::Wait {
                reason: *reason,
                detail: detail.clone(),
                not_before: counters.retry_at,
                failure: None,
            },
            tries: Some(tries(counters)),
            error: None,
            message: format!("waits ({reason}): {detail}"),
            mark: None,
        },
        Action::Requeue { job, counters } => Recorded {
            job: *job,
            change: Change::Requeue,
            tries: Some(tries(counters)),
            error: None,
            message: "queued".to_owned(),
            mark: None,
        },
        Action::Succeed { job, counters, published } => Recorded {
            job: *job,
            change: Change::Succeed(published.clone()),
            tries: Some(Tries { failures: 0, first_failure_at: None, ..tries(counters) }),
            error: None,
            message: "succeeded".to_owned(),
            mark: None,
        },
        Action::Fail { job, counters, error } => Recorded {
            job: *job,
            change: Change::Fail(error.clone()),
            tries: Some(tries(counters)),
            error: None,
            message: format!("failed ({}): {error}", error.kind()),
            mark: None,
        },
        Action::Cancel { job, error, clean: false } => Recorded {
            job: *job,
            change: Change::Cancel,
            tries: None,
            error: error.clone(),
            message: match error {
                Some(error) => format!("cancelled: {error}"),
                None => "cancelled".to_owned(),
            },
            mark: None,
        },
        _ => return None,
    };
    Some(recorded)
}

/// Where a worker may read. A disk that was dropped may always be read: nobody named its place, it was handed over.
fn read_roots(settings: &Settings, plan: &Plan) -> Vec<PathBuf> {
    let mut roots = settings.paths.read.clone();
    if !roots.is_empty() {
        let processing = settings.layout().processing();
        let drops = plan.disks.iter().filter_map(|disk| {
            Some(processing.join(disk.source.strip_prefix(&processing).ok()?.components().next()?))
        });
        roots.extend(drops);
    }
    roots
}
