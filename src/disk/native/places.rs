//! How a journal tells where the blocks of a piece lie: in few bytes, for a packed disk has a place for each of its blocks.
//!
//! Each number is told as what it differs by from what could be expected: that a place is behind the one before it.

use crate::disk::write::{BLOCK_BYTES, Placed};

/// More bits than a number has are none of ours.
const MOST_SHIFT: u32 = 63;

/// As bytes; `first` is the piece's first block.
pub(super) fn encode(placed: &[Placed], first: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(placed.len() * 6);
    let (mut block, mut at) = (first, 0);
    for placed in placed {
        put(&mut bytes, placed.block.wrapping_sub(block));
        put(&mut bytes, placed.count);
        put(&mut bytes, signed(placed.at.wrapping_sub(at)));
        put(&mut bytes, signed(placed.bytes.wrapping_sub(expected(placed.count))));
        block = placed.block.wrapping_add(placed.count);
        at = placed.at.wrapping_add(placed.bytes);
    }
    bytes
}

/// Of these bytes; `None` if they tell nothing.
pub(super) fn decode(mut bytes: &[u8], first: u64) -> Option<Vec<Placed>> {
    let mut placed = Vec::new();
    let (mut block, mut at) = (first, 0u64);
    while !bytes.is_empty() {
        block = block.wrapping_add(take(&mut bytes)?);
        let count = take(&mut bytes)?;
        at = at.wrapping_add(unsigned(take(&mut bytes)?));
        let length = expected(count).wrapping_add(unsigned(take(&mut bytes)?));
        placed.push(Placed { block, count, at, bytes: length });
        block = block.wrapping_add(count);
        at = at.wrapping_add(length);
    }
    Some(placed)
}

/// Blocks as they are.
fn expected(count: u64) -> u64 {
    count.wrapping_mul(BLOCK_BYTES as u64)
}

/// Small numbers below zero become small ones.
fn signed(number: u64) -> u64 {
    (number << 1) ^ (number.cast_signed() >> 63).cast_unsigned()
}

fn unsigned(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Seven bits a byte, the lowest first; the eighth says that there are more.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
        if shift > MOST_SHIFT {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_places_are_found_again(
            first: u64,
            numbers in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..20),
        ) {
            let place = |(block, count, at, bytes)| Placed { block, count, at, bytes };
            let placed: Vec<_> = numbers.into_iter().map(place).collect();
            prop_assert_eq!(decode(&encode(&placed, first), first).unwrap(), placed);
        }

        #[test]
        fn any_bytes_are_places_or_are_not(bytes: Vec<u8>) {
            let _ = decode(&bytes, 5);
        }
    }

    #[test]
    fn packed_blocks_one_behind_the_other_take_some_bytes_each() {
        let place = |number: u64| Placed {
            block: 800 + number,
            count: 1,
            at: (1 << 40) + number * 20_000,
            bytes: 20_000,
        };
        let placed: Vec<_> = (0..16).map(place).collect();
        let bytes = encode(&placed, 800);
        assert!(bytes.len() <= 16 * 6 + 6, "{}", bytes.len());
        let plain = [Placed { block: 800, count: 16, at: 1 << 40, bytes: 1 << 20 }];
        assert!(encode(&plain, 800).len() <= 10);
    }
}
