//! What the scheduler is asked, and what it answers.

use std::sync::Arc;

use super::core::{BatchKey, JobId};
use super::loading::with_jobs;
use super::outlook_error;
use super::{PAUSED_FLAG, Policy, Report, Scheduler};
use crate::model::api::{
    Acted, JobDetails, JobFilter, JobList, JobView, Refusal, RefusalCode, SubmitRequest,
};
use crate::model::config::{Settings, changes};
use crate::model::error::{Error, Kind};
use crate::model::job::BatchState;
use crate::model::progress::BatchProgress;
use crate::service::admission::submit;
use crate::service::command::{Command, Reply};
use crate::service::queue::{JobRow, Target};
use crate::service::view::progress::{Shown, batch_progress};
use crate::service::view::status;
use crate::service::{retention, watchdog};
use crate::sys::time::now_epoch;

/// A command whose answer waits until its jobs have ended.
pub(super) struct Pending {
    pub(super) jobs: Vec<JobId>,
    pub(super) all: Vec<JobId>,
    /// What is told of them then.
    pub(super) word: &'static str,
    /// A batch that has to be settled as well.
    pub(super) batch: Option<BatchKey>,
    pub(super) reply: Reply<Acted>,
}

/// What a person named, found.
pub(super) struct Named {
    pub(super) jobs: Vec<JobRow>,
    /// A batch, of which only those jobs are meant that can be acted on.
    pub(super) is_batch: bool,
}

impl Scheduler {
    /// Carries out a command. An asker that is gone does not matter.
    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(request, reply) => self.submit(request, reply),
            Command::List(filter, reply) => drop(reply.send(self.list(filter).await)),
            Command::Show(target, reply) => drop(reply.send(self.details(&target).await)),
            Command::Progress(target, reply) => drop(reply.send(self.progress(&target).await)),
            Command::Cancel { target, keep_partial, reply } => {
                self.cancel(&target, keep_partial, reply).await;
            }
            Command::Release { target, reply } => self.release(&target, reply).await,
            Command::Rollback { target, dry_run, reply } => {
                drop(reply.send(self.rollback(&target, dry_run).await));
            }
            Command::Retry { target, request, reply } => {
                self.retry(&target, &request, reply).await;
            }
            Command::Priority { target, priority, reply } => {
                drop(reply.send(self.set_priority(&target, priority).await));
            }
            Command::Pause(target, reply) => drop(reply.send(self.pause(target, true).await)),
            Command::Resume(target, reply) => drop(reply.send(self.pause(target, false).await)),
            Command::Cutover(target, reply) => drop(reply.send(self.cutover(&target).await)),
            Command::Drain(on, reply) => drop(reply.send(Ok(self.drain(on)))),
            Command::Prune { dry_run, reply } => {
                let (queue, settings) = (self.parts.queue.clone(), self.settings.clone());
                let holds = self.parts.holds.clone();
                tokio::spawn(async move {
                    let pruned = retention::prune(&queue, &settings, &holds, dry_run).await;
                    let _ = reply.send(pruned.map_err(Refusal::from));
                });
            }
            Command::Status(reply) => drop(reply.send(self.status().await.map_err(Refusal::from))),
            Command::Reload(reply) => drop(reply.send(self.reload().await)),
            Command::Stop(reply) => self.begin_stop(Some(reply)),
        }
    }

    /// Has it accepted elsewhere: what earlier runs left may have to be looked at first.
    fn submit(&self, request: SubmitRequest, reply: Reply<JobList>) {
        if self.core.is_draining() {
            let error = Error::new(Kind::Cancelled, "the service is draining and takes nothing new")
                .advice("`hyper2kvm drain --off`, then submit again");
            return drop(reply.send(Err(Refusal { code: RefusalCode::WrongState, error })));
        }
        let (queue, settings) = (self.parts.queue.clone(), Arc::clone(&self.settings));
        let (results, reports) = (self.parts.results.clone(), self.reports.0.clone());
        let who = self.parts.holds.who().clone();
        tokio::spawn(async move {
            let submitted =
                tokio::task::spawn_blocking(move || submit(request, &queue, (&results, &who), &settings))
                    .await;
            let outcome = submitted.unwrap_or_else(|_| Err(Error::internal("a submission broke off").into()));
            let _ = reports.send(Report::Submitted { reply, outcome }).await;
        });
    }

    /// Answers with jobs that can be acted on.
    pub(super) async fn submitted(
        &mut self,
        outcome: Result<Vec<JobId>, Refusal>,
    ) -> Result<JobList, Refusal> {
        let jobs = outcome?;
        self.more_rows = true;
        self.take_in_rows().await;
        self.carry_out().await;
        Ok(JobList { jobs: self.views(jobs).await? })
    }

    async fn list(&self, filter: JobFilter) -> Result<JobList, Refusal> {
        let mut rows = self.parts.queue.with(move |db| db.jobs(&filter)).await?;
        self.lay_live_over(&mut rows);
        Ok(JobList { jobs: rows.iter().map(JobRow::view).collect() })
    }

    async fn details(&self, target: &str) -> Result<JobDetails, Refusal> {
        let mut named = self.find(target).await?;
        if named.jobs.len() > 1 {
            return Err(ambiguous(target, &named.jobs));
        }
        self.lay_live_over(&mut named.jobs);
        let Some(row) = named.jobs.pop() else { return Err(unknown(target)) };
        let (job, batch) = (row.job_id, row.batch_key);
        let (events, states) = self
            .parts
            .queue
            .with(move |db| {
                let states: Vec<_> = db.run_jobs(batch)?.iter().map(|row| row.state).collect();
                Ok((db.events(job)?, states))
            })
            .await?;
        let layout = self.settings.layout();
        let log = Some(row.attempt)
            .filter(|attempt| *attempt > 0)
            .map(|attempt| layout.job_log(&row.batch_id, &row.vm_id, attempt))
            .filter(|path| path.exists());
        Ok(JobDetails {
            job: row.view(),
            batch_state: BatchState::of(states),
            output_directory: row.output_directory.to_string_lossy().into_owned(),
            outputs: row.outputs.keys().map(|path| path.to_string_lossy().into_owned()).collect(),
            log: log.map(|path| path.to_string_lossy().into_owned()),
            failure: row.error.as_ref().and_then(|error| serde_json::to_value(error).ok()),
            acts: row.acts,
            events,
        })
    }

    async fn progress(&self, target: &str) -> Result<BatchProgress, Refusal> {
        let named = self.find(target).await?;
        let Some(batch) = named.jobs.first().map(|row| row.batch_key) else {
            return self.empty_progress(target).await;
        };
        let run = self
            .parts
            .queue
            .with(move |db| {
                let run = db.batch_run(batch)?.into_iter().collect();
                with_jobs(db, run)
            })
            .await?;
        let Some((batch, mut rows)) = run.into_iter().next() else { return Err(unknown(target)) };
        self.lay_live_over(&mut rows);
        let now = now_epoch();
        let of = (batch.batch_id.as_str(), batch.window.as_ref());
        Ok(batch_progress(of, &rows, &self.live, &mut Shown::default(), now, now))
    }

    /// A batch without VMs has no job to be found by.
    async fn empty_progress(&self, target: &str) -> Result<BatchProgress, Refusal> {
        let now = now_epoch();
        Ok(batch_progress((target, None), &[], &self.live, &mut Shown::default(), now, now))
    }

    async fn cancel(&mut self, target: &str, keep_partial: bool, reply: Reply<Acted>) {
        let named = match self.find(target).await {
            Ok(named) => named,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let mut told = Vec::new();
        let mut refused = None;
        for row in &named.jobs {
            match self.core.cancel(now_epoch(), row.job_id, keep_partial) {
                Ok(()) => told.push(row.job_id),
                Err(why) => refused = Some(wrong_state(row, "cancel", why)),
            }
        }
        match refused {
            Some(refusal) if told.is_empty() || !named.is_batch => drop(reply.send(Err(refusal))),
            _ => {
                let all = named.jobs.iter().map(|row| row.job_id).collect();
                self.pending.push(Pending { jobs: told, all, word: "cancelled", batch: None, reply });
            }
        }
    }

    /// Answers the commands whose jobs have ended, durably.
    pub(super) async fn answer_pending(&mut self) {
        if self.pending.is_empty() || !self.line.is_empty() {
            return;
        }
        let is_open = |job: &JobId| self.core.knows(*job) || self.discarding.contains(job);
        let is_unsettled = |batch: BatchKey| self.core.knows_batch(batch) || self.unsettled.has(batch);
        let (waiting, done): (Vec<Pending>, Vec<Pending>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.jobs.iter().any(is_open) || pending.batch.is_some_and(is_unsettled));
        self.pending = waiting;
        for pending in done {
            let answer = self.acted(pending.word, pending.all).await.map(|mut acted| {
                let late: Vec<String> = acted
                    .jobs
                    .iter()
                    .filter(|job| pending.jobs.contains(&job.job_id) && job.state.name() != "cancelled")
                    .map(|job| format!("job {} had ended before: {}", job.job_id, job.state))
                    .collect();
                if !late.is_empty() {
                    acted.message = late.join("; ");
                }
                acted
            });
            let _ = pending.reply.send(answer);
        }
    }

    async fn set_priority(&mut self, target: &str, priority: i64) -> Result<Acted, Refusal> {
        let named = self.find(target).await?;
        let open: Vec<JobId> =
            named.jobs.iter().map(|row| row.job_id).filter(|job| self.core.knows(*job)).collect();
        if open.is_empty() {
            return Err(all_ended(target, &named.jobs, "move"));
        }
        let jobs = open.clone();
        self.parts
            .queue
            .with(move |db| {
                db.atomically(|db| jobs.iter().try_for_each(|job| db.set_priority(*job, priority)))
            })
            .await?;
        open.iter().for_each(|job| self.core.set_priority(*job, priority));
        self.acted(&format!("priority {priority}"), open).await
    }

    /// Pauses (or lets go on) what is named, or everything.
    async fn pause(&mut self, target: Option<String>, pause: bool) -> Result<Acted, Refusal> {
        let word = if pause { "paused" } else { "resumed" };
        let Some(target) = target else {
            let value = pause.then_some("1");
            self.parts.queue.with(move |db| db.set_flag(PAUSED_FLAG, value)).await?;
            self.core.pause_all(now_epoch(), pause);
            self.carry_out().await;
            self.outlook.status_changed();
            let held = if pause { Vec::new() } else { self.core.held().into_iter().collect() };
            let message = match held.as_slice() {
                [] => format!("all work is {word}"),
                _ => "all work is resumed, except what was paused by its own name: \
                      `hyper2kvm resume JOB` lets that go on"
                    .to_owned(),
            };
            return self.acted(&message, held).await;
        };
        let named = self.find(&target).await?;
        let mut done = Vec::new();
        let mut refused = None;
        for row in &named.jobs {
            let (now, job) = (now_epoch(), row.job_id);
            let outcome = if pause { self.core.pause(now, job) } else { self.core.resume(now, job) };
            match outcome {
                Ok(()) => done.push(job),
                Err(why) => {
                    refused = Some(wrong_state(row, if pause { "pause" } else { "resume" }, why));
                }
            }
        }
        match refused {
            Some(refusal) if done.is_empty() || !named.is_batch => Err(refusal),
            _ => {
                self.carry_out().await;
                self.acted(word, done).await
            }
        }
    }

    fn drain(&mut self, on: bool) -> Acted {
        self.core.drain(on);
        self.parts.draining.send_replace(on);
        self.outlook.status_changed();
        let message = match on {
            true => "draining: nothing new is started, running jobs end",
            false => "no longer draining",
        };
        Acted { message: message.to_owned(), jobs: Vec::new() }
    }

    /// Reads the configuration again. What is invalid changes nothing.
    async fn reload(&mut self) -> Result<String, Refusal> {
        watchdog::reloading();
        let source = self.parts.source.clone();
        let loaded = tokio::task::spawn_blocking(move || source.load()).await;
        let outcome = match loaded {
            Ok(Ok(settings)) => {
                let text = self.take_settings(&settings);
                self.tell_by_settings().await;
                Ok(text)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the configuration is not valid: the old one stays in force");
                self.outlook.last_error = outlook_error("reload", &error);
                Err(Refusal { code: RefusalCode::Invalid, error })
            }
            Err(_) => Err(Error::internal("reading the configuration broke off").into()),
        };
        self.outlook.status_changed();
        let line = self.status().await.map(|status| status::line(&status)).unwrap_or_default();
        watchdog::reloaded(&line);
        outcome
    }

    fn take_settings(&mut self, settings: &Settings) -> String {
        let old = Arc::clone(&self.settings);
        let changes = changes(&old, settings);
        if let Some(logging) = &self.parts.logging {
            logging.set_verbosity(settings.verbosity());
            if let Err(error) = logging.reopen() {
                tracing::warn!(%error, "the log file could not be opened again");
            }
        }
        // What only a restart can change stays as it is, so that nothing works half in the old place.
        self.settings = Arc::new(old.reloaded(settings));
        self.core.set_policy(now_epoch(), Policy::of(&self.settings));
        self.bandwidth.reconsider();
        self.parts.network.reconfigure(&self.settings.network_monitor);
        self.parts.settings.send_replace(Arc::clone(&self.settings));
        let applied = match changes.applied.as_slice() {
            [] => "nothing that counts now is different".to_owned(),
            keys => format!("in force: {}", keys.join(", ")),
        };
        let text = match changes.restart.as_slice() {
            [] => format!("reloaded; {applied}"),
            keys => format!("reloaded; {applied}; only a restart changes {}", keys.join(", ")),
        };
        tracing::info!("{text}");
        text
    }

    /// The jobs that a person means.
    pub(super) async fn find(&self, target: &str) -> Result<Named, Refusal> {
        let asked = target.to_owned();
        let (found, rows) = self
            .parts
            .queue
            .with(move |db| {
                let found = db.find(&asked)?;
                let ids = match &found {
                    Target::Job(job) => vec![*job],
                    Target::Batch { jobs, .. } | Target::Ambiguous(jobs) => jobs.clone(),
                    Target::Unknown => Vec::new(),
                };
                let rows: Result<Vec<Option<JobRow>>, Error> = ids.into_iter().map(|id| db.job(id)).collect();
                Ok((found, rows?.into_iter().flatten().collect::<Vec<JobRow>>()))
            })
            .await?;
        match found {
            Target::Unknown => Err(unknown(target)),
            Target::Ambiguous(_) => Err(ambiguous(target, &rows)),
            Target::Job(_) => Ok(Named { jobs: rows, is_batch: false }),
            Target::Batch { .. } => Ok(Named { jobs: rows, is_batch: true }),
        }
    }

    async fn views(&self, jobs: Vec<JobId>) -> Result<Vec<JobView>, Refusal> {
        let rows = self.parts.queue.with(move |db| {
            let rows: Result<Vec<Option<JobRow>>, Error> = jobs.into_iter().map(|id| db.job(id)).collect();
            rows
        });
        let mut rows: Vec<JobRow> = rows.await?.into_iter().flatten().collect();
        self.lay_live_over(&mut rows);
        Ok(rows.iter().map(JobRow::view).collect())
    }

    pub(super) async fn acted(&self, message: &str, jobs: Vec<JobId>) -> Result<Acted, Refusal> {
        Ok(Acted { message: message.to_owned(), jobs: self.views(jobs).await? })
    }
}

pub(super) fn unknown(target: &str) -> Refusal {
    let error = Error::new(Kind::Manifest, format!("there is no job `{target}`"))
        .advice("name a job's number, `batch/vm`, a batch or a VM; `hyper2kvm list` shows them");
    Refusal { code: RefusalCode::NoSuchJob, error }
}

pub(super) fn ambiguous(target: &str, rows: &[JobRow]) -> Refusal {
    const SHOWN: usize = 10;
    let candidates = rows.iter().take(SHOWN).map(|row| format!("{}/{}", row.batch_id, row.vm_id));
    let error = Error::new(Kind::Manifest, format!("`{target}` is the name of {} jobs", rows.len()))
        .advice("name one of them by its number or as `batch/vm`")
        .allowed(candidates);
    Refusal { code: RefusalCode::Invalid, error }
}

pub(super) fn wrong_state(row: &JobRow, verb: &str, why: &str) -> Refusal {
    let cause = if row.state.is_final() || why == "has not failed" {
        format!("cannot {verb} job {} ({}/{}): it is {}", row.job_id, row.batch_id, row.vm_id, row.state)
    } else {
        format!("cannot {verb} job {} ({}/{}): it {why}", row.job_id, row.batch_id, row.vm_id)
    };
    let advice = if row.state.is_final() {
        "an ended job can only be retried, and only if it failed or was cancelled"
    } else {
        "`hyper2kvm show` tells what it is at"
    };
    Refusal { code: RefusalCode::WrongState, error: Error::new(Kind::Cancelled, cause).advice(advice) }
}

pub(super) fn all_ended(target: &str, rows: &[JobRow], verb: &str) -> Refusal {
    match rows {
        [row] => wrong_state(row, verb, "has ended"),
        _ => {
            let error = Error::new(Kind::Cancelled, format!("every job of `{target}` has ended"))
                .advice("`hyper2kvm list` shows their states");
            Refusal { code: RefusalCode::WrongState, error }
        }
    }
}
