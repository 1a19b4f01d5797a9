//! Results that were made in a pool's directory: libvirt is had to look there again, and has to see each of them as a volume.
//!
//! Nothing is copied, and nothing of the pool is changed: a result has its name when this begins. What is not here: how it got there
//! ([`crate::pipeline::publish`]).

use std::collections::BTreeSet;

use super::record;
use super::steps::Teller;
use crate::libvirt::link::Link;
use crate::libvirt::{pools, volumes};
use crate::model::error::{Error, Kind, Result};
use crate::model::handover::HandedVolume;
use crate::pipeline::worker::Job;

/// Shows libvirt what was made in its pools.
pub(super) fn show(teller: &Teller, job: &mut Job<'_>) -> Result<()> {
    let lost = || Error::internal("it is not written down where results lie");
    let intent = job.checkpoint.intent.as_ref().ok_or_else(lost)?;
    let disks = job.plan.disks.iter().zip(&intent.renames);
    let made = disks.filter_map(|(disk, rename)| {
        let pool = teller.planned().made_in.get(&disk.id)?.clone();
        let (volume, path) = (rename.to.clone(), rename.path(job.place.dirs()));
        Some(HandedVolume { disk: disk.id.clone(), pool, volume, path })
    });
    let made: Vec<HandedVolume> = made.collect();
    let (asked, control) = (made.clone(), job.control.clone());
    teller.ask(move |link| {
        let names: BTreeSet<&str> = asked.iter().map(|volume| volume.pool.as_str()).collect();
        let keep_on = || control.checkpoint();
        names.into_iter().try_for_each(|name| pools::refresh_when_idle(link, name, &keep_on).map(drop))?;
        asked.iter().try_for_each(|volume| is_seen(link, volume))
    })?;
    record(job, |handover| handover.made = made)
}

/// What libvirt sees under that name tells whose directory it is.
fn is_seen(link: &Link, made: &HandedVolume) -> Result<()> {
    let HandedVolume { pool, volume, path, .. } = made;
    match volumes::find(link, pool, volume)? {
        Some(found) if pools::is_same(&found.path, path) => Ok(()),
        _ => Err(Error::new(
            Kind::Libvirt,
            format!("the storage pool {pool} has no volume {volume}, and yet {} is there", path.display()),
        )
        .output(path)
        .advice("this libvirt means another directory (one in a container does): have results put into the pool by `libvirt_integration.import_to_pool`")),
    }
}

/// Results in pools have lost their names: libvirt is had to notice. What it does not know any more, or does not look at, it does not show.
pub(super) fn hide(teller: &Teller) -> Result<()> {
    let names: BTreeSet<String> = teller.planned().made_in.values().cloned().collect();
    if names.is_empty() {
        return Ok(());
    }
    teller.ask(move |link| {
        names.iter().try_for_each(|name| match pools::find(link, name)? {
            Some(pool) if pool.active => pools::refresh_when_idle(link, name, &|| Ok(())).map(drop),
            _ => Ok(()),
        })
    })
}
