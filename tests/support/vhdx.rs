//! VHDX images as Hyper-V leaves them and QEMU cannot make them: differing ones, with sectors of 4 KiB, with blocks in any order, with a log.
//!
//! An image is a list of blocks with what is in them. The same list is [shown](Vhdx::show) on a plain file, which is what a reader has to see.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bad_disks::crc32c;

const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const REGION_TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
pub const LOG: u64 = MIB;
pub const LOG_BYTES: u64 = MIB;
pub const METADATA: u64 = 2 * MIB;
/// The block table; the blocks follow on it.
pub const TABLE: u64 = 3 * MIB;
pub const PAGE: u64 = 4096;

/// What is in a block: pieces of bytes, each with where it begins in the block.
#[derive(Clone)]
pub enum Block {
    /// All of it is in the file; zeros where no piece is.
    Full(Vec<(u64, Vec<u8>)>),
    /// Only the sectors of these pieces are.
    Partly(Vec<(u64, Vec<u8>)>),
    /// Zeros, whatever the parent has.
    Zeros,
    /// The same, because nobody needs it any more.
    Unmapped,
}

/// An image.
#[derive(Clone)]
pub struct Vhdx {
    pub size: u64,
    pub block: u64,
    pub sector: u64,
    /// Its identity: what a child made on it remembers.
    pub id: u8,
    /// What it says of its parent; nothing: it has none.
    pub locator: Vec<(&'static str, String)>,
    /// In the order in which they lie in the file.
    pub blocks: Vec<(u64, Block)>,
}

impl Vhdx {
    pub fn new(size: u64, id: u8, blocks: Vec<(u64, Block)>) -> Vhdx {
        Vhdx { size, block: MIB, sector: 512, id, locator: Vec::new(), blocks }
    }

    /// One that stands on another, which lies beside it under this name.
    pub fn on(&self, name: &str, id: u8, blocks: Vec<(u64, Block)>) -> Vhdx {
        let locator = vec![
            ("parent_linkage", linkage(self.id)),
            ("relative_path", format!(".\\{name}")),
            ("absolute_win32_path", format!("\\\\?\\C:\\VMs\\{name}")),
        ];
        Vhdx { id, locator, blocks, ..self.clone() }
    }

    /// Blocks of which one bitmap tells.
    fn together(&self) -> u64 {
        (1 << 23) * self.sector / self.block
    }

    fn table_bytes(&self) -> u64 {
        let blocks = self.size.div_ceil(self.block);
        ((blocks + blocks / self.together() + 1) * 8).next_multiple_of(MIB)
    }

    /// Writes the image.
    pub fn write(&self, path: &Path) {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = options.unwrap();
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
        put(0, b"vhdxfile");
        for (number, at) in HEADERS.into_iter().enumerate() {
            let mut header = vec![0; 4096];
            header[..4].copy_from_slice(b"head");
            header[8] = 7 + number as u8;
            header[16..32].fill(0xf0);
            header[32..48].fill(self.id);
            header[66] = 1;
            header[68..72].copy_from_slice(&(LOG_BYTES as u32).to_le_bytes());
            header[72..80].copy_from_slice(&LOG.to_le_bytes());
            put(at, &summed(header));
        }
        let mut regions = vec![0; 64 << 10];
        regions[..4].copy_from_slice(b"regi");
        regions[8] = 2;
        let table = "2dc27766-f623-4200-9d64-115e9bfd4a08";
        let metadata = "8b7ca206-4790-4b9a-b8fe-575f050f886e";
        for (entry, (id, at, bytes)) in
            [(table, TABLE, self.table_bytes()), (metadata, METADATA, MIB)].into_iter().enumerate()
        {
            let entry = &mut regions[16 + entry * 32..][..32];
            entry[..16].copy_from_slice(&guid(id));
            entry[16..24].copy_from_slice(&at.to_le_bytes());
            entry[24..28].copy_from_slice(&(bytes as u32).to_le_bytes());
            entry[28] = 1;
        }
        let regions = summed(regions);
        REGION_TABLES.into_iter().for_each(|at| put(at, &regions));
        put(METADATA, &self.metadata());
        self.write_blocks(&file);
    }

    fn metadata(&self) -> Vec<u8> {
        let has_parent = if self.locator.is_empty() { 0 } else { 2_u32 };
        let mut items = vec![
            (
                "caa16737-fa36-4d43-b3b6-33f0aa44e76b",
                [(self.block as u32).to_le_bytes(), has_parent.to_le_bytes()].concat(),
            ),
            ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", self.size.to_le_bytes().to_vec()),
            ("beca12ab-b2e6-4523-93ef-c309e000c746", vec![3; 16]),
            ("8141bf1d-a96f-4709-ba47-f233a8faab5f", (self.sector as u32).to_le_bytes().to_vec()),
            ("cda348c7-445d-4471-9cc9-e9885251c556", 4096_u32.to_le_bytes().to_vec()),
        ];
        if !self.locator.is_empty() {
            items.push(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", self.parent_locator()));
        }
        let mut region = vec![0; 64 << 10];
        region[..8].copy_from_slice(b"metadata");
        region[10] = items.len() as u8;
        for (number, (id, bytes)) in items.into_iter().enumerate() {
            let at = region.len() as u32;
            region.extend(&bytes);
            let entry = &mut region[32 + number * 32..][..32];
            entry[..16].copy_from_slice(&guid(id));
            entry[16..20].copy_from_slice(&at.to_le_bytes());
            entry[20..24].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            entry[24] = 4;
        }
        region
    }

    fn parent_locator(&self) -> Vec<u8> {
        let mut bytes = guid("b04aefb7-d19e-4a81-b789-25b8e9445913");
        bytes.extend([0, 0, self.locator.len() as u8, 0]);
        let mut strings = Vec::new();
        let begin = bytes.len() + self.locator.len() * 12;
        for (key, value) in &self.locator {
            let (key, value) = (utf16(key), utf16(value));
            let at = (begin + strings.len()) as u32;
            bytes.extend(at.to_le_bytes());
            bytes.extend((at + key.len() as u32).to_le_bytes());
            bytes.extend((key.len() as u16).to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            strings.extend([key, value].concat());
        }
        bytes.extend(strings);
        bytes
    }

    fn write_blocks(&self, file: &File) {
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
        let entry = |number: u64, entry: u64| put(TABLE + number * 8, &entry.to_le_bytes());
        let place = |number: u64| number + number / self.together();
        let mut free = TABLE + self.table_bytes();
        let mut bitmaps: BTreeMap<u64, u64> = BTreeMap::new();
        file.set_len(free).unwrap();
        for (number, block) in &self.blocks {
            let (pieces, state) = match block {
                Block::Zeros => (None, 2),
                Block::Unmapped => (None, 3),
                Block::Full(pieces) => (Some(pieces), 6),
                Block::Partly(pieces) => (Some(pieces), 7),
            };
            let Some(pieces) = pieces else {
                entry(place(*number), state);
                continue;
            };
            if state == 7 {
                // What is not there is nothing that anybody may read.
                put(free, &vec![0xee; self.block.min(4 * MIB) as usize]);
            }
            for (at, bytes) in pieces {
                put(free + at, bytes);
            }
            entry(place(*number), free | state);
            let block_at = free;
            free = block_at + self.block;
            if state == 7 {
                let chunk = number / self.together();
                let bitmap = *bitmaps.entry(chunk).or_insert_with(|| {
                    entry(chunk * (self.together() + 1) + self.together(), free | 6);
                    free += MIB;
                    free - MIB
                });
                file.set_len(free).unwrap();
                for (at, bytes) in pieces {
                    let first = (number % self.together() * self.block + at) / self.sector;
                    for sector in first..first + bytes.len() as u64 / self.sector {
                        let mut byte = [0];
                        file.read_exact_at(&mut byte, bitmap + sector / 8).unwrap();
                        put(bitmap + sector / 8, &[byte[0] | 1 << (sector % 8)]);
                    }
                }
            }
            file.set_len(free).unwrap();
        }
    }

    /// What a guest sees: the same on a plain file, on which the parent is shown already.
    pub fn show(&self, disk: &File) {
        disk.set_len(self.size).unwrap();
        for (number, block) in &self.blocks {
            let begin = number * self.block;
            let room = self.block.min(self.size - begin);
            let (Block::Full(pieces) | Block::Partly(pieces)) = block else {
                disk.write_all_at(&vec![0; room as usize], begin).unwrap();
                continue;
            };
            if matches!(block, Block::Full(_)) && !self.locator.is_empty() {
                disk.write_all_at(&vec![0; room as usize], begin).unwrap();
            }
            for (at, bytes) in pieces {
                let length = bytes.len().min(room.saturating_sub(*at) as usize);
                disk.write_all_at(&bytes[..length], begin + at).unwrap();
            }
        }
    }
}

/// How a child remembers its parent.
pub fn linkage(id: u8) -> String {
    let digits = |count: usize| format!("{id:02X}").repeat(count);
    format!("{{{}-{}-{}-{}-{}}}", digits(4), digits(2), digits(2), digits(2), digits(6))
}

/// A change that a log holds.
#[derive(Clone)]
pub enum Change {
    Zeros { from: u64, bytes: u64 },
    Page { from: u64, bytes: Vec<u8> },
}

/// One entry of a log.
#[derive(Clone)]
pub struct Entry {
    /// The page of the log at which it begins.
    pub at: u64,
    /// The page at which its row begins.
    pub tail: u64,
    pub sequence: u64,
    /// The log that it is of.
    pub id: u8,
    /// How long the file was, and becomes.
    pub flushed: u64,
    pub last: u64,
    pub changes: Vec<Change>,
}

impl Entry {
    /// One that is a row of its own.
    pub fn new(at: u64, sequence: u64, changes: Vec<Change>) -> Entry {
        Entry { at, tail: at, sequence, id: 9, flushed: 0, last: 0, changes }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(b"loge");
        bytes[12..16].copy_from_slice(&((self.tail * PAGE) as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.changes.len() as u32).to_le_bytes());
        bytes[32..48].fill(self.id);
        bytes[48..56].copy_from_slice(&self.flushed.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.last.to_le_bytes());
        let mut pages = Vec::new();
        for change in &self.changes {
            let (sign, kept, from) = match change {
                Change::Zeros { from, bytes } => {
                    (b"zero", [&[0; 4][..], &bytes.to_le_bytes()].concat(), from)
                }
                Change::Page { from, bytes } => {
                    let mut page = bytes.clone();
                    page[..4].copy_from_slice(b"data");
                    page[4..8].copy_from_slice(&((self.sequence >> 32) as u32).to_le_bytes());
                    page[4092..].copy_from_slice(&(self.sequence as u32).to_le_bytes());
                    pages.extend(page);
                    (b"desc", [&bytes[4092..], &bytes[..8]].concat(), from)
                }
            };
            bytes.extend(sign);
            bytes.extend(kept);
            bytes.extend(from.to_le_bytes());
            bytes.extend(self.sequence.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        bytes.extend(pages);
        let length = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        summed(bytes)
    }

    /// How many pages it takes.
    pub fn pages(&self) -> u64 {
        self.bytes().len() as u64 / PAGE
    }

    /// Writes it into an image's log, which goes on at its beginning.
    pub fn write(&self, path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for (number, page) in self.bytes().chunks(PAGE as usize).enumerate() {
            let at = (self.at + number as u64) * PAGE % LOG_BYTES;
            file.write_all_at(page, LOG + at).unwrap();
        }
    }
}

/// Says in an image's headers that its log is not empty.
pub fn leave_open(path: &Path, id: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for at in HEADERS {
        let mut header = vec![0; 4096];
        file.read_exact_at(&mut header, at).unwrap();
        header[48..64].fill(id);
        file.write_all_at(&summed(header), at).unwrap();
    }
}

/// Writes the second image with the tables of the first: what would have to be in its log for it to be the second.
pub fn write_unfinished(before: &Vhdx, after: &Vhdx, path: &Path) -> Vec<Change> {
    before.write(path);
    let tables = |path: &Path| {
        let mut bytes = vec![0; (TABLE + before.table_bytes() - METADATA) as usize];
        File::open(path).unwrap().read_exact_at(&mut bytes, METADATA).unwrap();
        bytes
    };
    let old = tables(path);
    after.write(path);
    let new = tables(path);
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&old, METADATA).unwrap();
    let pages = old.chunks(PAGE as usize).zip(new.chunks(PAGE as usize)).enumerate();
    pages
        .filter(|(_, (old, new))| old != new)
        .map(|(number, (_, new))| Change::Page { from: METADATA + number as u64 * PAGE, bytes: new.to_vec() })
        .collect()
}

/// With its checksum, which stands behind its first four bytes.
pub fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[4..8].fill(0);
    let checksum = crc32c(&bytes);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A GUID as it lies in a file.
fn guid(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut bytes: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap()).collect();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}
