//! Dynamic VHD: blocks of 2 MiB, each behind a sector that says which of its sectors are there; a table of them; footers at both ends.
//!
//! The size that counts is the one in bytes, which is exact. The geometry is the largest there is, as QEMU writes it for disks whose exact size
//! is wanted: who reads both takes the size then. What is not here: fixed VHDs, and disks beyond 2040 GiB, which the format does not have.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::grown::{Blocks, Form, Shape};

const SECTOR: u64 = 512;
const BLOCK: u64 = 2 << 20;
const HEADER_AT: u64 = SECTOR;
const TABLE_AT: u64 = 3 * SECTOR;
const ABSENT: u32 = u32::MAX;
const VERSION: u32 = 1 << 16;
const DYNAMIC: u32 = 3;
/// Cylinders, heads and sectors beyond which no geometry goes.
const LARGEST_GEOMETRY: [u8; 4] = [0xff, 0xff, 16, 255];
/// What an id is made with.
const SEED: u64 = 0x7668_6400;

/// The largest disk that a VHD can describe.
pub(crate) const MOST_BYTES: u64 = 2040 << 30;

/// Its size.
#[derive(Debug)]
pub(super) struct Vhd(pub(super) u64);

impl Vhd {
    fn blocks(&self) -> u64 {
        self.0.div_ceil(BLOCK)
    }

    fn footer(&self, id: [u8; 16]) -> Vec<u8> {
        let mut footer = Vec::with_capacity(SECTOR as usize);
        footer.extend(b"conectix");
        // No features but the one that is always there.
        footer.extend(2u32.to_be_bytes());
        footer.extend(VERSION.to_be_bytes());
        footer.extend(HEADER_AT.to_be_bytes());
        // No time: the same source gives the same file.
        footer.extend([0; 4]);
        // "The size counts, not the geometry": so QEMU calls itself then.
        footer.extend(b"qem2\0\x05\0\x03Wi2k");
        // As it was made, and as it is.
        footer.extend(self.0.to_be_bytes());
        footer.extend(self.0.to_be_bytes());
        footer.extend(LARGEST_GEOMETRY);
        footer.extend(DYNAMIC.to_be_bytes());
        let checksum_at = footer.len();
        footer.extend([0; 4]);
        footer.extend(id);
        footer.resize(SECTOR as usize, 0);
        put_checksum(&mut footer, checksum_at);
        footer
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(2 * SECTOR as usize);
        header.extend(b"cxsparse");
        // Nothing follows.
        header.extend([0xff; 8]);
        header.extend(TABLE_AT.to_be_bytes());
        header.extend(VERSION.to_be_bytes());
        header.extend((self.blocks() as u32).to_be_bytes());
        header.extend((BLOCK as u32).to_be_bytes());
        let checksum_at = header.len();
        header.resize(2 * SECTOR as usize, 0);
        put_checksum(&mut header, checksum_at);
        header
    }
}

impl Form for Vhd {
    fn shape(&self) -> Shape {
        let first = TABLE_AT + (self.blocks() * 4).next_multiple_of(SECTOR);
        let most = ((u64::from(ABSENT) - first / SECTOR) * SECTOR / (BLOCK + SECTOR)) as u32;
        Shape { block: BLOCK, lead: SECTOR, first, most, part: 4096 }
    }

    fn finish(&self, file: &File, blocks: &Blocks) -> io::Result<()> {
        let shape = self.shape();
        let mut table = vec![0xff; (shape.first - TABLE_AT) as usize];
        for (block, number) in blocks.numbers.told() {
            let sector = (shape.begin(number - 1) / SECTOR) as u32;
            let at = block as usize * 4;
            table[at..at + 4].copy_from_slice(&sector.to_be_bytes());
        }
        file.write_all_at(&table, TABLE_AT)?;
        file.write_all_at(&self.header(), HEADER_AT)?;
        let footer = self.footer(blocks.numbers.id(SEED ^ self.0));
        file.write_all_at(&footer, shape.begin(blocks.count))?;
        file.write_all_at(&footer, 0)
    }
}

/// The complement of the sum of all bytes.
fn put_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}
