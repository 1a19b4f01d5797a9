//! What is looked at before anything is changed: the file, the pool, what has the volume's name, and what an import that died has left.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::marks::{self, Mark, Owner, What};
use super::{How, Import, failed, upload};
use crate::libvirt::link::Link;
use crate::libvirt::pools::{self, Pool};
use crate::libvirt::{volume_users, volumes};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::OutputFormat;
use crate::sys::fs::{allocated_bytes, open_nofollow, parent_of};

/// What an import works with.
pub(super) struct Ready {
    /// Where libvirt is.
    pub(super) uri: String,
    /// The file.
    pub(super) subject: Subject,
    /// The pool, as the crate knows it, …
    pub(super) raw: StoragePool,
    /// … and as it was just now.
    pub(super) pool: Pool,
    /// What an import that died has left.
    pub(super) left: Vec<StorageVol>,
    /// The volume that is replaced.
    pub(super) old: Option<StorageVol>,
    /// Bytes that these occupy.
    freed: u64,
}

impl Ready {
    /// Looks at all that can be known before anything is changed.
    pub(super) fn look(link: &Link, order: &Import<'_>) -> Result<Ready> {
        if order.volume.starts_with(marks::PREFIX) {
            return Err(Error::new(
                Kind::Manifest,
                format!("`{}` cannot be the name of a volume: it is one of our own", order.volume),
            )
            .advice("take letters, digits, dots and dashes"));
        }
        let subject = Subject::open(link, order)?;
        let raw = pools::active(link, order.pool)?;
        let pool = pools::refresh(link, order.pool)?;
        if !pool.is_of_files() && order.format != OutputFormat::Raw {
            return Err(volumes::only_raw(order.pool, order.format));
        }
        let left = leavings(link, &raw, Some(&subject), order)?;
        let is_left = left.iter().any(|volume| volume.get_name().is_ok_and(|name| name == order.volume));
        let old = volumes::look_up(&raw, order.volume)?.filter(|_| !is_left);
        if let Some(old) = &old {
            if !order.overwrite {
                return Err(volumes::taken(order.pool, order.volume));
            }
            refuse_if_used(link, order, old)?;
        }
        let occupied = |volume: &StorageVol| volume.get_info().map_or(0, |found| found.allocation);
        let freed = old.iter().chain(&left).map(occupied).sum();
        let uri = link.raw().get_uri().map_err(failed("see where libvirt is, for", order.volume))?;
        Ok(Ready { uri, subject, raw, pool, left, old, freed })
    }

    /// Whether the pool has room for what would be uploaded.
    pub(super) fn enough_room(&self) -> Result<()> {
        let need = self.need();
        match self.pool.available.saturating_add(self.freed) < need {
            true => Err(volumes::full(&self.pool.name, Some(&self.pool), need)),
            false => Ok(()),
        }
    }

    /// Bytes that the volume will occupy: devices have no holes.
    pub(super) fn need(&self) -> u64 {
        if self.pool.is_of_files() { self.subject.stored } else { self.subject.length }
    }

    /// Bytes of a volume of this length that have to be there from the beginning.
    pub(super) fn allocated(&self, length: u64) -> u64 {
        if self.pool.is_of_files() { 0 } else { length }
    }
}

/// All that is there of a volume whose import is given up: what says that it is half-done is the last.
pub(super) fn given_up(link: &Link, pool: &str, volume: &str) -> Result<Vec<StorageVol>> {
    let raw = pools::active(link, pool)?;
    pools::refresh(link, pool)?;
    let nowhere = Path::new("/");
    let order =
        Import { pool, volume, file: nowhere, format: OutputFormat::Raw, how: How::Copy, overwrite: true };
    let left = leavings(link, &raw, None, &order)?;
    if !left.is_empty() {
        return Ok(left);
    }
    let Some(whole) = volumes::look_up(&raw, volume)? else { return Ok(left) };
    refuse_if_used(link, &order, &whole)?;
    Ok(vec![whole])
}

/// What an import that died has left of this volume, and nobody works on any more.
fn leavings(
    link: &Link,
    raw: &StoragePool,
    subject: Option<&Subject>,
    order: &Import<'_>,
) -> Result<Vec<StorageVol>> {
    let name = order.volume;
    let names = raw.list_volumes().map_err(failed("list the marks of", name))?;
    let mut left = Vec::new();
    for mark in names.iter().filter_map(|found| marks::read(found, name)) {
        let cause = match mark.owner {
            Owner::Gone => None,
            Owner::Running(pid) => Some(format!("the volume {name} is being imported by the process {pid}")),
            Owner::Elsewhere if order.overwrite => None,
            Owner::Elsewhere => Some(format!(
                "the volume {name} is being imported by another host or container, or was when that ended"
            )),
        };
        if let Some(cause) = cause {
            return Err(Error::new(Kind::Exists, cause)
                .advice("wait for it; if nobody works on it any more, say that it may be overwritten")
                .transient());
        }
        let half_done = match mark.what {
            What::Upload => volumes::look_up(raw, name)?,
            What::Part => None,
        };
        if let Some(volume) = half_done {
            // Somebody may have removed what was left and made another.
            let is_ours = match subject.filter(|_| !order.overwrite) {
                Some(subject) => {
                    may_be_ours(link, &volume, subject, &mark).map_err(failed("look at", name))?
                }
                None => true,
            };
            if is_ours {
                refuse_if_used(link, order, &volume)?;
                left.push(volume);
            }
        }
        // The mark comes last: as long as it is there, so is what it says.
        left.extend(volumes::look_up(raw, &mark.name)?);
    }
    Ok(left)
}

/// Whether a volume may be what an upload of this file left: no longer than the file was, and at its beginning the file's bytes, or none yet.
fn may_be_ours(
    link: &Link,
    volume: &StorageVol,
    subject: &Subject,
    mark: &Mark,
) -> Result<bool, virt::error::Error> {
    let found = volumes::describe("", volume)?;
    let is_longer = found.physical.is_some_and(|bytes| bytes > mark.length);
    Ok(!is_longer && upload::begins_alike(link, volume, &subject.file)?)
}

fn refuse_if_used(link: &Link, order: &Import<'_>, volume: &StorageVol) -> Result<()> {
    let name = order.volume;
    let found = volumes::describe(order.pool, volume).map_err(failed("look at", name))?;
    match volume_users::of(link, &found)? {
        None => Ok(()),
        Some(why) => {
            let pool = order.pool;
            Err(Error::new(
                Kind::Exists,
                format!("the volume {name} in the storage pool {pool} is in use: {why}"),
            )
            .advice("undefine what uses it if it is not wanted any more, or name another volume"))
        }
    }
}

/// The file, as it was when it was opened.
pub(super) struct Subject {
    /// Open, to be read.
    pub(super) file: File,
    /// Its bytes, holes included.
    pub(super) length: u64,
    /// Bytes that it occupies.
    pub(super) stored: u64,
    identity: Identity,
}

/// Device, inode, length, and when it was changed last.
type Identity = (u64, u64, u64, i64, i64);

fn identity(found: &Metadata) -> Identity {
    (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec())
}

impl Subject {
    fn open(link: &Link, order: &Import<'_>) -> Result<Subject> {
        let failed = |error| {
            Error::io(Kind::Source, "open", order.file, &error)
                .advice("name a plain file that this user may read")
        };
        let file = open_nofollow(order.file).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let path = order.file.display();
        if found.len() == 0 {
            return Err(
                Error::new(Kind::Source, format!("{path} is empty")).advice("name the file of a disk")
            );
        }
        if order.how == How::Move {
            let mine = rustix::fs::access(parent_of(order.file), rustix::fs::Access::WRITE_OK);
            mine.map_err(|error| {
                Error::io(Kind::Output, "move away", order.file, &error.into())
                    .advice("copy it, or run it as somebody who may change its directory")
            })?;
        }
        // A copy may be made of a disk whose machine is off.
        let user = match order.how {
            How::Copy => volume_users::has_open(&file),
            How::Move => volume_users::of_file(link, order.file)?,
        };
        if let Some(why) = user {
            return Err(Error::new(Kind::Source, format!("{path} is in use: {why}"))
                .advice("shut down what uses it; to move it, undefine that, too"));
        }
        let (length, stored) = (found.len(), allocated_bytes(&found));
        Ok(Subject { file, length, stored, identity: identity(&found) })
    }

    /// What was imported has to be one state of the file.
    pub(super) fn unchanged(&self, order: &Import<'_>) -> Result<()> {
        match self.file.metadata() {
            Ok(now) if identity(&now) == self.identity => Ok(()),
            _ => {
                let file = order.file.display();
                Err(Error::new(Kind::Source, format!("{file} was changed while it was imported"))
                    .advice("see who writes it, then try again"))
            }
        }
    }
}
