//! The grammar of a streamed VMDK, read from its beginning to its end.
//!
//! ```text
//!   header │ descriptor, and maybe the tables │ marker, grain │ … │ marker, table │ … │ marker, directory │ marker, footer │ end
//! ```
//!
//! Everything begins at a sector. A marker either tells the place and the length of a packed grain, which follows it at once, or what follows in whole sectors.
//! Who writes while he sends knows where the tables are only at the end: then the footer says that, and a stream without it is not whole. Who has the
//! tables first tells by them how many grains there have to be. Nothing that is said is believed beyond what the disk's size allows. What is
//! not here: unpacking.

use super::Sent;
use super::tables::Tables;
use crate::disk::inspect::{Descriptor, SparseHeader, le32, le64};
use crate::disk::read::vmdk_sparse::{MARKER_BYTES, most_packed};
use crate::model::error::{Error, Kind, Result};

pub(super) const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"KDMV";
/// What a marker announces that is no grain.
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;
const PROGRESS: u32 = 4;
/// A descriptor is a page or two of text.
const MOST_DESCRIPTOR_SECTORS: u64 = 2048;
/// Besides tables and descriptor, no more lies before the first grain.
const MOST_PADDING_SECTORS: u64 = 2048;
/// What some writers leave behind the end, besides room for one grain.
const MOST_TRAILING_BYTES: u64 = 1 << 20;
/// Taken from the sender at once.
const INPUT_BYTES: usize = 256 << 10;

/// What comes next of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A grain: its place on the disk, what of it is in the disk, and its data.
    Grain { at: u64, length: u64, packed: Vec<u8> },
    /// A grain that is not wanted: its end, and how many bytes it took.
    Skipped { until: u64, bytes: u64 },
    /// Nothing, and all of it was there.
    End,
}

/// See the module.
pub(super) struct Parser {
    input: Input,
    head: Head,
    /// Before this the disk is told.
    next_at: u64,
    grains: u64,
    footer_seen: bool,
}

/// What the header says.
struct Head {
    bytes: u64,
    grain: u64,
    table_entries: u64,
    /// What tables before the grains say; none: they come at the end.
    tables: Option<Tables>,
}

impl Parser {
    pub(super) fn begin(sent: Box<dyn Sent>, name: &str) -> Result<Parser> {
        let mut input =
            Input { sent, name: name.to_owned(), at: 0, buffer: vec![0; INPUT_BYTES], filled: 0, used: 0 };
        let sector = input.sector("the header")?;
        if !sector.starts_with(MAGIC) {
            return Err(input.broken("it is no VMDK"));
        }
        let header = SparseHeader::of_stream(&sector).map_err(|error| error.source(name))?;
        if !header.compressed || !header.marked {
            return Err(input.broken("it is a VMDK that is not made to be streamed"));
        }
        let bytes =
            header.capacity.checked_mul(SECTOR).filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok());
        let Some(bytes) = bytes else { return Err(input.broken("no disk has the size that it tells")) };
        let tables = Tables::of(&header).map_err(|why| input.broken(why))?;
        let most = MOST_PADDING_SECTORS + MOST_DESCRIPTOR_SECTORS + 2 * Tables::most_sectors(&header);
        if header.overhead == 0 || header.overhead > most {
            return Err(
                input.broken(&format!("its data is said to begin {} sectors into it", header.overhead))
            );
        }
        let (grain, table_entries) = (header.grain * SECTOR, u64::from(header.table_entries));
        let mut head = Head { bytes, grain, table_entries, tables };
        front(&mut input, &header, &mut head)?;
        Ok(Parser { input, head, next_at: 0, grains: 0, footer_seen: false })
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.head.bytes
    }

    pub(super) fn grain_bytes(&self) -> u64 {
        self.head.grain
    }

    /// What comes next; grains that end before `wanted` are skipped.
    pub(super) fn next(&mut self, wanted: u64) -> Result<Item> {
        loop {
            let Some(marker) = self.input.sector_or_end()? else {
                // Those who have the tables first need not tell the end.
                let is_whole = self.head.tables.is_some() && self.lacks_end().is_none();
                return if is_whole { Ok(Item::End) } else { Err(self.cut_off()) };
            };
            let (place, length) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
            if length > 0 {
                return self.grain(&marker, place, length, wanted);
            }
            match le32(&marker, 12) {
                0 if place == 0 => return self.end(),
                kind @ (TABLE | DIRECTORY | FOOTER | PROGRESS) => self.announced(kind, place)?,
                kind => {
                    return Err(self
                        .input
                        .broken(&format!("a marker of the kind {kind} announces {place} sectors")));
                }
            }
        }
    }

    /// Tells the sender that all of it was there.
    pub(super) fn finish(self) -> Result<()> {
        self.input.sent.finish()
    }

    fn grain(&mut self, marker: &[u8], place: u64, length: u64, wanted: u64) -> Result<Item> {
        if self.footer_seen {
            return Err(self.input.broken("it goes on with data behind its footer"));
        }
        let Head { bytes, grain, .. } = self.head;
        let at = place.checked_mul(SECTOR).filter(|at| at.is_multiple_of(grain) && *at < bytes);
        let Some(at) = at else {
            return Err(self.input.broken(&format!("it has data for sector {place}, where none can be")));
        };
        if at < self.next_at {
            return Err(self.input.broken(&format!("its data goes back to sector {place}")));
        }
        if length > most_packed(grain) {
            return Err(self.input.broken(&format!("{length} bytes are more than {grain} can be packed to")));
        }
        let until = at.saturating_add(grain).min(bytes);
        (self.next_at, self.grains) = (until, self.grains + 1);
        let is_skipped = until <= wanted;
        let mut packed = Vec::with_capacity(if is_skipped { 0 } else { length as usize });
        let here = (length as usize).min(SECTOR as usize - MARKER_BYTES);
        let rest = (MARKER_BYTES as u64 + length).next_multiple_of(SECTOR) - SECTOR;
        if is_skipped {
            self.input.skip(rest, "data")?;
        } else {
            packed.extend_from_slice(&marker[MARKER_BYTES..MARKER_BYTES + here]);
            let left = length as usize - here;
            self.input.fill(&mut packed, left, "data")?;
            self.input.skip(rest - left as u64, "data")?;
        }
        self.input.sent.reached(until, bytes);
        Ok(match is_skipped {
            true => Item::Skipped { until, bytes: rest + SECTOR },
            false => Item::Grain { at, length: until - at, packed },
        })
    }

    /// What is no grain is of no use here but for the footer, and has to be no larger than it can be.
    fn announced(&mut self, kind: u32, sectors: u64) -> Result<()> {
        let Head { bytes, grain, table_entries, .. } = self.head;
        let tables = bytes.div_ceil(grain * table_entries);
        let (what, most) = match kind {
            TABLE => ("a table", (table_entries * 4).div_ceil(SECTOR)),
            DIRECTORY => ("a directory", (tables * 4).div_ceil(SECTOR)),
            FOOTER => ("a footer", 1),
            _ => ("how far it is", 1),
        };
        if sectors > most || (kind == FOOTER && (sectors == 0 || self.footer_seen)) {
            return Err(self.input.broken(&format!("{what} of {sectors} sectors is announced")));
        }
        if kind != FOOTER {
            return self.input.skip(sectors * SECTOR, what);
        }
        let sector = self.input.sector(what)?;
        let footer = SparseHeader::of_stream(&sector).map_err(|error| error.source(&*self.input.name))?;
        let is_same = sector.starts_with(MAGIC)
            && footer.capacity.checked_mul(SECTOR) == Some(bytes)
            && footer.grain * SECTOR == grain;
        if !is_same {
            return Err(self.input.broken("its header and its footer disagree"));
        }
        self.footer_seen = true;
        Ok(())
    }

    /// Behind the mark of the end there are at most zeros.
    fn end(&mut self) -> Result<Item> {
        if self.lacks_end().is_some() {
            return Err(self.cut_off());
        }
        let mut left = MOST_TRAILING_BYTES + most_packed(self.head.grain);
        while let Some(piece) = self.input.piece()? {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 || piece.iter().any(|byte| *byte != 0) {
                return Err(self.input.broken("something lies behind its end"));
            }
        }
        Ok(Item::End)
    }

    /// What speaks against its being all of it.
    fn lacks_end(&self) -> Option<String> {
        match &self.head.tables {
            Some(tables) => {
                let told = tables.grains();
                (told != self.grains).then(|| format!("{} of {told} pieces of data came", self.grains))
            }
            None => (!self.footer_seen).then(|| "its end is not there".to_owned()),
        }
    }

    fn cut_off(&self) -> Error {
        let why = self.lacks_end().unwrap_or_else(|| "its end is not there".to_owned());
        cut_off(&self.input.name, self.input.at, &why)
    }
}

/// What lies before the first grain: the descriptor, and where they come first, the tables.
fn front(input: &mut Input, header: &SparseHeader, head: &mut Head) -> Result<()> {
    let (begin, sectors) = (header.descriptor_offset, header.descriptor_sectors);
    let has_descriptor = begin != 0 && sectors != 0;
    let end = begin.saturating_add(sectors);
    if has_descriptor && (sectors > MOST_DESCRIPTOR_SECTORS || end > header.overhead) {
        return Err(input.broken("its descriptor is larger than any"));
    }
    let mut text = Vec::new();
    for number in 1..header.overhead {
        let sector = input.sector("what lies before the data")?;
        if has_descriptor && (begin..end).contains(&number) {
            text.extend_from_slice(&sector);
        }
        if let Some(tables) = &mut head.tables {
            tables.see(number, &sector).map_err(|why| input.broken(why))?;
        }
    }
    if text.first().is_none_or(|byte| *byte == 0) {
        return Ok(());
    }
    let descriptor = Descriptor::parse(&text).map_err(|why| input.broken(&why))?;
    match descriptor.has_parent() {
        true => Err(input.broken("it stands on another disk, and does not hold all of its own")),
        false => Ok(()),
    }
}

/// What comes, a sector or more at a time.
struct Input {
    sent: Box<dyn Sent>,
    name: String,
    /// How much was taken of it.
    at: u64,
    /// Of a fixed size; `filled` of it came, of which `used` were taken.
    buffer: Vec<u8>,
    filled: usize,
    used: usize,
}

impl Input {
    fn sector(&mut self, what: &str) -> Result<Vec<u8>> {
        let mut sector = Vec::with_capacity(SECTOR as usize);
        self.fill(&mut sector, SECTOR as usize, what)?;
        Ok(sector)
    }

    /// A sector; none where it ends before one.
    fn sector_or_end(&mut self) -> Result<Option<Vec<u8>>> {
        if self.has_more()? { self.sector("a marker").map(Some) } else { Ok(None) }
    }

    fn fill(&mut self, into: &mut Vec<u8>, mut bytes: usize, what: &str) -> Result<()> {
        while bytes > 0 {
            let piece = self.take(bytes, what)?;
            let piece = &self.buffer[piece];
            into.extend_from_slice(piece);
            bytes -= piece.len();
        }
        Ok(())
    }

    fn skip(&mut self, mut bytes: u64, what: &str) -> Result<()> {
        while bytes > 0 {
            bytes -= self.take(usize::try_from(bytes).unwrap_or(usize::MAX), what)?.len() as u64;
        }
        Ok(())
    }

    /// Where in the buffer the next bytes are, so many at most.
    fn take(&mut self, most: usize, what: &str) -> Result<std::ops::Range<usize>> {
        if !self.has_more()? {
            return Err(cut_off(&self.name, self.at, &format!("{what} is not whole")));
        }
        let begin = self.used;
        self.used = self.filled.min(begin.saturating_add(most));
        self.at += (self.used - begin) as u64;
        Ok(begin..self.used)
    }

    /// All that is there at once; none at the end.
    fn piece(&mut self) -> Result<Option<&[u8]>> {
        if !self.has_more()? {
            return Ok(None);
        }
        let all = self.take(usize::MAX, "its end")?;
        Ok(Some(&self.buffer[all]))
    }

    fn has_more(&mut self) -> Result<bool> {
        if self.used < self.filled {
            return Ok(true);
        }
        (self.filled, self.used) = (0, 0);
        self.filled = self.sent.read(&mut self.buffer)?;
        Ok(self.filled > 0)
    }

    fn broken(&self, why: &str) -> Error {
        broken(&self.name, self.at, why)
    }
}

/// A stream that is none, whose sender says the same again.
pub(super) fn broken(name: &str, at: u64, why: &str) -> Error {
    Error::new(Kind::Source, format!("what comes of {name} is damaged, {at} bytes into it: {why}"))
        .rule("disk.corrupt")
        .source(name)
        .advice("see what the server's own tools make of the disk; if they can export it, report this")
        .permanent()
}

/// One that ended before it was all there: another one may be.
fn cut_off(name: &str, at: u64, why: &str) -> Error {
    Error::new(Kind::Network, format!("{name} ended {at} bytes into it: {why}"))
        .source(name)
        .advice("see in the server's own events why it stopped to send")
        .transient()
}
