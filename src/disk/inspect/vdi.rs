//! VDI: one header, one block map.

use super::blocks::{Block, BlockMap};
use super::bytes::{Image, le32, le64, table_le32};
use super::{Layer, broken, cut_off, unsupported};
use crate::model::error::Result;

const HEADER_BYTES: u64 = 0x200;
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;
/// Map entries from here on mean "nothing written" or "zeros".
const NOT_ALLOCATED: u32 = 0xffff_fffe;

pub(crate) fn layer(image: &Image<'_>) -> Result<Layer> {
    let header = image.read(0, HEADER_BYTES, "the header")?;
    let kind = le32(&header, 0x4c);
    let linked = header[0x1a8..0x1b8].iter().any(|byte| *byte != 0);
    if linked || !matches!(kind, DYNAMIC | STATIC) {
        return Err(unsupported(
            "the disk is a VirtualBox snapshot: it holds only what differs from another disk",
            "make one disk of it with `VBoxManage clonemedium` first",
        ));
    }
    blocks(image, &header)?;
    let subformat = if kind == STATIC { "static" } else { "dynamic" };
    Ok(Layer { subformat: Some(subformat.to_owned()), ..Layer::default() })
}

/// Where its blocks lie.
pub(super) fn block_map(image: &Image<'_>) -> Result<BlockMap> {
    blocks(image, &image.read(0, HEADER_BYTES, "the header")?)
}

fn blocks(image: &Image<'_>, header: &[u8]) -> Result<BlockMap> {
    let block = u64::from(le32(header, 0x178));
    let blocks = u64::from(le32(header, 0x180));
    let (map_offset, data_offset) = (u64::from(le32(header, 0x154)), u64::from(le32(header, 0x158)));
    if block == 0 || !block.is_power_of_two() {
        return Err(broken(&format!("blocks of {block} bytes do not exist")));
    }
    let bytes = le64(header, 0x170);
    if u128::from(blocks) * u128::from(block) < u128::from(bytes) {
        return Err(broken("its blocks do not cover its size"));
    }
    let map = image.read(map_offset, blocks * 4, "the block map")?;
    let mut found = Vec::with_capacity(blocks as usize);
    for entry in table_le32(&map) {
        if entry >= NOT_ALLOCATED {
            found.push(Block::NOWHERE);
            continue;
        }
        let begin = u64::from(entry).saturating_mul(block).saturating_add(data_offset);
        if begin.saturating_add(block) > image.size {
            return Err(cut_off("data lies beyond its end"));
        }
        found.push(Block::at(begin));
    }
    Ok(BlockMap { bytes, block_bytes: block, blocks: found, bitmaps: None })
}
