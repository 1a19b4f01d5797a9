//! One name after the other: looked at, taken, refused or left.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::file::Found;
use super::kind::DropKind;
use super::pending::Hint;
use super::siblings::{Claims, Siblings};
use super::take::{self, CHUNK_BYTES, CHUNK_DROPS, Candidate, Offered, Outcome, Read, Taken};
use super::{FILE_RETRY, Worker, names};
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::service::queue::{DroppedFile, FileIdentity};

impl Worker {
    /// Takes every file that is complete, in chunks.
    pub(super) fn take_due(&mut self, now: Instant) -> Result<()> {
        let settings = Arc::clone(&self.parts.settings.borrow());
        let mut chunk: Vec<Candidate> = Vec::new();
        let mut bytes = 0;
        let due = self.pending.due(now);
        let claims = self.claims(&due, &settings, now);
        for name in due {
            if self.stopping.load(Ordering::Relaxed) {
                break;
            }
            match self.look_at(&name, &claims, &settings) {
                Ok(looked) => {
                    self.failing.remove(&name);
                    let Some(candidate) = looked else { continue };
                    bytes += candidate.bytes();
                    chunk.push(*candidate);
                }
                Err(error) => self.put_off(name, &error),
            }
            if chunk.len() >= CHUNK_DROPS || bytes >= CHUNK_BYTES {
                bytes = 0;
                self.accept(std::mem::take(&mut chunk), &settings)?;
            }
        }
        self.accept(chunk, &settings)
    }

    /// A file that fails by itself is put off; the others go on.
    fn put_off(&mut self, name: OsString, error: &Error) {
        tracing::error!(%error, "put off for {} s", FILE_RETRY.as_secs());
        self.pending.postpone(&name, Instant::now() + FILE_RETRY);
        self.failing.insert(name, error.to_string());
    }

    fn look_at(
        &mut self,
        name: &OsString,
        claims: &Claims,
        settings: &Settings,
    ) -> Result<Option<Box<Candidate>>> {
        let now = Instant::now();
        let settle = Duration::try_from_secs_f64(settings.intake.settle_manifest_s).unwrap_or_default();
        let found = self.places.look(name).map_err(|error| {
            Error::io(Kind::Manifest, "look at", &self.places.incoming.join(name), &error)
        })?;
        let identity = match found {
            Found::Nothing => {
                self.pending.forget(name);
                return Ok(None);
            }
            Found::Directory(identity) => {
                self.report(name, identity, Kind::Unsupported, "directories are not taken; drop files");
                return Ok(None);
            }
            Found::Strange(what, identity) => {
                let error = take::not_a_drop(&format!("it is {what}")).advice("drop a plain file");
                self.refuse(name, identity, &[], &error)?;
                return Ok(None);
            }
            Found::Plain(identity) => identity,
        };
        match DropKind::of(name) {
            DropKind::Manifest => {}
            kind if kind.brings_files() && settings.intake.accept_disks => {
                return self.look_at_disk(name, kind, identity, settings);
            }
            DropKind::Disk(_) | DropKind::Appliance(_) => {
                self.report(
                    name,
                    identity,
                    Kind::Unsupported,
                    "bare disks and appliances are not taken; drop a manifest that names it",
                );
                return Ok(None);
            }
        }
        if let Some(batch) = name.to_str().and_then(|name| claims.get(name)) {
            self.park_with_batch(name, batch, now);
            return Ok(None);
        }
        let Some(certainty) = self.pending.may_read(name, identity, settle, now) else { return Ok(None) };
        let (taken, files) = match take::read(&self.places, name, certainty)? {
            Read::Decided(taken) => (taken, Vec::new()),
            Read::Whole(bytes, identity) => {
                let files = match self.siblings((name, identity), &bytes, settings, now)? {
                    Siblings::Awaited => return Ok(None),
                    Siblings::There(files) => files,
                };
                let read = (bytes, identity);
                (take::take(&self.places, name, read, files.clone(), certainty, settings), files)
            }
        };
        match taken {
            Taken::Candidate(candidate) => Ok(Some(candidate)),
            Taken::Refused(identity, error) => {
                self.refuse(name, identity, &files, &error)?;
                Ok(None)
            }
            Taken::Incomplete(identity) => {
                self.pending.settle(name, identity, settle, now);
                Ok(None)
            }
        }
    }

    /// Says once that something is left where it is.
    pub(super) fn report(&mut self, name: &OsStr, identity: FileIdentity, kind: Kind, why: &str) {
        self.pending.forget(name);
        let file = (identity.dev, identity.inode);
        if self.reported.insert(name.to_owned(), file) != Some(file) {
            tracing::warn!(name = %names::printable(name), %kind, "left in the drop directory: {why}");
        }
    }

    /// `files`: of a disk.
    pub(super) fn refuse(
        &mut self,
        name: &OsStr,
        identity: FileIdentity,
        files: &[DroppedFile],
        error: &Error,
    ) -> Result<()> {
        // Before the move, so that a crash between the two loses nothing: the file is refused again, and told of as the same.
        // Once, however often it has to be tried to move it.
        if !self.told.contains(&identity) {
            let (shown, why) = (names::printable(name), error.clone());
            self.parts.queue.with_blocking(move |db| db.tell_refusal(&shown, identity, &why))?;
            self.told.insert(identity);
        }
        let refused = match files.is_empty() {
            true => self.places.refuse(name, identity, error)?,
            false => self.places.refuse_disk(files, error)?,
        };
        self.forget_disk(files);
        self.told.remove(&identity);
        match refused {
            Some(moved) => {
                self.pending.forget(name);
                tracing::warn!(
                    name = %names::printable(name), kind = %error.kind(), file = %moved.display(), "refused: {error}"
                );
            }
            // Another file has come under its name; it is looked at for itself.
            None => {
                self.pending.forget(name);
                self.pending.note(name, Hint::Listed, Instant::now());
            }
        }
        Ok(())
    }

    /// Rows, then moves. A queue that fails leaves every file of the chunk where it is, to be taken later.
    fn accept(&mut self, chunk: Vec<Candidate>, settings: &Arc<Settings>) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let outcomes = take::offer(&self.parts.queue, &self.places, &self.parts.results, chunk, settings)?;
        if outcomes.iter().any(|offered| matches!(offered.outcome, Outcome::Accepted(..))) {
            self.parts.accepted.notify_one();
        }
        let mut moved = Vec::with_capacity(outcomes.len());
        let mut carried = false;
        for Offered { name, identity, files, outcome } in outcomes {
            let (row, bytes) = match outcome {
                Outcome::Accepted(row, bytes) => (row, Some(bytes)),
                Outcome::Known(row) => (row, None),
                Outcome::Refused(error) => {
                    if let Err(error) = self.refuse(&name, identity, &files, &error) {
                        self.put_off(name, &error);
                    }
                    continue;
                }
                Outcome::PutOff(error) => {
                    self.put_off(name, &error);
                    continue;
                }
            };
            self.pending.forget(&name);
            self.forget_disk(&files);
            match self.acknowledge(&row, bytes) {
                Ok(drop) => {
                    carried |= !row.files.is_empty();
                    moved.push(drop);
                }
                Err(error) => self.move_failed(name, &error, Instant::now()),
            }
        }
        // Should this fail, the rows are found again as not moved.
        self.mark_moved(moved).inspect_err(|_| self.move_again = Some(Instant::now()))?;
        if carried {
            // A disk is worked on only after its move.
            self.parts.accepted.notify_one();
        }
        Ok(())
    }
}
