//! VHDX: two headers of which the newer valid one counts, a region table, metadata, a block table.

use super::bytes::{Image, le16, le32, le64};
use super::crc::crc32c;
use super::{BlockMap, Layer, broken, cut_off, unsupported, vhdx_log};
use crate::disk::changes::Changes;
use crate::model::error::Result;

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: u64 = 4096;
const VERSION: u16 = 1;
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_BYTES: u64 = 64 << 10;
const BLOCK_TABLE: [u8; 16] =
    guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
const METADATA: [u8; 16] =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
const FILE_PARAMETERS: [u8; 16] =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
const VIRTUAL_SIZE: [u8; 16] =
    guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
const LOGICAL_SECTOR: [u8; 16] =
    guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
const HAS_PARENT: u32 = 2;
/// Bits of an entry that tell whether a block's data is in the file, and those of which it is.
const STATE: u64 = 7;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;
/// A bitmap has 1 MiB.
const SECTORS_OF_A_BITMAP: u64 = 1 << 23;

/// A GUID as it lies in the file.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

pub(crate) fn layer(image: &Image<'_>) -> Result<Layer> {
    let header = newest_header(image)?;
    block_map(image)?;
    let mut layer = Layer { subformat: Some("vhdx".to_owned()), ..Layer::default() };
    if header[48..64].iter().any(|byte| *byte != 0) {
        // QEMU would have to write the log into it.
        layer.only_ours = true;
        layer.warnings.push(
            "the disk was not closed cleanly: it is read with the changes in its log, as after a power cut"
                .to_owned(),
        );
    }
    Ok(layer)
}

/// What its log changes, and how long the file is then; `None`: nothing.
pub(super) fn log(image: &Image<'_>) -> Result<Option<(Changes, u64)>> {
    vhdx_log::changes(image, &newest_header(image)?, REGION_TABLES[0])
}

/// Where its blocks lie.
pub(super) fn block_map(image: &Image<'_>) -> Result<BlockMap> {
    let regions = regions(image)?;
    let find = |id: [u8; 16]| regions.iter().find(|region| region.id == id);
    let (Some(table), Some(metadata)) = (find(BLOCK_TABLE), find(METADATA)) else {
        return Err(broken("it has no block table or no metadata"));
    };
    let block_bytes = block_bytes(image, metadata)?;
    let bytes = le64(&item(image, metadata, VIRTUAL_SIZE, "size")?, 0);
    let sector = u64::from(le32(&item(image, metadata, LOGICAL_SECTOR, "sector size")?, 0));
    if !matches!(sector, 512 | 4096) {
        return Err(broken(&format!("sectors of {sector} bytes do not exist")));
    }
    let places = places(image, table, bytes, block_bytes, sector)?;
    Ok(BlockMap { bytes, block_bytes, places })
}

/// What the guest sees, by the metadata.
pub(super) fn virtual_size(image: &Image<'_>) -> Result<u64> {
    let regions = regions(image)?;
    let metadata = regions.iter().find(|region| region.id == METADATA);
    let metadata = metadata.ok_or_else(|| broken("it has no metadata"))?;
    item(image, metadata, VIRTUAL_SIZE, "size").map(|bytes| le64(&bytes, 0))
}

fn newest_header(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut newest: Option<Vec<u8>> = None;
    for offset in HEADERS {
        let header = image.read(offset, HEADER_BYTES, "the header")?;
        if !header.starts_with(b"head") || crc32c(&header, 4) != le32(&header, 4) {
            continue;
        }
        match &newest {
            Some(other) if le64(other, 8) > le64(&header, 8) => {}
            Some(other) if le64(other, 8) == le64(&header, 8) && *other != header => {
                return Err(broken("its two headers are as new as each other and tell different things"));
            }
            _ => newest = Some(header),
        }
    }
    let newest = newest.ok_or_else(|| broken("neither of its two headers is valid"))?;
    match le16(&newest, 66) {
        VERSION => Ok(newest),
        other => Err(unsupported(
            &format!("VHDX of version {other} cannot be read"),
            "convert it in Hyper-V first (`Convert-VHD`)",
        )),
    }
}

struct Region {
    id: [u8; 16],
    offset: u64,
    bytes: u64,
}

fn regions(image: &Image<'_>) -> Result<Vec<Region>> {
    for offset in REGION_TABLES {
        let table = image.read(offset, TABLE_BYTES, "the region table")?;
        if !table.starts_with(b"regi") || crc32c(&table, 4) != le32(&table, 4) {
            continue;
        }
        let count = le32(&table, 8).min(2047) as usize;
        let mut regions = Vec::with_capacity(count);
        for entry in table[16..].chunks_exact(32).take(count) {
            let mut id = [0; 16];
            id.copy_from_slice(&entry[..16]);
            let region = Region { id, offset: le64(entry, 16), bytes: u64::from(le32(entry, 24)) };
            image.require(region.offset, region.bytes.min(image.size), "a region")?;
            regions.push(region);
        }
        return Ok(regions);
    }
    Err(broken("neither of its two region tables is valid"))
}

/// The first 8 bytes of a piece of metadata.
fn item(image: &Image<'_>, region: &Region, id: [u8; 16], what: &str) -> Result<Vec<u8>> {
    let table = image.read(region.offset, TABLE_BYTES, "the metadata")?;
    if !table.starts_with(b"metadata") {
        return Err(broken("its metadata is none"));
    }
    let count = usize::from(le16(&table, 10));
    let entry = table[32..].chunks_exact(32).take(count).find(|entry| entry[..16] == id);
    let Some(entry) = entry else { return Err(broken(&format!("its metadata names no {what}"))) };
    let at = region.offset.saturating_add(u64::from(le32(entry, 16)));
    image.read(at, 8, "the metadata")
}

fn block_bytes(image: &Image<'_>, region: &Region) -> Result<u64> {
    let parameters = item(image, region, FILE_PARAMETERS, "block size")?;
    if le32(&parameters, 4) & HAS_PARENT != 0 {
        return Err(unsupported(
            "the disk is differencing (AVHDX): it holds only what differs from another disk",
            "merge it with its parent in Hyper-V first (`Merge-VHD`)",
        ));
    }
    let block = u64::from(le32(&parameters, 0));
    if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) {
        return Err(broken(&format!("blocks of {block} bytes do not exist")));
    }
    Ok(block)
}

/// In the table, an entry about which sectors are there follows on as many blocks as one such entry can tell of.
fn places(image: &Image<'_>, region: &Region, bytes: u64, block: u64, sector: u64) -> Result<Vec<u64>> {
    let blocks = bytes.div_ceil(block);
    let together = SECTORS_OF_A_BITMAP * sector / block;
    let entries = blocks + blocks.saturating_sub(1) / together;
    if entries.saturating_mul(8) > region.bytes {
        return Err(broken("its block table does not cover its size"));
    }
    let table = image.read(region.offset, entries * 8, "the block table")?;
    let mut places = Vec::with_capacity(blocks as usize);
    for number in 0..blocks {
        // The upper 44 bits count MiB; the lowest three are the state.
        let entry = le64(&table, (number + number / together) as usize * 8);
        let begin = (entry >> 20) << 20;
        match entry & STATE {
            FULLY_PRESENT if begin == 0 || begin.saturating_add(block) > image.size => {
                return Err(cut_off("data lies beyond its end"));
            }
            FULLY_PRESENT => places.push(begin),
            PARTIALLY_PRESENT => {
                return Err(broken("parts of its blocks are said to lie in a parent, and it has none"));
            }
            _ => places.push(0),
        }
    }
    Ok(places)
}
