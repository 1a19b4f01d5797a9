//! A finished file becomes a volume in a pool.
//!
//! Where it lies where the pool does, it is renamed, or shares its blocks, and has its name only when it is whole. Else libvirt is sent its bytes,
//! without its holes, into a volume that is [marked](marks) as half-done until all is there; whatever dies meanwhile, the next import of that volume
//! clears it away. A machine that uses the volume is defined after that ([ADR 39](../../../docs/adr/0039-volumes-are-marked-until-they-are-whole.md)).
//!
//! Whoever goes on after a kill writes down beforehand that it imports this volume, whose name was free then. It calls again with `overwrite`; if the file
//! was to be moved and is gone, the volume of its length is the result. What is not here: the pool being there, and any machine.

mod in_place;
mod marks;
mod upload;

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Serialize;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use self::marks::{Owner, What};
use self::upload::Broken;
use super::failure::told;
use super::link::Link;
use super::pools::{self, Pool};
use super::volume_users;
use super::volumes::{self, Volume};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::OutputFormat;
use crate::sys::failpoint;
use crate::sys::fs::{allocated_bytes, open_nofollow, parent_of, sync_dir};

/// How often it is asked whether to go on.
const ASK_EVERY_BYTES: u64 = 4 << 20;

/// What becomes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It stays.
    Copy,
    /// It is gone when the volume is whole.
    Move,
}

/// What is imported, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import<'a> {
    /// The pool.
    pub pool: &'a str,
    /// The volume's name in it.
    pub volume: &'a str,
    /// A plain file that nobody writes any more.
    pub file: &'a Path,
    /// Its format.
    pub format: OutputFormat,
    /// Whether it stays.
    pub how: How,
    /// Whether a volume of that name that nobody uses is replaced.
    pub overwrite: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The volume, whole.
    pub volume: Volume,
    /// `renamed`, `reflinked` or `uploaded`.
    pub how: &'static str,
    /// Bytes of the file, holes included.
    pub bytes: u64,
}

/// Imports a file. `keep_on` is asked every few MiB, and may wait; its error ends the import, and what was made goes. `on_progress` is told how many
/// bytes of the file are behind us, holes included; it may be told the same number again.
///
/// One process imports one volume once at a time.
pub fn import(
    link: &Link,
    order: &Import<'_>,
    keep_on: &dyn Fn() -> Result<()>,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Imported> {
    let ready = look(link, order)?;
    let mut watch = Watch { keep_on, on_progress, done: 0, unasked: 0 };
    keep_on()?;
    let Ready { subject, raw, pool, left, old, .. } = &ready;
    left.iter()
        .try_for_each(|volume| volume.delete(0))
        .map_err(failed("remove what is left of", order.volume))?;
    if let Some(placed) = in_place::place(raw, pool, order, &subject.file, old.is_some())? {
        let how = placed.how();
        let volume = subject.unchanged(order).and_then(|()| check(link, raw, pool, order, subject.length));
        let volume = volume.inspect_err(|_| {
            placed.undo();
            // Whoever looks next refreshes it, too.
            let _ = raw.refresh(0);
        })?;
        watch.ends_at(subject.length);
        return Ok(Imported { volume, how, bytes: subject.length });
    }
    enough_room(&ready)?;
    if let Some(old) = old {
        old.delete(0)
            .map_err(|error| told(&format!("cannot remove the old volume {}", order.volume), &error))?;
    }
    let mark = volumes::definition(
        &marks::name(What::Upload, order.volume, subject.length),
        OutputFormat::Raw,
        MARK_BYTES,
        0,
    );
    let mark = volumes::make(link, raw, &mark, 0, (order.pool, order.volume, MARK_BYTES))?;
    failpoint::hit("import.marked");
    let made = uploaded(link, &ready, order, &mut watch);
    failpoint::hit("import.sent");
    let mark = mark
        .delete(0)
        .map_err(|error| told(&format!("cannot say that the volume {} is whole", order.volume), &error));
    let volume = made?;
    // What is marked goes with the next import: the file stays until that is over.
    mark?;
    if order.how == How::Move {
        remove_source(order)?;
    }
    watch.ends_at(subject.length);
    Ok(Imported { volume, how: "uploaded", bytes: subject.length })
}

/// Whether all is as an import needs it, as far as that can be told beforehand, and how many bytes the file has. Nothing is changed.
pub fn rehearse(link: &Link, order: &Import<'_>) -> Result<u64> {
    let ready = look(link, order)?;
    enough_room(&ready)?;
    Ok(ready.subject.length)
}

/// A mark has to be as long as a pool's smallest volume.
const MARK_BYTES: u64 = 512;

/// What an import works with.
struct Ready {
    subject: Subject,
    raw: StoragePool,
    pool: Pool,
    /// What an import that died has left.
    left: Vec<StorageVol>,
    /// The volume that is replaced.
    old: Option<StorageVol>,
    /// Bytes that these occupy.
    freed: u64,
}

fn look(link: &Link, order: &Import<'_>) -> Result<Ready> {
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
    let left = leavings(link, &raw, &pool, order)?;
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
    Ok(Ready { subject, raw, pool, left, old, freed })
}

/// What an import that died has left of this volume, and nobody works on any more.
fn leavings(link: &Link, raw: &StoragePool, pool: &Pool, order: &Import<'_>) -> Result<Vec<StorageVol>> {
    let name = order.volume;
    let names = raw.list_volumes().map_err(failed("list the marks of", name))?;
    let mut left = Vec::new();
    for mark in names.iter().filter_map(|found| marks::read(found, name)) {
        let cause = match mark.owner {
            Owner::Gone => None,
            Owner::Running(pid) => Some(format!("the volume {name} is being imported by the process {pid}")),
            Owner::Elsewhere if order.overwrite => None,
            Owner::Elsewhere => {
                Some(format!("the volume {name} is being imported by another host, or was when that died"))
            }
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
            let found = volumes::describe(order.pool, &volume).map_err(failed("look at", name))?;
            // Somebody may have removed what was left and made another.
            let is_ours =
                !pool.is_of_files() || found.physical.is_none_or(|bytes| bytes == 0 || bytes == mark.length);
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

/// libvirt failed to do this with a volume.
fn failed(what: &'static str, name: &str) -> impl Fn(virt::error::Error) -> Error {
    let name = name.to_owned();
    move |error| told(&format!("cannot {what} the volume {name}"), &error)
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

fn enough_room(ready: &Ready) -> Result<()> {
    let need = ready.need();
    match ready.pool.available.saturating_add(ready.freed) < need {
        true => Err(volumes::full(&ready.pool.name, Some(&ready.pool), need)),
        false => Ok(()),
    }
}

impl Ready {
    /// Bytes that the volume will occupy: devices have no holes.
    fn need(&self) -> u64 {
        if self.pool.is_of_files() { self.subject.stored } else { self.subject.length }
    }
}

/// Makes the volume and sends it its bytes; what fails leaves none.
fn uploaded(link: &Link, ready: &Ready, order: &Import<'_>, watch: &mut Watch<'_>) -> Result<Volume> {
    let Ready { subject, raw, pool, .. } = ready;
    let length = subject.length;
    let allocation = if pool.is_of_files() { 0 } else { length };
    // Raw, whatever it will hold: libvirt would write a format's tables where the file may have holes. What it is, libvirt tells by its content.
    let xml = volumes::definition(order.volume, OutputFormat::Raw, length, allocation);
    let volume = volumes::make(link, raw, &xml, 0, (order.pool, order.volume, ready.need()))?;
    let mut fill = || {
        upload::send(link, &volume, &subject.file, length, watch)
            .map_err(|broken| explain(link, ready, order, broken))?;
        subject.unchanged(order)?;
        let made = check(link, raw, pool, order, length)?;
        if order.how == How::Move {
            upload::compare(link, &volume, &subject.file, length, watch)
                .map_err(|broken| explain(link, ready, order, broken))?;
        }
        make_durable(&made, order)?;
        Ok(made)
    };
    let filled = fill();
    if filled.is_err() {
        // What cannot be removed now is marked, and goes with the next import.
        let _ = volume.delete(0);
    }
    filled
}

fn explain(link: &Link, ready: &Ready, order: &Import<'_>, broken: Broken) -> Error {
    let file = order.file.display();
    match broken {
        Broken::Stopped(error) => error,
        Broken::File(error) => Error::io(Kind::Source, "read", order.file, &error)
            .advice("see that it is whole and that nobody writes it, then try again"),
        Broken::Libvirt(error) => {
            volumes::no_room(link, order.pool, &error, ready.need()).unwrap_or_else(|| {
                told(&format!("cannot upload {file} into the volume {}", order.volume), &error)
            })
        }
        Broken::Differs(at) => Error::new(
            Kind::Validation,
            format!("the volume {} differs from {file} at byte {at}", order.volume),
        )
        .advice("see whether the pool's storage is sound; the file was left as it is"),
    }
}

/// What libvirt makes of the volume has to be what the file was said to be.
fn check(link: &Link, raw: &StoragePool, pool: &Pool, order: &Import<'_>, length: u64) -> Result<Volume> {
    pools::refresh(link, order.pool)?;
    let wrong = |kind, why: String| {
        Err(Error::new(
            kind,
            format!("the volume {} is not what {} is: {why}", order.volume, order.file.display()),
        )
        .advice("see with `hyper2kvm inspect` what the file is, and that nobody else works in the pool"))
    };
    let Some(volume) = volumes::look_up(raw, order.volume)? else {
        return wrong(Kind::Libvirt, "libvirt does not see it".to_owned());
    };
    let volume = volumes::describe(order.pool, &volume).map_err(failed("look at", order.volume))?;
    let bytes = volume.physical.unwrap_or(length);
    if (pool.is_of_files() && bytes != length)
        || (order.format == OutputFormat::Raw && volume.capacity < length)
    {
        return wrong(Kind::Validation, format!("it has {bytes} bytes, not {length}"));
    }
    // Raw may look like anything: what a machine is told is what counts.
    let word = volumes::word(order.format);
    match volume.format.as_deref() {
        Some(other) if order.format != OutputFormat::Raw && other != word => {
            wrong(Kind::Source, format!("libvirt takes it for {other}, not {word}"))
        }
        _ => Ok(volume),
    }
}

/// libvirt leaves it to the kernel when bytes reach the medium. A file that is removed for them has to wait for that.
fn make_durable(volume: &Volume, order: &Import<'_>) -> Result<()> {
    match open_nofollow(&volume.path) {
        Ok(file) => file.sync_all().map_err(|error| {
            Error::io(Kind::Output, "make durable", &volume.path, &error)
                .advice("see whether the pool's storage is sound")
        }),
        // What this user may not open, the kernel can write out all the same.
        Err(_) if order.how == How::Move => {
            rustix::fs::sync();
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

fn remove_source(order: &Import<'_>) -> Result<()> {
    let removed = std::fs::remove_file(order.file).and_then(|()| sync_dir(parent_of(order.file)));
    removed.map_err(|error| {
        Error::io(Kind::Output, "remove", order.file, &error)
            .advice(format!("the volume {} is whole: remove the file yourself", order.volume))
    })
}

/// The file, as it was when it was opened.
struct Subject {
    file: File,
    length: u64,
    stored: u64,
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
    fn unchanged(&self, order: &Import<'_>) -> Result<()> {
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

/// Who is told, and who is asked, while bytes move.
struct Watch<'w> {
    keep_on: &'w dyn Fn() -> Result<()>,
    on_progress: &'w mut dyn FnMut(u64),
    done: u64,
    unasked: u64,
}

impl Watch<'_> {
    /// So many bytes more of the file are behind us.
    fn passed(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        (self.on_progress)(self.done);
        self.looked_at(bytes)
    }

    /// So many bytes were read back: a sign of life, though nothing more is done.
    fn looked_at(&mut self, bytes: u64) -> Result<()> {
        self.unasked += bytes;
        if self.unasked < ASK_EVERY_BYTES {
            return Ok(());
        }
        self.unasked = 0;
        (self.on_progress)(self.done);
        (self.keep_on)()
    }

    /// All is done.
    fn ends_at(&mut self, length: u64) {
        if self.done < length {
            self.done = length;
            (self.on_progress)(length);
        }
    }
}
