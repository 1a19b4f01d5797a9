//! A repair of the disks themselves: `fix --in-place`.
//!
//! ```text
//!   unused? ─▶ overlays beside the disks ─▶ repaired, verified ─▶ durable ─▶ record ─▶ committed, one by one ─▶ record gone
//! ```
//!
//! Until the record is there the disks are as they were; overlays that somebody left are refused, because they may be another record's. Once it is there, only finishing
//! makes the disks whole: committing an overlay once more gives the same result, so the next repair of these disks does that first. A
//! disk that changed in between, before its turn, is not touched. What is not here: the repairs, and the command's words.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::examine::Rehearsal;
use super::library::DiskProcessor;
use crate::disk::{FileIdentity, SourceDisk, stands_on};
use crate::guest::facts::FixOptions;
use crate::guest::work::Key;
use crate::libvirt;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, SourceFormat};
use crate::sys::dir::{Dir, LockFile};
use crate::sys::failpoint;
use crate::sys::fs::parent_of;

/// More files than this beside a disk are not asked whether they stand on it.
const MOST_NEIGHBOURS: usize = 10_000;
/// A record names some disks.
const RECORD_LIMIT_BYTES: u64 = 1 << 20;
const RECORD_MODE: u32 = 0o600;

/// How far one disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// As it was.
    Waits,
    /// Perhaps in part: only committing again makes it whole.
    Begun,
    /// Repaired.
    Done,
}

/// One disk whose overlay holds complete repairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    overlay: PathBuf,
    format: OutputFormat,
    /// The disk as it was when it was repaired.
    disk: FileIdentity,
    step: Step,
}

/// What was decided and has to be finished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    disks: Vec<Pending>,
}

impl DiskProcessor {
    /// Repairs the guest in these disks of one machine, in the disks themselves (raw or qcow2, used by nobody). An error leaves them as they
    /// were, unless it says otherwise. What an interrupted repair left to do is done first.
    pub fn repair_in_place(
        &self,
        disks: &[PathBuf],
        keys: Vec<Key>,
        options: FixOptions,
        mut beginning: impl FnMut(&str),
    ) -> Result<Rehearsal> {
        let first = disks.first().ok_or_else(|| Error::internal("no disk was named"))?;
        let places = disks.iter().map(|path| Place::of(path)).collect::<Result<Vec<Place>>>()?;
        let locks = places.iter().map(Place::lock).collect::<Result<Vec<LockFile<'_>>>>()?;
        let record =
            RecordFile { place: places.first().ok_or_else(|| Error::internal("no disk was named"))? };
        let mut warnings = Vec::new();
        if let Some(left) = record.read()? {
            beginning("an interrupted repair is finished");
            self.finish(left, &record, first)?;
            warnings.push("an interrupted repair of these disks was finished first".to_owned());
        }
        let mut opened = Vec::with_capacity(disks.len());
        for place in &places {
            warnings.extend(place.refuse_used()?);
            place.refuse_left_over()?;
            opened.push(self.inspect(&place.path())?);
        }
        let formats = opened.iter().map(format).collect::<Result<Vec<OutputFormat>>>()?;
        let overlays: Vec<PathBuf> = places.iter().map(Place::overlay).collect();
        let worked = self.work_inside(&opened, &overlays, keys, Some(options), &mut beginning);
        let nothing_made = worked.as_ref().map_or(true, |found| found.fixes.is_empty());
        if nothing_made {
            places.iter().try_for_each(Place::remove_overlay)?;
        }
        let mut found = worked?;
        if !nothing_made {
            let mut disks = Vec::with_capacity(places.len());
            for ((place, format), disk) in places.iter().zip(formats).zip(&opened) {
                place.sync_overlay()?;
                let disk = disk.identity().first().cloned();
                let disk = disk.ok_or_else(|| Error::internal("a disk has no file"))?;
                disks.push(Pending { overlay: place.overlay(), format, disk, step: Step::Waits });
            }
            beginning("the repairs are put into the disks");
            let decided = Record { disks };
            record.write(&decided)?;
            failpoint::hit("in-place.recorded");
            self.finish(decided, &record, first)?;
        }
        drop(locks);
        warnings.append(&mut found.warnings);
        Ok(Rehearsal { warnings, ..found })
    }

    fn finish(&self, mut left: Record, file: &RecordFile<'_>, first: &Path) -> Result<()> {
        for number in 0..left.disks.len() {
            let pending = left.disks[number].clone();
            if pending.step == Step::Done {
                continue;
            }
            let path = pending.disk.path.clone();
            if pending.step == Step::Waits && FileIdentity::read(&path)? != pending.disk {
                return Err(cut(first, format!("{} was changed after its repair was worked out", path.display())).advice(format!(
                    "its machine may have run since: take these disks from a backup; to give the repair up, remove {}",
                    file.path().display()
                )));
            }
            left.disks[number].step = Step::Begun;
            file.write(&left)?;
            failpoint::hit("in-place.begun");
            let committed = self.engine.commit_overlay(
                &pending.overlay,
                &path,
                pending.format,
                &self.control,
                &mut |_| {},
            );
            if let Err(error) = committed {
                // Refused before a byte was written, as QEMU does where a machine runs on it: nothing has to be finished.
                let is_untouched = FileIdentity::read(&path).is_ok_and(|now| now == pending.disk);
                if is_untouched && left.disks.iter().all(|disk| disk.step != Step::Done) {
                    file.remove()?;
                    left.disks.iter().try_for_each(|disk| remove(&disk.overlay))?;
                    return Err(error);
                }
                let cause = format!("{} is repaired in part: {}", path.display(), error.details().cause);
                return Err(cut(first, cause)
                    .advice("run the same command again before the machine starts: it finishes the repair"));
            }
            left.disks[number].step = Step::Done;
            file.write(&left)?;
            failpoint::hit("in-place.committed");
        }
        file.remove()?;
        left.disks.iter().try_for_each(|disk| remove(&disk.overlay))
    }
}

fn cut(first: &Path, cause: String) -> Error {
    Error::new(Kind::Output, cause).output(first)
}

/// A disk's format, if it can be written to as it is.
fn format(disk: &SourceDisk) -> Result<OutputFormat> {
    match disk.format {
        SourceFormat::Raw => Ok(OutputFormat::Raw),
        SourceFormat::Qcow2 => Ok(OutputFormat::Qcow2),
        other => Err(Error::new(
            Kind::Unsupported,
            format!(
                "{} is a {}, and only raw and qcow2 disks are repaired in place",
                disk.path.display(),
                other.name()
            ),
        )
        .source(disk.path.display().to_string())
        .advice("repair a copy of it: `--output DIR`")),
    }
}

/// A disk, and the directory in which it lies.
struct Place {
    dir: Dir,
    name: String,
}

impl Place {
    fn of(path: &Path) -> Result<Place> {
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

    fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    fn beside(&self, suffix: &str) -> String {
        format!(".{}.in-place.{suffix}", self.name)
    }

    fn overlay(&self) -> PathBuf {
        self.dir.path().join(self.beside("qcow2"))
    }

    fn lock(&self) -> Result<LockFile<'_>> {
        let name = self.beside("lock");
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
    fn refuse_used(&self) -> Result<Option<String>> {
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
        match libvirt::user_of(libvirt::SYSTEM, &path) {
            libvirt::User::Domain(name) => {
                Err(self.used(&format!("the machine {name} is defined with it")).advice(
                    "repair a copy (`--output DIR`), or `virsh undefine` the machine while it is repaired",
                ))
            }
            libvirt::User::Nobody => Ok(None),
            libvirt::User::Unknown { why } => Ok(Some(format!(
                "libvirt does not tell whether a machine is defined with {}: {why}",
                path.display()
            ))),
        }
    }

    /// An overlay that no record was found for may belong to one: of these disks in another order, or of more disks than these.
    fn refuse_left_over(&self) -> Result<()> {
        let overlay = self.overlay();
        if !overlay.exists() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Output,
            format!("{} is left over from an interrupted repair of {}", overlay.display(), self.path().display()),
        )
        .output(&overlay)
        .advice(
            "run that repair again with the same disks in the same order; if no file ending in `.in-place.json` lies beside any of \
             them, nothing was written to them, and this one can be removed",
        ))
    }

    fn remove_overlay(&self) -> Result<()> {
        remove(&self.overlay())
    }

    fn sync_overlay(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::io(Kind::Output, "make durable", &self.overlay(), &error);
        self.dir.sync_file(&self.beside("qcow2")).map_err(failed)?;
        self.dir.sync().map_err(failed)
    }
}

fn remove(overlay: &Path) -> Result<()> {
    match std::fs::remove_file(overlay) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(Kind::Output, "remove", overlay, &error))
        }
        _ => Ok(()),
    }
}

/// The record, beside the first disk.
struct RecordFile<'p> {
    place: &'p Place,
}

impl RecordFile<'_> {
    fn name(&self) -> String {
        self.place.beside("json")
    }

    fn path(&self) -> PathBuf {
        self.place.dir.path().join(self.name())
    }

    fn read(&self) -> Result<Option<Record>> {
        let bytes = self.place.dir.read(&self.name(), RECORD_LIMIT_BYTES);
        let Some(bytes) = bytes.map_err(|error| Error::io(Kind::Output, "read", &self.path(), &error))?
        else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(
                Kind::Output,
                format!("{} is not what a repair leaves: {error}", self.path().display()),
            )
            .output(self.path())
            .advice("if no repair of these disks was interrupted, remove that file")
        })
    }

    fn write(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::internal(format!("a record cannot be written down: {error}")))?;
        let failed = |error: std::io::Error| Error::io(Kind::Output, "write", &self.path(), &error);
        self.place.dir.replace(&self.name(), &text, RECORD_MODE).map_err(failed)?;
        self.place.dir.sync().map_err(failed)
    }

    fn remove(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::io(Kind::Output, "remove", &self.path(), &error);
        self.place.dir.remove(&self.name()).map_err(failed)?;
        self.place.dir.sync().map_err(failed)
    }
}
