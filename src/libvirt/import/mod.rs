//! A finished file becomes a volume in a pool.
//!
//! Where it lies where the pool does, it is renamed, or shares its blocks, and has its name only when it is whole. Else libvirt is sent its bytes,
//! without its holes, into a volume that is [marked](marks) as half-done until all is there; whatever dies meanwhile, the next import of that volume
//! clears it away. A machine that uses the volume is defined after that ([ADR 39](../../../docs/adr/0039-volumes-are-marked-until-they-are-whole.md)).
//!
//! Whoever goes on after a kill writes down beforehand that it imports this volume, whose name was free then. It calls again with `overwrite`; if the file
//! was to be moved and is gone, the volume of its length is the result. What is not here: the pool being there, and any machine.

mod ending;
mod in_place;
mod marks;
mod ready;
mod upload;

use std::path::Path;

use serde::Serialize;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use self::marks::What;
use self::ready::Ready;
use self::upload::Broken;
use super::failure::told;
use super::link::{Access, Link};
use super::pools::{self, Pool};
use super::volumes::{self, Volume};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::OutputFormat;
use crate::sys::failpoint;
use crate::sys::fs::{open_nofollow, parent_of, sync_dir};

/// A mark holds nothing, and some pools have no empty volumes.
const MARK_BYTES: u64 = 512;
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
    let ready = Ready::look(link, order)?;
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
    ready.enough_room()?;
    if let Some(old) = old {
        old.delete(0).map_err(failed("replace", order.volume))?;
    }
    let mark = marks::name(What::Upload, order.volume, subject.length);
    let xml = volumes::definition(&mark, OutputFormat::Raw, MARK_BYTES, ready.allocated(MARK_BYTES));
    let made = volumes::make(link, raw, &xml, 0, (order.pool, order.volume, MARK_BYTES))?;
    failpoint::hit("import.marked");
    let volume = uploaded(link, &ready, order, &mut watch)
        .map_err(|broken| clear_away(link, &ready, order, broken, &mark))?;
    failpoint::hit("import.sent");
    // What is marked goes with the next import: the file stays until that is over.
    made.delete(0).map_err(failed("take the mark off", order.volume))?;
    if order.how == How::Move {
        remove_source(order)?;
    }
    watch.ends_at(subject.length);
    Ok(Imported { volume, how: "uploaded", bytes: subject.length })
}

/// Whether all is as an import needs it, as far as that can be told beforehand, and how many bytes the file has. Nothing is changed.
pub fn rehearse(link: &Link, order: &Import<'_>) -> Result<u64> {
    let ready = Ready::look(link, order)?;
    ready.enough_room()?;
    Ok(ready.subject.length)
}

/// Takes back an import that is given up: its volume, whole or half-done, and what says that it is.
pub fn take_back(link: &Link, pool: &str, volume: &str) -> Result<()> {
    let there = ready::given_up(link, pool, volume)?;
    there.iter().try_for_each(|volume| volume.delete(0)).map_err(failed("take back", volume))
}

/// libvirt failed to do this with a volume.
fn failed(what: &'static str, name: &str) -> impl Fn(virt::error::Error) -> Error {
    let name = name.to_owned();
    move |error| told(&format!("cannot {what} the volume {name}"), &error)
}

/// Makes the volume and sends it its bytes.
fn uploaded(link: &Link, ready: &Ready, order: &Import<'_>, watch: &mut Watch<'_>) -> Result<Volume, Broken> {
    let Ready { subject, raw, pool, .. } = ready;
    let length = subject.length;
    // Raw, whatever it will hold: libvirt would write a format's tables where the file may have holes. What it is, libvirt tells by its content.
    let xml = volumes::definition(order.volume, OutputFormat::Raw, length, ready.allocated(length));
    let named = (order.pool, order.volume, ready.need());
    volumes::make(link, raw, &xml, 0, named).map_err(|error| match error.kind() {
        Kind::Exists => Broken::NotOurs(error),
        _ => Broken::Ended(error),
    })?;
    // Where libvirtd cannot write, the connection may be of no use any more: no one else has this one.
    let own = Link::open(&ready.uri, Access::Changes).map_err(Broken::Ended)?;
    let volume = same(&own, order).map_err(Broken::Ended)?;
    // What is allocated beforehand cannot run out: a group of volumes with nothing left to give is no reason to end it.
    let is_full = || pool.is_of_files() && volumes::is_full(link, order.pool);
    upload::send(&own, &volume, &subject.file, length, &is_full, watch)?;
    subject.unchanged(order).map_err(Broken::Ended)?;
    let made = check(link, raw, pool, order, length).map_err(Broken::Ended)?;
    if order.how == How::Move {
        upload::compare(&own, &volume, &subject.file, length, watch)?;
    }
    make_durable(&made, order).map_err(Broken::Ended)?;
    Ok(made)
}

/// The volume that was made, over another connection.
fn same(link: &Link, order: &Import<'_>) -> Result<StorageVol> {
    volumes::look_up(&pools::raw(link, order.pool)?, order.volume)?
        .ok_or_else(|| unfit(Kind::Libvirt, order, "libvirt does not see it"))
}

/// Removes what an upload that failed has made, and tells why it failed. What cannot be removed is marked, and goes with the next import.
fn clear_away(link: &Link, ready: &Ready, order: &Import<'_>, broken: Broken, mark: &str) -> Error {
    // One that libvirtd did not survive is of no use any more.
    let fresh = match link.raw().is_alive() {
        Ok(true) => None,
        _ => Link::open(&ready.uri, Access::Changes).ok(),
    };
    let link = fresh.as_ref().unwrap_or(link);
    let ours = if matches!(broken, Broken::NotOurs(_)) { vec![mark] } else { vec![order.volume, mark] };
    // How much room there is, is asked before it is given back.
    let error = explain(link, ready, order, broken);
    let Ok(pool) = pools::raw(link, order.pool) else { return error };
    for name in ours {
        let removed = volumes::look_up(&pool, name).ok().flatten().map(|volume| volume.delete(0));
        if let Some(Err(error)) = removed {
            tracing::warn!(
                name,
                error = error.message(),
                "what is left of an import is removed by the next one"
            );
            // The mark stays, too.
            break;
        }
    }
    error
}

fn explain(link: &Link, ready: &Ready, order: &Import<'_>, broken: Broken) -> Error {
    let file = order.file.display();
    match broken {
        Broken::Ended(error) | Broken::NotOurs(error) => error,
        Broken::File(error) => Error::io(Kind::Source, "read", order.file, &error)
            .advice("see that it is whole and that nobody writes it, then try again"),
        Broken::Libvirt(error) => {
            volumes::no_room(link, order.pool, &error, ready.need()).unwrap_or_else(|| {
                told(&format!("cannot upload {file} into the volume {}", order.volume), &error)
            })
        }
        Broken::Full => {
            volumes::full(order.pool, pools::refresh(link, order.pool).ok().as_ref(), ready.need())
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
    match volumes::look_up(raw, order.volume)? {
        Some(volume) => fits(pool, order, length, &volume),
        None => Err(unfit(Kind::Libvirt, order, "libvirt does not see it")),
    }
}

fn unfit(kind: Kind, order: &Import<'_>, why: &str) -> Error {
    Error::new(kind, format!("the volume {} is not what {} is: {why}", order.volume, order.file.display()))
        .advice("see with `hyper2kvm inspect` what the file is, and that nobody else works in the pool")
}

/// The same of what is, or is to be, that volume.
fn fits(pool: &Pool, order: &Import<'_>, length: u64, volume: &StorageVol) -> Result<Volume> {
    let volume = volumes::describe(order.pool, volume).map_err(failed("look at", order.volume))?;
    let bytes = volume.physical.unwrap_or(length);
    if (pool.is_of_files() && bytes != length)
        || (order.format == OutputFormat::Raw && volume.capacity < length)
    {
        return Err(unfit(Kind::Validation, order, &format!("it has {bytes} bytes, not {length}")));
    }
    // Raw may look like anything: what a machine is told is what counts.
    let word = volumes::word(order.format);
    match volume.format.as_deref() {
        Some(other) if order.format != OutputFormat::Raw && other != word => {
            Err(unfit(Kind::Source, order, &format!("libvirt takes it for {other}, not {word}")))
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
