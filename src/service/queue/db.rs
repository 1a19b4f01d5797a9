//! The database as the owning thread sees it: a connection, and what "all or nothing" means on it.
//!
//! The methods that read and write live beside this file, by what they are about (`jobs`, `rivals`,
//! `batches`, `drops`, `accept`, `history`, `outbox`, `deliveries`). Each is a transaction of its own; called inside
//! [`Db::atomically`] it becomes part of that one.

use std::path::Path;

use rusqlite::{Connection, Params, Row};

use super::failure::{self, Place};
use super::outbox::Telling;
use super::schema;
use crate::model::error::{Error, Result};
use crate::sys::failpoint;

/// Every commit is on the disk before it counts; how the database is opened (see [`schema`]), and how it
/// is again after [`Db::lightly`].
const DURABLE: &str = "PRAGMA synchronous = FULL";

/// The queue's database. Only the owning thread has one; see [`super::QueueHandle`].
#[derive(Debug)]
pub struct Db {
    connection: Connection,
    place: Place,
    depth: u32,
    /// Who is told of changes; nobody before that is said.
    pub(super) telling: Option<Telling>,
}

impl Db {
    /// Opens (or makes) the database and brings it to the current version.
    pub fn open(path: &Path) -> Result<Db> {
        Ok(Db { connection: schema::open(path)?, place: Place::new(path), depth: 0, telling: None })
    }

    /// Runs `work` as one transaction: all of it is durable when this returns `Ok`, none of it otherwise.
    ///
    /// Inside another one it is a part that can fail on its own.
    pub fn atomically<T>(&mut self, work: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        let depth = self.depth;
        let begin = if depth == 0 { "BEGIN IMMEDIATE".to_owned() } else { format!("SAVEPOINT s{depth}") };
        self.run(&begin)?;
        self.depth += 1;
        let outcome = work(self);
        self.depth = depth;
        let end = if depth == 0 { "COMMIT".to_owned() } else { format!("RELEASE s{depth}") };
        let outcome = outcome.and_then(|value| {
            self.run_end(&end, depth)?;
            Ok(value)
        });
        if outcome.is_err() {
            self.undo(depth);
        }
        outcome
    }

    /// The same for what may be lost in a power cut, but not when the process is killed: it waits for no
    /// disk. Whatever is made durable after it makes it durable too.
    pub fn lightly<T>(&mut self, work: impl FnOnce(&mut Db) -> Result<T>) -> Result<T> {
        self.run("PRAGMA synchronous = NORMAL")?;
        let outcome = self.atomically(work);
        self.run(DURABLE)?;
        outcome
    }

    fn run_end(&self, end: &str, depth: u32) -> Result<()> {
        if depth > 0 {
            return self.run(end);
        }
        failpoint::hit("queue.before-commit");
        self.run(end)?;
        failpoint::hit("queue.after-commit");
        Ok(())
    }

    /// Undoes whatever a closure that did not come back left open.
    pub(super) fn reset(&mut self) {
        self.depth = 0;
        self.undo(0);
        if let Err(error) = self.run(DURABLE) {
            tracing::error!(%error, "the queue is not durable");
        }
    }

    /// Takes back to `depth`. SQLite may have rolled back by itself (full disk), so failing here is no news.
    fn undo(&mut self, depth: u32) {
        if self.connection.is_autocommit() {
            return;
        }
        let undo = if depth == 0 {
            "ROLLBACK".to_owned()
        } else {
            format!("ROLLBACK TO s{depth}; RELEASE s{depth}")
        };
        if let Err(error) = self.connection.execute_batch(&undo) {
            tracing::debug!(%error, "the queue had nothing to undo");
        }
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|error| self.told("write the queue", &error))
    }

    pub(super) fn told(&self, what: &str, error: &rusqlite::Error) -> Error {
        failure::told(what, &self.place, error)
    }

    /// Runs a statement; answers how many rows it changed.
    pub(super) fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize> {
        let run = || self.connection.prepare_cached(sql)?.execute(parameters);
        run().map_err(|error| self.told("write the queue", &error))
    }

    /// Adds a row; answers its number.
    pub(super) fn insert(&self, sql: &str, parameters: impl Params) -> Result<i64> {
        let run = || self.connection.prepare_cached(sql)?.insert(parameters);
        run().map_err(|error| self.told("write the queue", &error))
    }

    /// All rows of a query.
    pub(super) fn rows<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let run = || -> rusqlite::Result<Vec<T>> {
            self.connection.prepare_cached(sql)?.query_map(parameters, read)?.collect()
        };
        run().map_err(|error| self.told("read the queue", &error))
    }

    /// The first row of a query, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let run = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(parameters)?;
            rows.next()?.map(&mut read).transpose()
        };
        run().map_err(|error| self.told("read the queue", &error))
    }
}
