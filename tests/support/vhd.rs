//! VHD images that QEMU cannot make: differing ones.
//!
//! As with VHDX, an image is a list of blocks with what is in them, and the same list is [shown](Vhd::show) on a plain file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bad_disks::vhd_checksum;

const SECTOR: u64 = 512;
const HEADER: u64 = 512;
const TABLE: u64 = 1536;

/// Whole sectors of a block, each piece with where it begins there.
pub type Pieces = Vec<(u64, Vec<u8>)>;

/// An image that grows, or differs from another.
#[derive(Clone)]
pub struct Vhd {
    pub size: u64,
    pub block: u64,
    /// Its identity: what a child made on it remembers.
    pub id: u8,
    pub parent: Option<Parent>,
    /// By number, in the order in which they lie in the file.
    pub blocks: Vec<(u64, Pieces)>,
}

/// What it says of its parent.
#[derive(Clone)]
pub struct Parent {
    pub id: u8,
    /// In the header.
    pub name: String,
    /// Elsewhere in the file: of which kind, and what.
    pub paths: Vec<(&'static [u8; 4], String)>,
}

impl Vhd {
    pub fn new(size: u64, id: u8, blocks: Vec<(u64, Pieces)>) -> Vhd {
        Vhd { size, block: 2 << 20, id, parent: None, blocks }
    }

    /// One that stands on another, which lies beside it under this name.
    pub fn on(&self, name: &str, id: u8, blocks: Vec<(u64, Pieces)>) -> Vhd {
        let parent = Parent {
            id: self.id,
            name: name.to_owned(),
            paths: vec![(b"W2ku", format!("C:\\VMs\\{name}")), (b"W2ru", format!(".\\{name}"))],
        };
        Vhd { id, parent: Some(parent), blocks, ..self.clone() }
    }

    pub fn write(&self, path: &Path) {
        let file = File::create(path).unwrap();
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
        let entries = self.size.div_ceil(self.block);
        let mut table = vec![0xff; (entries * 4).next_multiple_of(SECTOR) as usize];
        let mut free = TABLE + table.len() as u64;
        let mut header = vec![0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[8..16].fill(0xff);
        header[16..24].copy_from_slice(&TABLE.to_be_bytes());
        header[24..28].copy_from_slice(&0x1_0000_u32.to_be_bytes());
        header[28..32].copy_from_slice(&(entries as u32).to_be_bytes());
        header[32..36].copy_from_slice(&(self.block as u32).to_be_bytes());
        if let Some(parent) = &self.parent {
            header[40..56].fill(parent.id);
            let name: Vec<u8> = parent.name.encode_utf16().flat_map(u16::to_be_bytes).collect();
            header[64..64 + name.len()].copy_from_slice(&name);
            for (number, (kind, path)) in parent.paths.iter().enumerate() {
                let path: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
                put(free, &path);
                let locator = &mut header[576 + number * 24..][..24];
                locator[..4].copy_from_slice(*kind);
                locator[4..8].copy_from_slice(&512_u32.to_be_bytes());
                locator[8..12].copy_from_slice(&(path.len() as u32).to_be_bytes());
                locator[16..24].copy_from_slice(&free.to_be_bytes());
                free += SECTOR;
            }
        }
        vhd_checksum(&mut header, 36);
        put(HEADER, &header);
        let bitmap_bytes = (self.block / SECTOR / 8).next_multiple_of(SECTOR);
        for (number, pieces) in &self.blocks {
            table[*number as usize * 4..][..4].copy_from_slice(&((free / SECTOR) as u32).to_be_bytes());
            let mut bitmap = vec![0_u8; bitmap_bytes as usize];
            let begin = free + bitmap_bytes;
            if self.parent.is_some() {
                // What is not there is nothing that anybody may read.
                put(begin, &vec![0xee; self.block as usize]);
            }
            for (at, bytes) in pieces {
                put(begin + at, bytes);
                for sector in at / SECTOR..(at + bytes.len() as u64) / SECTOR {
                    bitmap[sector as usize / 8] |= 0x80 >> (sector % 8);
                }
            }
            put(free, &bitmap);
            free = begin + self.block;
        }
        put(TABLE, &table);
        let footer = self.footer();
        put(0, &footer);
        put(free, &footer);
    }

    fn footer(&self) -> Vec<u8> {
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[11] = 2;
        footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
        footer[16..24].copy_from_slice(&HEADER.to_be_bytes());
        footer[28..32].copy_from_slice(b"win ");
        footer[40..48].copy_from_slice(&self.size.to_be_bytes());
        footer[48..56].copy_from_slice(&self.size.to_be_bytes());
        footer[63] = if self.parent.is_some() { 4 } else { 3 };
        footer[68..84].fill(self.id);
        vhd_checksum(&mut footer, 64);
        footer
    }

    /// What a guest sees: the same on a plain file, on which the parent is shown already.
    pub fn show(&self, disk: &File) {
        disk.set_len(self.size).unwrap();
        for (number, pieces) in &self.blocks {
            for (at, bytes) in pieces {
                let begin = number * self.block + at;
                let length = bytes.len().min(self.size.saturating_sub(begin) as usize);
                disk.write_all_at(&bytes[..length], begin).unwrap();
            }
        }
    }
}
