//! VMDK with tables of its own: header (or, for streamed ones, the footer), grain directory, grain tables.

use super::bytes::{Image, le16, le32, le64, table_le32};
use super::vmdk::no_end;
use super::{broken, cut_off, descriptor::DESCRIPTOR_BYTES, unsupported};
use crate::model::error::Result;

const SECTOR: u64 = 512;
/// "The directory is not here but in the footer": the writer did not know yet.
const AT_END: u64 = u64::MAX;
/// Entries of a grain table, as every writer makes them and as QEMU insists.
const MAX_TABLE_ENTRIES: u32 = 512;
/// Marker that announces the footer.
const FOOTER_MARKER: u32 = 3;
/// Bytes that a transfer in text mode would have changed.
const LINE_ENDS: [u8; 4] = [b'\n', b' ', b'\r', b'\n'];
const COMPRESSED_GRAINS: u32 = 1 << 16;
const MARKED_GRAINS: u32 = 1 << 17;

/// What counts of the header.
#[derive(Debug)]
pub(crate) struct SparseHeader {
    /// In sectors.
    pub(crate) capacity: u64,
    pub(crate) compressed: bool,
    /// Whether each compressed grain is told before it begins.
    pub(crate) marked: bool,
    /// In sectors.
    pub(crate) grain: u64,
    pub(crate) descriptor_offset: u64,
    pub(crate) descriptor_sectors: u64,
    pub(crate) table_entries: u32,
    /// Where it lies, in sectors.
    pub(crate) directory: u64,
    /// Before the data, in sectors.
    pub(crate) overhead: u64,
}

impl SparseHeader {
    pub(crate) fn read(image: &Image<'_>) -> Result<SparseHeader> {
        let front = image.read(0, SECTOR, "the header")?;
        let header = SparseHeader::parse(&front)?;
        if header.directory != AT_END {
            return Ok(header);
        }
        // [footer marker][footer][end-of-stream marker], a sector each.
        let begin = image.size.checked_sub(3 * SECTOR).ok_or_else(|| no_end("the footer"))?;
        let end = image.read(begin, 3 * SECTOR, "the footer")?;
        let (marker, rest) = end.split_at(SECTOR as usize);
        let (footer, stop) = rest.split_at(SECTOR as usize);
        if le32(marker, 12) != FOOTER_MARKER || !footer.starts_with(b"KDMV") {
            return Err(no_end("the footer"));
        }
        if le32(stop, 8) != 0 || le32(stop, 12) != 0 {
            return Err(no_end("the end-of-stream marker"));
        }
        let footer = SparseHeader::parse(footer)?;
        if footer.capacity != header.capacity || footer.grain != header.grain {
            return Err(broken("its header and its footer disagree"));
        }
        // The descriptor is where the header says; writers do not always repeat it in the footer.
        Ok(SparseHeader {
            descriptor_offset: header.descriptor_offset,
            descriptor_sectors: header.descriptor_sectors,
            ..footer
        })
    }

    /// The header, or the footer, of an image of which no more has come: one sector.
    pub(crate) fn of_stream(sector: &[u8]) -> Result<SparseHeader> {
        if sector.len() < SECTOR as usize {
            return Err(cut_off("the header is not whole"));
        }
        SparseHeader::parse(sector)
    }

    /// Whether only the footer says where the directory is.
    pub(crate) fn is_told_at_end(&self) -> bool {
        self.directory == AT_END
    }

    fn parse(bytes: &[u8]) -> Result<SparseHeader> {
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            return Err(unsupported(
                &format!("VMDK version {version} is not known"),
                "convert it with `vmkfstools -i` first",
            ));
        }
        if bytes[73..77] != LINE_ENDS {
            return Err(broken("line ends in it were changed by a transfer in text mode"));
        }
        let header = SparseHeader {
            capacity: le64(bytes, 12),
            compressed: le32(bytes, 8) & COMPRESSED_GRAINS != 0,
            marked: le32(bytes, 8) & MARKED_GRAINS != 0,
            grain: le64(bytes, 20),
            descriptor_offset: le64(bytes, 28),
            descriptor_sectors: le64(bytes, 36),
            table_entries: le32(bytes, 44),
            directory: le64(bytes, 56),
            overhead: le64(bytes, 64),
        };
        if header.compressed && le16(bytes, 77) != 1 {
            return Err(unsupported("its compression is not known", "convert it with `vmkfstools -i` first"));
        }
        if !header.grain.is_power_of_two() || !(1..=0x4000).contains(&header.grain) {
            return Err(broken(&format!("grains of {} sectors do not exist", header.grain)));
        }
        if header.table_entries == 0 || header.table_entries > MAX_TABLE_ENTRIES {
            return Err(broken(&format!("tables of {} grains do not exist", header.table_entries)));
        }
        Ok(header)
    }

    /// The descriptor inside, if there is one.
    pub(super) fn descriptor(&self, image: &Image<'_>) -> Result<Option<Vec<u8>>> {
        if self.descriptor_offset == 0 || self.descriptor_sectors == 0 {
            return Ok(None);
        }
        let bytes = self.descriptor_sectors.saturating_mul(SECTOR);
        if bytes > DESCRIPTOR_BYTES {
            return Err(broken(&format!("its descriptor is larger than {DESCRIPTOR_BYTES} bytes")));
        }
        image.read(self.descriptor_offset.saturating_mul(SECTOR), bytes, "the descriptor").map(Some)
    }
}

/// Every table and every grain has to begin within the file, and no grain is listed for two places.
pub(super) fn check_tables(image: &Image<'_>, header: &SparseHeader) -> Result<()> {
    let per_table = header.grain.saturating_mul(u64::from(header.table_entries));
    let tables = header.capacity.div_ceil(per_table);
    let offset = header.directory.saturating_mul(SECTOR);
    image.require(
        offset,
        tables.saturating_mul(4).min(image.size.saturating_add(1)),
        "the grain directory",
    )?;
    let directory = image.read(offset, tables * 4, "the grain directory")?;
    let offsets =
        table_le32(&directory).filter(|sector| *sector != 0).map(|sector| u64::from(sector) * SECTOR);
    let bytes = u64::from(header.table_entries) * 4;
    image.each_table(offsets, bytes, "its grain tables", |table| {
        // 0: never written; 1: zeros.
        if table_le32(table).any(|sector| sector > 1 && u64::from(sector) * SECTOR >= image.size) {
            return Err(cut_off("data lies beyond its end"));
        }
        Ok(())
    })
}
