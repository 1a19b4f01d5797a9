//! Who uses a volume: a machine that is defined with it, a disk or a volume that stands on it, or somebody who has it open.
//!
//! Asked of the libvirt that has the volume, which need not be the one of this host. What is not here: the same question about any file of this
//! host, which is asked before a result is replaced.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use virt::storage_vol::StorageVol;

use super::defined::{Machines, below_volume};
use super::link::Link;
use super::pools;
use super::volumes::Volume;
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::open_nofollow;
use crate::sys::record_lock::is_locked;

/// No chain of snapshots is longer.
const MOST_BELOW: usize = 64;

/// What uses a volume, in words; nothing if nobody does.
pub(super) fn of(link: &Link, volume: &Volume) -> Result<Option<String>> {
    if let Some(why) = of_file(link, &volume.path)? {
        return Ok(Some(why));
    }
    for other in pools::active(link, &volume.pool)?.list_all_volumes(0).unwrap_or_default() {
        if below_volume(&other).is_some_and(|below| is_same(&below, &volume.path)) {
            let name = other.get_name().unwrap_or_default();
            return Ok(Some(format!("the volume {name} stands on it")));
        }
    }
    Ok(None)
}

/// The same of a file, whether it lies in a pool or not.
pub(super) fn of_file(link: &Link, path: &Path) -> Result<Option<String>> {
    let machines = Machines::of_link(link.raw());
    if let Some(why) = &machines.silent {
        let path = path.display();
        return Err(Error::new(Kind::Libvirt, format!("which machine uses {path} cannot be told: {why}"))
            .advice("see that libvirt answers, then try again")
            .transient());
    }
    for machine in &machines.defined {
        let name = &machine.name;
        if machine.files.iter().any(|file| is_same(file, path)) {
            return Ok(Some(format!("the machine {name} is defined with it")));
        }
        for disk in &machine.disks {
            if stands_on(link, disk, path) {
                return Ok(Some(format!("{}, a disk of the machine {name}, stands on it", disk.display())));
            }
        }
    }
    // One that cannot be opened is told of by libvirt alone. What is no file would have to be waited for.
    Ok(open_nofollow(path).ok().and_then(|file| has_open(&file)))
}

/// Whether somebody holds a lock on a file, as QEMU does on every image that it has open.
pub(super) fn has_open(file: &File) -> Option<String> {
    is_locked(file, 0..0).unwrap_or(false).then(|| "a program has it open and locked".to_owned())
}

/// Whether a disk stands on a file, as far as libvirt knows the images in its pools.
fn stands_on(link: &Link, disk: &Path, file: &Path) -> bool {
    let mut at = disk.to_owned();
    for _ in 0..MOST_BELOW {
        let Some(below) = below(link, &at) else { return false };
        if is_same(&below, file) {
            return true;
        }
        at = below;
    }
    false
}

fn below(link: &Link, path: &Path) -> Option<PathBuf> {
    let text = path.to_str().filter(|text| !text.contains('\0'))?;
    below_volume(&StorageVol::lookup_by_path(link.raw(), text).ok()?)
}

/// Whether both paths lead to one file; what cannot be seen here is told by its name.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
    one == other || matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}
