//! The journal of one VM: what a worker that starts again goes on from.
//!
//! One file beside the results, `.<vm-id>.journal.json`, replaced atomically and durably after every
//! step that must not be done twice. It says which disks are finished (the partial file's inode,
//! size and time, and the identity of the source it was made from), and, once publishing has begun,
//! exactly which file gets which name. What it says is believed only as far as the files on the disk
//! agree. What is not here: the renames themselves (see [`super::publish`]).

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::FileIdentity;
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestIdentity;
use crate::model::job::Stage;
use crate::model::manifest::FixEngine;
use crate::model::plan::{Plan, SourceFormat};
use crate::model::protocol::Published;
use crate::model::report::{FixReport, Notice};
use crate::model::validation::Finding;
use crate::sys::dir::{Dir, Entry};
use crate::sys::failpoint;

/// The version of the format. An unknown one is not gone on from.
const VERSION: u32 = 1;
/// No journal is larger: some hundred disks with their report.
const LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Nobody but us has to read it.
const MODE: u32 = 0o600;

/// The name of a VM's journal.
#[must_use]
pub fn journal_name(vm_id: &str) -> String {
    format!(".{vm_id}.journal.json")
}

/// The name of the lock that a VM's worker holds.
#[must_use]
pub fn lock_name(vm_id: &str) -> String {
    format!(".{vm_id}.lock")
}

/// The VM whose journal has this name.
#[must_use]
pub fn vm_of_journal(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(".journal.json").filter(|id| !id.is_empty())
}

/// A file, told by what does not change when it is renamed.
///
/// The device number is left out: it may be another one after a reboot, and the file is looked for
/// only in the directory of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since the epoch.
    pub mtime_ns: i128,
}

impl FileMark {
    /// Of a plain file; anything else has none.
    #[must_use]
    pub fn of(entry: Entry) -> Option<FileMark> {
        entry.is_file.then_some(FileMark { inode: entry.inode, size: entry.size, mtime_ns: entry.mtime_ns })
    }

    /// Whether a name is this very file, unchanged.
    pub fn is_at(self, dir: &Dir, name: &str) -> io::Result<bool> {
        Ok(dir.entry(name)?.and_then(FileMark::of) == Some(self))
    }
}

/// A disk whose bytes are all copied and durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedDisk {
    /// What it was copied from.
    pub source: Vec<FileIdentity>,
    /// The format that the source turned out to have.
    pub source_format: SourceFormat,
    /// The file's name until it is published.
    pub partial: String,
    /// The file.
    pub file: FileMark,
    /// What the guest sees.
    pub virtual_size: u64,
    /// What was copied.
    pub bytes_copied: u64,
    /// What copied it: `qemu-img 10.0.2`.
    pub engine: String,
    /// Whether it was compared with the source.
    pub validated: bool,
    /// Its hash, once computed.
    pub sha256: Option<String>,
    /// What its content is.
    #[serde(default)]
    pub holds: Holds,
}

/// What a finished partial file's content is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// What the source holds.
    #[default]
    Source,
    /// Some of the repairs, perhaps: committing them has begun. Only doing that again makes it whole.
    Mixed,
    /// What the source holds, repaired.
    Fixed,
}

/// What the guest work found and made. It counts only as a whole: all disks of the VM were repaired together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestRecord {
    /// What is inside.
    pub identity: Option<GuestIdentity>,
    /// Why nothing was repaired though it was asked for.
    pub skipped: Option<String>,
    /// Who repaired it.
    #[serde(default)]
    pub engine: Option<FixEngine>,
    /// Whether the machine gets parts that need no driver of ours, because the guest has none.
    #[serde(default)]
    pub emulated: bool,
    /// What the pre-flight has found in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What was changed.
    pub fixes: Vec<FixReport>,
    /// How long that took, the guest being open and known.
    #[serde(default)]
    pub seconds: f64,
    /// By disk: what was changed and has to be in the results. Disks that nothing was written to are not here.
    pub overlays: BTreeMap<String, OverlayMark>,
}

/// An overlay that is complete, verified and durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverlayMark {
    /// Its name beside the partial results.
    pub name: String,
    /// The file.
    pub file: FileMark,
    /// The source that it stands on.
    pub source: Vec<FileIdentity>,
    /// The size of the disk that it shows.
    pub virtual_size: u64,
}

/// One file gets its final name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rename {
    /// From this name.
    pub from: String,
    /// To this one.
    pub to: String,
    /// Which file.
    pub file: FileMark,
}

/// What publishing does: recorded before the first rename, so that it can be finished or undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The disks, in order.
    pub renames: Vec<Rename>,
    /// The report's name and content, if one is written.
    pub report: Option<(String, String)>,
    /// The name and content of what libvirt is told of the machine, if that is written.
    #[serde(default)]
    pub domain: Option<(String, String)>,
    /// Whether files of those names are replaced.
    pub replace: bool,
    /// What the worker tells when all is done.
    pub outcome: Published,
    /// The digests of the files.
    #[serde(default)]
    pub digests: Digests,
}

/// How far the digests of what is published are. They follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digests {
    /// Nobody asked for them.
    #[default]
    Unwanted,
    /// When all has its final name.
    Wanted,
    /// All has had its final name: what is there no longer was taken by whom it was made for.
    Due,
    /// They are in the outcome.
    Made {
        /// The report with them, if one is written.
        report: Option<String>,
    },
}

impl Digests {
    /// Whether all of the result has had its final name.
    #[must_use]
    pub fn is_published(&self) -> bool {
        matches!(self, Digests::Due | Digests::Made { .. })
    }
}

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    /// The job: a number of the queue, 0 for a one-shot conversion.
    pub job_id: i64,
    /// Its batch.
    pub batch_id: String,
    /// The host whose job that is, as its lock calls it; none: nobody else can work there.
    #[serde(default)]
    pub host: Option<String>,
    /// What was to be done (see [`fingerprint`]).
    pub plan_sha256: String,
    /// Names that this VM's partial results have.
    pub partials: Vec<String>,
    /// Finished disks, by id.
    pub disks: BTreeMap<String, FinishedDisk>,
    /// What the guest work found and made, once all of it is durable.
    #[serde(default)]
    pub guest: Option<GuestRecord>,
    /// Seconds spent in each stage, over all attempts.
    pub stage_seconds: BTreeMap<Stage, f64>,
    /// Warnings so far, for the report.
    pub warnings: Vec<Notice>,
    /// Once publishing has begun.
    pub intent: Option<Intent>,
}

impl Checkpoint {
    /// Nothing is done yet.
    #[must_use]
    pub fn new(job_id: i64, batch_id: &str, plan: &Plan) -> Checkpoint {
        Checkpoint {
            version: VERSION,
            job_id,
            batch_id: batch_id.to_owned(),
            host: None,
            plan_sha256: fingerprint(plan),
            partials: super::publish::partial_names(plan),
            disks: BTreeMap::new(),
            guest: None,
            stage_seconds: BTreeMap::new(),
            warnings: Vec::new(),
            intent: None,
        }
    }

    /// The same, as a job of this host.
    #[must_use]
    pub fn on(self, host: Option<String>) -> Checkpoint {
        Checkpoint { host, ..self }
    }

    /// The same work, now done by another job; perhaps by another version, which has names for more.
    #[must_use]
    pub fn taken_over_by(self, job: &Checkpoint) -> Checkpoint {
        let is_elsewhere = self.is_of_another_host(job.host.as_deref());
        let Checkpoint { job_id, batch_id, host, partials, .. } = job.clone();
        let mut taken = Checkpoint { job_id, batch_id, host, partials, ..self };
        if is_elsewhere {
            // Should that host come back in the midst of putting repairs in, it puts them into a file that is no more.
            taken.disks.retain(|_, disk| disk.holds != Holds::Mixed);
        }
        taken
    }

    /// Whether another host than this one has written it.
    #[must_use]
    pub fn is_of_another_host(&self, host: Option<&str>) -> bool {
        self.host.is_some() && self.host.as_deref() != host
    }

    /// Reads a VM's journal. One that cannot be understood counts as none: it costs work, never a result.
    pub fn read(dir: &Dir, vm_id: &str) -> Result<Option<Checkpoint>> {
        let name = journal_name(vm_id);
        let bytes = match dir.read(&name, LIMIT_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => {
                return Err(Error::io(Kind::Output, "read the journal", &dir.path().join(name), &error)
                    .advice("remove it to start from the beginning"));
            }
        };
        match serde_json::from_slice::<Checkpoint>(&bytes) {
            Ok(checkpoint) if checkpoint.version == VERSION => Ok(Some(checkpoint)),
            Ok(checkpoint) => {
                tracing::warn!(
                    version = checkpoint.version,
                    "the journal is of another version: starting over"
                );
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(%error, "the journal cannot be read: starting over");
                Ok(None)
            }
        }
    }

    /// Makes it durable.
    pub fn write(&self, dir: &Dir, vm_id: &str) -> Result<()> {
        let name = journal_name(vm_id);
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::internal(format!("the journal cannot be written: {error}")))?;
        failpoint::hit("checkpoint.before-write");
        dir.replace(&name, &bytes, MODE)
            .map_err(|error| Error::io(Kind::Output, "write the journal", &dir.path().join(&name), &error))?;
        failpoint::hit("checkpoint.after-write");
        Ok(())
    }

    /// Removes a VM's journal.
    pub fn remove(dir: &Dir, vm_id: &str) -> Result<()> {
        let name = journal_name(vm_id);
        dir.remove(&name)
            .and_then(|_| dir.sync())
            .map_err(|error| Error::io(Kind::Output, "remove the journal", &dir.path().join(&name), &error))
    }
}

/// Whether an interrupted attempt left something of worth: a finished disk, or a result half published.
#[must_use]
pub fn is_worth_resuming(plan: &Plan) -> bool {
    let left = Dir::open(&plan.output.directory)
        .ok()
        .and_then(|dir| Checkpoint::read(&dir, &plan.vm_id).ok().flatten());
    left.is_some_and(|checkpoint| !checkpoint.disks.is_empty() || checkpoint.intent.is_some())
}

/// What of a plan decides about the bytes and names of the results.
///
/// Not its warnings, priority or reasons: a plan that differs only in those goes on from the same journal.
#[must_use]
pub fn fingerprint(plan: &Plan) -> String {
    let enabled: Vec<Stage> =
        plan.stages.iter().filter(|planned| planned.enabled).map(|planned| planned.stage).collect();
    // A JSON value of plain data cannot fail to be made; should it, no journal matches and work starts over.
    let value = serde_json::json!([plan.vm_id, plan.disks, plan.output, enabled, plan.content_sha256]);
    Sha256::digest(value.to_string().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
