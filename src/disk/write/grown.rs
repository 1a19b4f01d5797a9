//! Images that grow by blocks of one size, which lie one behind the other in the order in which they are first written to: VHD, VDI and VMDK.
//!
//! What is not here: what makes an image of such blocks. Each format says that for itself, in [`Form`].

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entries::Entries;
use super::turns::Turns;
use super::{BLOCK_BYTES, Placed, Writer, filled, read_or_zeros};

const SECTOR: usize = 512;

/// How blocks lie in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of a block.
    pub(super) block: u64,
    /// Before each block's data so many bytes say that all of it is there: all ones.
    pub(super) lead: u64,
    /// Where the first one begins, with what is before its data.
    pub(super) first: u64,
    /// So many, and the file is full: further ones could not be found.
    pub(super) most: u32,
    /// Entries of a table.
    pub(super) part: u64,
}

impl Shape {
    /// Where a block begins, by its number in the file.
    pub(super) fn begin(&self, number: u32) -> u64 {
        self.first + u64::from(number) * (self.lead + self.block)
    }
}

/// What is special to a format.
pub(super) trait Form: Debug + Send + Sync {
    fn shape(&self) -> Shape;

    /// Makes an image of the blocks that there are; what tells that it is one is written last, at the beginning of the file.
    fn finish(&self, file: &File, blocks: &Blocks) -> io::Result<()>;
}

/// Which blocks of the disk there are.
#[derive(Debug)]
pub(super) struct Blocks {
    /// By block of the disk: its number in the file, from 1 on. 0: it is not there.
    pub(super) numbers: Entries<u32>,
    /// How many there are.
    pub(super) count: u32,
}

/// An image that is being filled.
#[derive(Debug)]
pub(super) struct Grown<F> {
    file: File,
    bytes: u64,
    form: F,
    shape: Shape,
    turns: Turns<Blocks>,
}

impl<F: Form> Grown<F> {
    pub(super) fn new(file: File, bytes: u64, form: F) -> Grown<F> {
        let shape = form.shape();
        let blocks = Blocks { numbers: Entries::new(shape.part), count: 0 };
        Grown { file, bytes, form, shape, turns: Turns::new(blocks) }
    }

    /// The place of what lies at an offset of the disk, if its block is there.
    fn place_of(&self, blocks: &Blocks, at: u64) -> Option<u64> {
        let number = blocks.numbers.get(at / self.shape.block).checked_sub(1)?;
        Some(self.shape.begin(number) + self.shape.lead + at % self.shape.block)
    }

    /// Gives a run its places, block by block; `new` hears of the blocks that were not there before.
    fn reserve(
        &self,
        blocks: &mut Blocks,
        at: u64,
        until: u64,
        new: &mut Vec<u32>,
    ) -> io::Result<Vec<Placed>> {
        let mut placed: Vec<Placed> = Vec::new();
        let mut from = at;
        while from < until {
            let block = from / self.shape.block;
            let end = until.min((block + 1) * self.shape.block);
            if blocks.numbers.get(block) == 0 {
                if blocks.count >= self.shape.most {
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the image has too many blocks"));
                }
                new.push(blocks.count);
                blocks.count += 1;
                blocks.numbers.set(block, blocks.count);
            }
            let place = self.place_of(blocks, from).unwrap_or_default();
            let count = (end - from).div_ceil(BLOCK_BYTES as u64);
            let bytes = count * BLOCK_BYTES as u64;
            match placed.last_mut().filter(|last| last.at + last.bytes == place) {
                Some(last) => (last.count, last.bytes) = (last.count + count, last.bytes + bytes),
                None => placed.push(Placed { block: from / BLOCK_BYTES as u64, count, at: place, bytes }),
            }
            from = end;
        }
        Ok(placed)
    }

    /// Writes down where a run lies that an earlier copy has put there.
    fn put(&self, blocks: &mut Blocks, placed: &Placed) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a place that this image does not have");
        let Shape { block, lead, first, most, .. } = self.shape;
        if !placed.is_plain()
            || placed.block.saturating_add(placed.count) > self.bytes.div_ceil(BLOCK_BYTES as u64)
        {
            return Err(wrong());
        }
        for number in 0..placed.count {
            let at = (placed.block + number) * BLOCK_BYTES as u64;
            let begin = placed.at.checked_add(number * BLOCK_BYTES as u64);
            let begin =
                begin.and_then(|place| place.checked_sub(first + lead + at % block)).ok_or_else(wrong)?;
            let number = u32::try_from(begin / (lead + block)).map_err(|_| wrong())?;
            let known = blocks.numbers.get(at / block);
            // Blocks come in their order: each is known, or the next.
            let is_sound = if known == 0 { number == blocks.count } else { number == known - 1 };
            if begin % (lead + block) != 0 || !is_sound || number >= most {
                return Err(wrong());
            }
            if known == 0 {
                blocks.count += 1;
                blocks.numbers.set(at / block, blocks.count);
            }
        }
        Ok(())
    }
}

impl<F: Form> Writer for Grown<F> {
    fn write(&self, number: u64, at: u64, data: &[u8]) -> io::Result<Vec<Placed>> {
        let runs: Vec<_> = filled(data, BLOCK_BYTES).collect();
        let mut new = Vec::new();
        let placed = self.turns.take(number, |blocks| {
            let mut placed = Vec::with_capacity(runs.len());
            for run in &runs {
                let (from, until) = (at + run.start as u64, at + run.end as u64);
                placed.extend(self.reserve(blocks, from, until, &mut new)?);
            }
            Ok(placed)
        })?;
        for block in new.iter().filter(|_| self.shape.lead > 0) {
            self.file.write_all_at(&vec![0xff; self.shape.lead as usize], self.shape.begin(*block))?;
        }
        for placed in &placed {
            let from = (placed.block * BLOCK_BYTES as u64 - at) as usize;
            let until = data.len().min(from + placed.bytes as usize);
            self.file.write_all_at(&data[from..until], placed.at)?;
        }
        Ok(placed)
    }

    fn give_up(&self) {
        self.turns.give_up();
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (at, piece) in (at..).step_by(BLOCK_BYTES).zip(buffer.chunks_mut(BLOCK_BYTES)) {
            match self.turns.with(|blocks| self.place_of(blocks, at)) {
                None => piece.fill(0),
                // Of a block that is there, parts may not have been written: the file has holes there, or ends.
                Some(place) => read_or_zeros(&self.file, piece, place)?,
            }
        }
        Ok(())
    }

    fn place(&self, placed: &[Placed]) -> io::Result<()> {
        self.turns.with(|blocks| placed.iter().try_for_each(|placed| self.put(blocks, placed)))
    }

    fn go_on(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; SECTOR], 0)?;
        self.file.set_len(self.turns.with(|blocks| self.shape.begin(blocks.count)))
    }

    fn finish(&self) -> io::Result<()> {
        self.turns.with(|blocks| {
            // The last block need not have been written to its end.
            self.file.set_len(self.shape.begin(blocks.count))?;
            self.form.finish(&self.file, blocks)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    /// Blocks of 256 KiB, each with a sector before it.
    #[derive(Debug)]
    struct Plain;

    impl Form for Plain {
        fn shape(&self) -> Shape {
            Shape { block: 4 * BLOCK, lead: 512, first: 4096, most: 3, part: 16 }
        }

        fn finish(&self, _: &File, _: &Blocks) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer() -> Grown<Plain> {
        Grown::new(tempfile::tempfile().unwrap(), 64 * BLOCK, Plain)
    }

    #[test]
    fn a_block_is_there_when_its_first_piece_comes_and_takes_the_others_too() {
        let writer = writer();
        let piece = vec![7; 2 * BLOCK_BYTES];
        let first = writer.write(0, 8 * BLOCK, &piece).unwrap();
        let begin = 4096 + 512;
        assert_eq!(first, [Placed { block: 8, count: 2, at: begin, bytes: 2 * BLOCK }]);
        let second = writer.write(1, 10 * BLOCK, &piece[..BLOCK_BYTES]).unwrap();
        assert_eq!(second, [Placed { block: 10, count: 1, at: begin + 2 * BLOCK, bytes: BLOCK }]);
        // Over the border of two blocks: the next one of the file.
        let third = writer.write(2, 11 * BLOCK, &piece).unwrap();
        let next = begin + 4 * BLOCK + 512;
        assert_eq!(
            third,
            [
                Placed { block: 11, count: 1, at: begin + 3 * BLOCK, bytes: BLOCK },
                Placed { block: 12, count: 1, at: next, bytes: BLOCK }
            ]
        );
        writer.finish().unwrap();
        assert_eq!(writer.file.metadata().unwrap().len(), next + 4 * BLOCK);
        let mut found = vec![1; 8 * BLOCK_BYTES];
        writer.read(8 * BLOCK, &mut found).unwrap();
        assert!(found[..5 * BLOCK_BYTES].iter().all(|byte| *byte == 7));
        assert!(found[5 * BLOCK_BYTES..].iter().all(|byte| *byte == 0));

        let again = self::writer();
        for placed in [first, second, third] {
            again.place(&placed).unwrap();
        }
        let told =
            |writer: &Grown<Plain>| writer.turns.with(|blocks| blocks.numbers.told().collect::<Vec<_>>());
        assert_eq!(told(&again), told(&writer));
    }

    #[test]
    fn places_that_such_an_image_does_not_have_are_refused() {
        let put = |block, count, at, bytes| writer().place(&[Placed { block, count, at, bytes }]).is_ok();
        assert!(put(0, 1, 4608, BLOCK) && put(3, 1, 4608 + 3 * BLOCK, BLOCK));
        // Not the next one, not where its part of the block is, not of the disk, packed.
        assert!(!put(0, 1, 4608 + 4 * BLOCK + 512, BLOCK));
        assert!(!put(3, 1, 4608, BLOCK));
        assert!(!put(64, 1, 4608, BLOCK) && !put(u64::MAX, 1, 4608, BLOCK));
        assert!(!put(0, 1, 4608, 77) && !put(0, 1, 0, BLOCK) && !put(0, 1, u64::MAX, BLOCK));
    }

    #[test]
    fn an_image_that_is_full_says_so() {
        let writer = writer();
        let piece = vec![7; BLOCK_BYTES];
        for number in 0..3 {
            writer.write(number, number * 4 * BLOCK, &piece).unwrap();
        }
        let error = writer.write(3, 12 * BLOCK, &piece).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
