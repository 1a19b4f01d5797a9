//! What makes an image of clusters: second tables, the first one, how often each cluster is used, and the header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::layout::{Layout, USED_ONCE};
use super::{BLOCK_BYTES, CLUSTER, CLUSTER_BITS, ENTRIES};

/// Counts of 16 bits in a cluster.
const COUNTS: u64 = CLUSTER / 2;
const COUNT_ORDER: u32 = 4;
const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 112;
/// Clusters are packed by something else than zlib.
const HAS_COMPRESSION_TYPE: u64 = 1 << 3;
const ZSTD: u8 = 1;

pub(super) fn first_table_clusters(bytes: u64) -> u64 {
    bytes.div_ceil(CLUSTER * ENTRIES).div_ceil(ENTRIES).max(1)
}

/// Writes all of it; the header last.
pub(super) fn write(file: &File, bytes: u64, layout: &Layout, is_zstd: bool) -> io::Result<()> {
    let mut at = layout.end();
    let mut first = vec![0; first_table_clusters(bytes) as usize * BLOCK_BYTES];
    for (number, table) in layout.entries.parts() {
        let second: Vec<_> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        file.write_all_at(&second, at)?;
        let entry = number as usize * 8;
        first[entry..entry + 8].copy_from_slice(&(at | USED_ONCE).to_be_bytes());
        at += CLUSTER;
    }
    file.write_all_at(&first, CLUSTER)?;
    let counts = write_counts(file, layout.counts(), at / CLUSTER)?;
    file.write_all_at(&header(bytes, &counts, is_zstd), 0)
}

/// Where the counts are told.
struct Counts {
    table_at: u64,
    table_clusters: u64,
}

/// What is behind the data, up to `used` and the counts themselves, is used once.
fn write_counts(file: &File, mut counts: Vec<u16>, used: u64) -> io::Result<Counts> {
    let (mut blocks, mut tables) = (0, 0);
    loop {
        let total = used + blocks + tables;
        let (more_blocks, more_tables) = (total.div_ceil(COUNTS), total.div_ceil(COUNTS).div_ceil(ENTRIES));
        if (more_blocks, more_tables) == (blocks, tables) {
            break;
        }
        (blocks, tables) = (more_blocks, more_tables);
    }
    counts.resize((used + blocks + tables) as usize, 1);
    let mut table = vec![0; tables as usize * BLOCK_BYTES];
    let places = (used..used + blocks).map(|cluster| cluster * CLUSTER);
    for ((counts, at), entry) in counts.chunks(COUNTS as usize).zip(places).zip(table.chunks_exact_mut(8)) {
        let mut block: Vec<_> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        block.resize(BLOCK_BYTES, 0);
        file.write_all_at(&block, at)?;
        entry.copy_from_slice(&at.to_be_bytes());
    }
    let table_at = (used + blocks) * CLUSTER;
    file.write_all_at(&table, table_at)?;
    Ok(Counts { table_at, table_clusters: tables })
}

fn header(bytes: u64, counts: &Counts, is_zstd: bool) -> Vec<u8> {
    let mut header = Vec::with_capacity(BLOCK_BYTES);
    let tables = bytes.div_ceil(CLUSTER * ENTRIES);
    header.extend(b"QFI\xfb");
    header.extend(VERSION.to_be_bytes());
    // No backing file: its offset and its length.
    header.extend([0; 12]);
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(bytes.to_be_bytes());
    // No encryption.
    header.extend([0; 4]);
    header.extend((tables as u32).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes());
    header.extend(counts.table_at.to_be_bytes());
    header.extend((counts.table_clusters as u32).to_be_bytes());
    // No snapshots: their number and their place.
    header.extend([0; 12]);
    // Features that a reader has to know; none of the two other kinds.
    header.extend((if is_zstd { HAS_COMPRESSION_TYPE } else { 0 }).to_be_bytes());
    header.extend([0; 16]);
    header.extend(COUNT_ORDER.to_be_bytes());
    header.extend(HEADER_BYTES.to_be_bytes());
    header.push(if is_zstd { ZSTD } else { 0 });
    // The end of the extensions.
    header.resize(BLOCK_BYTES, 0);
    header
}
