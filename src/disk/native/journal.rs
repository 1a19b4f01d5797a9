//! How far a copy is, written down beside it: what a copy that was cut goes on from.
//!
//! ```text
//!   frame: length (4) │ hash of the payload (8) │ payload          the first one: what is copied into what, as JSON
//!   …                                                              each other one, by its first byte:
//!                                                                    R  a run of the kernel in which frames were written, by its name
//!                                                                    P  pieces that are in the target
//!                                                                    D  up to which frame all that was told is durable
//!                                                                    S  the target shares all that the source holds
//!                                                                    W  nothing else of the source holds anything
//! ```
//!
//! A frame of pieces is written as soon as their bytes are in the target, and neither waits for the medium: what a killed process has written
//! stays in the kernel's memory. From time to time the target is synced, and then a frame says how far. So after a kill all sound frames
//! count, and after a power cut, which shows in another run of the kernel, those that were durable. The hash is seeded with the frame's
//! place, so that neither half a frame nor one of another journal passes. What does not count is cut away. What is not here: who decides
//! when a frame is written (see [`super::ledger`]).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::frames::{Frames, MOST_BYTES, frame};
use super::places;
use crate::disk::copy::Target;
use crate::disk::facts::FileIdentity;
use crate::disk::write::{BLOCK_BYTES, Placed, Writer};
use crate::model::plan::{Compression, OutputFormat, Preallocation};
use crate::sys::fs::open_to_go_on;

/// The version of the format. An unknown one is not gone on from.
pub(super) const VERSION: u32 = 2;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Of a record, before the places.
const RECORD_BYTES: usize = 22;
/// What a frame tells, by its first byte.
const RUN: u8 = b'R';
pub(super) const PIECES: u8 = b'P';
const DURABLE: u8 = b'D';
const SHARED: u8 = b'S';
const WHOLE: u8 = b'W';

/// What the journal of a copy is about. It is gone on with only where all of this is still so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) version: u32,
    pub(super) source: Vec<FileIdentity>,
    pub(super) virtual_size: u64,
    format: OutputFormat,
    /// How it is packed and laid out: another choice makes another file, with the same in it.
    made: Option<Made>,
    block_bytes: u64,
    pub(super) target_inode: u64,
    /// Whether every piece was looked at in the target before it was told.
    is_looked_at: bool,
}

/// Choices that decide how a target looks, and not what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    compress: Compression,
    level: Option<u8>,
    preallocation: Preallocation,
}

impl Subject {
    pub(super) fn new(
        source: &[FileIdentity],
        virtual_size: u64,
        format: OutputFormat,
        target: &File,
        is_looked_at: bool,
    ) -> io::Result<Subject> {
        Ok(Subject {
            version: VERSION,
            source: source.to_vec(),
            virtual_size,
            format,
            made: None,
            block_bytes: BLOCK,
            target_inode: target.metadata()?.ino(),
            is_looked_at,
        })
    }

    /// The same, with how the target is made: what a copy needs to go on with, and nobody who reads it back.
    pub(super) fn made_as(self, target: &Target) -> Subject {
        let Target { compress, level, preallocation, .. } = *target;
        Subject { made: Some(Made { compress, level, preallocation }), ..self }
    }
}

/// A piece of the disk that is in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) at: u64,
    pub(super) length: u32,
    /// Of the piece's bytes.
    pub(super) hash: u64,
    pub(super) placed: Vec<Placed>,
}

impl Record {
    /// From where to where it lies in the target, with what may lie in between.
    pub(super) fn in_target(&self) -> Range<u64> {
        let spans = self.placed.iter().map(|placed| placed.at..placed.at.saturating_add(placed.bytes));
        let whole = spans.reduce(|one, other| one.start.min(other.start)..one.end.max(other.end));
        whole.unwrap_or(self.at..self.at + u64::from(self.length))
    }
}

/// The hash that extents are told apart by: quick, and not meant to withstand somebody who wants two to be alike.
pub(super) fn hash(data: &[u8]) -> u64 {
    XxHash3_64::oneshot(data)
}

/// An open journal; frames are added at its end.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    end: u64,
    is_shared: bool,
}

impl Journal {
    /// A new one; the file must not be there. `boot` is the kernel's run, if that is known.
    pub(super) fn begin(path: &Path, subject: &Subject, boot: Option<&str>) -> io::Result<Journal> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut journal = Journal { file, end: 0, is_shared: false };
        journal.append(&serde_json::to_vec(subject)?)?;
        journal.append(&run(boot))?;
        journal.file.sync_data()?;
        Ok(journal)
    }

    /// The one that is there; `seen` hears of every piece in it that counts. `None` if it is about something else, or is no journal.
    pub(super) fn go_on(
        path: &Path,
        subject: &Subject,
        boot: Option<&str>,
        seen: &mut dyn FnMut(Record) -> io::Result<()>,
    ) -> io::Result<Option<Journal>> {
        let file = open_to_go_on(path)?;
        let mut frames = Frames::of(BufReader::new(&file));
        if !is_about(&mut frames, subject)? {
            return Ok(None);
        }
        // The hash says that this is what was written: if it makes no sense, it was written by something else.
        let Some(counts) = counting(&mut frames, boot)? else { return Ok(None) };
        (&file).seek(SeekFrom::Start(0))?;
        let mut frames = Frames::of(BufReader::new(&file));
        let mut is_first = true;
        while frames.end < counts.until {
            let Some(payload) = frames.next()? else { break };
            if !std::mem::take(&mut is_first)
                && let Some((&PIECES, records)) = payload.split_first()
            {
                let Some(records) = decode(records) else { return Ok(None) };
                records.into_iter().try_for_each(&mut *seen)?;
            }
        }
        let end = frames.end;
        file.set_len(end)?;
        let mut journal = Journal { file, end, is_shared: counts.is_shared };
        journal.append(&run(boot))?;
        if !counts.is_this_run {
            // The frame that said so was cut away.
            journal.durable(end)?.sync_data()?;
        }
        Ok(Some(journal))
    }

    /// Whether the target shares all that the source holds, and nothing has to be copied.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Says so. Durable when it returns, as the target has to be before.
    pub(super) fn shared(&mut self) -> io::Result<()> {
        self.is_shared = true;
        self.say_for_good(SHARED)
    }

    /// Says that all pieces of the source that hold anything are told. Likewise.
    pub(super) fn whole(&mut self) -> io::Result<()> {
        self.say_for_good(WHOLE)
    }

    fn say_for_good(&mut self, what: u8) -> io::Result<()> {
        self.append(&[what])?;
        self.durable(self.end)?.sync_data()
    }

    /// Where the next frame will be.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds frames: what they tell of is in the target.
    pub(super) fn record(&mut self, records: &[Record]) -> io::Result<()> {
        let mut payload = vec![PIECES];
        for record in records {
            let places = places::encode(&record.placed, record.at / BLOCK);
            if payload.len() + RECORD_BYTES + places.len() > MOST_BYTES {
                self.append(&payload)?;
                payload.truncate(1);
            }
            encode(record, &places, &mut payload)?;
        }
        self.append(&payload)
    }

    /// Says that what frames before `until` tell of is durable. Gives what has to be synced for this to be so itself.
    pub(super) fn durable(&mut self, until: u64) -> io::Result<File> {
        let mut payload = vec![DURABLE];
        payload.extend(until.to_le_bytes());
        self.append(&payload)?;
        self.file.try_clone()
    }

    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let frame = frame(payload, self.end)?;
        self.file.write_all_at(&frame, self.end)?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

fn run(boot: Option<&str>) -> Vec<u8> {
    [&[RUN], boot.unwrap_or_default().as_bytes()].concat()
}

/// Whether the first frame says that it is about this; however it was made, where that is not said.
pub(super) fn is_about<R: Read>(frames: &mut Frames<R>, subject: &Subject) -> io::Result<bool> {
    let found = frames.next()?.and_then(|payload| serde_json::from_slice::<Subject>(&payload).ok());
    Ok(found.is_some_and(|found| {
        let is_same = |(before, now): (&FileIdentity, &FileIdentity)| before.is_same_elsewhere(now);
        let same_source = found.source.len() == subject.source.len()
            && found.source.iter().zip(&subject.source).all(is_same);
        let made = if subject.made.is_some() { found.made.clone() } else { None };
        same_source && Subject { source: subject.source.clone(), made, ..found } == *subject
    }))
}

/// Which frames count.
pub(super) struct Counting {
    /// Those before.
    until: u64,
    /// Whether the last of them was written in this run of the kernel: then all do. Else those that were durable.
    is_this_run: bool,
    /// Whether one of them says that all is shared.
    pub(super) is_shared: bool,
    /// Whether one of them says that no others will tell of pieces.
    pub(super) is_whole: bool,
}

/// Reads all frames behind the first. `None` if one makes no sense.
pub(super) fn counting<R: Read>(frames: &mut Frames<R>, boot: Option<&str>) -> io::Result<Option<Counting>> {
    let (mut is_this_run, mut durable, mut shared, mut whole) = (false, frames.end, None, None);
    while let Some(payload) = frames.next()? {
        match payload.split_first() {
            Some((&RUN, name)) => is_this_run = boot.is_some_and(|boot| boot.as_bytes() == name),
            Some((&DURABLE, until)) => {
                let Ok(until) = until.try_into().map(u64::from_le_bytes) else { return Ok(None) };
                durable = durable.max(until);
            }
            Some((&SHARED, _)) => shared = Some(frames.end),
            Some((&WHOLE, _)) => whole = Some(frames.end),
            Some((&PIECES, _)) => {}
            _ => return Ok(None),
        }
    }
    let until = if is_this_run { frames.end } else { durable.min(frames.end) };
    let counts = |said: Option<u64>| said.is_some_and(|end| end <= until);
    Ok(Some(Counting { until, is_this_run, is_shared: counts(shared), is_whole: counts(whole) }))
}

fn encode(record: &Record, places: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    into.extend(record.at.to_le_bytes());
    into.extend(record.length.to_le_bytes());
    into.extend(record.hash.to_le_bytes());
    into.extend(u16::try_from(places.len()).map_err(io::Error::other)?.to_le_bytes());
    into.extend(places);
    Ok(())
}

pub(super) fn decode(mut payload: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !payload.is_empty() {
        let (head, rest) = payload.split_at_checked(RECORD_BYTES)?;
        let at = u64::from_le_bytes(head[..8].try_into().ok()?);
        let length = u32::from_le_bytes(head[8..12].try_into().ok()?);
        let hash = u64::from_le_bytes(head[12..20].try_into().ok()?);
        let places = u16::from_le_bytes(head[20..].try_into().ok()?);
        let (places, rest) = rest.split_at_checked(usize::from(places))?;
        records.push(Record { at, length, hash, placed: places::decode(places, at / BLOCK)? });
        payload = rest;
    }
    Some(records)
}

/// Whether a piece is in the target as the journal says.
pub(super) fn is_there(record: &Record, writer: &dyn Writer) -> io::Result<bool> {
    let mut bytes = vec![0; record.length as usize];
    writer.read(record.at, &mut bytes)?;
    Ok(hash(&bytes) == record.hash)
}

#[cfg(test)]
mod tests {
    use super::super::frames::HEAD_BYTES;
    use super::*;

    fn subject(dir: &Path) -> Subject {
        let target = Target {
            path: dir.join("target"),
            format: OutputFormat::Qcow2,
            compress: Compression::None,
            level: None,
            preallocation: Preallocation::Off,
            journal: None,
        };
        let file = File::create(&target.path).unwrap();
        Subject::new(&[], 5 << 30, target.format, &file, true).unwrap().made_as(&target)
    }

    fn records(count: u64) -> Vec<Record> {
        let record = |number: u64| {
            let block = number * 16;
            let placed = vec![
                Placed { block, count: 3, at: (number * 16 + 9) * BLOCK, bytes: 3 * BLOCK },
                Placed { block: block + 15, count: 1, at: number * 77_777, bytes: 1234 },
            ];
            Record { at: block * BLOCK, length: 1 << 20, hash: number * 77, placed }
        };
        (0..count).map(record).collect()
    }

    fn read_in(boot: Option<&str>, path: &Path, subject: &Subject) -> Option<Vec<Record>> {
        let mut found = Vec::new();
        let journal = Journal::go_on(path, subject, boot, &mut |record| {
            found.push(record);
            Ok(())
        });
        journal.unwrap().map(|_| found)
    }

    fn read(path: &Path, subject: &Subject) -> Option<Vec<Record>> {
        read_in(Some("this"), path, subject)
    }

    #[test]
    fn what_was_recorded_is_found_again_and_more_can_be_added() {
        let dir = tempfile::tempdir().unwrap();
        let (path, subject, all) = (dir.path().join("journal"), subject(dir.path()), records(300_000));
        let mut journal = Journal::begin(&path, &subject, Some("this")).unwrap();
        journal.record(&all[..200]).unwrap();
        assert_eq!(read(&path, &subject).unwrap(), all[..200]);
        let mut journal = Journal::go_on(&path, &subject, Some("this"), &mut |_| Ok(())).unwrap().unwrap();
        // More than one frame may hold.
        journal.record(&all[200..]).unwrap();
        assert_eq!(read(&path, &subject).unwrap(), all);
    }

    #[test]
    fn a_frame_that_was_cut_anywhere_is_dropped_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, subject, all) = (dir.path().join("journal"), subject(dir.path()), records(4));
        let mut journal = Journal::begin(&path, &subject, Some("this")).unwrap();
        journal.record(&all[..2]).unwrap();
        let sound = journal.end;
        // Whoever goes on says so.
        let with_run = sound + (HEAD_BYTES + run(Some("this")).len()) as u64;
        journal.record(&all[2..]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in sound..bytes.len() as u64 {
            std::fs::write(&path, &bytes[..cut as usize]).unwrap();
            assert_eq!(read(&path, &subject).unwrap(), all[..2], "cut at {cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), with_run);
        }
    }

    #[test]
    fn a_byte_that_changed_ends_it_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, subject, all) = (dir.path().join("journal"), subject(dir.path()), records(4));
        let mut journal = Journal::begin(&path, &subject, Some("this")).unwrap();
        let header = journal.end as usize - HEAD_BYTES - run(Some("this")).len();
        journal.record(&all).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, &changed).unwrap();
            let found = read(&path, &subject);
            assert_eq!(found, (at >= header).then(Vec::new), "changed at {at}");
        }
    }

    #[test]
    fn after_a_power_cut_what_was_durable_counts_and_goes_on_to_count() {
        let dir = tempfile::tempdir().unwrap();
        let (path, subject, all) = (dir.path().join("journal"), subject(dir.path()), records(9));
        let mut journal = Journal::begin(&path, &subject, Some("this")).unwrap();
        journal.record(&all[..3]).unwrap();
        let until = journal.end();
        journal.record(&all[3..6]).unwrap();
        journal.durable(until).unwrap();
        journal.record(&all[6..]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // Killed, and the machine ran on: all of it is there.
        assert_eq!(read(&path, &subject).unwrap(), all);
        for boot in [Some("another"), None] {
            std::fs::write(&path, &whole).unwrap();
            assert_eq!(read_in(boot, &path, &subject).unwrap(), all[..3]);
            // And once more, before anything else was made durable.
            assert_eq!(read_in(Some("a third"), &path, &subject).unwrap(), all[..3]);
        }
        // What the next run adds counts as long as it lasts.
        let mut journal = Journal::go_on(&path, &subject, Some("a third"), &mut |_| Ok(())).unwrap().unwrap();
        journal.record(&all[3..5]).unwrap();
        assert_eq!(read_in(Some("a third"), &path, &subject).unwrap(), all[..5]);
        assert_eq!(read_in(Some("a fourth"), &path, &subject).unwrap(), all[..3]);
    }

    #[test]
    fn that_all_is_shared_is_known_after_a_power_cut_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, subject) = (dir.path().join("journal"), subject(dir.path()));
        let mut journal = Journal::begin(&path, &subject, Some("this")).unwrap();
        let is_shared =
            |boot| Journal::go_on(&path, &subject, boot, &mut |_| Ok(())).unwrap().unwrap().is_shared();
        assert!(!is_shared(Some("this")));
        journal.end = std::fs::metadata(&path).unwrap().len();
        journal.shared().unwrap();
        assert!(is_shared(Some("this")) && is_shared(Some("another")) && is_shared(Some("a third")));
    }

    #[test]
    fn a_journal_of_another_copy_is_not_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mine) = (dir.path().join("journal"), subject(dir.path()));
        Journal::begin(&path, &mine, Some("this")).unwrap();
        let other = |change: fn(&mut Subject)| {
            let mut other = mine.clone();
            change(&mut other);
            read(&path, &other)
        };
        assert_eq!(other(|_| ()), Some(Vec::new()));
        assert_eq!(other(|subject| subject.virtual_size += 512), None);
        assert_eq!(other(|subject| subject.format = OutputFormat::Raw), None);
        assert_eq!(other(|subject| subject.made.as_mut().unwrap().compress = Compression::Zstd), None);
        assert_eq!(other(|subject| subject.made.as_mut().unwrap().level = Some(9)), None);
        assert_eq!(other(|subject| subject.target_inode += 1), None);
        assert_eq!(other(|subject| subject.version += 1), None);
    }
}
