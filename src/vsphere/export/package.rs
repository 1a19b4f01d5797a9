//! The files of an export until they are published, and what is known of those that are whole.
//!
//! ```text
//!   DIR/.web.ova.partial/    state.json, web.ova        ──▶   DIR/web.ova
//!   DIR/.web.ovf.partial/    state.json, web-disk1.vmdk …  ──▶   DIR/web/web.ovf, web.mf, web-disk1.vmdk …
//! ```
//!
//! An archive is written in place: room for the envelope, which is known only at the end, then the disks, each with its header once its size is
//! known, then the checksums. A disk counts when it and the state that names it are durable; an export that was cut goes on behind the last one, if it is of
//! the same disks. What is not here: where bytes come from.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::tar::{self, BLOCK};
use super::{ExportedFile, Format, Wanted, hex};
use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::{atomic_write, rename_noreplace, sync_dir};
use crate::vsphere::failure::not_kept;

const STATE: &str = "state.json";
const VERSION: u32 = 1;
/// No state is larger.
const MOST_STATE_BYTES: u64 = 4 << 20;
/// So much longer than it first was an envelope may become.
const ENVELOPE_SLACK: u64 = 64 << 10;

/// A disk that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) name: String,
    /// How the server calls it.
    pub(super) device: String,
    /// Where it begins in its file.
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    version: u32,
    /// What the disks are, in order.
    identities: Vec<String>,
    /// In an archive: room for the envelope.
    reserved: u64,
    done: Vec<Done>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Package {
    wanted: Wanted,
    work: PathBuf,
    state: State,
    /// Whose it is as long as this lives.
    _lock: File,
}

/// What a disk's file is called.
pub(super) fn disk_name(name: &str, number: usize) -> String {
    format!("{name}-disk{}.vmdk", number + 1)
}

impl Package {
    /// Begins, or goes on with what an earlier run of the same disks has left.
    pub(super) fn open(wanted: &Wanted, identities: Vec<String>) -> Result<Package> {
        let result = result_of(wanted);
        if result.symlink_metadata().is_ok() {
            return Err(Error::new(Kind::Exists, format!("{} is there already", result.display()))
                .output(&result)
                .advice("remove it, or choose another directory or name"));
        }
        let work = wanted.directory.join(format!(".{}.{}.partial", wanted.name, wanted.format.name()));
        let failed = |what: &'static str| {
            let work = work.clone();
            move |error: io::Error| not_kept(what, &work, &error)
        };
        fs::create_dir_all(&wanted.directory).map_err(failed("make"))?;
        match fs::DirBuilder::new().mode(0o700).create(&work) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make")(error)),
            _ => {}
        }
        if !work.symlink_metadata().map_err(failed("look at"))?.is_dir() {
            return Err(failed("use")(io::ErrorKind::NotADirectory.into()));
        }
        let lock = File::open(&work).map_err(failed("open"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Kind::Exists,
                    format!("{} is being exported by somebody else", wanted.name),
                )
                .output(&work)
                .advice("wait for that, or choose another directory or name"));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        let mut package = Package { wanted: wanted.clone(), work, state: State::default(), _lock: lock };
        match package.left(&identities) {
            Some(state) => {
                tracing::info!(disks = state.done.len(), "an earlier export goes on");
                package.state = state;
            }
            None => {
                package.empty().map_err(|error| package.failed("empty", &error))?;
                package.state = State { version: VERSION, identities, ..State::default() };
                package.save()?;
            }
        }
        Ok(package)
    }

    /// What an earlier run has left, where that is of use.
    fn left(&self, identities: &[String]) -> Option<State> {
        let at = self.work.join(STATE);
        let is_small =
            at.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() <= MOST_STATE_BYTES);
        let bytes = is_small.then(|| fs::read(&at).ok()).flatten()?;
        let state: State = serde_json::from_slice(&bytes).ok()?;
        let is_there = |(number, done): (usize, &Done)| {
            let end = done.at.checked_add(done.bytes);
            let found = self.path_of(&done.name).symlink_metadata();
            done.name == disk_name(&self.wanted.name, number)
                && found.is_ok_and(|found| found.is_file() && end.is_some_and(|end| end <= found.len()))
        };
        let is_ours = state.version == VERSION
            && state.identities == identities
            && state.done.len() <= identities.len()
            && state.done.iter().enumerate().all(is_there);
        is_ours.then_some(state)
    }

    fn empty(&self) -> io::Result<()> {
        fs::read_dir(&self.work)?.try_for_each(|entry| {
            let path = entry?.path();
            if path.is_dir() { Err(io::ErrorKind::DirectoryNotEmpty.into()) } else { fs::remove_file(path) }
        })
    }

    pub(super) fn done(&self) -> &[Done] {
        &self.state.done
    }

    /// Leaves room for an envelope that may be somewhat longer than this.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<()> {
        self.state.reserved = (2 * bytes as u64 + ENVELOPE_SLACK).next_multiple_of(BLOCK);
        self.save()
    }

    /// What the next disk is called.
    pub(super) fn next_name(&self) -> String {
        disk_name(&self.wanted.name, self.state.done.len())
    }

    /// The file in which something of this name lies.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        match self.wanted.format {
            Format::Ovf => self.work.join(name),
            Format::Ova => self.work.join(format!("{}.ova", self.wanted.name)),
        }
    }

    /// Where the next disk is written to: the file, with nothing of it there, and from where on.
    pub(super) fn place(&self) -> Result<(File, u64)> {
        let path = self.path_of(&self.next_name());
        let at = match self.wanted.format {
            Format::Ovf => 0,
            Format::Ova => self.end() + BLOCK,
        };
        let opened = open(&path).and_then(|file| file.set_len(at).map(|()| file));
        opened.map(|file| (file, at)).map_err(|error| self.failed("make", &error))
    }

    /// What there is of the next disk is of no use to anybody: it takes no more room.
    pub(super) fn let_go(&self) {
        if let Err(error) = self.place() {
            tracing::debug!(%error, "what there is of a disk stays until it is begun anew");
        }
    }

    /// Where in an archive the next file's header is.
    fn end(&self) -> u64 {
        let last = self.state.done.last();
        last.map_or(BLOCK + self.state.reserved, |done| (done.at + done.bytes).next_multiple_of(BLOCK))
    }

    /// A disk is whole, and durable where it was written.
    pub(super) fn keep(&mut self, done: Done) -> Result<()> {
        let path = self.path_of(&done.name);
        if self.wanted.format == Format::Ova {
            let kept = open(&path).and_then(|file| {
                file.write_all_at(&tar::header(&done.name, done.bytes), done.at - BLOCK)?;
                file.set_len((done.at + done.bytes).next_multiple_of(BLOCK))?;
                file.sync_all()
            });
            kept.map_err(|error| self.failed("write", &error))?;
        }
        sync_dir(&self.work).map_err(|error| self.failed("make durable", &error))?;
        self.state.done.push(done);
        self.save()
    }

    /// Adds the envelope and the checksums, and lets all of it have its name. Where that is, and which files there are.
    pub(super) fn publish(self, envelope: &str, control: &Control) -> Result<(PathBuf, Vec<ExportedFile>)> {
        control.ended()?;
        let name = &self.wanted.name;
        let mut envelope = envelope.as_bytes().to_vec();
        if self.wanted.format == Format::Ova {
            let room = self.state.reserved as usize;
            if envelope.len() > room {
                return Err(Error::internal("the envelope became longer than the room that was left for it"));
            }
            // Blanks behind an envelope mean nothing.
            envelope.resize(room, b'\n');
        }
        let file = |name: String, bytes: &[u8]| ExportedFile {
            name,
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(bytes)),
        };
        let mut files = vec![file(format!("{name}.ovf"), &envelope)];
        files.extend(self.state.done.iter().map(|done| ExportedFile {
            name: done.name.clone(),
            bytes: done.bytes,
            sha256: done.sha256.clone(),
        }));
        let sums: String =
            files.iter().map(|file| format!("SHA256({})= {}\n", file.name, file.sha256)).collect();
        let manifest = format!("{name}.mf");
        let written = match self.wanted.format {
            Format::Ovf => self.beside(&[(&files[0].name, &envelope), (&manifest, sums.as_bytes())]),
            Format::Ova => self.within(&envelope, (&manifest, sums.as_bytes())),
        };
        written.map_err(|error| self.failed("write", &error))?;
        files.push(file(manifest, sums.as_bytes()));
        let result = result_of(&self.wanted);
        self.rename(&result).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::new(
                Kind::Exists,
                format!("{} was made by somebody else meanwhile", result.display()),
            )
            .output(&result)
            .advice("remove it, or choose another name: what was exported is kept, and goes on from there"),
            _ => self.failed("publish", &error),
        })?;
        let path = match self.wanted.format {
            Format::Ovf => result.join(format!("{name}.ovf")),
            Format::Ova => result,
        };
        Ok((path, files))
    }

    fn beside(&self, files: &[(&str, &[u8])]) -> io::Result<()> {
        for (name, bytes) in files {
            atomic_write(&self.work.join(name), bytes, 0o600)?;
        }
        Ok(())
    }

    fn within(&self, envelope: &[u8], (manifest, sums): (&str, &[u8])) -> io::Result<()> {
        let file = open(&self.path_of(manifest))?;
        file.write_all_at(&tar::header(&format!("{}.ovf", self.wanted.name), envelope.len() as u64), 0)?;
        file.write_all_at(envelope, BLOCK)?;
        let at = self.end();
        file.set_len(at)?;
        file.write_all_at(&tar::header(manifest, sums.len() as u64), at)?;
        file.write_all_at(sums, at + BLOCK)?;
        file.set_len((at + BLOCK + sums.len() as u64).next_multiple_of(BLOCK) + tar::END)?;
        file.sync_all()
    }

    fn rename(&self, result: &Path) -> io::Result<()> {
        let state = self.work.join(STATE);
        match self.wanted.format {
            Format::Ovf => {
                let bytes = fs::read(&state)?;
                fs::remove_file(&state)?;
                // Who comes again finds what there is.
                rename_noreplace(&self.work, result)
                    .inspect_err(|_| drop(atomic_write(&state, &bytes, 0o600)))?;
            }
            Format::Ova => {
                rename_noreplace(&self.path_of(""), result)?;
                let _ = fs::remove_file(&state);
                let _ = fs::remove_dir(&self.work);
            }
        }
        sync_dir(&self.wanted.directory)
    }

    fn save(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.state)
            .map_err(|error| Error::internal(format!("the state of an export cannot be written: {error}")))?;
        atomic_write(&self.work.join(STATE), &bytes, 0o600).map_err(|error| self.failed("write", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        not_kept(what, &self.work, error)
    }
}

/// What it becomes.
fn result_of(wanted: &Wanted) -> PathBuf {
    match wanted.format {
        Format::Ovf => wanted.directory.join(&wanted.name),
        Format::Ova => wanted.directory.join(format!("{}.ova", wanted.name)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
