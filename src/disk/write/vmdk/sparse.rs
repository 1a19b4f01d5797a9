//! monolithicSparse: two directories of grain tables before everything, all of their tables behind each, then grains.
//!
//! A table has its place whether or not it tells anything, as VMware and QEMU want it, who allocate grains in it later. Where it tells
//! nothing the file has a hole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::grown::{Blocks, Form, Shape};
use super::{
    DESCRIPTOR_AT, DESCRIPTOR_SECTORS, GRAIN, GRAIN_SECTORS, Header, SECTOR, SEED, TABLE_BYTES, TABLE_GRAINS,
    descriptor, name_of,
};

const VERSION: u32 = 1;
const HAS_TWO_DIRECTORIES: u32 = 1 << 1;
const SPARE_AT: u64 = DESCRIPTOR_AT + DESCRIPTOR_SECTORS * SECTOR;

/// Its size, and what it is called.
#[derive(Debug)]
pub(in crate::disk::write) struct Sparse {
    bytes: u64,
    name: String,
}

impl Sparse {
    pub(in crate::disk::write) fn new(bytes: u64, path: &Path) -> Sparse {
        Sparse { bytes, name: name_of(path) }
    }

    fn tables(&self) -> u64 {
        self.bytes.div_ceil(GRAIN * TABLE_GRAINS)
    }

    fn directory_bytes(&self) -> u64 {
        (self.tables() * 4).next_multiple_of(SECTOR)
    }

    /// Of a directory with its tables.
    fn tree_bytes(&self) -> u64 {
        self.directory_bytes() + self.tables() * TABLE_BYTES
    }
}

impl Form for Sparse {
    fn shape(&self) -> Shape {
        let first = (SPARE_AT + 2 * self.tree_bytes()).next_multiple_of(GRAIN);
        let most = ((u64::from(u32::MAX) - first / SECTOR) / GRAIN_SECTORS) as u32;
        Shape { block: GRAIN, lead: 0, first, most, part: TABLE_GRAINS }
    }

    fn finish(&self, file: &File, blocks: &Blocks) -> io::Result<()> {
        let shape = self.shape();
        let trees = [SPARE_AT, SPARE_AT + self.tree_bytes()];
        for tree in trees {
            let tables = tree + self.directory_bytes();
            let sector = |table: u64| ((tables + table * TABLE_BYTES) / SECTOR) as u32;
            let directory: Vec<_> =
                (0..self.tables()).flat_map(|table| sector(table).to_le_bytes()).collect();
            file.write_all_at(&directory, tree)?;
            for (number, table) in blocks.numbers.parts() {
                let sector = |number: &u32| match number {
                    0 => 0,
                    number => (shape.begin(number - 1) / SECTOR) as u32,
                };
                let table: Vec<_> = table.iter().flat_map(|number| sector(number).to_le_bytes()).collect();
                file.write_all_at(&table, tables + number * TABLE_BYTES)?;
            }
        }
        let mark = blocks.numbers.mark(SEED ^ self.bytes);
        file.write_all_at(&descriptor("monolithicSparse", &self.name, self.bytes, mark), DESCRIPTOR_AT)?;
        let header = Header {
            version: VERSION,
            flags: HAS_TWO_DIRECTORIES,
            capacity: self.bytes,
            spare_directory: trees[0] / SECTOR,
            directory: trees[1] / SECTOR,
            overhead: shape.first / SECTOR,
            is_packed: false,
        };
        file.write_all_at(&header.bytes(), 0)
    }
}
