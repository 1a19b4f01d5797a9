//! What is to be told outside, written with the change that it tells of.
//!
//! A notice is a row in the transaction that makes it true, so a crash loses none and invents none. Which events are told, and to whom,
//! is part of the settings ([`Telling`]); before anybody said so nothing is written. How notices become messages is in `deliveries`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rusqlite::params;
use tokio::sync::watch;

use super::db::Db;
use super::jobs::{encode, select};
use super::now;
use super::rows::{FileIdentity, JobRow};
use crate::model::config::{Layout, Settings};
use crate::model::error::{Error, Result};
use crate::model::job::{JobState, WaitReason};
use crate::model::notice::{Event, Notice, clean};
use crate::sys::time::rfc3339_utc;

/// The daemon that runs: who, and since when. Still there at the next start if it was not stopped in order.
const RUNNING_FLAG: &str = "running";

/// So many long waits are told of in one transaction.
const WAITS_AT_ONCE: u32 = 500;

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receiver {
    /// The webhook.
    Webhook,
    /// Mail.
    Email,
}

impl Receiver {
    /// The name in the queue and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Receiver::Webhook => "webhook",
            Receiver::Email => "email",
        }
    }
}

/// What is told to whom, by the settings in force.
#[derive(Debug, Clone)]
pub struct Telling {
    receivers: BTreeSet<Receiver>,
    events: BTreeSet<Event>,
    layout: Layout,
    output_dir: PathBuf,
    news: watch::Sender<()>,
}

impl Telling {
    /// By these settings. `news` is told whenever there is something to do for those who deliver.
    #[must_use]
    pub fn by(settings: &Settings, news: watch::Sender<()>) -> Telling {
        let said = &settings.notifications;
        let all = [(Receiver::Webhook, said.webhook.is_some()), (Receiver::Email, said.email.is_some())];
        Telling {
            receivers: all
                .into_iter()
                .filter(|(_, is_there)| *is_there && said.enabled)
                .map(|(receiver, _)| receiver)
                .collect(),
            events: said.events(),
            layout: settings.layout(),
            output_dir: settings.output_dir.clone(),
            news,
        }
    }

    /// Whether nobody is told anything.
    pub(super) fn is_silent(&self) -> bool {
        self.receivers.is_empty()
    }

    fn wants(&self, event: Event) -> bool {
        !self.receivers.is_empty() && self.events.contains(&event)
    }
}

impl Db {
    /// What is told to whom from now on. What still waits for a receiver that is no longer there is thrown away; answers how much.
    pub fn set_telling(&mut self, telling: Telling) -> Result<usize> {
        let receivers = telling.receivers.clone();
        self.telling = Some(telling);
        let gone = self.atomically(|db| {
            let mut gone = 0;
            for receiver in [Receiver::Webhook, Receiver::Email] {
                if !receivers.contains(&receiver) {
                    gone += db.execute("DELETE FROM notice WHERE receiver = ?1", [receiver.name()])?;
                    db.execute(
                        "DELETE FROM delivery WHERE receiver = ?1 AND given_up_at IS NULL",
                        [receiver.name()],
                    )?;
                }
            }
            Ok(gone)
        })?;
        self.news();
        Ok(gone)
    }

    /// Whether this event is told to anybody.
    #[must_use]
    pub fn tells(&self, event: Event) -> bool {
        self.telling.as_ref().is_some_and(|telling| telling.wants(event))
    }

    /// Tells of an event, once under this key, to all who want to know.
    pub fn tell(&mut self, event_key: &str, notice: &Notice) -> Result<()> {
        let Some(telling) = &self.telling else { return Ok(()) };
        if !notice.event().is_some_and(|event| telling.wants(event)) {
            return Ok(());
        }
        let (receivers, facts) = (telling.receivers.clone(), encode(notice)?);
        self.atomically(|db| {
            for receiver in receivers {
                db.execute(
                    "INSERT INTO notice (receiver, event_key, event, facts) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (receiver, event_key) DO NOTHING",
                    params![receiver.name(), event_key, notice.name(), facts],
                )?;
            }
            Ok(())
        })?;
        self.news();
        Ok(())
    }

    /// A drop is refused. Told before the file is moved away, under a key that is the file's own.
    pub fn tell_refusal(&mut self, filename: &str, identity: FileIdentity, error: &Error) -> Result<()> {
        let FileIdentity { dev, inode, size, mtime_ns } = identity;
        let notice = Notice::failure(filename, error, rfc3339_utc(now()));
        self.tell(&format!("refused/{dev}/{inode}/{size}/{mtime_ns}"), &notice)
    }

    /// A job has come to an end, or begins to wait.
    pub(super) fn tell_job(&mut self, row: &JobRow) -> Result<()> {
        match row.state {
            JobState::Succeeded if self.tells(Event::Success) => {}
            JobState::Failed if self.tells(Event::Failure) => {}
            JobState::Waiting if self.tells(Event::Waiting) => {
                self.news();
                return Ok(());
            }
            _ => return Ok(()),
        }
        let ended_at = row.completed_at.unwrap_or_default();
        let timestamp = rfc3339_utc(ended_at);
        let filename: String = self
            .first(
                "SELECT name FROM dropped JOIN batch USING (drop_id) WHERE batch_key = ?1",
                [row.batch_key],
                |row| row.get(0),
            )?
            .unwrap_or_default();
        let notice = match &row.error {
            Some(failure) if row.state == JobState::Failed => {
                let mut notice = Notice::failure(&filename, failure, timestamp);
                if let Notice::ConversionFailure { retry_count, batch_id, vm_id, job_id, log_path, .. } =
                    &mut notice
                {
                    *retry_count = row.attempt.saturating_sub(1);
                    *batch_id = Some(row.batch_id.clone());
                    *vm_id = Some(row.vm_id.clone());
                    *job_id = Some(row.job_id);
                    *log_path = self.log_of(row);
                }
                notice
            }
            _ => Notice::ConversionSuccess {
                filename,
                duration_seconds: row.started_at.map(|started| (ended_at - started).max(0.0)),
                output_path: row.output_directory.to_string_lossy().into_owned(),
                timestamp,
                batch_id: row.batch_id.clone(),
                vm_id: row.vm_id.clone(),
                job_id: row.job_id,
                report_path: row.report.as_ref().map(|path| path.to_string_lossy().into_owned()),
            },
        };
        self.tell(&format!("job/{}/{ended_at}", row.job_id), &notice)
    }

    fn log_of(&self, row: &JobRow) -> Option<String> {
        let layout = &self.telling.as_ref().filter(|_| row.attempt > 0)?.layout;
        Some(layout.job_log(&row.batch_id, &row.vm_id, row.attempt).to_string_lossy().into_owned())
    }

    /// A batch has come to its end, if it has.
    pub(super) fn tell_batch_end(&mut self, batch_key: i64) -> Result<()> {
        let Some(telling) = self.telling.as_ref().filter(|telling| telling.wants(Event::BatchEnd)) else {
            return Ok(());
        };
        let output_dir = telling.output_dir.clone();
        let Some(batch) = self.batch_run(batch_key)? else { return Ok(()) };
        let (Some(ended_at), Some(outcome)) = (batch.ended_at, batch.outcome) else { return Ok(()) };
        let counts: BTreeMap<String, u64> = self
            .rows(
                "SELECT state, count(*) FROM job WHERE batch_key = ?1 GROUP BY state",
                [batch_key],
                |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)),
            )?
            .into_iter()
            .collect();
        let directory = batch.output_directory.unwrap_or_else(|| output_dir.join(&batch.batch_id));
        let notice = Notice::BatchEnded {
            batch_id: batch.batch_id,
            outcome,
            counts,
            duration_seconds: (ended_at - batch.accepted_at).max(0.0),
            report_path: directory.join("batch_report.json").to_string_lossy().into_owned(),
            timestamp: rfc3339_utc(ended_at),
        };
        self.tell(&format!("batch/{batch_key}/{ended_at}"), &notice)
    }

    /// Tells of every job that has waited for somebody for so long, each wait once; answers when the next will have.
    pub fn tell_long_waits(&mut self, after_s: f64, at: f64) -> Result<Option<f64>> {
        if !self.tells(Event::Waiting) {
            return Ok(None);
        }
        let reasons = WaitReason::ALL.into_iter().filter(|reason| reason.asks_for_somebody());
        let reasons: Vec<String> = reasons.map(|reason| format!("'{}'", reason.name())).collect();
        let untold = self.rows(
            &format!(
                "{} WHERE job.state = 'waiting' AND job.waiting_reason IN ({}) AND job.wait_told IS NOT job.waiting_since
                 ORDER BY job.waiting_since LIMIT {WAITS_AT_ONCE}",
                select(),
                reasons.join(", ")
            ),
            [],
            JobRow::read,
        )?;
        self.atomically(|db| {
            for row in &untold {
                let Some(waiting) = &row.waiting else { continue };
                if waiting.since + after_s > at {
                    return Ok(Some(waiting.since + after_s));
                }
                let notice = Notice::JobWaiting {
                    reason: waiting.reason,
                    detail: clean(&waiting.detail),
                    waiting_seconds: at - waiting.since,
                    waiting_since: waiting.since,
                    timestamp: rfc3339_utc(at),
                    batch_id: row.batch_id.clone(),
                    vm_id: row.vm_id.clone(),
                    job_id: row.job_id,
                };
                db.tell(&format!("wait/{}/{}", row.job_id, waiting.since), &notice)?;
                db.execute("UPDATE job SET wait_told = waiting_since WHERE job_id = ?1", [row.job_id])?;
            }
            Ok((untold.len() == WAITS_AT_ONCE as usize).then_some(at))
        })
    }

    /// A daemon begins its work; tells of the one before if that was not stopped in order.
    pub fn begin_service(&mut self, owner: &str) -> Result<()> {
        let at = now();
        self.atomically(|db| {
            let before = db.flag(RUNNING_FLAG)?;
            let before = before.as_deref().and_then(|text| {
                let (since, owner) = text.split_once(' ')?;
                Some((since.parse::<f64>().ok()?, owner.to_owned()))
            });
            if let Some((previous_started_at, previous)) = before {
                let interrupted =
                    db.first("SELECT jobs FROM job_count WHERE state = 'running'", [], |row| {
                        row.get::<_, i64>(0)
                    })?;
                let notice = Notice::DaemonRestarted {
                    previous,
                    previous_started_at,
                    interrupted_jobs: interrupted.unwrap_or_default() as u64,
                    timestamp: rfc3339_utc(at),
                };
                db.tell(&format!("restart/{previous_started_at}"), &notice)?;
            }
            db.set_flag(RUNNING_FLAG, Some(&format!("{at} {owner}")))
        })
    }

    /// It ends in order.
    pub fn end_service(&mut self) -> Result<()> {
        self.set_flag(RUNNING_FLAG, None)
    }

    fn news(&self) {
        if let Some(telling) = &self.telling {
            telling.news.send_replace(());
        }
    }
}
