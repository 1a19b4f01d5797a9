//! VHD: a footer at the end (and a copy of it in front of one that grows), a header, a block table.

use super::blocks::{BitmapPlace, Bitmaps, Block, BlockMap};
use super::bytes::{Image, be32, be64, le16};
use super::{Layer, Parent, broken, cut_off, windows};
use crate::disk::format::Format;
use crate::model::error::Result;
use crate::model::plan::SourceFormat;

const FOOTER_BYTES: u64 = 512;
const HEADER_BYTES: u64 = 1024;
const SECTOR: u64 = 512;
/// "This block was never written".
const NOT_ALLOCATED: u32 = 0xffff_ffff;
/// What a footer tells of a disk that differs from another one.
const DIFFERENCING: u32 = 4;
/// What the two footers of a disk have to agree on: where the header is, the size, the kind.
const AGREED: [std::ops::Range<usize>; 3] = [16..24, 48..56, 60..64];
/// Where the unique ids are, of the disk in its footer and of its parent in its header.
const OWN_ID: std::ops::Range<usize> = 68..84;
const PARENTS_ID: std::ops::Range<usize> = 40..56;
/// The parent's name, and eight places where more is said of it.
const PARENTS_NAME: std::ops::Range<usize> = 64..576;
const LOCATORS: std::ops::Range<usize> = 576..768;
const LOCATOR_BYTES: usize = 24;
/// Kinds of such places: a path counted from the disk's own, and one of the whole machine.
const WINDOWS_PATHS: [&[u8]; 2] = [b"W2ru", b"W2ku"];

/// The footer that counts.
struct Footer {
    bytes: Vec<u8>,
    /// Where the room for data ends.
    end: u64,
    /// Which of the two is missing or damaged.
    lacks: Option<Lacks>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// The one that tells that the file is whole.
    End,
    /// The only one that QEMU reads.
    Front,
}

pub(crate) fn layer(image: &Image<'_>, found: Format) -> Result<Layer> {
    let footer = footer(image, found)?;
    let mut layer = Layer { id: Some(hex(&footer.bytes[OWN_ID])), ..Layer::default() };
    if found == Format::VhdFixed {
        let (size, end) = (be64(&footer.bytes, 48), footer.end);
        if size > end {
            return Err(cut_off(&format!("it should hold {size} bytes and holds {end}")));
        }
        return Ok(Layer { subformat: Some("fixed".to_owned()), ..layer });
    }
    blocks(image, &footer)?;
    match footer.lacks {
        None => {}
        Some(Lacks::End) => {
            layer.lacks_end = true;
            layer.warnings.push(
                "the footer at its end is missing or damaged; the copy of it and all data are there, so that is used"
                    .to_owned(),
            );
        }
        Some(Lacks::Front) => {
            layer.only_ours = true;
            layer
                .warnings
                .push("the copy of its footer in front is damaged; the footer at its end is used".to_owned());
        }
    }
    if be32(&footer.bytes, 60) == DIFFERENCING {
        layer.only_ours = true;
        layer.parent = Some(parent_of(image, &header(image, &footer.bytes)?));
        return Ok(Layer { subformat: Some("differencing".to_owned()), ..layer });
    }
    Ok(Layer { subformat: Some("dynamic".to_owned()), ..layer })
}

/// Where the blocks of a disk that grows lie.
pub(super) fn block_map(image: &Image<'_>, found: Format) -> Result<BlockMap> {
    blocks(image, &footer(image, found)?)
}

/// What the guest sees, by the footer.
pub(super) fn virtual_size(image: &Image<'_>, found: Format) -> Result<u64> {
    footer(image, found).map(|footer| be64(&footer.bytes, 48))
}

/// What it stands on, by its footer and header alone: also of one that is not whole.
pub(super) fn parent(image: &Image<'_>, found: Format) -> Result<Option<Parent>> {
    if found != Format::VhdDifferencing {
        return Ok(None);
    }
    let footer = match front(image)? {
        Some(front) => front,
        None => at_end(image)?.0,
    };
    Ok(Some(parent_of(image, &header(image, &footer)?)))
}

/// The footer, found valid. A disk that grows has two: the one at the end counts, as long as it is there.
fn footer(image: &Image<'_>, found: Format) -> Result<Footer> {
    let at_end = at_end(image);
    if found == Format::VhdFixed {
        return at_end.map(|(bytes, end)| Footer { bytes, end, lacks: None });
    }
    match (front(image)?, at_end) {
        (Some(front), Ok((bytes, end))) => {
            if AGREED.into_iter().any(|range| front[range.clone()] != bytes[range]) {
                return Err(broken("its two footers tell different things"));
            }
            Ok(Footer { bytes, end, lacks: None })
        }
        (None, Ok((bytes, end))) => Ok(Footer { bytes, end, lacks: Some(Lacks::Front) }),
        // Whether data is cut off tells the block table, which names all of it.
        (Some(bytes), Err(_)) => Ok(Footer { bytes, end: image.size, lacks: Some(Lacks::End) }),
        (None, Err(error)) => Err(error),
    }
}

/// The footer at the end, and where it begins.
fn at_end(image: &Image<'_>) -> Result<(Vec<u8>, u64)> {
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

/// The copy in front, if it is valid.
fn front(image: &Image<'_>) -> Result<Option<Vec<u8>>> {
    let front = image.read(0, FOOTER_BYTES, "the footer")?;
    let is_valid = front.starts_with(b"conectix") && checksum(&front, 64) == be32(&front, 64);
    Ok(is_valid.then_some(front))
}

fn header(image: &Image<'_>, footer: &[u8]) -> Result<Vec<u8>> {
    let header = image.read(be64(footer, 16), HEADER_BYTES, "the header")?;
    if !header.starts_with(b"cxsparse") || checksum(&header, 36) != be32(&header, 36) {
        return Err(broken("its header is not one"));
    }
    Ok(header)
}

fn parent_of(image: &Image<'_>, header: &[u8]) -> Parent {
    let locators = || header[LOCATORS].chunks_exact(LOCATOR_BYTES);
    let paths = WINDOWS_PATHS.iter().flat_map(|kind| {
        locators().filter(move |locator| locator.starts_with(kind)).filter_map(|locator| {
            let (at, bytes) = (be64(locator, 16), u64::from(be32(locator, 8)));
            let path = image.read(at, bytes.min(windows::MOST_BYTES), "where its parent lies").ok()?;
            windows::name(&windows::text(path.chunks_exact(2).map(|unit| le16(unit, 0))))
        })
    });
    let called = || {
        let units = header[PARENTS_NAME].chunks_exact(2).map(|unit| le16(unit, 0).swap_bytes());
        windows::name(&windows::text(units))
    };
    Parent {
        name: paths.into_iter().next().or_else(called).unwrap_or_default(),
        format: Some(SourceFormat::Vhd),
        ids: vec![hex(&header[PARENTS_ID])],
        is_moved: true,
    }
}

fn blocks(image: &Image<'_>, footer: &Footer) -> Result<BlockMap> {
    let size = be64(&footer.bytes, 48);
    let is_differencing = be32(&footer.bytes, 60) == DIFFERENCING;
    let header = header(image, &footer.bytes)?;
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
    let mut blocks = Vec::with_capacity(entries as usize);
    for entry in table.chunks_exact(4).map(|b| be32(b, 0)) {
        if entry == NOT_ALLOCATED {
            blocks.push(Block::NOWHERE);
            continue;
        }
        let begin = u64::from(entry) * SECTOR + bitmap;
        if begin + block > footer.end {
            return Err(cut_off("data lies beyond its end"));
        }
        // Of a disk that stands on no other the rest of a block are zeros, and in the file.
        blocks.push(if is_differencing { Block::partly_at(begin) } else { Block::at(begin) });
    }
    let bitmaps = Bitmaps { sector_bytes: SECTOR, place: BitmapPlace::Before(bitmap) };
    Ok(BlockMap { bytes: size, block_bytes: block, blocks, bitmaps: Some(bitmaps) })
}

/// The complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    !(sum(&bytes[..at]) + sum(&bytes[at + 4..]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
