//! streamOptimized: deflated grains in the order of the disk, each behind a marker; then the tables, the directory, a footer that says where
//! that is, and the marker of the end.
//!
//! ```text
//!   header │ descriptor │ marker, grain │ marker, grain │ … │ marker, table │ … │ marker, directory │ marker, footer │ end
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::entries::Entries;
use super::super::packers::{Method, Packer, Packers};
use super::super::turns::Turns;
use super::super::{BLOCK_BYTES, Placed, Writer, is_zero};
use super::{
    DESCRIPTOR_AT, GRAIN, GRAIN_SECTORS, Header, SECTOR, SEED, TABLE_BYTES, TABLE_GRAINS, descriptor,
};

const VERSION: u32 = 3;
/// Grains are deflated, and each is told before it begins.
const IS_A_STREAM: u32 = 3 << 16;
/// "The directory is not here but in the footer."
const AT_END: u64 = u64::MAX;
const MARKER_BYTES: usize = 12;
const TABLE_MARKER: u32 = 1;
const DIRECTORY_MARKER: u32 = 2;
const FOOTER_MARKER: u32 = 3;
/// Where grains begin, as VMware does it.
const OVERHEAD_SECTORS: u64 = GRAIN_SECTORS;
/// What streams call themselves at VMware: they are published under any name.
const NAME: &str = "generated-stream.vmdk";

/// An image that is being filled.
#[derive(Debug)]
pub(in crate::disk::write) struct Stream {
    file: File,
    bytes: u64,
    turns: Turns<Grains>,
    packers: Packers,
}

/// What lies where.
#[derive(Debug)]
struct Grains {
    /// In sectors; 0: nowhere.
    places: Entries<u32>,
    /// Where the next one comes, in bytes.
    next: u64,
}

impl Stream {
    pub(in crate::disk::write) fn new(file: File, bytes: u64, level: Option<u8>) -> Stream {
        let grains = Grains { places: Entries::new(TABLE_GRAINS), next: OVERHEAD_SECTORS * SECTOR };
        Stream { file, bytes, turns: Turns::new(grains), packers: Packers::new(Method::Zlib, level) }
    }

    /// Packs first, and waits for its turn then.
    fn write_packed(
        &self,
        number: u64,
        at: u64,
        data: &[u8],
        packer: &mut Packer,
    ) -> io::Result<Vec<Placed>> {
        let mut taken = Vec::with_capacity(data.len().div_ceil(BLOCK_BYTES));
        for (grain, data) in (at / GRAIN..).zip(data.chunks(BLOCK_BYTES)) {
            if is_zero(data) {
                continue;
            }
            let begin = packer.packed.len();
            packer.packed.extend((grain * GRAIN_SECTORS).to_le_bytes());
            packer.packed.extend([0; MARKER_BYTES - 8]);
            let bytes = u32::try_from(packer.add(data)?).map_err(io::Error::other)?;
            packer.packed[begin + 8..begin + MARKER_BYTES].copy_from_slice(&bytes.to_le_bytes());
            packer.packed.resize(packer.packed.len().next_multiple_of(SECTOR as usize), 0);
            taken.push((grain, (packer.packed.len() - begin) as u64));
        }
        let placed = self.turns.take(number, |grains| {
            let place = |(block, bytes): &(u64, u64)| {
                let placed = Placed { block: *block, count: 1, at: grains.next, bytes: *bytes };
                self.put(grains, &placed).map(|()| placed)
            };
            taken.iter().map(place).collect::<io::Result<Vec<_>>>()
        })?;
        if let Some(first) = placed.first() {
            self.file.write_all_at(&packer.packed, first.at)?;
        }
        Ok(placed)
    }

    /// Writes down where a grain lies, which has to be behind the last.
    fn put(&self, grains: &mut Grains, placed: &Placed) -> io::Result<()> {
        let Placed { block, count, at, bytes } = *placed;
        let is_sound = count == 1 && block < self.bytes.div_ceil(GRAIN) && at == grains.next;
        let is_whole = bytes > 0 && bytes % SECTOR == 0 && bytes < 2 * GRAIN;
        if !is_sound || !is_whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a place that this image does not have"));
        }
        let sector = u32::try_from(at / SECTOR)
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "the image has too many sectors"))?;
        grains.places.set(block, sector);
        grains.next += bytes;
        Ok(())
    }

    fn header(&self, directory: u64) -> Vec<u8> {
        let header = Header {
            version: VERSION,
            flags: IS_A_STREAM,
            capacity: self.bytes,
            spare_directory: 0,
            directory,
            overhead: OVERHEAD_SECTORS,
            is_packed: true,
        };
        header.bytes()
    }
}

impl Writer for Stream {
    fn write(&self, number: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>> {
        self.packers.with(|packer| self.write_packed(number, at, data, packer))
    }

    fn packs(&self) -> bool {
        true
    }

    fn give_up(&self) {
        self.turns.give_up();
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut whole = vec![0; BLOCK_BYTES];
        for (grain, piece) in (at / GRAIN..).zip(buffer.chunks_mut(BLOCK_BYTES)) {
            let place = match self.turns.with(|grains| grains.places.get(grain)) {
                0 => {
                    piece.fill(0);
                    continue;
                }
                sector => u64::from(sector) * SECTOR,
            };
            let mut marker = [0; MARKER_BYTES];
            self.file.read_exact_at(&mut marker, place)?;
            let (sector, bytes) = marker.split_at(8);
            let bytes = bytes.try_into().map(u32::from_le_bytes).map_err(io::Error::other)?;
            if sector != (grain * GRAIN_SECTORS).to_le_bytes() || u64::from(bytes) > 2 * GRAIN {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a marker that was not written so"));
            }
            let mut packed = vec![0; bytes as usize];
            self.file.read_exact_at(&mut packed, place + MARKER_BYTES as u64)?;
            self.packers.unpack(&packed, &mut whole)?;
            piece.copy_from_slice(&whole[..piece.len()]);
        }
        Ok(())
    }

    fn place(&self, placed: &[Placed]) -> io::Result<()> {
        self.turns.with(|grains| placed.iter().try_for_each(|placed| self.put(grains, placed)))
    }

    fn go_on(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; SECTOR as usize], 0)?;
        self.file.set_len(self.turns.with(|grains| grains.next))
    }

    fn finish(&self) -> io::Result<()> {
        self.turns.with(|grains| {
            let mut directory = vec![0; self.bytes.div_ceil(GRAIN * TABLE_GRAINS) as usize * 4];
            directory.resize(directory.len().next_multiple_of(SECTOR as usize), 0);
            let mut at = grains.next;
            for (number, table) in grains.places.parts() {
                let mut bytes = marker(TABLE_BYTES / SECTOR, TABLE_MARKER);
                bytes.extend(table.iter().flat_map(|sector| sector.to_le_bytes()));
                self.file.write_all_at(&bytes, at)?;
                let (entry, sector) = (number as usize * 4, at / SECTOR + 1);
                let sector = u32::try_from(sector).map_err(io::Error::other)?;
                directory[entry..entry + 4].copy_from_slice(&sector.to_le_bytes());
                at += bytes.len() as u64;
            }
            let mut end = marker(directory.len() as u64 / SECTOR, DIRECTORY_MARKER);
            end.extend(&directory);
            end.extend(marker(1, FOOTER_MARKER));
            end.extend(self.header(at / SECTOR + 1));
            // The marker of the end is all zeros.
            end.extend([0; SECTOR as usize]);
            self.file.write_all_at(&end, at)?;
            let mark = grains.places.mark(SEED ^ self.bytes);
            self.file.write_all_at(&descriptor("streamOptimized", NAME, self.bytes, mark), DESCRIPTOR_AT)?;
            self.file.write_all_at(&self.header(AT_END), 0)
        })
    }
}

/// A sector that says what comes, and how many sectors that has.
fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut marker = Vec::with_capacity(SECTOR as usize);
    marker.extend(sectors.to_le_bytes());
    // No grain.
    marker.extend([0; 4]);
    marker.extend(kind.to_le_bytes());
    marker.resize(SECTOR as usize, 0);
    marker
}
