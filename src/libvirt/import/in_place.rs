//! A file that lies where the pool does gets there without a copy: under another name, or by sharing its blocks.
//!
//! Only where we may write into the pool's directory, and only where that is the directory which libvirt means: a libvirt of another host or in a
//! container has other files under the same path. What is not here: what is done where this cannot be.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::marks::{self, What};
use super::{How, Import, fits};
use crate::libvirt::pools::Pool;
use crate::libvirt::volumes::{look_up, taken};
use crate::model::error::{Error, Kind, Result};
use crate::sys::failpoint;
use crate::sys::fs::{parent_of, rename_noreplace, sync_dir};

/// Who may read a new volume: libvirt gives it to QEMU when a machine starts.
const MODE: u32 = 0o600;

/// A file that is in place under its final name, until somebody finds fault with it.
#[derive(Debug)]
pub(super) struct Placed {
    target: PathBuf,
    back_to: Option<PathBuf>,
}

impl Placed {
    /// How it got there, in a word.
    pub(super) fn how(&self) -> &'static str {
        if self.back_to.is_some() { "renamed" } else { "reflinked" }
    }

    /// Takes it away again: a file that was moved goes back where it was.
    pub(super) fn undo(self) {
        // What cannot be undone stays, and is told with the fault.
        let _ = match &self.back_to {
            Some(back_to) => rename_noreplace(&self.target, back_to),
            None => std::fs::remove_file(&self.target),
        };
        let _ = sync_dir(parent_of(&self.target));
    }
}

/// Puts a file in place if that can be; nothing is changed where it cannot.
pub(super) fn place(
    raw: &StoragePool,
    pool: &Pool,
    order: &Import<'_>,
    file: &File,
    replaces: bool,
) -> Result<Option<Placed>> {
    let Some(directory) = pool.path.as_deref().filter(|_| pool.is_of_files()) else { return Ok(None) };
    let (Ok(there), Ok(here)) = (directory.metadata(), file.metadata()) else { return Ok(None) };
    if there.dev() != here.dev() {
        return Ok(None);
    }
    let part = directory.join(marks::name(What::Part, order.volume, here.len()));
    // A directory that cannot be written is no fault: libvirt can.
    let Ok(made) = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&part) else {
        return Ok(None);
    };
    let placed = fill(raw, (&part, &made), order, file, (pool, directory, replaces));
    failpoint::hit("import.placed");
    if !matches!(&placed, Ok(Some(Placed { back_to: None, .. }))) {
        let _ = std::fs::remove_file(&part);
    }
    if placed.is_err() {
        // libvirt has seen it. Whoever looks next refreshes it, too.
        let _ = raw.refresh(0);
    }
    placed
}

fn fill(
    raw: &StoragePool,
    (part, made): (&Path, &File),
    order: &Import<'_>,
    file: &File,
    (pool, directory, replaces): (&Pool, &Path, bool),
) -> Result<Option<Placed>> {
    let target = directory.join(order.volume);
    // What takes the place of another volume is looked at before; a file that is moved, under a second name.
    if order.how == How::Move && replaces && !also_as(order.file, part) {
        return Ok(None);
    }
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| Error::io(Kind::Output, what, &path, &error).output(&path)
    };
    if order.how == How::Copy && rustix::fs::ioctl_ficlone(made, file).is_err() {
        return Ok(None);
    }
    // What libvirt sees under this name tells whose directory it is.
    let seen = if raw.refresh(0).is_ok() { part_as_volume(raw, part)? } else { None };
    let Some(seen) = seen else { return Ok(None) };
    if replaces {
        fits(pool, order, file.metadata().map_or(0, |found| found.len()), &seen)?;
    }
    failpoint::hit("import.placing");
    let put = |from: &Path| match replaces {
        true => std::fs::rename(from, &target),
        false => rename_noreplace(from, &target),
    };
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => taken(order.pool, order.volume),
        _ => failed("put in place", &target)(error),
    };
    match order.how {
        How::Copy => {
            made.sync_all().map_err(failed("make durable", part))?;
            put(part).map_err(refused)?;
            sync_dir(directory).map_err(failed("make durable", directory))?;
            Ok(Some(Placed { target, back_to: None }))
        }
        How::Move => {
            file.sync_all().map_err(failed("make durable", order.file))?;
            match put(order.file) {
                // Directories of one device, and yet not of one file system.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(None),
                put => put.map_err(refused)?,
            }
            for changed in [directory, parent_of(order.file)] {
                sync_dir(changed).map_err(failed("make durable", changed))?;
            }
            Ok(Some(Placed { target, back_to: Some(order.file.to_owned()) }))
        }
    }
}

fn part_as_volume(raw: &StoragePool, part: &Path) -> Result<Option<StorageVol>> {
    part.file_name().and_then(|name| name.to_str()).map_or(Ok(None), |name| look_up(raw, name))
}

/// Gives a file the name of the part as well, in its place.
fn also_as(file: &Path, part: &Path) -> bool {
    std::fs::remove_file(part).and_then(|()| std::fs::hard_link(file, part)).is_ok()
}
