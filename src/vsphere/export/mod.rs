//! A machine exported to files: an envelope (OVF) that describes it and its disks as their host sends them, in a directory or in one archive (OVA).
//!
//! ```text
//!   lease ─▶ each disk: a stream ─▶ looked through, hashed, written as it comes ─▶ envelope ─▶ checksums ─▶ published
//!             what an earlier run has whole is kept         begun anew where it breaks off
//! ```
//!
//! Nothing has its final name before all of it is whole, and nothing that is there is replaced. What is not here: which machine, and what is made
//! of it later.

mod descriptor;
mod package;
mod tar;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use self::package::{Done, Package};
use super::client::Client;
use super::devices::VmDisk;
use super::failure::not_kept;
use super::machine::Machine;
use super::nfc::{Download, Export, Lease, identity};
use crate::disk::{Control, Sent, follow};
use crate::model::error::{Disposition, Error, Result};

/// In what a machine is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A directory of files.
    Ovf,
    /// One archive.
    Ova,
}

impl Format {
    /// How it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Ovf => "ovf",
            Format::Ova => "ova",
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where it goes; it is made if it is not there.
    pub directory: PathBuf,
    /// What it is called there: an id (see [`crate::model::units::is_id`]).
    pub name: String,
    /// In what.
    pub format: Format,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The machine.
    pub machine: String,
    /// `vm-42`
    pub moref: String,
    /// In what.
    pub format: Format,
    /// Where it is: the archive, or the envelope in its directory.
    pub path: PathBuf,
    /// Its files, in order.
    pub files: Vec<ExportedFile>,
    /// How many disks an earlier run had whole already.
    pub kept_disks: usize,
    /// What the server said about it.
    pub warnings: Vec<String>,
}

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its checksum.
    pub sha256: String,
}

/// How far an export is, for who watches it.
#[derive(Debug, Default)]
pub struct Progress {
    disk: AtomicUsize,
    done: AtomicU64,
    of: AtomicU64,
    bytes: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// Which disk, from 1 on; 0: none yet.
    pub disk: usize,
    /// How much of what its guest sees has come, …
    pub done: u64,
    /// … of how much.
    pub of: u64,
    /// How many bytes were sent for all that.
    pub bytes: u64,
}

impl Progress {
    /// Now.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Moment {
            disk: self.disk.load(Ordering::Relaxed),
            done: number(&self.done),
            of: number(&self.of),
            bytes: number(&self.bytes),
        }
    }

    fn begins(&self, disk: usize, of: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.disk.store(disk, Ordering::Relaxed);
    }
}

/// Exports a machine that is off, and obeys the hand that the client was given.
pub fn export(
    client: &Client,
    machine: &Machine,
    wanted: &Wanted,
    progress: &Arc<Progress>,
) -> Result<Exported> {
    let control = client.control();
    let export = Export::of(client, machine)?;
    let identities = machine.disks.iter().map(|disk| identity(machine, disk)).collect();
    let mut package = Package::open(wanted, identities)?;
    let kept_disks = package.done().len();
    if wanted.format == Format::Ova && kept_disks == 0 {
        let described =
            descriptor::create(client, machine, &wanted.name, &nothing_yet(machine, &wanted.name))?;
        package.reserve(described.text.len())?;
    }
    // One lease for all of them, as long as it holds.
    let mut lease = None;
    for (number, disk) in machine.disks.iter().enumerate().skip(kept_disks) {
        progress.begins(number + 1, disk.capacity_bytes);
        let mut failures = 0;
        let done = loop {
            let error = match fetch(&export, &mut lease, disk, &package, progress, control) {
                Ok(done) => break done,
                Err(error) => error,
            };
            // What broke off is of no more use: the server is told so, and asked anew.
            lease = None;
            failures += 1;
            let wait = client.patience().wait(failures);
            match wait.filter(|_| error.disposition() == Disposition::Transient) {
                Some(wait) => {
                    tracing::warn!(%error, disk = disk.label, "the export of this disk is begun anew in {:.1} s", wait.as_secs_f64());
                    rest(wait, control)?;
                }
                None => {
                    package.let_go();
                    return Err(error);
                }
            }
        };
        package.keep(done)?;
    }
    drop(lease);
    let described = descriptor::create(client, machine, &wanted.name, package.done())?;
    let (path, files) = package.publish(&described.text, control)?;
    Ok(Exported {
        machine: machine.name.clone(),
        moref: machine.moref.clone(),
        format: wanted.format,
        path,
        files,
        kept_disks,
        warnings: described.warnings,
    })
}

/// The disks of which nothing is known but their names.
fn nothing_yet(machine: &Machine, name: &str) -> Vec<Done> {
    let done = |(number, _)| Done { name: package::disk_name(name, number), ..Done::default() };
    machine.disks.iter().enumerate().map(done).collect()
}

fn fetch(
    export: &Export,
    lease: &mut Option<Arc<Lease>>,
    disk: &VmDisk,
    package: &Package,
    progress: &Arc<Progress>,
    control: &Control,
) -> Result<Done> {
    let lease = match lease {
        Some(lease) => lease,
        None => lease.insert(export.lease(control)?),
    };
    let number = lease.device_of(disk)?;
    let (file, at) = package.place()?;
    let download = Download::begin(Arc::clone(lease), number, control)?;
    let (name, told) = (package.next_name(), Arc::default());
    let keeping = Keeping {
        download: Box::new(download),
        path: package.path_of(&name),
        file,
        begin: at,
        at,
        digest: Sha256::new(),
        told: Arc::clone(&told),
        progress: Arc::clone(progress),
    };
    let shown = format!("{} of {} on {}", disk.label, export.machine().name, lease.client().host());
    follow(Box::new(keeping), &shown, disk.capacity_bytes, control)?;
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (bytes, sha256) = told.ok_or_else(|| Error::internal("a disk that has come was not finished"))?;
    Ok(Done { name, device: lease.device(number).key.clone(), at, bytes, sha256 })
}

/// Waits so long, unless the work is ended meanwhile.
fn rest(wait: Duration, control: &Control) -> Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    let until = Instant::now() + wait;
    loop {
        control.ended()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
    }
}

/// A disk on its way into a file: written as it comes.
struct Keeping {
    download: Box<Download>,
    path: PathBuf,
    file: File,
    begin: u64,
    at: u64,
    digest: Sha256,
    /// What came of it: how many bytes, and their checksum.
    told: Arc<Mutex<Option<(u64, String)>>>,
    progress: Arc<Progress>,
}

impl Keeping {
    fn failed(&self, what: &str, error: &std::io::Error) -> Error {
        not_kept(what, &self.path, error)
    }
}

impl Sent for Keeping {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.download.read(buffer)?;
        let came = &buffer[..count];
        self.file.write_all_at(came, self.at).map_err(|error| self.failed("write", &error))?;
        self.digest.update(came);
        self.at += count as u64;
        self.progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn reached(&mut self, bytes: u64, of: u64) {
        self.download.reached(bytes, of);
        self.progress.done.store(bytes, Ordering::Relaxed);
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.sync_data().map_err(|error| self.failed("make durable", &error))?;
        let Keeping { download, begin, at, digest, told, progress, .. } = *self;
        download.finish()?;
        progress.done.store(progress.of.load(Ordering::Relaxed), Ordering::Relaxed);
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some((at - begin, hex(&digest.finalize())));
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
