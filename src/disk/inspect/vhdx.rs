//! VHDX: two headers of which the newer valid one counts, a region table, metadata, a block table.

use super::blocks::{BitmapPlace, Bitmaps, Block, BlockMap};
use super::bytes::{Image, le16, le32, le64};
use super::crc::crc32c;
use super::{Layer, Parent, broken, cut_off, unsupported, vhdx_log, vhdx_parent};
use crate::disk::changes::Changes;
use crate::model::error::{Error, Result};

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
const VIRTUAL_DISK_ID: [u8; 16] =
    guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
const PHYSICAL_SECTOR: [u8; 16] =
    guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
const PARENT_LOCATOR: [u8; 16] =
    guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
const KNOWN: [[u8; 16]; 6] =
    [FILE_PARAMETERS, VIRTUAL_SIZE, VIRTUAL_DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR];
/// Of metadata, and of a region: whoever does not know it must not read the disk.
const IS_REQUIRED: u32 = 4;
const REGION_IS_REQUIRED: u32 = 1;
/// No piece of metadata is larger.
const MOST_ITEM_BYTES: u64 = 1 << 20;
const HAS_PARENT: u32 = 2;
/// The only sectors that QEMU reads, and the others.
const SMALL_SECTOR: u64 = 512;
const LARGE_SECTOR: u64 = 4096;
/// Bits of an entry that tell what is known of a block.
const STATE: u64 = 7;
const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const UNMAPPED_BEFORE_1_0: u64 = 5;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;
const BITMAP_BYTES: u64 = 1 << 20;
const SECTORS_OF_A_BITMAP: u64 = BITMAP_BYTES * 8;

/// A GUID as it lies in the file.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

pub(crate) fn layer(image: &Image<'_>) -> Result<Layer> {
    let header = newest_header(image)?;
    let metadata = metadata(image, &regions(image)?)?;
    block_map(image)?;
    let mut layer = Layer {
        subformat: Some("vhdx".to_owned()),
        id: Some(vhdx_parent::digits(&header[32..48])),
        ..Layer::default()
    };
    if header[48..64].iter().any(|byte| *byte != 0) {
        // QEMU would have to write the log into it.
        layer.only_ours = true;
        layer.warnings.push(
            "the disk was not closed cleanly: it is read with the changes in its log, as after a power cut"
                .to_owned(),
        );
    }
    if metadata.sector_bytes != SMALL_SECTOR {
        layer.only_ours = true;
        layer.warnings.push(format!(
            "its sectors have {} bytes: the guest has to be given a disk with such sectors again",
            metadata.sector_bytes
        ));
    }
    if metadata.has_parent {
        layer.only_ours = true;
        layer.subformat = Some("differencing".to_owned());
        layer.parent = metadata.parent(image)?;
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
    let table = regions.iter().find(|region| region.id == BLOCK_TABLE);
    let table = table.ok_or_else(|| broken("it has no block table"))?;
    blocks(image, table, &metadata(image, &regions)?)
}

/// What the guest sees, by the metadata.
pub(super) fn virtual_size(image: &Image<'_>) -> Result<u64> {
    metadata(image, &regions(image)?).map(|metadata| metadata.bytes)
}

/// What it stands on, by its metadata alone: also of one that is not whole.
pub(super) fn parent(image: &Image<'_>) -> Result<Option<Parent>> {
    metadata(image, &regions(image)?)?.parent(image)
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
            if le32(entry, 28) & REGION_IS_REQUIRED != 0 && id != BLOCK_TABLE && id != METADATA {
                return Err(unknown("a region"));
            }
            let region = Region { id, offset: le64(entry, 16), bytes: u64::from(le32(entry, 24)) };
            image.require(region.offset, region.bytes.min(image.size), "a region")?;
            regions.push(region);
        }
        return Ok(regions);
    }
    Err(broken("neither of its two region tables is valid"))
}

/// What the metadata tells.
struct Metadata {
    bytes: u64,
    block_bytes: u64,
    sector_bytes: u64,
    has_parent: bool,
    /// Where it says which one, and in how many bytes.
    locator: Option<(u64, u64)>,
}

impl Metadata {
    fn parent(&self, image: &Image<'_>) -> Result<Option<Parent>> {
        match (self.has_parent, self.locator) {
            (false, _) => Ok(None),
            (true, None) => Err(broken("it does not say what it stands on")),
            (true, Some((at, bytes))) => {
                vhdx_parent::parent(&image.read(at, bytes, "where its parent lies")?).map(Some)
            }
        }
    }
}

fn metadata(image: &Image<'_>, regions: &[Region]) -> Result<Metadata> {
    let region = regions.iter().find(|region| region.id == METADATA);
    let region = region.ok_or_else(|| broken("it has no metadata"))?;
    let table = image.read(region.offset, TABLE_BYTES, "the metadata")?;
    if !table.starts_with(b"metadata") {
        return Err(broken("its metadata is none"));
    }
    let count = usize::from(le16(&table, 10));
    let entries = || table[32..].chunks_exact(32).take(count);
    if entries().any(|entry| le32(entry, 24) & IS_REQUIRED != 0 && !KNOWN.iter().any(|id| entry[..16] == *id))
    {
        return Err(unknown("metadata"));
    }
    let place = |id: [u8; 16]| {
        let entry = entries().find(|entry| entry[..16] == id)?;
        Some((region.offset.saturating_add(u64::from(le32(entry, 16))), u64::from(le32(entry, 20))))
    };
    let item = |id: [u8; 16], bytes: u64, what: &str| {
        let (at, _) = place(id).ok_or_else(|| broken(&format!("its metadata names no {what}")))?;
        image.read(at, bytes, "the metadata")
    };
    let parameters = item(FILE_PARAMETERS, 8, "block size")?;
    let block_bytes = u64::from(le32(&parameters, 0));
    if !block_bytes.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block_bytes) {
        return Err(broken(&format!("blocks of {block_bytes} bytes do not exist")));
    }
    let sector_bytes = u64::from(le32(&item(LOGICAL_SECTOR, 4, "sector size")?, 0));
    if !matches!(sector_bytes, SMALL_SECTOR | LARGE_SECTOR) {
        return Err(broken(&format!("sectors of {sector_bytes} bytes do not exist")));
    }
    Ok(Metadata {
        bytes: le64(&item(VIRTUAL_SIZE, 8, "size")?, 0),
        block_bytes,
        sector_bytes,
        has_parent: le32(&parameters, 4) & HAS_PARENT != 0,
        locator: place(PARENT_LOCATOR).map(|(at, bytes)| (at, bytes.min(MOST_ITEM_BYTES))),
    })
}

fn unknown(what: &str) -> Error {
    unsupported(
        &format!("it has {what} that this version does not know, and that has to be understood"),
        "convert it in Hyper-V first (`Convert-VHD`)",
    )
}

/// In the table, an entry about which sectors are there follows on as many blocks as one such entry can tell of.
fn blocks(image: &Image<'_>, region: &Region, metadata: &Metadata) -> Result<BlockMap> {
    let Metadata { bytes, block_bytes, sector_bytes, has_parent, .. } = *metadata;
    let blocks = bytes.div_ceil(block_bytes);
    let together = SECTORS_OF_A_BITMAP * sector_bytes / block_bytes;
    let entries = blocks + blocks.saturating_sub(1) / together;
    if entries.saturating_mul(8) > region.bytes {
        return Err(broken("its block table does not cover its size"));
    }
    // Of a differing disk the last blocks have a bitmap too, however few they are.
    let entries = match has_parent {
        true => (blocks.div_ceil(together) * (together + 1)).min(region.bytes / 8),
        false => entries,
    };
    let table = image.read(region.offset, entries * 8, "the block table")?;
    // The upper 44 bits count MiB; the lowest three are the state.
    let lies = |entry: u64, bytes: u64| {
        let begin = (entry >> 20) << 20;
        let is_there = begin != 0 && begin.checked_add(bytes).is_some_and(|end| end <= image.size);
        if is_there { Ok(begin) } else { Err(cut_off("data lies beyond its end")) }
    };
    let mut places = Vec::with_capacity(blocks.div_ceil(together) as usize);
    for chunk in (0..blocks.div_ceil(together)).take_while(|_| has_parent) {
        let entry = le64(&table, (chunk * (together + 1) + together) as usize * 8);
        places.push(if entry & STATE == FULLY_PRESENT { lies(entry, BITMAP_BYTES)? } else { 0 });
    }
    let mut found = Vec::with_capacity(blocks as usize);
    for number in 0..blocks {
        let entry = le64(&table, (number + number / together) as usize * 8);
        found.push(match entry & STATE {
            NOT_PRESENT => Block::NOWHERE,
            // Nobody needs it any more; what is below does not count.
            UNDEFINED | ZERO | UNMAPPED | UNMAPPED_BEFORE_1_0 => Block::ZEROS,
            FULLY_PRESENT => Block::at(lies(entry, block_bytes)?),
            PARTIALLY_PRESENT if !has_parent => {
                return Err(broken("parts of its blocks are said to lie in a parent, and it has none"));
            }
            PARTIALLY_PRESENT if places.get((number / together) as usize).is_none_or(|place| *place == 0) => {
                return Err(broken("it does not tell which parts of a block it has"));
            }
            PARTIALLY_PRESENT => Block::partly_at(lies(entry, block_bytes)?),
            other => return Err(broken(&format!("blocks in the state {other} do not exist"))),
        });
    }
    let place = BitmapPlace::Shared { blocks: together, places };
    let bitmaps = has_parent.then_some(Bitmaps { sector_bytes, place });
    Ok(BlockMap { bytes, block_bytes, blocks: found, bitmaps })
}
