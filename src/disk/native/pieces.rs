//! Which pieces of a disk are to be copied, in which order: what its map says holds data, in the order in which it lies on the disk.

use std::collections::VecDeque;

use crate::disk::read::{Holds, Reader, Room};
use crate::disk::write::BLOCK_BYTES;
use crate::model::error::Result;

/// What one thread copies at a time.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// So many are known before they are copied, so that a source can be told what will be read of it.
const AHEAD: usize = 8;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A part of the disk that one thread copies. It begins at a block's beginning, and ends at one or with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// How many came before it in this run.
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) length: u64,
}

/// The pieces that hold data from some offset on, each given out once, in order.
#[derive(Debug)]
pub(super) struct Pieces {
    at: u64,
    /// What is left of the range that was found last.
    data_until: u64,
    number: u64,
    /// Those that come next.
    ahead: VecDeque<Piece>,
}

impl Pieces {
    /// Those behind an offset: where an earlier run got to, or 0.
    pub(super) fn from(at: u64) -> Pieces {
        Pieces { at, data_until: 0, number: 0, ahead: VecDeque::new() }
    }

    /// The next one. `coming` hears of those that were found meanwhile, long before their turn.
    pub(super) fn next(
        &mut self,
        reader: &dyn Reader,
        room: &mut Room,
        coming: &mut Vec<Piece>,
    ) -> Result<Option<Piece>> {
        while self.ahead.len() <= AHEAD
            && let Some(piece) = self.find(reader, room)?
        {
            self.ahead.push_back(piece);
            coming.push(piece);
        }
        Ok(self.ahead.pop_front())
    }

    /// What belongs to one block of the target is in one piece.
    fn find(&mut self, reader: &dyn Reader, room: &mut Room) -> Result<Option<Piece>> {
        let size = reader.size();
        while self.at < size {
            if self.at < self.data_until {
                let at = self.at - self.at % BLOCK;
                let end = (at - at % PIECE_BYTES + PIECE_BYTES)
                    .min(self.data_until.next_multiple_of(BLOCK))
                    .min(size);
                let number = self.number;
                (self.at, self.number) = (end, number + 1);
                return Ok(Some(Piece { number, at, length: end - at }));
            }
            let range = reader.next_range(self.at, room)?;
            match range.holds {
                // At the bottom nothing is below.
                Holds::Zeros | Holds::Below => self.at = range.end(),
                Holds::Data => self.data_until = range.end(),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read::Range;

    /// A disk that holds data in these ranges.
    #[derive(Debug)]
    struct Map(u64, Vec<(u64, u64)>);

    impl Reader for Map {
        fn size(&self) -> u64 {
            self.0
        }

        fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
            let end = |end: u64, holds| Ok(Range { start: at, length: end - at, holds });
            match self.1.iter().find(|(_, end)| *end > at) {
                None => end(self.0, Holds::Zeros),
                Some((start, _)) if *start > at => end(*start, Holds::Zeros),
                Some((_, until)) => end(*until, Holds::Data),
            }
        }

        fn read(&self, _: u64, _: &mut [u8], _: &mut Room) -> Result<()> {
            unreachable!("only the map is asked for")
        }
    }

    fn pieces(map: &Map, from: u64) -> Vec<(u64, u64)> {
        let (mut pieces, mut room) = (Pieces::from(from), Room::default());
        let next = || {
            pieces
                .next(map, &mut room, &mut Vec::new())
                .unwrap()
                .map(|piece| (piece.at, piece.at + piece.length))
        };
        std::iter::from_fn(next).collect()
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_are_blocks_that_hold_something_and_none_comes_twice() {
        let first = [(512, 1024), (1024 + BLOCK, 2 * BLOCK), (MIB - 1, MIB + 1)];
        let map = Map(3 * MIB + 512, [&first[..], &[(3 * MIB, 3 * MIB + 512)]].concat());
        assert_eq!(
            pieces(&map, 0),
            [
                (0, BLOCK),
                (BLOCK, 2 * BLOCK),
                (MIB - BLOCK, MIB),
                (MIB, MIB + BLOCK),
                (3 * MIB, 3 * MIB + 512)
            ]
        );
    }

    #[test]
    fn each_piece_is_told_of_once_and_long_before_its_turn() {
        let map = Map(20 * MIB, vec![(0, 20 * MIB)]);
        let (mut pieces, mut room, mut coming) = (Pieces::from(0), Room::default(), Vec::new());
        for number in 0..20 {
            let piece = pieces.next(&map, &mut room, &mut coming).unwrap().unwrap();
            assert_eq!(piece.at, number * MIB);
            let told = coming.iter().map(|piece| piece.at / MIB);
            assert!(told.eq(0..(number + 1 + AHEAD as u64).min(20)), "{coming:?}");
        }
    }

    #[test]
    fn a_run_that_goes_on_makes_the_pieces_that_were_left() {
        let map = Map(4 * MIB, vec![(0, 2 * MIB - 3 * BLOCK), (3 * MIB + 1, 4 * MIB)]);
        let all = pieces(&map, 0);
        for (number, (_, end)) in all.iter().enumerate() {
            assert_eq!(pieces(&map, *end), all[number + 1..]);
        }
    }
}
