//! A table with an entry for every block of a disk, of which only the parts that tell something take room.

use std::collections::BTreeMap;
use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// Entries that are their type's zero where nothing was said.
#[derive(Debug)]
pub(super) struct Entries<T> {
    part: u64,
    parts: BTreeMap<u64, Box<[T]>>,
}

impl<T: Copy + Default + PartialEq + Into<u64>> Entries<T> {
    /// An empty one, which takes its room in parts of so many entries.
    pub(super) fn new(part: u64) -> Entries<T> {
        Entries { part, parts: BTreeMap::new() }
    }

    pub(super) fn get(&self, index: u64) -> T {
        let part = self.parts.get(&(index / self.part));
        part.map_or(T::default(), |part| part[(index % self.part) as usize])
    }

    pub(super) fn set(&mut self, index: u64, value: T) {
        let entries = self.part as usize;
        let part = self.parts.entry(index / self.part);
        let part = part.or_insert_with(|| vec![T::default(); entries].into_boxed_slice());
        part[(index % self.part) as usize] = value;
    }

    /// The parts that tell something, by number, in order.
    pub(super) fn parts(&self) -> impl ExactSizeIterator<Item = (u64, &[T])> {
        self.parts.iter().map(|(number, part)| (*number, &part[..]))
    }

    /// What tells something, in order.
    pub(super) fn told(&self) -> impl Iterator<Item = (u64, T)> + '_ {
        self.parts().flat_map(|(number, part)| {
            let indexes = number * self.part..;
            indexes.zip(part.iter().copied()).filter(|(_, value)| *value != T::default())
        })
    }

    /// A number that stands for this layout: what formats want to be unlike anything else, and the same source has to give again.
    pub(super) fn mark(&self, seed: u64) -> u64 {
        let mut hash = XxHash3_64::with_seed(seed);
        for (index, value) in self.told() {
            hash.write_u64(index);
            hash.write_u64(value.into());
        }
        hash.finish()
    }

    /// The same as an id of an image.
    pub(super) fn id(&self, seed: u64) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.mark(seed).to_be_bytes());
        id[8..].copy_from_slice(&self.mark(!seed).to_be_bytes());
        // "By a rule of its own", variant of RFC 9562.
        id[6] = id[6] & 0x0f | 0x80;
        id[8] = id[8] & 0x3f | 0x80;
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_said_is_zero_and_takes_no_room() {
        let mut entries = Entries::<u32>::new(8);
        entries.set(800, 7);
        entries.set(801, 9);
        entries.set(3, 1);
        assert_eq!([0, 3, 799, 800, 801, u64::MAX].map(|at| entries.get(at)), [0, 1, 0, 7, 9, 0]);
        assert_eq!(entries.told().collect::<Vec<_>>(), [(3, 1), (800, 7), (801, 9)]);
        assert_eq!(entries.parts().map(|(number, _)| number).collect::<Vec<_>>(), [0, 100]);
    }

    #[test]
    fn a_mark_tells_layouts_apart_and_nothing_else() {
        let layout = |entries: &[(u64, u32)]| {
            let mut layout = Entries::new(8);
            entries.iter().for_each(|(at, value)| layout.set(*at, *value));
            (layout.mark(5), layout.id(5))
        };
        assert_eq!(layout(&[(1, 2), (90, 3)]), layout(&[(90, 3), (1, 2)]));
        assert_ne!(layout(&[(1, 2)]), layout(&[(2, 2)]));
        assert_ne!(layout(&[(1, 2)]), layout(&[(1, 3)]));
    }
}
