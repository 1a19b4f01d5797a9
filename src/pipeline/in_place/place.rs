//! One disk of a repair in place, and what lies beside it: a lock, the overlay with the repairs, and the record.
//!
//! What is not here: in which order they are made and removed.

use std::path::{Path, PathBuf};

use super::record::Pending;
use crate::disk::stands_on;
use crate::model::error::{Error, Kind, Result};
use crate::pipeline::users::{User, user_of};
use crate::sys::dir::{Dir, LockFile};
use crate::sys::fs::parent_of;

/// More files than this beside a disk are not asked whether they stand on it.
const MOST_NEIGHBOURS: usize = 10_000;
/// A record names some disks.
const RECORD_LIMIT_BYTES: u64 = 1 << 20;
const RECORD_MODE: u32 = 0o600;
/// Ends of the names of the hidden files beside a disk.
const LOCK: &str = "lock";
const OVERLAY: &str = "qcow2";
const RECORD: &str = "json";

/// A disk, and the directory in which it lies.
pub(super) struct Place {
    dir: Dir,
    name: String,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Place> {
        let failed = |error: std::io::Error| {
            Error::io(Kind::Source, "find", path, &error).source(path.display().to_string())
        };
        // Where the file really is: links to it lead to the same overlay and the same lock.
        let real = path.canonicalize().map_err(failed)?;
        let name = real.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::Source, format!("{} has a name that is not UTF-8", path.display()))
                .advice("rename it")
        })?;
        Ok(Place { dir: Dir::open(parent_of(&real)).map_err(failed)?, name })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    fn beside(&self, suffix: &str) -> String {
        format!(".{}.in-place.{suffix}", self.name)
    }

    pub(super) fn overlay(&self) -> PathBuf {
        self.dir.path().join(self.beside(OVERLAY))
    }

    pub(super) fn lock(&self) -> Result<LockFile<'_>> {
        let name = self.beside(LOCK);
        let failed = |error: std::io::Error| Error::io(Kind::Output, "lock", &self.path(), &error);
        self.dir.try_lock(&name).map_err(failed)?.ok_or_else(|| {
            self.used("another repair of it is at work").advice("wait until that has ended").transient()
        })
    }

    fn used(&self, why: &str) -> Error {
        let path = self.path();
        Error::new(Kind::Source, format!("{} is in use: {why}", path.display()))
            .source(path.display().to_string())
    }

    /// Refuses a disk that others use or stand on; what could not be found out is told.
    pub(super) fn refuse_used(&self) -> Result<Option<String>> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io(Kind::Source, "look at", &path, &error);
        if self.dir.is_in_use(&self.name).map_err(failed)? {
            return Err(self
                .used("a program holds a lock on it, as QEMU does while a machine runs")
                .advice("stop the machine, or repair a copy: `--output DIR`"));
        }
        let neighbours = self.dir.names().map_err(failed)?;
        let ours = self.overlay();
        let others = neighbours.iter().take(MOST_NEIGHBOURS).map(|name| self.dir.path().join(name));
        for other in others.filter(|other| *other != path && *other != ours) {
            if stands_on(&other).is_some_and(|below| below == path) {
                return Err(self
                    .used(&format!("{} stands on it, and would be spoiled", other.display()))
                    .advice("repair a copy: `--output DIR`; or consolidate the snapshots first"));
            }
        }
        let used = |why: &str| {
            let advice =
                "repair a copy (`--output DIR`), or `virsh undefine` the machine while it is repaired";
            Err(self.used(why).advice(advice))
        };
        match user_of(&path) {
            User::Names(name) => used(&format!("the machine {name} is defined with it")),
            User::StandsOn { machine, disk } => {
                used(&format!("{}, a disk of the machine {machine}, stands on it", disk.display()))
            }
            User::Nobody => Ok(None),
            User::Unknown { why } => Ok(Some(format!(
                "whether a machine is defined with {} cannot be told: {why}",
                path.display()
            ))),
        }
    }

    /// Removes what a repair made beside the disk: the record last, because what lies there without one was never decided on.
    pub(super) fn clear(&self) -> Result<()> {
        for name in [self.beside(OVERLAY), self.beside(RECORD)] {
            let failed = |error: std::io::Error| {
                Error::io(Kind::Output, "remove", &self.dir.path().join(&name), &error)
            };
            if self.dir.remove(&name).map_err(failed)? {
                self.dir.sync().map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(super) fn sync_overlay(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::io(Kind::Output, "make durable", &self.overlay(), &error);
        self.dir.sync_file(&self.beside(OVERLAY)).map_err(failed)?;
        self.dir.sync().map_err(failed)
    }

    pub(super) fn record_path(&self) -> PathBuf {
        self.dir.path().join(self.beside(RECORD))
    }

    /// What an interrupted repair left.
    pub(super) fn record(&self) -> Result<Option<Pending>> {
        let path = self.record_path();
        let bytes = self
            .dir
            .read(&self.beside(RECORD), RECORD_LIMIT_BYTES)
            .map_err(|error| Error::io(Kind::Output, "read", &path, &error))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let pending: Pending = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Kind::Output, format!("{} is not what a repair leaves: {error}", path.display()))
                .output(&path)
                .advice("if no repair of this disk was interrupted, remove that file")
        })?;
        if !pending.machine.contains(&self.path()) {
            return Err(Error::new(
                Kind::Output,
                format!("{} is of a disk that lies elsewhere: {}", path.display(), pending.disk.path.display()),
            )
            .output(&path)
            .advice("put the disk back where it was, with the hidden files beside it; if it is a copy of that disk, remove those files"));
        }
        Ok(Some(pending))
    }

    /// Durable when this returns.
    pub(super) fn write(&self, pending: &Pending) -> Result<()> {
        let text = serde_json::to_vec_pretty(pending)
            .map_err(|error| Error::internal(format!("a record cannot be written down: {error}")))?;
        let failed = |error: std::io::Error| Error::io(Kind::Output, "write", &self.record_path(), &error);
        self.dir.replace(&self.beside(RECORD), &text, RECORD_MODE).map_err(failed)?;
        self.dir.sync().map_err(failed)
    }
}
