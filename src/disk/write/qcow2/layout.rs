//! What lies where in a qcow2: entries of second tables as they will be in the file, and what is given out next.

use std::io;

use super::super::entries::Entries;
use super::tables::first_table_clusters;
use super::{CLUSTER, ENTRIES, Placed};

const SECTOR: u64 = 512;
/// The cluster is used once: it may be written to in place.
pub(super) const USED_ONCE: u64 = 1 << 63;
const PACKED: u64 = 1 << 62;
/// In an entry of a packed cluster, above its place: how many sectors more than its first it touches.
const SECTORS_BIT: u32 = 62 - (super::CLUSTER_BITS - 8);
/// Packed clusters lie before it; others could lie behind it, which is of no use.
const END: u64 = 1 << SECTORS_BIT;

/// Where a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    Absent,
    Plain { at: u64 },
    Packed { at: u64, bytes: u64 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) entries: Entries<u64>,
    /// Clusters of the disk.
    clusters: u64,
    /// Where data begins.
    first: u64,
    /// The cluster of the file that is given out next.
    next: u64,
    /// Where the last packed cluster ends.
    packed_end: u64,
}

impl Layout {
    pub(super) fn new(bytes: u64) -> Layout {
        let next = 1 + first_table_clusters(bytes);
        let (clusters, first) = (bytes.div_ceil(CLUSTER), next * CLUSTER);
        Layout { entries: Entries::new(ENTRIES), clusters, first, next, packed_end: first }
    }

    /// Where the data ends that there is.
    pub(super) fn end(&self) -> u64 {
        self.next * CLUSTER
    }

    /// A place for clusters as they are.
    pub(super) fn place_plain(&self, block: u64, count: u64) -> Placed {
        Placed { block, count, at: self.end(), bytes: count * CLUSTER }
    }

    /// A place for a packed one: behind the last, in as many clusters of the file as that takes; else in the next one.
    pub(super) fn place_packed(&self, block: u64, bytes: u64) -> Placed {
        let until = self.packed_end.next_multiple_of(CLUSTER);
        let goes_on = self.packed_end + bytes <= until || until == self.end();
        Placed { block, count: 1, at: if goes_on { self.packed_end } else { self.end() }, bytes }
    }

    /// Writes down where clusters lie.
    pub(super) fn put(&mut self, placed: &Placed) -> io::Result<()> {
        let Placed { block, count, at, bytes } = *placed;
        let is_plain = placed.is_plain() && at % CLUSTER == 0;
        let is_packed = count == 1 && (1..CLUSTER).contains(&bytes);
        let is_in_disk = block.checked_add(count).is_some_and(|end| end <= self.clusters);
        if !(is_plain || is_packed) || !is_in_disk || at < self.first {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a place that this image does not have"));
        }
        let end = at.checked_add(bytes).filter(|end| *end < END);
        let end = end
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "the image has too many clusters"))?;
        if is_plain {
            for number in 0..count {
                self.entries.set(block + number, (at + number * CLUSTER) | USED_ONCE);
            }
        } else {
            let sectors = (end - 1) / SECTOR - at / SECTOR;
            self.entries.set(block, at | sectors << SECTORS_BIT | PACKED);
            self.packed_end = end;
        }
        self.next = self.next.max(end.div_ceil(CLUSTER));
        Ok(())
    }

    pub(super) fn cluster(&self, number: u64) -> Cluster {
        cluster(self.entries.get(number))
    }

    /// How often each cluster of the file is used, up to the end of the data.
    pub(super) fn counts(&self) -> Vec<u16> {
        let mut counts = vec![0; self.next as usize];
        counts[..(self.first / CLUSTER) as usize].fill(1);
        for (_, entry) in self.entries.told() {
            let touched = match cluster(entry) {
                Cluster::Absent => continue,
                Cluster::Plain { at } => at / CLUSTER..=at / CLUSTER,
                Cluster::Packed { at, bytes } => at / CLUSTER..=(at + bytes - 1) / CLUSTER,
            };
            touched.for_each(|cluster| counts[cluster as usize] += 1);
        }
        counts
    }
}

/// What an entry says. Of a packed cluster it tells whole sectors: what is behind it there belongs to the next.
fn cluster(entry: u64) -> Cluster {
    if entry & PACKED != 0 {
        let (at, sectors) = (entry & (END - 1), (entry & (PACKED - 1)) >> SECTORS_BIT);
        return Cluster::Packed { at, bytes: (sectors + 1) * SECTOR - at % SECTOR };
    }
    match entry & !USED_ONCE {
        0 => Cluster::Absent,
        at => Cluster::Plain { at },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places clusters of these sizes (0: as they are) one after the other, and says where they lie, counted from the first.
    fn places(layout: &mut Layout, sizes: &[u64], from: u64) -> Vec<u64> {
        let place = |(block, bytes): (u64, &u64)| {
            let placed = match *bytes {
                0 => layout.place_plain(block, 1),
                bytes => layout.place_packed(block, bytes),
            };
            layout.put(&placed).unwrap();
            placed.at - layout.first
        };
        (from..).zip(sizes).map(place).collect()
    }

    #[test]
    fn packed_clusters_lie_close_and_plain_ones_between_them_waste_little() {
        let mut layout = Layout::new(100 * CLUSTER);
        let sizes = [40_000, 20_000, 10_000, 0, 50_000, 12_000, 0, 60_000, 0, 10];
        let found = places(&mut layout, &sizes, 0);
        let (second, third) = (CLUSTER, 2 * CLUSTER);
        assert_eq!(
            found,
            [
                0,
                40_000,
                60_000,      // goes on in the second cluster, as nothing else lies there
                third,       // as it is
                70_000,      // still in the second
                3 * CLUSTER, // no room in the second, and the third is another's
                4 * CLUSTER,
                5 * CLUSTER, // likewise
                6 * CLUSTER,
                5 * CLUSTER + 60_000
            ]
        );
        assert!(found[4] > second);
        assert_eq!(layout.counts(), [1, 1, 3, 2, 1, 1, 1, 2, 1]);
    }

    #[test]
    fn a_layout_that_was_told_of_goes_on_as_it_would_have() {
        let sizes =
            [0, 500, 60_000, 30_000, 0, 0, 65_535, 1, 0, 40_000, 40_000, 40_000, 0, 7, 65_000, 65_000];
        let mut all = Layout::new(100 * CLUSTER);
        let wanted = places(&mut all, &sizes, 0);
        for cut in 0..sizes.len() {
            let (mut before, mut after) = (Layout::new(100 * CLUSTER), Layout::new(100 * CLUSTER));
            let found = places(&mut before, &sizes[..cut], 0);
            for ((block, at), bytes) in (0..).zip(&found).zip(&sizes) {
                let bytes = if *bytes == 0 { CLUSTER } else { *bytes };
                after.put(&Placed { block, count: 1, at: at + after.first, bytes }).unwrap();
            }
            assert_eq!(places(&mut after, &sizes[cut..], cut as u64), wanted[cut..], "cut at {cut}");
            assert_eq!(after.counts(), all.counts());
        }
    }

    #[test]
    fn places_that_no_image_of_this_size_has_are_refused() {
        let put = |block, count, at, bytes| {
            let mut layout = Layout::new(100 * CLUSTER);
            layout.put(&Placed { block, count, at, bytes }).is_ok()
        };
        assert!(put(99, 1, 2 * CLUSTER, CLUSTER) && put(0, 1, 2 * CLUSTER + 7, 9));
        assert!(!put(99, 2, 2 * CLUSTER, 2 * CLUSTER));
        assert!(!put(u64::MAX, 2, 2 * CLUSTER, 2 * CLUSTER));
        assert!(!put(0, 1, CLUSTER, CLUSTER));
        assert!(!put(0, 1, 2 * CLUSTER + 512, CLUSTER));
        assert!(!put(0, 2, 2 * CLUSTER, CLUSTER));
        assert!(!put(0, 1, 2 * CLUSTER, 0));
        assert!(!put(0, 1, END, 1) && !put(0, 1, u64::MAX - CLUSTER + 1, CLUSTER));
    }
}
