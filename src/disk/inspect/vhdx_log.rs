//! The log of a VHDX: changes to its tables that were not in their place yet when the disk was last written.
//!
//! A disk that was not closed cleanly has to be read as if its log had been carried out. QEMU does that by writing; sources are never
//! written, so here the log becomes [`Changes`] through which everything is read from then on. Which entries count is what Microsoft's
//! description says: the newest entry names the one with which its row begins, and all between have to be there. It is stricter in one
//! thing: where entries newer than a gap are left, the log is taken for damaged, and not for an older state of the disk.

use std::collections::BTreeMap;

use super::bytes::{Image, le16, le32, le64};
use super::crc::Crc32c;
use super::{cut_off, unsupported};
use crate::disk::changes::{Changes, New, PAGE_BYTES};
use crate::model::error::{Error, Kind, Result};

const HEADER_BYTES: u64 = 64;
const DESCRIPTOR_BYTES: u64 = 32;
/// Where an entry's checksum stands, which counts as zero.
const CHECKSUM_AT: usize = 4;
/// Logs have one MiB, or some; nobody needs more.
const MOST_BYTES: u64 = 256 << 20;
/// No log is full of changes that take a descriptor and nothing else.
const MOST_CHANGES: u64 = 1 << 20;
/// Entries that were not cut cover the log once. Headers that only say so may cover it as often as this, and are not looked at further.
const MOST_COVERED: u64 = 4;
/// A file of the largest disk, 64 TiB, with room for its tables.
const MOST_FILE_BYTES: u64 = 1 << 47;

/// A log that is not empty.
struct Log<'a> {
    image: &'a Image<'a>,
    /// What its entries have to be marked with.
    id: &'a [u8],
    offset: u64,
    bytes: u64,
    /// Up to where the file holds what no log may change.
    fixed: u64,
}

/// An entry that is whole.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where it begins in the log.
    at: u64,
    bytes: u64,
    /// Where the row begins of which it is the newest.
    tail: u64,
    sequence: u64,
    descriptors: u64,
    /// How long the file was, and how long it becomes.
    flushed: u64,
    last: u64,
}

/// One change of an entry.
#[derive(Debug, Clone, Copy)]
enum Descriptor {
    Zeros { from: u64, bytes: u64 },
    Page { from: u64, first: [u8; 8], last: [u8; 4] },
}

/// What the log changes, and how long the file is with it; `None`: it is empty. `header` is the one that counts; `fixed` is up to where
/// the file holds what no log may change.
pub(super) fn changes(image: &Image<'_>, header: &[u8], fixed: u64) -> Result<Option<(Changes, u64)>> {
    let id = &header[48..64];
    if id.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if le16(header, 64) != 0 {
        return Err(unsupported(
            &format!("its log is of version {}", le16(header, 64)),
            "shut the VM down cleanly, or attach the disk once in Hyper-V (`Mount-VHD`)",
        ));
    }
    let (offset, bytes) = (le64(header, 72), u64::from(le32(header, 68)));
    if offset.checked_add(bytes).is_none_or(|end| end > image.size) {
        return Err(cut_off("its log lies beyond its end"));
    }
    if bytes > MOST_BYTES {
        return Err(unsupported(
            &format!("its log has {bytes} bytes"),
            "shut the VM down cleanly, or attach the disk once in Hyper-V (`Mount-VHD`)",
        ));
    }
    if bytes == 0 || bytes % PAGE_BYTES != 0 || offset % PAGE_BYTES != 0 {
        return Err(damaged("it does not say where its entries are"));
    }
    Log { image, id, offset, bytes, fixed }.replay().map(Some)
}

impl Log<'_> {
    fn replay(&self) -> Result<(Changes, u64)> {
        let row = self.newest_row()?;
        let Some(head) = row.last() else { return Err(damaged("it has no entry that is whole")) };
        if head.flushed > self.image.size {
            return Err(cut_off(&format!("by its log it had {} bytes", head.flushed)));
        }
        let mut changes = Changes::default();
        for entry in &row {
            for (descriptor, lies_at) in self.descriptors(entry)?.into_iter().flatten() {
                self.carry_out(descriptor, lies_at, &mut changes)?;
            }
        }
        let bytes = head.last.max(changes.end()).max(self.image.size);
        if bytes > MOST_FILE_BYTES {
            return Err(damaged(&format!("the file would have {bytes} bytes")));
        }
        Ok((changes, bytes))
    }

    /// The newest entry, and those before it that it says are not in their place yet.
    fn newest_row(&self) -> Result<Vec<Entry>> {
        let entries = self.entries()?;
        let Some(head) = entries.values().max_by_key(|entry| entry.sequence) else { return Ok(Vec::new()) };
        let mut row: Vec<Entry> = Vec::new();
        let mut at = head.tail;
        loop {
            let entry = entries.get(&at).filter(|entry| {
                row.last().is_none_or(|before| before.sequence.checked_add(1) == Some(entry.sequence))
            });
            let Some(entry) = entry else {
                return Err(damaged("entries are missing before its newest one"));
            };
            row.push(*entry);
            if entry.at == head.at {
                return Ok(row);
            }
            at = (at + entry.bytes) % self.bytes;
        }
    }

    /// All entries that are whole, by where they begin. What was cut while it was written is none.
    fn entries(&self) -> Result<BTreeMap<u64, Entry>> {
        let mut entries = BTreeMap::new();
        let mut left = self.bytes * MOST_COVERED;
        for at in (0..self.bytes).step_by(PAGE_BYTES as usize) {
            if let Some(entry) = self.header(at)? {
                left =
                    left.checked_sub(entry.bytes).ok_or_else(|| damaged("its entries cover each other"))?;
                if self.is_whole(&entry)? {
                    entries.insert(at, entry);
                }
            }
        }
        Ok(entries)
    }

    /// What stands at the beginning of an entry, if it makes sense.
    fn header(&self, at: u64) -> Result<Option<Entry>> {
        let header = self.image.read(self.offset + at, HEADER_BYTES, "the log")?;
        let entry = Entry {
            at,
            bytes: u64::from(le32(&header, 8)),
            tail: u64::from(le32(&header, 12)),
            sequence: le64(&header, 16),
            descriptors: u64::from(le32(&header, 24)),
            flushed: le64(&header, 48),
            last: le64(&header, 56),
        };
        let is_one = header.starts_with(b"loge")
            && header[32..48] == *self.id
            && (PAGE_BYTES..=self.bytes).contains(&entry.bytes)
            && entry.bytes.is_multiple_of(PAGE_BYTES)
            && entry.tail < self.bytes
            && entry.sequence > 0
            && entry.first_page() <= entry.bytes;
        Ok(is_one.then_some(entry))
    }

    fn is_whole(&self, entry: &Entry) -> Result<bool> {
        let mut crc = Crc32c::new();
        let mut stored = 0;
        for place in (0..entry.bytes).step_by(PAGE_BYTES as usize) {
            let mut page = self.page(entry.at + place)?;
            if place == 0 {
                stored = le32(&page, CHECKSUM_AT);
                page[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
            }
            crc.update(&page);
        }
        if crc.sum() != stored {
            return Ok(false);
        }
        let Some(descriptors) = self.descriptors(entry)? else { return Ok(false) };
        let mut expected = entry.at + entry.first_page();
        for (descriptor, _) in descriptors {
            if let Descriptor::Page { .. } = descriptor {
                let page = self.page(expected)?;
                let sequence = u64::from(le32(&page, 4)) << 32 | u64::from(le32(&page, 4092));
                if expected >= entry.at + entry.bytes
                    || !page.starts_with(b"data")
                    || sequence != entry.sequence
                {
                    return Ok(false);
                }
                expected += PAGE_BYTES;
            }
        }
        Ok(true)
    }

    /// What an entry changes, each with where its page lies in the file; `None` if something of it makes no sense.
    fn descriptors(&self, entry: &Entry) -> Result<Option<Vec<(Descriptor, u64)>>> {
        if entry.descriptors > MOST_CHANGES {
            return Err(too_much());
        }
        let mut found = Vec::new();
        let mut next_page = entry.at + entry.first_page();
        let mut page = Vec::new();
        for number in 0..entry.descriptors {
            let place = HEADER_BYTES + number * DESCRIPTOR_BYTES;
            if page.is_empty() || place.is_multiple_of(PAGE_BYTES) {
                page = self.page(entry.at + place - place % PAGE_BYTES)?;
            }
            let bytes = &page[(place % PAGE_BYTES) as usize..][..DESCRIPTOR_BYTES as usize];
            let from = le64(bytes, 16);
            if le64(bytes, 24) != entry.sequence || !from.is_multiple_of(PAGE_BYTES) {
                return Ok(None);
            }
            if bytes.starts_with(b"zero") {
                let length = le64(bytes, 8);
                if !length.is_multiple_of(PAGE_BYTES) {
                    return Ok(None);
                }
                found.push((Descriptor::Zeros { from, bytes: length }, 0));
            } else if bytes.starts_with(b"desc") {
                let (mut first, mut last) = ([0; 8], [0; 4]);
                first.copy_from_slice(&bytes[8..16]);
                last.copy_from_slice(&bytes[4..8]);
                let lies_at = self.offset + next_page % self.bytes;
                found.push((Descriptor::Page { from, first, last }, lies_at));
                next_page += PAGE_BYTES;
            } else {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    fn carry_out(&self, descriptor: Descriptor, lies_at: u64, changes: &mut Changes) -> Result<()> {
        let (from, bytes, new) = match descriptor {
            Descriptor::Zeros { bytes: 0, .. } => return Ok(()),
            Descriptor::Zeros { from, bytes } => (from, bytes, New::Zeros),
            Descriptor::Page { from, first, last } => (from, PAGE_BYTES, New::Page { lies_at, first, last }),
        };
        let end = from.checked_add(bytes).filter(|end| *end <= MOST_FILE_BYTES);
        let Some(end) = end else { return Err(damaged("it changes what no file has")) };
        if from < self.fixed || from < self.offset + self.bytes && end > self.offset {
            return Err(damaged("it changes what no log may change"));
        }
        changes.put(from, end, new);
        if changes.len() as u64 > MOST_CHANGES {
            return Err(too_much());
        }
        Ok(())
    }

    /// A page of the log, which goes on at its beginning.
    fn page(&self, at: u64) -> Result<Vec<u8>> {
        self.image.read(self.offset + at % self.bytes, PAGE_BYTES, "the log")
    }
}

impl Entry {
    /// How far into it its pages of data begin.
    fn first_page(&self) -> u64 {
        (HEADER_BYTES + self.descriptors * DESCRIPTOR_BYTES).next_multiple_of(PAGE_BYTES)
    }
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Source, format!("the disk was not closed cleanly, and its log is damaged: {what}")).advice(
        "attach the disk once in Hyper-V (`Mount-VHD`), which tells what is left of it; or fetch it again, from a VM that was shut down",
    )
}

fn too_much() -> Error {
    damaged(&format!("it has more than {MOST_CHANGES} changes"))
}
