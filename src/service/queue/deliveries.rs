//! Messages to receivers: made of notices, sent by others, ended here.
//!
//! ```text
//!  notice ──pack──▶ delivery ──(sent)──▶ delivered: both are deleted
//!                      ▲  │
//!                      └──┴ failed: due again later ──too long──▶ given up: the notices are deleted, the delivery tells of it
//! ```
//!
//! A receiver has one open delivery at a time, and what it says never changes: it may have arrived although nobody heard of it, and then
//! the receiver has to recognise the next one as the same. Each step is a transaction; between two of them nothing is lost by a crash,
//! and the worst is that a message is sent once more under its id.

use std::collections::BTreeMap;

use rusqlite::params;
use sha2::{Digest, Sha256};

use super::db::Db;
use super::outbox::Receiver;
use super::rows::json;
use crate::model::error::{Error, Result};
use crate::model::notice::{Notice, SUMMARY_LINES};
use crate::model::progress::OutboxStatus;

/// A message to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// Its number.
    pub delivery_key: i64,
    /// What the receiver knows it by: the same for the same event, on however many tries.
    pub delivery_id: String,
    /// What it says.
    pub notice: Notice,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was tried first.
    pub first_tried_at: Option<f64>,
    /// When it is to be sent.
    pub due_at: f64,
}

impl Db {
    /// When the message that is under way to a receiver is to be sent; cheap, however much it says.
    pub fn delivery_due(&self, receiver: Receiver) -> Result<Option<f64>> {
        self.first(
            "SELECT due_at FROM delivery WHERE receiver = ?1 AND given_up_at IS NULL",
            [receiver.name()],
            |row| row.get(0),
        )
    }

    /// The message that is under way to a receiver.
    pub fn open_delivery(&self, receiver: Receiver) -> Result<Option<Parcel>> {
        let found = self.first(
            "SELECT delivery_key, delivery_id, attempts, first_tried_at, due_at FROM delivery
             WHERE receiver = ?1 AND given_up_at IS NULL",
            [receiver.name()],
            |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            },
        )?;
        let Some((delivery_key, delivery_id, attempts, first_tried_at, due_at)) = found else {
            return Ok(None);
        };
        let notice = self.content(delivery_key)?;
        Ok(Some(Parcel { delivery_key, delivery_id, notice, attempts, first_tried_at, due_at }))
    }

    fn content(&self, delivery_key: i64) -> Result<Notice> {
        let mut first: Vec<Notice> = self.rows(
            "SELECT facts FROM notice WHERE delivery_key = ?1 ORDER BY notice_key LIMIT ?2",
            params![delivery_key, SUMMARY_LINES as i64],
            |row| json(row, "facts"),
        )?;
        let counts: BTreeMap<String, u64> = self
            .rows(
                "SELECT event, count(*) FROM notice WHERE delivery_key = ?1 GROUP BY event",
                [delivery_key],
                |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)),
            )?
            .into_iter()
            .collect();
        if first.len() > 1 {
            let newest: Option<Notice> = self.first(
                "SELECT facts FROM notice WHERE delivery_key = ?1 ORDER BY notice_key DESC LIMIT 1",
                [delivery_key],
                |row| json(row, "facts"),
            )?;
            let timestamp = newest.map(|notice| notice.timestamp().to_owned()).unwrap_or_default();
            return Ok(Notice::summary(counts, &first, timestamp));
        }
        first.pop().ok_or_else(|| Error::internal("a delivery without a notice is in the queue"))
    }

    /// How many notices wait for a message to a receiver.
    pub fn notices_to_pack(&self, receiver: Receiver) -> Result<u64> {
        let waiting = self.first(
            "SELECT count(*) FROM notice WHERE receiver = ?1 AND delivery_key IS NULL",
            [receiver.name()],
            |row| row.get::<_, i64>(0),
        )?;
        Ok(waiting.unwrap_or_default() as u64)
    }

    /// Makes a message of the oldest notice, or of all that wait.
    pub fn pack(&mut self, receiver: Receiver, all: bool, at: f64) -> Result<()> {
        self.atomically(|db| {
            let most = if all { -1 } else { 1 };
            let packed: Vec<(i64, String)> = db.rows(
                "SELECT notice_key, event_key FROM notice WHERE receiver = ?1 AND delivery_key IS NULL
                 ORDER BY notice_key LIMIT ?2",
                params![receiver.name(), most],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let outbox = db.flag("outbox")?.unwrap_or_default();
            let mut id = Sha256::new();
            for part in [outbox.as_str(), receiver.name()]
                .into_iter()
                .chain(packed.iter().map(|(_, event_key)| event_key.as_str()))
            {
                id.update(part);
                id.update([0]);
            }
            let id: String = id.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            let delivery_key = db.insert(
                "INSERT INTO delivery (delivery_id, receiver, due_at) VALUES (?1, ?2, ?3)",
                params![id, receiver.name(), at],
            )?;
            for (notice_key, _) in packed {
                db.execute(
                    "UPDATE notice SET delivery_key = ?2 WHERE notice_key = ?1",
                    [notice_key, delivery_key],
                )?;
            }
            Ok(())
        })
    }

    /// The receiver has it.
    pub fn delivered(&mut self, delivery_key: i64) -> Result<()> {
        self.execute("DELETE FROM delivery WHERE delivery_key = ?1", [delivery_key])?;
        Ok(())
    }

    /// The receiver did not take it at this time; it is sent again then.
    pub fn delivery_failed(
        &mut self,
        delivery_key: i64,
        tried_at: f64,
        due_at: f64,
        error: &str,
    ) -> Result<()> {
        self.execute(
            "UPDATE delivery SET attempts = attempts + 1, first_tried_at = coalesce(first_tried_at, ?2),
                 due_at = ?3, last_error = ?4 WHERE delivery_key = ?1",
            params![delivery_key, tried_at, due_at, error],
        )?;
        Ok(())
    }

    /// It is not tried any more.
    pub fn delivery_given_up(&mut self, delivery_key: i64, at: f64, error: &str) -> Result<()> {
        self.atomically(|db| {
            db.execute("DELETE FROM notice WHERE delivery_key = ?1", [delivery_key])?;
            db.execute(
                "UPDATE delivery SET attempts = attempts + 1, given_up_at = ?2, last_error = ?3
                 WHERE delivery_key = ?1",
                params![delivery_key, at, error],
            )?;
            Ok(())
        })
    }

    /// How notifications stand; none while nobody is told anything.
    pub fn outbox(&self) -> Result<Option<OutboxStatus>> {
        if self.telling.as_ref().is_none_or(|telling| telling.is_silent()) {
            return Ok(None);
        }
        let count = |sql: &str| -> Result<u64> {
            Ok(self.first(sql, [], |row| row.get::<_, i64>(0))?.unwrap_or_default() as u64)
        };
        Ok(Some(OutboxStatus {
            pending: count("SELECT count(*) FROM notice")?,
            given_up: count("SELECT count(*) FROM delivery WHERE given_up_at IS NOT NULL")?,
            last_error: self.first(
                "SELECT receiver || ': ' || last_error FROM delivery WHERE last_error IS NOT NULL
                 ORDER BY delivery_key DESC LIMIT 1",
                [],
                |row| row.get(0),
            )?,
        }))
    }

    /// Forgets messages that were given up before then (epoch seconds).
    pub(super) fn forget_given_up(&mut self, before: f64) -> Result<()> {
        self.execute("DELETE FROM delivery WHERE given_up_at < ?1", [before])?;
        Ok(())
    }
}
