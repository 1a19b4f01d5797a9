//! What a log changes of a file: read as if it stood in its place, while nothing is written.
//!
//! Changes are ranges. Their bytes stay where they lie, in the log, so that a large log takes little room here. What is not here: which
//! changes count (see `inspect`), and the file itself (see [`super::window`]).

use std::collections::BTreeMap;

/// Logs change whole pages.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// How many bytes of a page, from its beginning and at its end, a log keeps apart.
const FIRST_BYTES: usize = 8;
const LAST_BYTES: usize = 4;

/// What stands in a range from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum New {
    /// Nothing but zeros.
    Zeros,
    /// The page that lies at another place of the file, but for its first and last bytes.
    Page { lies_at: u64, first: [u8; FIRST_BYTES], last: [u8; LAST_BYTES] },
}

/// All changes of one file. They begin and end with pages, and none covers another.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// By where they begin: where they end, and what they are.
    ranges: BTreeMap<u64, (u64, New)>,
}

/// What is to be read at an offset, and up to where that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) until: u64,
    /// None: what the file has there.
    pub(crate) new: Option<New>,
    /// How far into the change the offset is.
    pub(crate) within: u64,
}

impl Changes {
    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Where the last one ends.
    pub(crate) fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, (end, _))| *end)
    }

    /// A later change: it counts where earlier ones were. A page is as long as a page.
    pub(crate) fn put(&mut self, from: u64, end: u64, new: New) {
        let covered: Vec<u64> = self
            .ranges
            .range(..end)
            .rev()
            .map(|(at, range)| (*at, range.0))
            .take_while(
                // From the last of them back: those before the first that ends in time do too.
                |(_, covered_end)| *covered_end > from,
            )
            .map(|(at, _)| at)
            .collect();
        for at in covered {
            let Some((covered_end, was)) = self.ranges.remove(&at) else { continue };
            if at < from {
                self.ranges.insert(at, (from, was));
            }
            if covered_end > end {
                self.ranges.insert(end, (covered_end, was));
            }
        }
        self.ranges.insert(from, (end, new));
    }

    /// What is to be read at an offset.
    pub(crate) fn at(&self, at: u64) -> Piece {
        if let Some((begin, (end, new))) = self.ranges.range(..=at).next_back()
            && *end > at
        {
            return Piece { until: *end, new: Some(*new), within: at - begin };
        }
        let until = self.ranges.range(at..).next().map_or(u64::MAX, |(begin, _)| *begin);
        Piece { until, new: None, within: 0 }
    }
}

/// Puts the bytes that are kept apart into a part of a page, which begins so far into it.
pub(crate) fn mend(part: &mut [u8], within: u64, first: [u8; FIRST_BYTES], last: [u8; LAST_BYTES]) {
    let last_at = PAGE_BYTES as usize - LAST_BYTES;
    for (place, byte) in (within as usize..).zip(part) {
        if let Some(kept) = first.get(place).or(place.checked_sub(last_at).and_then(|at| last.get(at))) {
            *byte = *kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES;

    fn page(lies_at: u64) -> New {
        New::Page { lies_at, first: [1; 8], last: [2; 4] }
    }

    #[test]
    fn the_latest_change_of_a_page_counts() {
        let mut changes = Changes::default();
        changes.put(2 * PAGE, 8 * PAGE, New::Zeros);
        changes.put(4 * PAGE, 5 * PAGE, page(7));
        changes.put(7 * PAGE, 12 * PAGE, New::Zeros);
        changes.put(2 * PAGE, 3 * PAGE, page(9));
        let at = |page| changes.at(page * PAGE + 5);
        assert_eq!(at(0), Piece { until: 2 * PAGE, new: None, within: 0 });
        assert_eq!(at(2), Piece { until: 3 * PAGE, new: Some(page(9)), within: 5 });
        assert_eq!(at(3), Piece { until: 4 * PAGE, new: Some(New::Zeros), within: 5 });
        assert_eq!(at(4), Piece { until: 5 * PAGE, new: Some(page(7)), within: 5 });
        assert_eq!(at(6), Piece { until: 7 * PAGE, new: Some(New::Zeros), within: PAGE + 5 });
        assert_eq!(at(11).new, Some(New::Zeros));
        assert_eq!(at(12), Piece { until: u64::MAX, new: None, within: 0 });
        assert_eq!((changes.len(), changes.end()), (5, 12 * PAGE));
        changes.put(0, 20 * PAGE, New::Zeros);
        assert_eq!((changes.len(), changes.at(4 * PAGE).until), (1, 20 * PAGE));
    }

    #[test]
    fn many_changes_in_any_order_come_to_what_the_last_of_each_page_was() {
        const PAGES: u64 = 60;
        let (mut changes, mut pages) = (Changes::default(), [None; PAGES as usize]);
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut roll = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        for round in 0..2000 {
            let from = roll(PAGES);
            let (end, new) = match roll(2) {
                0 => (from + 1, page(round)),
                _ => (from + 1 + roll(PAGES - from), New::Zeros),
            };
            changes.put(from * PAGE, end * PAGE, new);
            pages[from as usize..end as usize].fill(Some(new));
            let mut at = 0;
            while at < PAGES {
                let piece = changes.at(at * PAGE);
                assert!(
                    piece.until > at * PAGE && piece.until.is_multiple_of(PAGE) | (piece.until == u64::MAX)
                );
                let until = (piece.until / PAGE).min(PAGES);
                assert!(
                    pages[at as usize..until as usize].iter().all(|page| *page == piece.new),
                    "{round} {at}"
                );
                at = until;
            }
        }
    }

    #[test]
    fn a_page_gets_the_bytes_back_that_were_kept_apart() {
        let mut whole = [0; PAGE as usize];
        mend(&mut whole, 0, [1; 8], [2; 4]);
        assert_eq!((&whole[..9], &whole[4091..]), (&[1, 1, 1, 1, 1, 1, 1, 1, 0][..], &[0, 2, 2, 2, 2][..]));
        let mut part = [0; 4];
        mend(&mut part, 6, [1; 8], [2; 4]);
        assert_eq!(part, [1, 1, 0, 0]);
        mend(&mut part, 4090, [1; 8], [2; 4]);
        assert_eq!(part, [1, 1, 2, 2]);
    }
}
