//! VHD: a footer at the end (and a copy of it in front of one that grows), a header, a block table.

use super::bytes::{Image, be32, be64};
use super::{BlockMap, Layer, broken, cut_off, unsupported};
use crate::disk::format::Format;
use crate::model::error::Result;

const FOOTER_BYTES: u64 = 512;
const HEADER_BYTES: u64 = 1024;
const SECTOR: u64 = 512;
/// "This block was never written".
const NOT_ALLOCATED: u32 = 0xffff_ffff;

pub(crate) fn layer(image: &Image<'_>, found: Format) -> Result<Layer> {
    if found == Format::VhdDifferencing {
        return Err(unsupported(
            "the disk is differencing: it holds only what differs from another disk",
            "merge it with its parent in Hyper-V first (`Merge-VHD`)",
        ));
    }
    let (footer, end) = footer(image)?;
    let size = be64(&footer, 48);
    if found == Format::VhdFixed {
        if size > end {
            return Err(cut_off(&format!("it should hold {size} bytes and holds {end}")));
        }
        return Ok(Layer { subformat: Some("fixed".to_owned()), ..Layer::default() });
    }
    blocks(image, &footer, end)?;
    Ok(Layer { subformat: Some("dynamic".to_owned()), ..Layer::default() })
}

/// Where the blocks of a disk that grows lie.
pub(super) fn block_map(image: &Image<'_>) -> Result<BlockMap> {
    let (footer, end) = footer(image)?;
    blocks(image, &footer, end)
}

/// What the guest sees, by the footer.
pub(super) fn virtual_size(image: &Image<'_>) -> Result<u64> {
    footer(image).map(|(footer, _)| be64(&footer, 48))
}

/// The footer, found valid, and where it begins.
fn footer(image: &Image<'_>) -> Result<(Vec<u8>, u64)> {
    let Some(end) = image.size.checked_sub(FOOTER_BYTES) else {
        return Err(cut_off("the footer is not whole"));
    };
    let mut footer = image.read(end, FOOTER_BYTES, "the footer")?;
    if footer.get(1..9) == Some(b"conectix") {
        // Old tools wrote 511 bytes.
        footer.remove(0);
        footer.push(0);
    }
    if !footer.starts_with(b"conectix") {
        return Err(cut_off("the footer at its end is missing"));
    }
    if checksum(&footer, 64) != be32(&footer, 64) {
        return Err(broken("the checksum of its footer is wrong"));
    }
    Ok((footer, end))
}

fn blocks(image: &Image<'_>, footer: &[u8], end: u64) -> Result<BlockMap> {
    let size = be64(footer, 48);
    let header = image.read(be64(footer, 16), HEADER_BYTES, "the header")?;
    if !header.starts_with(b"cxsparse") || checksum(&header, 36) != be32(&header, 36) {
        return Err(broken("its header is not one"));
    }
    let (table_offset, entries) = (be64(&header, 16), u64::from(be32(&header, 28)));
    let block = u64::from(be32(&header, 32));
    if block < SECTOR || !block.is_power_of_two() {
        return Err(broken(&format!("blocks of {block} bytes do not exist")));
    }
    if u128::from(entries) * u128::from(block) < u128::from(size) {
        return Err(broken("its blocks do not cover its size"));
    }
    // Before each block's data a bitmap tells which of its sectors are there.
    let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let table = image.read(table_offset, entries * 4, "the block table")?;
    let mut places = Vec::with_capacity(entries as usize);
    for entry in table.chunks_exact(4).map(|b| be32(b, 0)) {
        if entry == NOT_ALLOCATED {
            places.push(0);
            continue;
        }
        let begin = u64::from(entry) * SECTOR + bitmap;
        if begin + block > end {
            return Err(cut_off("data lies beyond its end"));
        }
        places.push(begin);
    }
    Ok(BlockMap { bytes: size, block_bytes: block, places })
}

/// The complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    !(sum(&bytes[..at]) + sum(&bytes[at + 4..]))
}
