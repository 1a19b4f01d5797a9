//! One copy by ourselves: a map, several threads each reading a piece and writing it, and one that makes durable what they wrote.
//!
//! ```text
//!   pieces ──▶ worker: read ▸ hash ▸ write ▸ look ──┐
//!          ──▶ worker: …                            ├──▶ ledger: add to the journal │ seldom: sync the target
//!          ──▶ …                                    ┘
//! ```
//!
//! Pieces are placed in the target in the order of the disk, whichever thread is quicker: the same source gives the same file, also when a
//! run was cut. Killed at any moment, it goes on from the journal (see [`mod@begin`]). Threads that hang on storage are left behind when the copy is given
//! up: nothing here waits for them for ever. What is not here: which sources and targets are read and written (see [`super::read`] and
//! [`super::write`]), and what a finished file still needs.

mod begin;
mod frames;
mod journal;
mod ledger;
mod objection;
mod pieces;
mod places;
mod readback;
mod records;
mod stall;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub(crate) use begin::{Begun, begin, make_anew};
use journal::{Record, hash};
use ledger::{Ledger, conclude, harden_once};
pub(crate) use pieces::PIECE_BYTES;
use pieces::{Piece, Pieces};
pub use readback::Depth;
pub(crate) use readback::{ReadBack, compare, read_back};
pub(crate) use stall::Stall;

use crate::disk::control::{Control, Interruption};
use crate::disk::read::{Reader, Room};
use crate::disk::write::Writer;
use crate::model::error::{Error, Kind, Result};

/// With fewer nobody works while the disks are waited for, with more all only wait for them.
const THREADS: usize = 8;
/// There may be more where results are packed.
const MOST_PACKING_THREADS: usize = 32;

/// What a copy has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Found done when it began.
    pub(crate) kept_bytes: u64,
    /// Why an earlier run was not gone on from.
    pub(crate) restarted: Option<String>,
}

/// How one is copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Without any progress for this long it is given up.
    pub(crate) stall_timeout_s: f64,
    /// Whether what was written is looked at again at once.
    pub(crate) looks_again: bool,
    /// Whether the source is no file of this machine.
    pub(crate) is_remote: bool,
    /// Whether nobody can ask it afterwards what else it holds.
    pub(crate) is_read_once: bool,
}

impl Manner {
    /// Nothing was copied for too long.
    fn stalled(&self, target: &Path) -> Error {
        let why = format!("no progress for {:.0} s", self.stall_timeout_s);
        let (kind, advice) = match self.is_remote {
            true => (
                Kind::Network,
                "check the server that the disk is read from, the network, and the storage that is written to",
            ),
            false => {
                (Kind::Conversion, "check the storage that is read from and written to; it is not answering")
            }
        };
        Error::new(kind, why).advice(advice).transient().output(target)
    }
}

/// Copies all that is not zero and not done. `on_progress` hears how many bytes are.
pub(crate) fn copy(
    reader: Box<dyn Reader>,
    begun: Begun,
    target: &Path,
    manner: Manner,
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Copied> {
    let Begun { file, writer, journal, done, restarted, .. } = begun;
    let kept_bytes = done.bytes;
    let copy = Arc::new(Copy {
        reader,
        writer,
        target: target.to_owned(),
        looks_again: manner.looks_again,
        control: control.clone(),
        pieces: Mutex::new(Pieces::from(done.until)),
        ledger: Ledger::new(manner.is_remote),
        done: AtomicU64::new(kept_bytes),
        is_over: AtomicBool::new(false),
        error: Mutex::default(),
    });
    let (alive, ended) = mpsc::channel::<()>();
    let mut threads = Vec::new();
    for _ in 0..threads_for(copy.writer.as_ref()) {
        let (copy, alive) = (Arc::clone(&copy), alive.clone());
        threads.push(thread::spawn(move || {
            let _alive = alive;
            copy.work();
        }));
    }
    drop(alive);
    let (alive, kept) = mpsc::channel::<()>();
    let journal = journal.map(|journal| Arc::new(Mutex::new(journal)));
    let last = journal.clone().zip(file.try_clone().ok());
    let mut keepers = Vec::new();
    keepers.push(thread::spawn({
        let (copy, journal, alive) = (Arc::clone(&copy), journal.clone(), alive.clone());
        move || {
            let _alive = alive;
            let may_write = || copy.control.may_write();
            if let Err(error) = copy.ledger.keep(journal.as_deref(), &may_write) {
                copy.fail(error.told(|error| copy.failed("write down the copy of", &error)));
            }
        }
    }));
    keepers.extend(journal.map(|journal| {
        let (copy, alive) = (Arc::clone(&copy), alive.clone());
        thread::spawn(move || {
            let _alive = alive;
            let may_write = || copy.control.may_write();
            if let Err(error) = copy.ledger.harden(&file, &journal, &may_write) {
                copy.fail(error.told(|error| copy.failed("make durable", &error)));
            }
        })
    }));
    drop(alive);
    let mut stall = Stall::new(manner.stall_timeout_s);
    let mut wait = |ended: &mpsc::Receiver<()>| {
        let is_ended = stall.see_to_the_end(ended, &copy.done, control, on_progress);
        if !is_ended {
            copy.fail(manner.stalled(target));
        }
        is_ended
    };
    let is_ended = wait(&ended);
    copy.ledger.close();
    let is_ended = is_ended && wait(&kept);
    // Who hangs is not waited for.
    let is_sound = !is_ended || threads.into_iter().chain(keepers).all(|thread| thread.join().is_ok());
    on_progress(copy.done.load(Ordering::Relaxed));
    let is_kept = copy.control.interruption() == Some(Interruption::Cancel { keep_partial: true });
    if let Some((journal, file)) = last.as_ref().filter(|_| is_kept && is_ended && is_sound) {
        // Another host, and another run of this one, go on from what is durable.
        if let Err(error) = harden_once(file, journal, &|| copy.control.may_write()) {
            tracing::warn!(path = %target.display(), ?error, "what was copied last is not durable");
        }
    }
    if let Some(error) = copy.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    if !is_sound {
        return Err(Error::internal("a thread of a copy ended badly"));
    }
    copy.control.may_write()?;
    copy.writer.finish().map_err(|error| copy.failed("write", &error))?;
    if let Some((journal, file)) = last.filter(|_| manner.is_read_once) {
        let concluded = conclude(&file, &journal, &|| copy.control.may_write());
        concluded.map_err(|stop| stop.told(|error| copy.failed("make durable", &error)))?;
    }
    Ok(Copied { kept_bytes, restarted })
}

/// Where packed pieces wait for their turn, others go on packing.
fn threads_for(writer: &dyn Writer) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if writer.packs() { (2 * processors).clamp(THREADS, MOST_PACKING_THREADS) } else { THREADS }
}

/// What the threads of one copy share.
struct Copy {
    reader: Box<dyn Reader>,
    writer: Box<dyn Writer>,
    target: PathBuf,
    looks_again: bool,
    control: Control,
    pieces: Mutex<Pieces>,
    ledger: Ledger,
    done: AtomicU64,
    is_over: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Copy {
    fn work(&self) {
        let mut room = Room::default();
        let mut buffer = vec![0; PIECE_BYTES as usize];
        let mut again = vec![0; if self.looks_again { buffer.len() } else { 0 }];
        while !self.is_over.load(Ordering::Relaxed) {
            match self.step(&mut room, &mut buffer, &mut again) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Copies one piece; `false` if there is none.
    fn step(&self, room: &mut Room, buffer: &mut [u8], again: &mut [u8]) -> Result<bool> {
        self.control.checkpoint()?;
        let mut coming = Vec::new();
        let next = {
            let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            let next = pieces.next(self.reader.as_ref(), room, &mut coming)?;
            next.filter(|piece| self.ledger.admit(piece.length))
        };
        // Threads that each read a piece look to the kernel like somebody who jumps about, for whom it reads nothing ahead.
        coming.iter().for_each(|piece| self.reader.will_need(piece.at, piece.length, room));
        let Some(Piece { number, at, length }) = next else { return Ok(false) };
        let is_over = || self.is_over.load(Ordering::Relaxed);
        self.control.await_turn(length, &is_over)?;
        if is_over() {
            return Ok(false);
        }
        let buffer = &mut buffer[..length as usize];
        self.reader.read(at, buffer, room)?;
        let hash = hash(buffer);
        self.control.may_write_on()?;
        let placed = self.writer.write(number, at, buffer).map_err(|error| self.failed("write", &error))?;
        if let Some(again) = again.get_mut(..length as usize) {
            self.writer.read(at, again).map_err(|error| self.failed("look at", &error))?;
            if journal::hash(again) != hash {
                return Err(self.differs(at));
            }
        }
        self.ledger.written(number, Record { at, length: length as u32, hash, placed });
        self.done.fetch_add(length, Ordering::Relaxed);
        Ok(true)
    }

    /// The first error counts; everybody ends.
    fn fail(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.is_over.store(true, Ordering::Relaxed);
        self.ledger.close();
        self.writer.give_up();
    }

    /// What was written is not what is there.
    fn differs(&self, at: u64) -> Error {
        let path = self.target.display();
        Error::new(
            Kind::Output,
            format!("{path} does not show what was just written, {at} bytes into the disk"),
        )
        .output(&self.target)
        .advice("check the memory of this machine and the storage that the result lies on")
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Error {
        let failed = Error::io(Kind::Output, what, &self.target, error).output(&self.target);
        match failed.kind() {
            Kind::DiskSpace => failed,
            _ => failed.advice("check the storage that the result lies on"),
        }
    }
}
