//! qcow2: header, what it stands on, and whether its tables and clusters lie within the file.

use super::bytes::{Image, be32, be64, table_be64};
use super::{Layer, Parent, broken, cut_off, unsupported};
use crate::model::error::Result;
use crate::model::plan::SourceFormat;

const HEADER_BYTES: u64 = 104;
/// The name of a backing file is limited to this by the format.
const BACKING_NAME_BYTES: u64 = 1023;
/// QEMU's own limit of the first table.
const L1_BYTES: u64 = 32 << 20;
/// Bits of a table entry that are an offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Incompatible features that are understood here.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// The kind of compression that is not the one of old.
const ZSTD: u8 = 1;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

pub(crate) fn layer(image: &Image<'_>) -> Result<Layer> {
    let header = image.read(0, HEADER_BYTES.min(image.size), "the header")?;
    if header.len() < 72 {
        return Err(cut_off("the header is not whole"));
    }
    let version = be32(&header, 4);
    let cluster_bits = be32(&header, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(broken(&format!("clusters of 2^{cluster_bits} bytes do not exist")));
    }
    let mut layer =
        Layer { subformat: Some(if version == 2 { "0.10" } else { "1.1" }.to_owned()), ..Layer::default() };
    let features = if version >= 3 { be64(&header, 72) } else { 0 };
    refuse_features(features, be32(&header, 32))?;
    if features & DIRTY != 0 {
        layer.warnings.push(
            "the image was not closed properly by the program that wrote it last: check what is in the result"
                .to_owned(),
        );
    }
    if be32(&header, 60) != 0 {
        layer.warnings.push("its internal snapshots are not carried over, only the current state".to_owned());
    }
    layer.parent = backing(image, &header, version)?;
    layer.compressed = check_tables(image, &header, 1 << cluster_bits, features & EXTENDED_L2 != 0)?;
    Ok(layer)
}

/// What it stands on, by its header alone.
pub(super) fn parent(image: &Image<'_>) -> Result<Option<Parent>> {
    let header = image.read(0, HEADER_BYTES.min(image.size), "the header")?;
    if header.len() < 72 {
        return Err(cut_off("the header is not whole"));
    }
    backing(image, &header, be32(&header, 4))
}

fn refuse_features(features: u64, encryption: u32) -> Result<()> {
    if encryption != 0 {
        return Err(unsupported(
            "the image is encrypted",
            "decrypt it with `qemu-img convert --object secret,…` first",
        ));
    }
    if features & CORRUPT != 0 {
        return Err(broken("it is marked as corrupt"))
            .map_err(|error| error.advice("repair a copy of it with `qemu-img check -r all`"));
    }
    if features & DATA_FILE != 0 {
        return Err(super::unsupported(
            "the image keeps its data in another file",
            "make one file of it with `qemu-img convert` first",
        ));
    }
    if features & !KNOWN != 0 {
        return Err(unsupported(
            &format!("the image uses features that are not known here (bits {:#x})", features & !KNOWN),
            "convert it with the QEMU that wrote it to `-o compat=1.1` first",
        ));
    }
    Ok(())
}

fn backing(image: &Image<'_>, header: &[u8], version: u32) -> Result<Option<Parent>> {
    let (offset, length) = (be64(header, 8), u64::from(be32(header, 16)));
    if offset == 0 {
        return Ok(None);
    }
    if length > BACKING_NAME_BYTES {
        return Err(broken("the name of its backing file is too long"));
    }
    let name = image.read(offset, length, "the name of its backing file")?;
    let name = String::from_utf8(name).map_err(|_| broken("the name of its backing file is not UTF-8"))?;
    let begin = if version >= 3 { u64::from(be32(header, 100)) } else { 72 };
    Ok(Some(Parent { name, format: backing_format(image, begin)?, ids: Vec::new(), is_moved: false }))
}

/// Header extensions lie in the first cluster: a type, a length, data padded to 8.
fn backing_format(image: &Image<'_>, begin: u64) -> Result<Option<SourceFormat>> {
    let mut at = begin;
    for _ in 0..64 {
        let head = image.read(at, 8, "a header extension")?;
        let (kind, length) = (be32(&head, 0), u64::from(be32(&head, 4)));
        if kind == 0 || length > 4096 {
            return Ok(None);
        }
        if kind == BACKING_FORMAT {
            let name = image.read(at + 8, length, "a header extension")?;
            return Ok(match name.as_slice() {
                b"raw" => Some(SourceFormat::Raw),
                b"qcow2" => Some(SourceFormat::Qcow2),
                b"vmdk" => Some(SourceFormat::Vmdk),
                b"vpc" => Some(SourceFormat::Vhd),
                b"vhdx" => Some(SourceFormat::Vhdx),
                b"vdi" => Some(SourceFormat::Vdi),
                _ => None,
            });
        }
        at += 8 + length.next_multiple_of(8);
    }
    Ok(None)
}

/// What it takes to find the clusters of an image that was found harmless.
#[derive(Debug)]
pub(crate) struct Qcow2Facts {
    /// What the guest sees.
    pub(crate) bytes: u64,
    /// Of a cluster.
    pub(crate) cluster: u64,
    pub(crate) has_extended_tables: bool,
    pub(crate) is_zstd: bool,
    first_entries: u64,
    first_at: u64,
}

impl Qcow2Facts {
    pub(crate) fn read(image: &Image<'_>) -> Result<Qcow2Facts> {
        let header = image.read(0, HEADER_BYTES.min(image.size), "the header")?;
        let cluster_bits = be32(&header, 20);
        if header.len() < 72 || !(9..=21).contains(&cluster_bits) {
            return Err(broken("its header changed"));
        }
        let features = if be32(&header, 4) >= 3 { be64(&header, 72) } else { 0 };
        let kind = match features & COMPRESSION_TYPE {
            0 => 0,
            _ => image.read(HEADER_BYTES, 1, "the header")?.first().copied().unwrap_or(0),
        };
        Ok(Qcow2Facts {
            bytes: be64(&header, 24),
            cluster: 1 << cluster_bits,
            has_extended_tables: features & EXTENDED_L2 != 0,
            is_zstd: kind == ZSTD,
            first_entries: u64::from(be32(&header, 36)),
            first_at: be64(&header, 40),
        })
    }

    pub(crate) fn first_table(&self, image: &Image<'_>) -> Result<Vec<u8>> {
        image.read(self.first_at, self.first_entries.saturating_mul(8).min(L1_BYTES), "the first table")
    }
}

/// QEMU reads clusters beyond the end as zeros, so a cut-off image would be converted without a word.
/// Tells whether there are compressed clusters.
fn check_tables(image: &Image<'_>, header: &[u8], cluster: u64, extended: bool) -> Result<bool> {
    let (l1_size, l1_offset) = (u64::from(be32(header, 36)), be64(header, 40));
    let (refcounts, refcount_clusters) = (be64(header, 48), u64::from(be32(header, 56)));
    if l1_size * 8 > L1_BYTES {
        return Err(broken("it asks for more tables than any image has"));
    }
    let entry_bytes = if extended { 16 } else { 8 };
    let covered = u128::from(l1_size) * u128::from(cluster / entry_bytes) * u128::from(cluster);
    if covered < u128::from(be64(header, 24)) {
        return Err(broken("its tables do not cover its size"));
    }
    image.require(refcounts, (refcount_clusters * cluster).min(image.size), "the reference count table")?;
    let l1 = image.read(l1_offset, l1_size * 8, "the first table")?;
    let mut compressed = false;
    let tables = table_be64(&l1).map(|entry| entry & OFFSET_MASK).filter(|offset| *offset != 0);
    image.each_table(tables, cluster, "its tables", |l2| {
        for entry in table_be64(l2).step_by(entry_bytes as usize / 8) {
            let offset = if entry & COMPRESSED == 0 {
                entry & OFFSET_MASK
            } else {
                compressed = true;
                // Below the offset stands the length, whose width depends on the cluster's.
                entry & ((1 << (62 - (cluster.trailing_zeros() - 8))) - 1)
            };
            if offset >= image.size {
                return Err(cut_off("data lies beyond its end"));
            }
        }
        Ok(())
    })?;
    Ok(compressed)
}
