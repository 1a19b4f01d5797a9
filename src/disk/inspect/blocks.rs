//! Where the data of an image lies that has one table, for blocks of one size: VHD and VHDX, VDI.
//!
//! Of a differing image a block may be there in part: a bitmap tells which of its sectors are. Bitmaps stay in the file until somebody asks.

/// The table of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockMap {
    /// What the guest sees.
    pub(crate) bytes: u64,
    pub(crate) block_bytes: u64,
    pub(crate) blocks: Vec<Block>,
    /// What tells which sectors of a block are there, where there are blocks of which some are not.
    pub(crate) bitmaps: Option<Bitmaps>,
}

/// Where a block lies, in eight bytes: a large disk has millions of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block(u64);

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lies {
    /// Not in this file: in the image below, if there is one.
    Nowhere,
    /// In no file: it is all zeros, whatever is below.
    Zeros,
    At(u64),
    /// The same, but only some of its sectors.
    PartlyAt(u64),
}

/// Above the place, which no file is long enough to need them for: what kind of place it is.
const KIND_SHIFT: u32 = 62;
const PLACE: u64 = (1 << KIND_SHIFT) - 1;

impl Block {
    pub(crate) const NOWHERE: Block = Block(0);
    pub(crate) const ZEROS: Block = Block(1 << KIND_SHIFT);

    pub(crate) fn at(place: u64) -> Block {
        Block(2 << KIND_SHIFT | place.min(PLACE))
    }

    pub(crate) fn partly_at(place: u64) -> Block {
        Block(3 << KIND_SHIFT | place.min(PLACE))
    }

    pub(crate) fn lies(self) -> Lies {
        match self.0 >> KIND_SHIFT {
            0 => Lies::Nowhere,
            1 => Lies::Zeros,
            2 => Lies::At(self.0 & PLACE),
            _ => Lies::PartlyAt(self.0 & PLACE),
        }
    }
}

/// How it is found out which sectors of a block are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmaps {
    pub(crate) sector_bytes: u64,
    pub(crate) place: BitmapPlace,
}

/// Where the bitmap of a block lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BitmapPlace {
    /// So many bytes before the block, with the first sector in the highest bit (VHD).
    Before(u64),
    /// In one for as many blocks, with the first sector in the lowest bit (VHDX).
    Shared { blocks: u64, places: Vec<u64> },
}

impl BlockMap {
    /// Where the bitmap of a block lies that is there in part, and how long it is.
    pub(crate) fn bitmap(&self, block: u64, lies_at: u64) -> Option<(u64, usize)> {
        let bitmaps = self.bitmaps.as_ref()?;
        let bytes = (self.block_bytes / bitmaps.sector_bytes).div_ceil(8);
        let at = match &bitmaps.place {
            BitmapPlace::Before(room) => lies_at.checked_sub(*room)?,
            BitmapPlace::Shared { blocks, places } => {
                let shared = places.get(usize::try_from(block / blocks).ok()?)?;
                shared.checked_add(block % blocks * bytes)?
            }
        };
        Some((at, usize::try_from(bytes).ok()?))
    }
}

impl Bitmaps {
    /// The bits of a bitmap, 64 in each number, the first sector in its lowest bit.
    pub(crate) fn bits(&self, bitmap: &[u8]) -> Vec<u64> {
        let is_highest_first = matches!(self.place, BitmapPlace::Before(_));
        let word = |bytes: &[u8]| {
            bytes.iter().rev().fold(0, |word, byte| {
                word << 8 | u64::from(if is_highest_first { byte.reverse_bits() } else { *byte })
            })
        };
        bitmap.chunks(8).map(word).collect()
    }
}

/// Whether a bit is set, and how many from there on are the same.
pub(crate) fn run(bits: &[u64], from: u64) -> (bool, u64) {
    let word = |at: u64| usize::try_from(at / 64).ok().and_then(|word| bits.get(word)).copied();
    let is_set = word(from).is_some_and(|word| word >> (from % 64) & 1 == 1);
    let mut at = from;
    while let Some(word) = word(at) {
        let others = (if is_set { !word } else { word }) >> (at % 64);
        if others != 0 {
            return (is_set, at + u64::from(others.trailing_zeros()) - from);
        }
        at += 64 - at % 64;
    }
    (is_set, at - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_was_put_into_its_eight_bytes() {
        assert_eq!(Block::NOWHERE.lies(), Lies::Nowhere);
        assert_eq!(Block::ZEROS.lies(), Lies::Zeros);
        assert_eq!(Block::at(5 << 40).lies(), Lies::At(5 << 40));
        assert_eq!(Block::partly_at(512).lies(), Lies::PartlyAt(512));
        assert_eq!(size_of::<Block>(), 8);
    }

    #[test]
    fn bits_are_counted_from_the_first_sector() {
        let shared = Bitmaps { sector_bytes: 512, place: BitmapPlace::Shared { blocks: 1, places: vec![] } };
        let before = Bitmaps { sector_bytes: 512, place: BitmapPlace::Before(512) };
        // Sectors 0, 1 and 9 of them.
        assert_eq!(shared.bits(&[0b11, 0b10]), [0b10_0000_0011]);
        assert_eq!(before.bits(&[0b1100_0000, 0b0100_0000]), [0b10_0000_0011]);
        let bits = shared.bits(&[0b11, 0b10, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(run(&bits, 0), (true, 2));
        assert_eq!(run(&bits, 1), (true, 1));
        assert_eq!(run(&bits, 2), (false, 7));
        assert_eq!(run(&bits, 10), (false, 54));
        assert_eq!(run(&bits, 64), (true, 16));
        assert_eq!(run(&bits, 80), (false, 48));
    }
}
