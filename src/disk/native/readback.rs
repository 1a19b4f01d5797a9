//! Proving a finished result: every piece has to be in it as it was read from the source.
//!
//! The copy's journal says of each piece what its hash was when it was read, that it was in the target with that hash when it was written, and
//! where. So it is enough that the finished image's tables, read by who did not write them, show every piece at that very place, and nothing
//! where there was nothing. Whoever wants more has every byte read back from the medium. Either way the source need not be read again, but for
//! what was changed since (repairs that were put into the result): there the bytes themselves are compared, and likewise wherever the journal
//! says nothing, unless result and source both say "zeros". A journal that lost its end, or has gone, thus costs time and never lets a wrong
//! result pass. A source that comes as a stream is not asked again: its journal says at its end that nothing else holds anything, so the result
//! has to hold nothing there, either. Without that word the stream comes once more, and is compared in its order. What is not here: results
//! that only QEMU reads, and those that it copied (see [`crate::disk::Engine::compare`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::journal::{Record, Subject, hash};
use super::pieces::PIECE_BYTES;
use super::records::Records;
use super::{Stall, THREADS};
use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::disk::read::{self, Holds, Range, Reader, Room};
use crate::disk::write::BLOCK_BYTES;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::plan::OutputFormat;
use crate::sys::fs::open_nofollow;

/// A stretch of which the journal says nothing is looked at in parts of so much, so that several threads have something to do.
const GAP_BYTES: u64 = 1 << 30;

/// How deep a result is looked into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// Its tables: every piece has to lie where it was looked at when it was written.
    #[default]
    Tables,
    /// Every byte, from the medium.
    Medium,
}

/// What looking into a result has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadBack {
    /// It holds what it has to hold.
    Same,
    /// It does not: about so many bytes into the disk.
    DiffersAt(u64),
    /// Nothing is known of how it was copied, or only QEMU can read it.
    Unknown,
}

/// Holds a result against what is known of its copy.
///
/// `extents` is what the copy's journal became. `on_progress` hears how many bytes of the disk are done.
pub(crate) fn read_back(
    engine: &Engine,
    source: &SourceDisk,
    (result, format): (&Path, OutputFormat),
    extents: &Path,
    depth: Depth,
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<ReadBack> {
    let Some(records) = known(source, (result, format), extents, depth) else { return Ok(ReadBack::Unknown) };
    let held = hold(engine, Some((records, depth)), source, (result, format), control)?;
    settle(held, engine.stall_timeout_s, control, on_progress)
}

/// Compares a result of which nothing is known with its source: all that either says to hold anything, byte by byte.
pub(crate) fn compare(
    engine: &Engine,
    source: &SourceDisk,
    result: (&Path, OutputFormat),
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<ReadBack> {
    settle(hold(engine, None, source, result, control)?, engine.stall_timeout_s, control, on_progress)
}

/// Opens both sides; `None`: only QEMU can read one of them.
fn hold(
    engine: &Engine,
    known: Option<(Records, Depth)>,
    source: &SourceDisk,
    (result, format): (&Path, OutputFormat),
    control: &Control,
) -> Result<Option<Held>> {
    let Some(content) = engine.reader(source, control)? else { return Ok(None) };
    let Some(changes) = read::own_layers(source, control)? else { return Ok(None) };
    let opened = read::open_result(result, format, control);
    // A result whose own tables make no sense is as wrong as one with other bytes.
    let Some(shown) = opened.map_err(|error| of_result(&error.permanent(), result))? else { return Ok(None) };
    // What is known of a part of a stream helps nobody: to be asked for the rest, all of it has to come and be taken.
    let known = known.filter(|(records, _)| !source.is_read_once() || records.is_whole());
    let (records, depth) = known.unzip();
    let holds_nowhere_else = source.is_read_once() && records.is_some();
    Ok(Some(Held {
        holds_nowhere_else,
        is_in_order: source.is_read_once() && !holds_nowhere_else,
        is_shared: depth == Some(Depth::Tables) && records.as_ref().is_some_and(Records::is_shared),
        parts: Mutex::new(Parts { records, size: shown.size(), at: 0, ahead: None }),
        shown,
        content,
        changes,
        result: result.to_owned(),
        depth: match format {
            // It has no tables: a piece cannot lie anywhere else.
            OutputFormat::Raw => depth.filter(|depth| *depth != Depth::Tables),
            _ => depth,
        },
        control: control.clone(),
        done: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        found: Mutex::new(None),
    }))
}

fn settle(
    held: Option<Held>,
    stall_timeout_s: f64,
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<ReadBack> {
    let Some(held) = held else { return Ok(ReadBack::Unknown) };
    let (shown, wanted) = (held.shown.size(), held.content.size());
    if shown != wanted {
        return Ok(ReadBack::DiffersAt(shown.min(wanted)));
    }
    match first_difference(&Arc::new(held), stall_timeout_s, control, on_progress)? {
        None => Ok(ReadBack::Same),
        Some(at) => Ok(ReadBack::DiffersAt(at)),
    }
}

/// What is known of the copy of this very source into this very file.
fn known(
    source: &SourceDisk,
    (result, format): (&Path, OutputFormat),
    extents: &Path,
    depth: Depth,
) -> Option<Records> {
    let open = || -> io::Result<Option<Records>> {
        let file = open_nofollow(result)?;
        if depth == Depth::Medium {
            // What is on the medium counts, not what is still in memory of what was to get there.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
        let size = source.facts.virtual_size;
        let subject = Subject::new(source.lasting_identity(), size, format, &file, true)?;
        Records::open(extents, &subject)
    };
    match open() {
        Ok(records) => records,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %extents.display(), %error, "what is known of a copy is of no use");
            }
            None
        }
    }
}

fn first_difference(
    held: &Arc<Held>,
    stall_timeout_s: f64,
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Option<u64>> {
    let (alive, ended) = mpsc::channel::<()>();
    let threads = (0..if held.is_in_order { 1 } else { THREADS }).map(|_| {
        let (held, alive) = (Arc::clone(held), alive.clone());
        thread::spawn(move || {
            let _alive = alive;
            held.work();
        })
    });
    let threads: Vec<_> = threads.collect();
    drop(alive);
    let mut stall = Stall::new(stall_timeout_s);
    if !stall.see_to_the_end(&ended, &held.done, control, on_progress) {
        // Who hangs is not waited for.
        held.is_over.store(true, Ordering::Relaxed);
        return Err(Error::new(Kind::Conversion, format!("no progress for {stall_timeout_s:.0} s"))
            .advice("check the storage that the result lies on; it is not answering")
            .transient()
            .output(&held.result));
    }
    if !threads.into_iter().all(|thread| thread.join().is_ok()) {
        return Err(Error::internal("a thread that reads a result back ended badly"));
    }
    on_progress(held.done.load(Ordering::Relaxed));
    held.found.lock().unwrap_or_else(PoisonError::into_inner).take().transpose()
}

/// What a reader says of a source, said of a result.
fn of_result(error: &Error, result: &Path) -> Error {
    let details = error.details();
    let (kind, advice) = match (details.kind, details.disposition) {
        (Kind::Source, Some(Disposition::Permanent)) => {
            (Kind::Validation, "run the job again; if it repeats, check the storage that the result lies on")
        }
        (Kind::Source, _) => (Kind::Output, "check the storage that the result lies on"),
        _ => return error.clone(),
    };
    Error::new(kind, details.cause.clone()).advice(advice).output(result)
}

/// A part of the disk.
#[derive(Debug)]
enum Part {
    /// One that was copied.
    Copied(Record),
    /// One of which the journal says nothing.
    Gap { at: u64, length: u64 },
}

/// The whole disk, part by part, in order and without a byte left out.
struct Parts {
    /// None when they have ended.
    records: Option<Records>,
    size: u64,
    at: u64,
    /// The record behind the gap that is being given out.
    ahead: Option<Record>,
}

impl Parts {
    fn next(&mut self) -> Option<Part> {
        if self.ahead.is_none() {
            self.ahead = self.next_record();
        }
        let gap_end = self.ahead.as_ref().map_or(self.size, |record| record.at);
        if self.at < gap_end {
            let (at, length) = (self.at, (gap_end - self.at).min(GAP_BYTES));
            self.at += length;
            return Some(Part::Gap { at, length });
        }
        let record = self.ahead.take()?;
        self.at += u64::from(record.length);
        Some(Part::Copied(record))
    }

    /// The next record. They end with the first that cannot be read, or does not tell of this disk: what is behind it is a gap.
    fn next_record(&mut self) -> Option<Record> {
        let next = self.records.as_mut()?.next();
        let sound = next.ok().flatten().filter(|record| {
            let length = u64::from(record.length);
            record.at >= self.at
                && (1..=PIECE_BYTES).contains(&length)
                && record.at.saturating_add(length) <= self.size
        });
        if sound.is_none() {
            self.records = None;
        }
        sound
    }
}

/// What a result is held against, and how far that is: what the threads share.
struct Held {
    /// What the result shows.
    shown: Box<dyn Reader>,
    /// What the guest is to see.
    content: Box<dyn Reader>,
    /// Images of our own above the source: what they do not hold is as it was copied.
    changes: Vec<Box<dyn Reader>>,
    result: PathBuf,
    /// Nothing was copied: result and source have the same blocks, but for what was changed since.
    is_shared: bool,
    /// What the records do not tell of holds nothing, and is not asked for.
    holds_nowhere_else: bool,
    /// The source comes from its beginning to its end: one thread goes along.
    is_in_order: bool,
    /// None: a piece that was copied needs no second look.
    depth: Option<Depth>,
    control: Control,
    parts: Mutex<Parts>,
    done: AtomicU64,
    is_over: AtomicBool,
    /// The first difference, or what went wrong before there was one.
    found: Mutex<Option<Result<u64>>>,
}

impl Held {
    fn work(&self) {
        let mut hands = Hands::default();
        while !self.is_over.load(Ordering::Relaxed) {
            let Some(part) = self.parts.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
            let found = match self.difference(&part, &mut hands) {
                Ok(None) => continue,
                Ok(Some(at)) => Ok(at),
                Err(error) => Err(error),
            };
            self.found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
            return self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Where a part differs.
    fn difference(&self, part: &Part, hands: &mut Hands) -> Result<Option<u64>> {
        match part {
            Part::Gap { at, length } if self.is_shared => self.changes(*at, *length, hands),
            Part::Gap { at, length } if self.holds_nowhere_else => self.nothing(*at, *length, hands),
            Part::Gap { at, length } => self.gap(*at, *length, hands),
            Part::Copied(record @ Record { at, length, hash: wanted, .. }) => {
                self.control.checkpoint()?;
                if self.is_changed(*at, u64::from(*length), hands)? {
                    return self.compare(*at, u64::from(*length), hands);
                }
                let differs = match self.depth {
                    None => None,
                    Some(Depth::Tables) => self.misplaced(record, hands)?,
                    Some(Depth::Medium) => {
                        let found = hash(self.read_shown(*at, *length as usize, hands)?);
                        (found != *wanted).then_some(*at)
                    }
                };
                self.done.fetch_add(u64::from(*length), Ordering::Relaxed);
                Ok(differs)
            }
        }
    }

    /// Whether an image of our own holds something there.
    fn is_changed(&self, at: u64, length: u64, hands: &mut Hands) -> Result<bool> {
        for layer in &self.changes {
            let mut from = at;
            let end = (at + length).min(layer.size());
            while from < end {
                let range = layer.next_range(from, &mut hands.of_content)?;
                if range.holds != Holds::Below {
                    return Ok(true);
                }
                from = range.end();
            }
        }
        Ok(false)
    }

    /// The first block of a piece that the result's tables do not show where it was written, or show where nothing was.
    fn misplaced(&self, record: &Record, hands: &mut Hands) -> Result<Option<u64>> {
        let mut placed = record.placed.iter();
        let mut run = placed.next();
        let end = record.at + u64::from(record.length);
        for at in (record.at..end).step_by(BLOCK_BYTES) {
            let block = at / BLOCK_BYTES as u64;
            while run.is_some_and(|run| run.block + run.count <= block) {
                run = placed.next();
            }
            let wanted = run.and_then(|run| run.place_of(block));
            let found = self.shown.place(at, &mut hands.of_result);
            let found = found.map_err(|error| of_result(&error, &self.result))?;
            let is_sound = match (wanted, found) {
                // In larger pieces, some of which are not all data.
                (None, Some(_)) => {
                    let bytes = (end - at).min(BLOCK_BYTES as u64) as usize;
                    self.read_shown(at, bytes, hands)?.iter().all(|byte| *byte == 0)
                }
                _ => wanted == found,
            };
            if !is_sound {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Compares what images of our own hold of a stretch.
    fn changes(&self, at: u64, length: u64, hands: &mut Hands) -> Result<Option<u64>> {
        let (mut from, end) = (at, at + length);
        while from < end {
            self.control.checkpoint()?;
            let (mut until, mut is_changed) = (end, false);
            for layer in self.changes.iter().filter(|layer| from < layer.size()) {
                let range = layer.next_range(from, &mut hands.of_content)?;
                until = until.min(range.end());
                is_changed |= range.holds != Holds::Below;
            }
            if !is_changed {
                self.done.fetch_add(until - from, Ordering::Relaxed);
            } else if let Some(different) = self.compare(from, until - from, hands)? {
                return Ok(Some(different));
            }
            from = until;
        }
        Ok(None)
    }

    /// Compares a stretch but for what both sides say to be zeros.
    fn gap(&self, at: u64, length: u64, hands: &mut Hands) -> Result<Option<u64>> {
        let (mut from, end) = (at, at + length);
        while from < end {
            self.control.checkpoint()?;
            let shown = self.shown_range(from, hands)?;
            let wanted = self.content.next_range(from, &mut hands.of_content)?;
            let until = shown.end().min(wanted.end()).min(end);
            if shown.holds == Holds::Data || wanted.holds == Holds::Data {
                if let Some(different) = self.compare(from, until - from, hands)? {
                    return Ok(Some(different));
                }
            } else {
                self.done.fetch_add(until - from, Ordering::Relaxed);
            }
            from = until;
        }
        Ok(None)
    }

    /// Where the result holds something in a stretch where it has to hold nothing.
    fn nothing(&self, at: u64, length: u64, hands: &mut Hands) -> Result<Option<u64>> {
        let (mut from, end) = (at, at + length);
        while from < end {
            self.control.checkpoint()?;
            let shown = self.shown_range(from, hands)?;
            let mut until = shown.end().min(end);
            if shown.holds == Holds::Data {
                until = until.min(from + PIECE_BYTES);
                let found = self.read_shown(from, (until - from) as usize, hands)?;
                if let Some(within) = found.iter().position(|byte| *byte != 0) {
                    return Ok(Some(from + within as u64));
                }
            }
            self.done.fetch_add(until - from, Ordering::Relaxed);
            from = until;
        }
        Ok(None)
    }

    /// Compares byte by byte.
    fn compare(&self, at: u64, length: u64, hands: &mut Hands) -> Result<Option<u64>> {
        for from in (at..at + length).step_by(PIECE_BYTES as usize) {
            self.control.checkpoint()?;
            let count = (at + length - from).min(PIECE_BYTES) as usize;
            self.read_shown(from, count, hands)?;
            let Hands { found, wanted, of_content, .. } = &mut *hands;
            wanted.resize(count, 0);
            self.content.read(from, wanted, of_content)?;
            if let Some(within) = found.iter().zip(&*wanted).position(|(found, wanted)| found != wanted) {
                return Ok(Some(from + within as u64));
            }
            self.done.fetch_add(count as u64, Ordering::Relaxed);
        }
        Ok(None)
    }

    /// What the result shows from an offset on.
    fn shown_range(&self, at: u64, hands: &mut Hands) -> Result<Range> {
        let range = self.shown.next_range(at, &mut hands.of_result);
        range.map_err(|error| of_result(&error, &self.result))
    }

    fn read_shown<'h>(&self, at: u64, count: usize, hands: &'h mut Hands) -> Result<&'h [u8]> {
        hands.found.resize(count, 0);
        let read = self.shown.read(at, &mut hands.found, &mut hands.of_result);
        read.map_err(|error| of_result(&error, &self.result))?;
        Ok(&hands.found)
    }
}

/// What one thread holds in its hands.
#[derive(Default)]
struct Hands {
    /// Of the result.
    found: Vec<u8>,
    /// Of what it has to hold.
    wanted: Vec<u8>,
    of_result: Room,
    of_content: Room,
}
