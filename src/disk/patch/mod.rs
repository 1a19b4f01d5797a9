//! What has changed of a disk, put into a copy of it that was made before.
//!
//! ```text
//!   areas ─▶ pieces ─▶ threads: read ▸ write, zeros as holes ▸ look ─▶ one sync: durable when it returns
//! ```
//!
//! The copy is the disk byte by byte, so every area has its place in it and needs no table. Nothing is written down of how far it is: cut
//! anywhere it is begun again, and what was put in before is put in once more. That is right as long as the areas told then are those told now
//! and more, which holds for whoever asks "since when" with the same answer. Threads that hang on storage are left behind, as by the copier
//! ([`super::native`]). What is not here: where areas come from, and images with tables.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::disk::native::{PIECE_BYTES, Stall};
use crate::disk::read::{Reader, Room};
use crate::disk::write::{HOLE_BYTES, filled};
use crate::model::error::{Error, Kind, Result};
use crate::sys::extents::stored_in;
use crate::sys::fs::free_bytes;

/// As many as the copier has: each waits for a network most of its time.
const THREADS: usize = 4;

/// What was put in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patched {
    /// Bytes that were read and written.
    pub bytes: u64,
    /// How long it took, until durable.
    pub seconds: f64,
}

impl Engine {
    /// Reads these areas of a source and writes them into a raw copy of it, which has to be there. What was written is looked at again; all of
    /// it is durable when this returns. `on_progress` hears how many bytes are done.
    pub fn patch(
        &self,
        source: &SourceDisk,
        areas: &[Range<u64>],
        target: &Path,
        control: &Control,
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<Patched> {
        let begun = Instant::now();
        let size = source.facts.virtual_size;
        let areas = in_order(areas, size, &source.path)?;
        let all = areas.clone();
        let reader = self.reader(source, control)?;
        let reader = reader.ok_or_else(|| Error::internal("only QEMU reads what is to be put in"))?;
        let file = open(target, size)?;
        let patch = Patch {
            reader,
            file,
            target: target.to_owned(),
            control: control.clone(),
            left: Mutex::new(Left { areas, at: 0 }),
            done: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            error: Mutex::new(None),
        };
        let patch = Arc::new(patch);
        let bytes = run(&patch, self.stall_timeout_s, control, on_progress)
            .map_err(|error| with_room(error, &patch, &all))?;
        Ok(Patched { bytes, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// The areas in the order in which they lie on the disk, those that touch as one.
fn in_order(areas: &[Range<u64>], size: u64, name: &Path) -> Result<Vec<Range<u64>>> {
    if let Some(area) = areas.iter().find(|area| area.end > size || area.start > area.end) {
        return Err(Error::new(
            Kind::Source,
            format!("an area from {} to {} is told of a disk of {size} bytes", area.start, area.end),
        )
        .rule("disk.changed")
        .source(name.display().to_string())
        .advice("see whether the disk was made larger or smaller meanwhile"));
    }
    let mut sorted: Vec<Range<u64>> = areas.iter().filter(|area| !area.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|area| area.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for area in sorted {
        match joined.last_mut() {
            Some(last) if area.start <= last.end => last.end = last.end.max(area.end),
            _ => joined.push(area),
        }
    }
    Ok(joined)
}

/// The copy, if it still is one of a disk of this size.
fn open(target: &Path, size: u64) -> Result<File> {
    let failed = |error: &io::Error| Error::io(Kind::Output, "open", target, error).output(target);
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = File::options().read(true).write(true).custom_flags(nofollow).open(target);
    let file = file.map_err(|error| failed(&error))?;
    let found = file.metadata().map_err(|error| failed(&error))?;
    if found.is_file() && found.len() == size {
        return Ok(file);
    }
    let is = found.len();
    Err(Error::new(Kind::Output, format!("{} has {is} bytes and is a copy of {size}", target.display()))
        .output(target)
        .advice("something else changes files in the result directory: find it, then try again"))
}

/// Lets all threads work; the bytes that were put in.
fn run(
    patch: &Arc<Patch>,
    stall_timeout_s: f64,
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<u64> {
    let (alive, ended) = mpsc::channel::<()>();
    let mut threads = Vec::with_capacity(THREADS);
    for number in 0..THREADS {
        let (patch, alive) = (Arc::clone(patch), alive.clone());
        let thread = thread::Builder::new().name(format!("patch {number}")).spawn(move || {
            patch.work();
            drop(alive);
        });
        threads.push(thread.map_err(|error| Error::internal(format!("no thread can be made: {error}")))?);
    }
    drop(alive);
    let mut stall = Stall::new(stall_timeout_s);
    if !stall.see_to_the_end(&ended, &patch.done, control, on_progress) {
        // Who hangs is not waited for.
        patch.fail(stalled(&patch.target, stall_timeout_s));
        return Err(patch.taken_error().unwrap_or_else(|| stalled(&patch.target, stall_timeout_s)));
    }
    let is_sound = threads.into_iter().all(|thread| thread.join().is_ok());
    let done = patch.done.load(Ordering::Relaxed);
    on_progress(done);
    if let Some(error) = patch.taken_error() {
        return Err(error);
    }
    if !is_sound {
        return Err(Error::internal("a thread that puts changes in ended badly"));
    }
    control.may_write()?;
    patch.file.sync_all().map_err(|error| patch.failed("make durable", &error))?;
    Ok(done)
}

/// How much is needed, where there is not enough: with less it would only be begun again, and its source be frozen for nothing.
fn with_room(error: Error, patch: &Patch, areas: &[Range<u64>]) -> Error {
    if error.kind() != Kind::DiskSpace {
        return error;
    }
    match (unstored(&patch.file, areas), free_bytes(&patch.target)) {
        (Ok(need), Ok(space)) => error.space(need.max(PIECE_BYTES), space.free),
        _ => error,
    }
}

/// Bytes in these areas of a file that take no room yet.
fn unstored(file: &File, areas: &[Range<u64>]) -> io::Result<u64> {
    let mut bytes = 0;
    for area in areas {
        let mut at = area.start;
        while at < area.end {
            let stored = stored_in(file, at..area.end)?.unwrap_or(area.end..area.end);
            bytes += stored.start - at;
            at = stored.end;
        }
    }
    Ok(bytes)
}

fn stalled(target: &Path, seconds: f64) -> Error {
    Error::new(Kind::Conversion, format!("no byte was put into {} for {seconds:.0} s", target.display()))
        .output(target)
        .advice("check the storage and the server; the pass is made again from its beginning")
        .transient()
}

/// What is still to be put in.
#[derive(Debug)]
struct Left {
    areas: Vec<Range<u64>>,
    /// The area that the next piece is of.
    at: usize,
}

impl Left {
    fn next(&mut self) -> Option<Range<u64>> {
        let area = self.areas.get_mut(self.at)?;
        let end = (area.start - area.start % PIECE_BYTES + PIECE_BYTES).min(area.end);
        let piece = area.start..end;
        area.start = end;
        if area.is_empty() {
            self.at += 1;
        }
        Some(piece)
    }
}

/// What the threads share.
#[derive(Debug)]
struct Patch {
    reader: Box<dyn Reader>,
    file: File,
    target: PathBuf,
    control: Control,
    left: Mutex<Left>,
    done: AtomicU64,
    is_over: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Patch {
    fn work(&self) {
        let mut room = Room::default();
        let (mut buffer, mut again) = (Vec::new(), Vec::new());
        while !self.is_over.load(Ordering::Relaxed) {
            match self.step(&mut room, &mut buffer, &mut again) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Puts one piece in; `false` if there is none.
    fn step(&self, room: &mut Room, buffer: &mut Vec<u8>, again: &mut Vec<u8>) -> Result<bool> {
        self.control.checkpoint()?;
        let piece = self.left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(piece) = piece else { return Ok(false) };
        let (at, length) = (piece.start, piece.end - piece.start);
        let is_over = || self.is_over.load(Ordering::Relaxed);
        self.control.await_turn(length, &is_over)?;
        if is_over() {
            return Ok(false);
        }
        // No piece is larger than PIECE_BYTES.
        buffer.resize(length as usize, 0);
        self.reader.read(at, buffer, room)?;
        self.control.may_write_on()?;
        self.put(at, buffer).map_err(|error| self.failed("write", &error))?;
        again.resize(buffer.len(), 0);
        self.file.read_exact_at(again, at).map_err(|error| self.failed("look at", &error))?;
        if again != buffer {
            return Err(self.differs(at));
        }
        self.done.fetch_add(length, Ordering::Relaxed);
        Ok(true)
    }

    /// Zeros take no room: what was there goes.
    fn put(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut zeros_from = 0;
        for run in filled(data, HOLE_BYTES) {
            self.clear(at + zeros_from as u64, &data[zeros_from..run.start])?;
            self.file.write_all_at(&data[run.clone()], at + run.start as u64)?;
            zeros_from = run.end;
        }
        self.clear(at + zeros_from as u64, &data[zeros_from..])
    }

    fn clear(&self, at: u64, zeros: &[u8]) -> io::Result<()> {
        if zeros.is_empty() {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, hole, at, zeros.len() as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.write_all_at(zeros, at),
            punched => punched.map_err(io::Error::from),
        }
    }

    /// The first error counts; everybody ends.
    fn fail(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn taken_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn differs(&self, at: u64) -> Error {
        let path = self.target.display();
        Error::new(
            Kind::Output,
            format!("{path} does not show what was just written, {at} bytes into the disk"),
        )
        .output(&self.target)
        .advice("check the memory of this machine and the storage that the result lies on")
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        let failed = Error::io(Kind::Output, what, &self.target, error).output(&self.target);
        match failed.kind() {
            Kind::DiskSpace => failed,
            _ => failed.advice("check the storage that the result lies on"),
        }
    }
}

#[cfg(test)]
mod tests;
