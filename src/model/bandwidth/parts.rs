//! Who was told which part of what may be read, and who has to be told another one.
//!
//! Those who copy have the same part each. Who does not copy yet is told the part that it would have if it began now, so that nobody ever
//! begins faster than it may.

use std::collections::BTreeMap;

use super::{Caps, Rate};

/// What each worker was told last.
#[derive(Debug)]
pub struct Parts<K>(BTreeMap<K, Rate>);

impl<K> Default for Parts<K> {
    fn default() -> Parts<K> {
        Parts(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Parts<K> {
    /// The part of a worker that starts now, beside so many that copy.
    pub fn of_newcomer(&mut self, worker: K, caps: Caps, copying: usize) -> Rate {
        let part = caps.share(copying + 1);
        self.0.insert(worker, part);
        part
    }

    /// Who of these workers has to be told what; whether each copies is said with it. Those who get less come first.
    pub fn changes(&mut self, caps: Caps, workers: &BTreeMap<K, bool>) -> Vec<(K, Rate)> {
        let copying = workers.values().filter(|copies| **copies).count();
        let mut changes = Vec::new();
        for (worker, copies) in workers {
            let part = caps.share(copying + usize::from(!copies));
            if self.0.get(worker) != Some(&part) {
                changes.push((*worker, part));
            }
        }
        self.0.retain(|worker, _| workers.contains_key(worker));
        self.0.extend(changes.iter().copied());
        changes.sort_by_key(|(_, part)| part.map_or(u64::MAX, std::num::NonZeroU64::get));
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const ALL: Caps = Caps { total: NonZeroU64::new(60), per_job: None };

    fn changes(parts: &mut Parts<u32>, caps: Caps, workers: &[(u32, bool)]) -> Vec<(u32, u64)> {
        let changes = parts.changes(caps, &workers.iter().copied().collect());
        changes.into_iter().map(|(worker, part)| (worker, part.map_or(0, NonZeroU64::get))).collect()
    }

    #[test]
    fn parts_change_when_copies_begin_and_end_and_are_told_once() {
        let mut parts = Parts::default();
        assert_eq!(parts.of_newcomer(1, ALL, 0), NonZeroU64::new(60));
        assert_eq!(changes(&mut parts, ALL, &[(1, false)]), []);
        assert_eq!(changes(&mut parts, ALL, &[(1, true)]), []);
        assert_eq!(parts.of_newcomer(2, ALL, 1), NonZeroU64::new(30));
        assert_eq!(changes(&mut parts, ALL, &[(1, true), (2, false)]), [], "it does not copy yet");
        assert_eq!(changes(&mut parts, ALL, &[(1, true), (2, true)]), [(1, 30)]);
        assert_eq!(changes(&mut parts, ALL, &[(1, true), (2, true)]), []);
        assert_eq!(changes(&mut parts, ALL, &[(1, true), (2, false)]), [(1, 60)], "it stands still");
        assert_eq!(changes(&mut parts, ALL, &[(2, false)]), [(2, 60)], "the other one has ended");
        assert_eq!(parts.of_newcomer(1, ALL, 0), NonZeroU64::new(60));
    }

    #[test]
    fn another_limit_is_told_to_all_and_first_to_those_who_get_less() {
        let mut parts = Parts::default();
        let workers = [(1, false), (2, true), (3, true)];
        assert_eq!(changes(&mut parts, ALL, &workers), [(1, 20), (2, 30), (3, 30)]);
        let less = Caps { per_job: NonZeroU64::new(25), ..ALL };
        assert_eq!(changes(&mut parts, less, &workers), [(2, 25), (3, 25)]);
        assert_eq!(changes(&mut parts, Caps::default(), &workers), [(1, 0), (2, 0), (3, 0)]);
    }
}
