//! A repair of the disks themselves: `fix --in-place`.
//!
//! ```text
//!   unused? ─▶ overlays beside the disks ─▶ repaired, verified ─▶ durable ─▶ a record beside each disk ─▶ committed, one by one ─▶ all cleared
//! ```
//!
//! Until the first commit begins the disks are as they were: what a cut left before that is thrown away, and the repair begins anew. From
//! then on only finishing makes the machine whole: committing an overlay once more gives the same result, so the next repair of any of
//! its disks does that first, for all of them. A disk that changed in between is not touched. What is not here: the repairs, and the
//! command's words.

mod place;
mod record;

use std::path::{Path, PathBuf};

use self::place::Place;
use self::record::{Left, Pending, Step, left};
use super::examine::Rehearsal;
use super::library::DiskProcessor;
use crate::disk::{Control, FileIdentity, SourceDisk};
use crate::guest::facts::FixOptions;
use crate::guest::work::Key;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{OutputFormat, SourceFormat};
use crate::sys::dir::LockFile;
use crate::sys::failpoint;

impl DiskProcessor {
    /// Repairs the guest in these disks of one machine, in the disks themselves (raw or qcow2, used by nobody). An error leaves them as they
    /// were, unless it says otherwise. What an interrupted repair of any of them left to do is done first.
    pub fn repair_in_place(
        &self,
        disks: &[PathBuf],
        keys: Vec<Key>,
        options: FixOptions,
        mut beginning: impl FnMut(&str),
    ) -> Result<Rehearsal> {
        let places = disks.iter().map(|path| Place::of(path)).collect::<Result<Vec<Place>>>()?;
        for (number, place) in places.iter().enumerate() {
            if places[..number].iter().any(|other| other.path() == place.path()) {
                let path = place.path().display().to_string();
                return Err(Error::new(Kind::Source, format!("{path} is named twice"))
                    .source(path)
                    .advice("name every disk of the machine once, in their order"));
            }
        }
        let _locks = places.iter().map(Place::lock).collect::<Result<Vec<LockFile<'_>>>>()?;
        let mut warnings = Vec::new();
        for place in &places {
            warnings.extend(place.refuse_used()?);
        }
        if self.settle(&places, &mut beginning)? {
            warnings.push("an interrupted repair of these disks was finished first".to_owned());
        }
        let opened =
            places.iter().map(|place| self.inspect(&place.path())).collect::<Result<Vec<SourceDisk>>>()?;
        let formats = opened.iter().map(format).collect::<Result<Vec<OutputFormat>>>()?;
        let overlays: Vec<PathBuf> = places.iter().map(Place::overlay).collect();
        let worked = self.work_inside(&opened, &overlays, keys, Some(options), &mut beginning);
        if worked.as_ref().map_or(true, |found| found.fixes.is_empty()) {
            places.iter().try_for_each(Place::clear)?;
        }
        let mut found = worked?;
        if !found.fixes.is_empty() {
            failpoint::hit("in-place.repaired");
            let all: Vec<&Place> = places.iter().collect();
            self.decide(&all, &opened, &formats)?;
            beginning("the repairs are put into the disks");
            self.finish(&all)?;
        }
        warnings.append(&mut found.warnings);
        Ok(Rehearsal { warnings, ..found })
    }

    /// Sees to what interrupted repairs left beside these disks; whether there was one to finish.
    fn settle(&self, places: &[Place], beginning: &mut dyn FnMut(&str)) -> Result<bool> {
        let mut finished = false;
        for place in places {
            let Some(pending) = place.record()? else { continue };
            let others = pending
                .machine
                .iter()
                .filter(|path| !places.iter().any(|place| place.path() == **path))
                .map(|path| Place::of(path).map_err(|error| incomplete(place, path, &error.details().cause)))
                .collect::<Result<Vec<Place>>>()?;
            let _locks = others.iter().map(Place::lock).collect::<Result<Vec<LockFile<'_>>>>()?;
            let machine: Vec<&Place> = pending
                .machine
                .iter()
                .map(|path| {
                    let disk = places.iter().chain(&others).find(|place| place.path() == *path);
                    disk.ok_or_else(|| incomplete(place, path, "it now lies elsewhere"))
                })
                .collect::<Result<Vec<&Place>>>()?;
            let mut steps = Vec::with_capacity(machine.len());
            for disk in &machine {
                // A later repair of other disks may have left its own.
                let record = disk.record()?.filter(|record| record.machine == pending.machine);
                steps.push(record.map(|record| record.step));
            }
            match left(&steps) {
                Left::Nothing => {
                    for (disk, step) in machine.iter().zip(&steps) {
                        if step.is_some() {
                            disk.clear()?;
                        }
                    }
                }
                Left::Unfinished => {
                    for other in &others {
                        other.refuse_used()?;
                    }
                    beginning("an interrupted repair is finished");
                    self.finish(&machine)?;
                    finished = true;
                }
                Left::Incomplete(number) => {
                    let lost = machine.get(number).map_or_else(PathBuf::new, |disk| disk.path());
                    return Err(incomplete(place, &lost, "what the repair left beside it is gone"));
                }
            }
        }
        // What now lies beside one of them was made before anything was decided.
        places.iter().try_for_each(Place::clear)?;
        Ok(finished)
    }

    /// Writes down, beside each disk, that the overlays hold complete repairs.
    fn decide(&self, places: &[&Place], opened: &[SourceDisk], formats: &[OutputFormat]) -> Result<()> {
        let machine: Vec<PathBuf> = places.iter().map(|place| place.path()).collect();
        let write = || {
            for ((place, format), disk) in places.iter().zip(formats).zip(opened) {
                place.sync_overlay()?;
                let disk = disk.identity().first().cloned();
                let disk = disk.ok_or_else(|| Error::internal("a disk has no file"))?;
                place.write(&Pending {
                    format: *format,
                    disk,
                    step: Step::Waits,
                    machine: machine.clone(),
                })?;
                failpoint::hit("in-place.recorded");
            }
            Ok(())
        };
        let written = write();
        if written.is_err() {
            places.iter().try_for_each(|place| place.clear())?;
        }
        written
    }

    /// Puts the overlays of one machine into its disks. Nothing interrupts it but a kill: it takes seconds, and between two disks a
    /// machine must not be left.
    fn finish(&self, machine: &[&Place]) -> Result<()> {
        let read = |place: &&Place| place.record()?.ok_or_else(|| Error::internal("a record has vanished"));
        let mut records = machine.iter().map(read).collect::<Result<Vec<Pending>>>()?;
        for (place, pending) in machine.iter().zip(&records) {
            let path = place.path();
            let now = FileIdentity::read(&path)?;
            let is_the_same = match pending.step {
                // It was being written to: only that it is another file can be told.
                Step::Begun => (now.dev, now.inode) == (pending.disk.dev, pending.disk.inode),
                Step::Waits | Step::Done => now == pending.disk,
            };
            if !is_the_same {
                return Err(partial(&path, "it was changed after its repair was worked out").advice(format!(
                    "its machine may have run since: take its disks from a backup; to give the repair up, remove {}",
                    paths(machine.iter().map(|place| place.record_path()))
                )));
            }
        }
        for number in 0..records.len() {
            if records[number].step == Step::Done {
                continue;
            }
            let place = machine[number];
            let was = records[number].clone();
            place.write(&Pending { step: Step::Begun, ..was.clone() })?;
            failpoint::hit("in-place.begun");
            let (overlay, path) = (place.overlay(), place.path());
            let committed =
                self.engine.commit_overlay(&overlay, &path, was.format, &Control::new(), &mut |_| {});
            if let Err(error) = committed {
                // Refused before a byte was written, as QEMU does where a machine runs on it.
                let is_untouched = FileIdentity::read(&path).is_ok_and(|now| now == was.disk);
                if is_untouched && records.iter().all(|record| record.step == Step::Waits) {
                    machine.iter().try_for_each(|place| place.clear())?;
                    return Err(error);
                }
                return Err(partial(&path, &error.details().cause)
                    .advice("run the same command again before the machine starts: it finishes the repair"));
            }
            records[number] = Pending { step: Step::Done, disk: FileIdentity::read(&path)?, ..was };
            place.write(&records[number])?;
            failpoint::hit("in-place.committed");
        }
        machine.iter().try_for_each(|place| {
            place.clear()?;
            failpoint::hit("in-place.cleared");
            Ok(())
        })
    }
}

fn partial(path: &Path, why: &str) -> Error {
    Error::new(Kind::Output, format!("{} may be repaired in part: {why}", path.display())).output(path)
}

fn incomplete(place: &Place, lost: &Path, why: &str) -> Error {
    let path = place.path();
    partial(&path, &format!("{} was repaired together with it, but {why}", lost.display())).advice(format!(
        "put {} back where it was, with the hidden files beside it, and run the same command again; or take the machine's disks from a backup",
        lost.display()
    ))
}

fn paths(paths: impl Iterator<Item = PathBuf>) -> String {
    paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
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
