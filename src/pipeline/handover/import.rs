//! Disks that go into pools: each a volume under a name that was free, written down before libvirt makes it.
//!
//! The bytes go through a thread of their own, because libvirt may hang while it takes them: what makes no progress for too long is given up, and
//! what is left of it is cleared away by the next import of that volume. What is not here: how bytes get into a volume
//! ([`crate::libvirt::import`]).

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::steps::Teller;
use super::{handover, record};
use crate::libvirt::import::{self, How, Import};
use crate::libvirt::pools::{self, Wanted};
use crate::libvirt::volumes;
use crate::model::error::{Error, Kind, Result};
use crate::model::handover::HandedVolume;
use crate::model::job::Stage;
use crate::model::plan::PlannedDisk;
use crate::pipeline::meter::Pass;
use crate::pipeline::worker::Job;

/// An import is limited by lack of progress, and never by this.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is looked whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the thread tells that imports.
enum Told {
    /// So many bytes are behind it.
    Bytes(u64),
    /// It is over: where the volume lies.
    Ended(Result<PathBuf>),
}

/// Puts every disk into its pool that is not there yet.
pub(super) fn all(teller: &Teller, job: &mut Job<'_>) -> Result<()> {
    ensure_pools(teller)?;
    for number in 0..job.plan.disks.len() {
        let disk = &job.plan.disks[number];
        let Some(pool) = teller.planned().pools.get(&disk.id).cloned() else { continue };
        let volume = teller.planned().volume(&disk.id, job.plan.format_of(disk).name());
        let known = volumes_of(job).iter().find(|known| known.disk == disk.id).cloned();
        match known {
            Some(known) if !known.path.as_os_str().is_empty() => continue,
            Some(_) => {}
            None => announce(
                teller,
                job,
                HandedVolume { disk: disk.id.clone(), pool, volume, path: PathBuf::new() },
            )?,
        }
        let path = one(teller, job, number, disk)?;
        record(job, |handover| {
            let found = handover.volumes.iter_mut().find(|volume| volume.disk == disk.id);
            if let Some(found) = found {
                found.path = path;
            }
        })?;
    }
    Ok(())
}

fn ensure_pools(teller: &Teller) -> Result<()> {
    let mut names: Vec<String> = teller.planned().pools.values().cloned().collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let wanted = Wanted { name, path: teller.planned().pool_path.clone(), start: true };
        teller.ask(move |link| pools::ensure(link, &wanted))?;
    }
    Ok(())
}

fn volumes_of<'j>(job: &'j Job<'_>) -> &'j [HandedVolume] {
    handover(&job.checkpoint).map(|handover| handover.volumes.as_slice()).unwrap_or_default()
}

/// Writes down that this volume is about to be made, whose name is free, or whose predecessor may go.
fn announce(teller: &Teller, job: &mut Job<'_>, volume: HandedVolume) -> Result<()> {
    if !teller.planned().overwrite_volumes {
        let (pool, name) = (volume.pool.clone(), volume.volume.clone());
        if teller.ask(move |link| volumes::find(link, &pool, &name))?.is_some() {
            return Err(taken(&volume));
        }
    }
    record(job, |handover| handover.volumes.push(volume))
}

/// A volume of that name is there already.
pub(in crate::pipeline) fn taken(volume: &HandedVolume) -> Error {
    Error::new(
        Kind::Exists,
        format!("the storage pool {} has a volume {} already", volume.pool, volume.volume),
    )
    .advice("remove it, choose another `libvirt_integration.vm_name`, or say `overwrite_volumes: true`")
}

/// Imports one disk, and gives where its volume lies.
fn one(teller: &Teller, job: &mut Job<'_>, number: usize, disk: &PlannedDisk) -> Result<PathBuf> {
    let lost = || Error::internal(format!("it is not written down where disk {} goes", disk.id));
    let volume = volumes_of(job).iter().find(|volume| volume.disk == disk.id).cloned().ok_or_else(lost)?;
    let intent = job.checkpoint.intent.as_ref().ok_or_else(lost)?;
    let file = intent.renames.get(number).ok_or_else(lost)?.path(job.place.dirs());
    let size = intent.renames[number].file.size.max(1) as f64;
    job.meter.detail(Stage::Libvirt, format!("importing {} into {}", volume.volume, volume.pool));
    let (tell, told) = mpsc::channel();
    let (format, control, asked) = (job.plan.format_of(disk), job.control.clone(), teller.clone());
    std::thread::spawn(move || {
        let progress = tell.clone();
        let imported = asked.ask_within(LONGEST, move |link| {
            let order = Import {
                pool: &volume.pool,
                volume: &volume.volume,
                file: &file,
                format,
                how: How::Copy,
                // Its name was free when that was written down, or may be had.
                overwrite: true,
            };
            let keep_on = || control.checkpoint();
            // Nobody may be left to hear it.
            let mut on_progress = |bytes| drop(progress.send(Told::Bytes(bytes)));
            import::import(link, &order, &keep_on, &mut on_progress)
        });
        drop(tell.send(Told::Ended(imported.map(|imported| imported.volume.path))));
    });
    let stalls = Duration::from_secs_f64(job.order.limits.stall_timeout_s);
    let mut last = Instant::now();
    loop {
        match told.recv_timeout(LOOK_EVERY) {
            Ok(Told::Ended(path)) => {
                job.meter.passed(number, Pass::Import, 1.0);
                return path;
            }
            Ok(Told::Bytes(bytes)) => {
                last = Instant::now();
                job.meter.passed(number, Pass::Import, bytes as f64 / size);
            }
            Err(mpsc::RecvTimeoutError::Timeout) if job.control.is_paused() => last = Instant::now(),
            Err(mpsc::RecvTimeoutError::Timeout) if last.elapsed() < stalls => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(Error::new(
                    Kind::Libvirt,
                    format!(
                        "the import of disk {} made no progress for {:.0} s",
                        disk.id,
                        stalls.as_secs_f64()
                    ),
                )
                .advice("see what keeps libvirt or the storage of the pool busy")
                .transient());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Error::internal("whoever imported a disk is gone"));
            }
        }
    }
}

/// Removes a volume that was made, or half of it.
pub(super) fn take_back(teller: &Teller, volume: HandedVolume) -> Result<()> {
    teller.ask(move |link| import::take_back(link, &volume.pool, &volume.volume))
}

/// Removes the results that went into pools. What is not there any more was removed before.
pub(super) fn remove_results(job: &Job<'_>) -> Result<()> {
    let Some(intent) = &job.checkpoint.intent else { return Ok(()) };
    for (disk, rename) in job.plan.disks.iter().zip(&intent.renames) {
        if !volumes_of(job).iter().any(|volume| volume.disk == disk.id) {
            continue;
        }
        let dir = rename.place(job.place.dirs())?;
        let removed = dir.remove(&rename.to).and_then(|_| dir.sync());
        removed.map_err(|error| Error::io(Kind::Output, "remove", &dir.path().join(&rename.to), &error))?;
    }
    Ok(())
}
