//! How the database is opened: its settings, its version, and the way from older versions to this one.
//!
//! Migrations are SQL files that run one after the other, each in a transaction of its own that also
//! raises `user_version`; a cut one leaves the version before it. A database that is not ours, or
//! that a newer version has written, is refused and left as it is.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::failure::{self, Place};
use crate::model::error::{Error, Kind, Result};

/// `h2kv`: tells our databases from others (`file` shows it).
pub const APPLICATION_ID: i32 = 0x6832_6b76;

/// All migrations, oldest first; the version is how many have run.
const MIGRATIONS: [&str; 11] = [
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_cut_short.sql"),
    include_str!("migrations/0003_disks_as_drops.sql"),
    include_str!("migrations/0004_outbox.sql"),
    include_str!("migrations/0005_refused_vms.sql"),
    include_str!("migrations/0006_phases.sql"),
    include_str!("migrations/0007_windows.sql"),
    include_str!("migrations/0008_states_of_a_batch.sql"),
    include_str!("migrations/0009_remote_sources.sql"),
    include_str!("migrations/0010_acts.sql"),
    include_str!("migrations/0011_warm.sql"),
];

/// The version that this program reads and writes.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// How long another process (a backup, somebody's `sqlite3`) may hold the database at start.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this after a burst.
const WAL_LIMIT_BYTES: i64 = 64 << 20;

/// Opens the database at `path`, makes it if it is not there, and brings it to [`VERSION`].
pub(super) fn open(path: &Path) -> Result<Connection> {
    let place = Place::new(path);
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_EXRESCODE,
        )?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // Nobody else may hold it up while we run; this also keeps the log's index out of shared memory.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        Ok(connection)
    };
    let told = |error: &rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::new(Kind::Internal, format!("{} is in use by another process", path.display()))
                .advice("end the other daemon (or the `sqlite3` shell) that has it open")
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::new(
            Kind::Internal,
            format!("{} is damaged: {error}", path.display()),
        )
        .advice(
            "move it away and put a backup in its place; without one, drop the files of processing/ again",
        ),
        _ => failure::told("open the queue", &place, error),
    };
    make_private(path)?;
    let mut connection = open().map_err(|error| told(&error))?;
    check_owner(&connection, path).map_err(|error| error.either(&told))?;
    let settle = |connection: &Connection| -> rusqlite::Result<()> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(())
    };
    settle(&connection).map_err(|error| told(&error))?;
    migrate(&mut connection).map_err(|error| told(&error))?;
    Ok(connection)
}

/// The file is the service's alone; the log beside it takes over its mode.
fn make_private(path: &Path) -> Result<()> {
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(Kind::Output, "make the queue", path, &error)
                .advice("let the service's user write to the state directory"))
        }
        _ => Ok(()),
    }
}

/// Either SQLite's failure or our refusal.
enum Refused {
    Sqlite(rusqlite::Error),
    Ours(Error),
}

impl Refused {
    fn either(self, told: &dyn Fn(&rusqlite::Error) -> Error) -> Error {
        match self {
            Refused::Sqlite(error) => told(&error),
            Refused::Ours(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        Refused::Sqlite(error)
    }
}

/// Refuses what is not ours or newer than us, before anything is written.
fn check_owner(connection: &Connection, path: &Path) -> std::result::Result<(), Refused> {
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return Err(Refused::Ours(
            Error::new(Kind::Internal, format!("{} is not a queue of hyper2kvm", path.display()))
                .advice("name another state directory, or move that file away"),
        ));
    }
    if version > VERSION {
        return Err(Refused::Ours(
            Error::new(
                Kind::Unsupported,
                format!(
                    "{} was written by a newer version of hyper2kvm (its version is {version}, this program knows {VERSION})",
                    path.display()
                ),
            )
            .advice("install that newer version again; going back needs the copy of queue.db from before the upgrade"),
        ));
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (from, migration) in (0..).zip(MIGRATIONS).skip_while(|(from, _)| *from < version) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", from + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
