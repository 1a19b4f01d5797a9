//! Dynamic VDI: a header, one map of all blocks of 1 MiB, and the blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::grown::{Blocks, Form, Shape};

const BLOCK: u64 = 1 << 20;
const HEADER_BYTES: u64 = 512;
const MAP_AT: u64 = HEADER_BYTES;
/// What file systems allocate: blocks begin where their pages do.
const PAGE: u64 = 4 << 10;
const TITLE: &[u8] = b"<<< QEMU VM Virtual Disk Image >>>\n";
const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
/// Of what follows the version.
const HEADER_LENGTH: u32 = 0x180;
const DYNAMIC: u32 = 1;
/// So many entries of the map are written at once.
const MAP_PART: usize = 1 << 16;
const ABSENT: u32 = u32::MAX;
const SECTOR: u32 = 512;
/// What ids are made with.
const SEED: u64 = 0x7664_6900;

/// The largest disk whose map QEMU reads.
pub(super) const MOST_BYTES: u64 = (i32::MAX as u64 / 4) * BLOCK;

/// Its size.
#[derive(Debug)]
pub(super) struct Vdi(pub(super) u64);

impl Vdi {
    fn blocks(&self) -> u64 {
        self.0.div_ceil(BLOCK)
    }

    fn header(&self, blocks: &Blocks) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES as usize];
        header[..TITLE.len()].copy_from_slice(TITLE);
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        let numbers = [
            (0x40, SIGNATURE),
            (0x44, VERSION),
            (0x48, HEADER_LENGTH),
            (0x4c, DYNAMIC),
            (0x154, MAP_AT as u32),
            (0x158, self.shape().first as u32),
            (0x168, SECTOR),
            (0x178, BLOCK as u32),
            (0x180, self.blocks() as u32),
            (0x184, blocks.count),
        ];
        for (at, number) in numbers {
            put(at, &number.to_le_bytes());
        }
        put(0x170, &self.0.to_le_bytes());
        // Of the image, and of its last snapshot, which every image has to have.
        put(0x188, &blocks.numbers.id(SEED ^ self.0));
        put(0x198, &blocks.numbers.id(SEED ^ self.0 ^ 1));
        header
    }
}

impl Form for Vdi {
    fn shape(&self) -> Shape {
        let first = (MAP_AT + self.blocks() * 4).next_multiple_of(PAGE);
        Shape { block: BLOCK, lead: 0, first, most: self.blocks() as u32, part: 4096 }
    }

    fn finish(&self, file: &File, blocks: &Blocks) -> io::Result<()> {
        for from in (0..self.blocks()).step_by(MAP_PART) {
            let until = self.blocks().min(from + MAP_PART as u64);
            let number = |block| blocks.numbers.get(block).checked_sub(1).unwrap_or(ABSENT);
            let map: Vec<_> = (from..until).flat_map(|block| number(block).to_le_bytes()).collect();
            file.write_all_at(&map, MAP_AT + from * 4)?;
        }
        file.write_all_at(&self.header(blocks), 0)
    }
}
