//! The journal of one VM: what a worker that starts again goes on from.
//!
//! One file beside the results, `.<vm-id>.journal.json`, replaced atomically and durably after every step that must not be done twice. It
//! says which disks are finished (the partial file's inode, size and time, and the identity of the source it was made from), and, once
//! publishing has begun, exactly which file gets which name. What it says is believed only as far as the files on the disk agree. What is not here: the renames themselves (see [`super::publish`]).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::directories::Directories;
pub use super::file_mark::FileMark;
use super::handover::Handover;
use super::passes::Passes;
use crate::disk::FileIdentity;
use crate::model::acts::Acts;
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestIdentity;
use crate::model::job::Stage;
use crate::model::manifest::FixEngine;
use crate::model::plan::{Plan, SourceFormat};
use crate::model::protocol::Published;
use crate::model::report::{FixReport, Notice};
use crate::model::transports::Candidate;
use crate::model::validation::Finding;
use crate::sys::dir::Dir;
use crate::sys::failpoint;
use crate::sys::users::effective_uid;

/// The version of the format. An unknown one is not gone on from.
const VERSION: u32 = 1;
/// No journal is larger: some hundred disks with their report.
const LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Nobody but us has to read it.
const MODE: u32 = 0o600;

/// So much of a digest that no two of the same are met.
const MARK_BYTES: usize = 8;

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

/// A disk elsewhere of which all is here and durable, for its result to be made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FetchedDisk {
    /// What it was fetched from.
    pub source: Vec<FileIdentity>,
    /// The file.
    pub file: FileMark,
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
    /// In this directory; none: the VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// From this name.
    pub from: String,
    /// To this one.
    pub to: String,
    /// Which file.
    pub file: FileMark,
}

impl Rename {
    /// The directory, which has to be open.
    pub(super) fn place<'d>(&self, dirs: Directories<'d>) -> Result<&'d Dir> {
        dirs.at(self.directory.as_deref()).ok_or_else(|| {
            let path = self.directory.clone().unwrap_or_default();
            Error::new(Kind::Output, format!("{} is not there any more", path.display())).output(path)
        })
    }

    /// Where the file lies when it has its final name.
    pub(super) fn path(&self, dirs: Directories<'_>) -> PathBuf {
        self.directory.as_deref().unwrap_or_else(|| dirs.main().path()).join(&self.to)
    }

    /// Takes what the file under its final name is like now, if it is the same one.
    pub(super) fn look_again(&mut self, dirs: Directories<'_>) -> Result<()> {
        let Some(dir) = dirs.at(self.directory.as_deref()) else { return Ok(()) };
        let entry = dir.entry(&self.to);
        let entry =
            entry.map_err(|error| Error::io(Kind::Output, "look for", &dir.path().join(&self.to), &error))?;
        if let Some(mark) = entry.and_then(FileMark::of).filter(|mark| mark.inode == self.file.inode) {
            self.file = mark;
        }
        Ok(())
    }

    /// Whether the file has its final name.
    pub(super) fn is_made(&self, dirs: Directories<'_>) -> Result<bool> {
        let Some(dir) = dirs.at(self.directory.as_deref()) else { return Ok(false) };
        let made = self.file.is_at(dir, &self.to);
        made.map_err(|error| Error::io(Kind::Output, "look for", &dir.path().join(&self.to), &error))
    }
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
    /// The pages that say for people what the report says, by name.
    #[serde(default)]
    pub pages: Vec<(String, String)>,
    /// Whether files of those names are replaced.
    pub replace: bool,
    /// What the worker tells when all is done.
    pub outcome: Published,
    /// The digests of the files.
    #[serde(default)]
    pub digests: Digests,
    /// What libvirt is told of them when all have their final names, before the texts say that they are complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
}

impl Intent {
    /// Whether libvirt has been told of the files: what they hold may change, and no name of theirs is taken back.
    #[must_use]
    pub fn is_libvirts(&self) -> bool {
        self.handover.as_ref().is_some_and(Handover::has_begun)
    }

    /// The directories in which names change, each once.
    pub(super) fn directories<'d>(&self, dirs: Directories<'d>) -> Vec<&'d Dir> {
        let named: BTreeSet<&PathBuf> =
            self.renames.iter().filter_map(|rename| rename.directory.as_ref()).collect();
        let others = named.into_iter().filter_map(|directory| dirs.at(Some(directory)));
        std::iter::once(dirs.main()).chain(others).collect()
    }
}

/// How far the digests of what is published are. They follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digests {
    /// Nobody asked for them, or they are in the outcome already.
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
        /// Its pages with them, by name.
        #[serde(default)]
        pages: Vec<(String, String)>,
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
    pub host: Option<String>,
    /// What was to be done (see [`fingerprint`]).
    pub plan_sha256: String,
    /// Names that this VM's partial results have.
    pub partials: Vec<String>,
    /// The same in other directories.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<PathBuf, Vec<String>>,
    /// What is in those names, so that no other VM's are called so, of whatever host.
    #[serde(default)]
    pub mark: String,
    /// Finished disks, by id.
    pub disks: BTreeMap<String, FinishedDisk>,
    /// Disks that were fetched for that, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fetched: BTreeMap<String, FetchedDisk>,
    /// Disks that were looked into before they were copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looked: Vec<FileIdentity>,
    /// The passes of a warm migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<Passes>,
    /// What the guest work found and made, once all of it is durable.
    pub guest: Option<GuestRecord>,
    /// By which ways its bytes do not come, as was found out too late.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways_left: Vec<Candidate>,
    /// Seconds spent in each stage, over all attempts.
    pub stage_seconds: BTreeMap<Stage, f64>,
    /// When each stage first began and last ended, epoch seconds.
    #[serde(default)]
    pub stage_times: BTreeMap<Stage, (f64, f64)>,
    /// Warnings so far, for the report.
    pub warnings: Vec<Notice>,
    /// What was done at the source.
    #[serde(default, skip_serializing_if = "Acts::is_empty")]
    pub acts: Acts,
    /// Once publishing has begun.
    pub intent: Option<Intent>,
}

impl Checkpoint {
    /// Nothing is done yet, by a job of this host; none: nobody else can work there.
    #[must_use]
    pub fn new(job_id: i64, batch_id: &str, plan: &Plan, host: Option<String>) -> Checkpoint {
        let mark = mark(host.as_deref().unwrap_or_default(), batch_id, plan);
        Checkpoint {
            version: VERSION,
            job_id,
            batch_id: batch_id.to_owned(),
            host,
            plan_sha256: fingerprint(plan),
            partials: super::publish::partial_names(plan),
            elsewhere: super::publish::partial_names_elsewhere(plan, &mark),
            mark,
            disks: BTreeMap::new(),
            fetched: BTreeMap::new(),
            looked: Vec::new(),
            passes: None,
            guest: None,
            ways_left: Vec::new(),
            stage_seconds: BTreeMap::new(),
            stage_times: BTreeMap::new(),
            warnings: Vec::new(),
            acts: Acts::default(),
            intent: None,
        }
    }

    /// The same with the mark of an earlier attempt: what that left is found by it.
    #[must_use]
    pub fn marked(self, earlier: &Checkpoint, plan: &Plan) -> Checkpoint {
        if earlier.mark.is_empty() {
            return self;
        }
        let elsewhere = super::publish::partial_names_elsewhere(plan, &earlier.mark);
        Checkpoint { mark: earlier.mark.clone(), elsewhere, ..self }
    }

    /// Each partial name, with the directory that it is in; none: the VM's own.
    pub fn all_partials(&self) -> impl Iterator<Item = (Option<&Path>, &String)> {
        let elsewhere = self.elsewhere.iter();
        let elsewhere = elsewhere
            .flat_map(|(directory, names)| names.iter().map(|name| (Some(directory.as_path()), name)));
        self.partials.iter().map(|name| (None, name)).chain(elsewhere)
    }

    /// The directories besides the VM's own that it speaks of.
    pub(super) fn directories(&self) -> BTreeSet<&Path> {
        let renames = self.intent.iter().flat_map(|intent| &intent.renames);
        let renames = renames.filter_map(|rename| rename.directory.as_deref());
        self.elsewhere.keys().map(PathBuf::as_path).chain(renames).collect()
    }

    /// Whether more than the VM's own directory depends on what it says: another one, libvirt, the source.
    fn reaches_out(&self) -> bool {
        let is_told = self.intent.as_ref().is_some_and(|intent| intent.handover.is_some());
        is_told || !self.acts.is_empty() || !self.directories().is_empty()
    }

    /// The same, with what others know to have been done at the source.
    #[must_use]
    pub fn with_acts(self, known: &Acts) -> Checkpoint {
        Checkpoint { acts: self.acts.merged(known), ..self }
    }

    /// The same work, now done by another job; perhaps by another version, which has names for more.
    #[must_use]
    pub fn taken_over_by(self, job: &Checkpoint) -> Checkpoint {
        let is_elsewhere = self.is_of_another_host(job.host.as_deref());
        let Checkpoint { job_id, batch_id, host, partials, elsewhere, mark, .. } = job.clone();
        let mut taken = Checkpoint { job_id, batch_id, host, partials, elsewhere, mark, ..self };
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
            // What it says of other directories, of libvirt and of the source could do harm there: only whoever may write them anyway is believed.
            Ok(checkpoint) if checkpoint.reaches_out() && !is_ours(dir, &name)? => {
                tracing::warn!("the journal may have been written by others: starting over");
                Ok(None)
            }
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

/// What tells the partial results of this VM from those of any other in a directory that many share.
fn mark(host: &str, batch_id: &str, plan: &Plan) -> String {
    let directory = plan.output.directory.to_string_lossy();
    let hash = Sha256::digest(format!("{host}\0{batch_id}\0{directory}\0{}", plan.vm_id));
    hash.iter().take(MARK_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn is_ours(dir: &Dir, name: &str) -> Result<bool> {
    let file = dir.open_file(name).and_then(|file| file.metadata());
    let file =
        file.map_err(|error| Error::io(Kind::Output, "look at the journal", &dir.path().join(name), &error))?;
    Ok(file.uid() == effective_uid() && file.mode() & 0o022 == 0)
}

/// Whether an interrupted attempt left something of worth: a finished disk, or a result half published.
#[must_use]
pub fn is_worth_resuming(plan: &Plan) -> bool {
    let left = Dir::open(&plan.output.directory)
        .ok()
        .and_then(|dir| Checkpoint::read(&dir, &plan.vm_id).ok().flatten());
    left.is_some_and(|checkpoint| {
        !checkpoint.disks.is_empty() || !checkpoint.fetched.is_empty() || checkpoint.intent.is_some()
    })
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
    hex_sha256(value.to_string().as_bytes())
}

/// The SHA-256 of what is in memory, in hex.
pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
