//! Files of a datastore, saved as files here: resumable, and whole or not there.
//!
//! ```text
//!   NAME.partial        the bytes, several pieces on the way at a time
//!   NAME.partial.json   of which file they are, and up to where they are durable: a later run goes on there
//!   NAME                the whole file; never one that is there already
//! ```
//!
//! What is not here: which files.

use std::fs::File as LocalFile;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fetch::{File, Files};
use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};
use crate::sys::dir::Dir;
use crate::vsphere::failure::not_kept;

const PIECE: u64 = 4 << 20;
/// So much is fetched again at most after a cut.
const DURABLE_EVERY: u64 = 64 << 20;
const NOTE_BYTES: u64 = 16 << 10;
/// As many as there are connections.
const THREADS: usize = 4;
const MODE: u32 = 0o600;

/// A file that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// How many bytes it has.
    pub bytes: u64,
    /// How many of them an earlier run had fetched.
    pub resumed_bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

/// What a partial file is of, and how much of it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    of: String,
    size: u64,
    stamp: Option<String>,
    durable: u64,
}

/// Saves a file in a directory under this name. `told` hears how many bytes are there.
pub(crate) fn save(
    files: &Files,
    file: &File,
    (dir, name): (&Dir, &str),
    control: &Control,
    told: &(dyn Fn(u64) + Sync),
) -> Result<Saved> {
    let (partial, note_name) = (format!("{name}.partial"), format!("{name}.partial.json"));
    let failed = |what: &str, error: &io::Error| not_kept(what, &dir.path().join(name), error);
    if dir.entry(name).map_err(|error| failed("look at", &error))?.is_some() {
        return Err(Error::new(
            Kind::Exists,
            format!("{} is there already", dir.path().join(name).display()),
        )
        .output(dir.path().join(name))
        .advice("remove it, or choose another directory"));
    }
    let mut note =
        Note { of: files.address(&file.place), size: file.size, stamp: file.stamp.clone(), durable: 0 };
    let (local, durable) =
        begin(dir, &partial, &note_name, &note).map_err(|error| failed("write", &error))?;
    note.durable = durable;
    told(durable);
    let writing = Writing { files, file, local: &local, control, told };
    while note.durable < file.size {
        let until = (note.durable + DURABLE_EVERY).min(file.size);
        writing
            .fetch(note.durable, until)
            .map_err(|trouble| trouble.told(|error| failed("write", &error)))?;
        local.sync_data().map_err(|error| failed("write", &error))?;
        note.durable = until;
        let text = serde_json::to_vec(&note).map_err(|error| Error::internal(error.to_string()))?;
        dir.write_fresh(&note_name, &text, MODE).map_err(|error| failed("write", &error))?;
    }
    let sha256 =
        digest(&local, file.size, control).map_err(|trouble| trouble.told(|error| failed("read", &error)))?;
    local.sync_all().map_err(|error| failed("write", &error))?;
    dir.rename_noreplace(&partial, name).map_err(|error| failed("name", &error))?;
    dir.remove(&note_name).and_then(|_| dir.sync()).map_err(|error| failed("write", &error))?;
    Ok(Saved { bytes: file.size, resumed_bytes: durable, sha256 })
}

/// What went wrong on either side.
enum Trouble {
    Here(io::Error),
    Told(Error),
}

impl Trouble {
    fn told(self, failed: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Trouble::Here(error) => failed(error),
            Trouble::Told(error) => error,
        }
    }
}

/// Opens what an earlier run has left, if it is of the same file, or begins anew; and says how much of it counts.
fn begin(dir: &Dir, partial: &str, note_name: &str, wanted: &Note) -> io::Result<(LocalFile, u64)> {
    let left = dir.read(note_name, NOTE_BYTES)?.and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    let there = dir.entry(partial)?.map_or(0, |entry| entry.size);
    let durable = left
        .filter(|left| Note { durable: 0, ..left.clone() } == *wanted)
        .map_or(0, |left| left.durable)
        .min(wanted.size);
    let durable = if there == wanted.size { durable } else { 0 };
    if durable == 0 && dir.entry(partial)?.is_none() {
        dir.write_fresh(partial, b"", MODE)?;
    }
    let local = dir.open_to_change(partial)?;
    if local.try_lock().is_err() {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another download writes it"));
    }
    if durable == 0 {
        // Nothing of what was there shows through.
        local.set_len(0)?;
        local.set_len(wanted.size)?;
        dir.remove(note_name)?;
    }
    Ok((local, durable))
}

/// One file on its way.
struct Writing<'a> {
    files: &'a Files,
    file: &'a File,
    local: &'a LocalFile,
    control: &'a Control,
    told: &'a (dyn Fn(u64) + Sync),
}

impl Writing<'_> {
    /// Fetches a part of it, several pieces at a time; which of them come first does not matter.
    fn fetch(&self, from: u64, until: u64) -> Result<(), Trouble> {
        let (next, done) = (AtomicU64::new(from), AtomicU64::new(from));
        let trouble: Mutex<Option<Trouble>> = Mutex::default();
        let work = || {
            let mut buffer = vec![0; PIECE as usize];
            loop {
                let at = next.fetch_add(PIECE, Ordering::Relaxed);
                if at >= until {
                    return;
                }
                let buffer = &mut buffer[..(until - at).min(PIECE) as usize];
                if let Err(error) = self.piece(at, buffer) {
                    // The others end after their piece.
                    next.store(until, Ordering::Relaxed);
                    trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
                let length = buffer.len() as u64;
                (self.told)(done.fetch_add(length, Ordering::Relaxed) + length);
            }
        };
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(work);
            }
        });
        trouble.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn piece(&self, at: u64, buffer: &mut [u8]) -> Result<(), Trouble> {
        self.files.read(self.file, at, buffer, self.control).map_err(Trouble::Told)?;
        // Holes stay holes.
        if buffer.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.local.write_all_at(buffer, at).map_err(Trouble::Here)
    }
}

fn digest(local: &LocalFile, size: u64, control: &Control) -> Result<String, Trouble> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        control.checkpoint().map_err(Trouble::Told)?;
        let part = &mut buffer[..(size - at).min(PIECE) as usize];
        local.read_exact_at(part, at).map_err(Trouble::Here)?;
        hash.update(&*part);
        at += part.len() as u64;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
