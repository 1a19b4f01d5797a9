//! Raw disks: nothing to parse but a partition table that tells whether the end is missing.

use super::bytes::{Image, le16, le32, le64};
use super::{Layer, cut_off};
use crate::model::error::Result;

const SECTOR: u64 = 512;
/// Partition type of a GPT disk's guard entry, whose size means nothing.
const PROTECTIVE: u8 = 0xee;

pub(crate) fn layer(image: &Image<'_>) -> Result<Layer> {
    let mut layer = Layer::default();
    if !image.size.is_multiple_of(SECTOR) {
        layer.warnings.push(format!(
            "its size ({} bytes) is no multiple of {SECTOR}: the last sector is filled up with zeros",
            image.size
        ));
    }
    if image.size >= SECTOR {
        check_partitions(image)?;
    }
    Ok(layer)
}

fn check_partitions(image: &Image<'_>) -> Result<()> {
    let record = image.read(0, SECTOR, "the boot record")?;
    if le16(&record, 510) != 0xaa55 {
        return Ok(());
    }
    let entries = || (0..4).map(|number| &record[446 + 16 * number..][..16]);
    // A file system's own boot sector ends like a boot record, with code where the table would be.
    if !entries().all(|entry| matches!(entry[0], 0 | 0x80)) {
        return Ok(());
    }
    if entries().any(|entry| entry[4] == PROTECTIVE) {
        return check_gpt(image);
    }
    for entry in entries().filter(|entry| entry[4] != 0) {
        let (start, sectors) = (u64::from(le32(entry, 8)), u64::from(le32(entry, 12)));
        // Nothing begins at 0 or is empty in a real table.
        if start != 0 && sectors != 0 && (start + sectors) * SECTOR > image.size.next_multiple_of(SECTOR) {
            return Err(beyond(image, (start + sectors) * SECTOR));
        }
    }
    Ok(())
}

/// A GPT has its second header in the very last sector, and the first one says where.
fn check_gpt(image: &Image<'_>) -> Result<()> {
    for sector in [SECTOR, 4096] {
        if image.size < 2 * sector {
            continue;
        }
        let header = image.read(sector, SECTOR, "the partition table")?;
        if header.starts_with(b"EFI PART") {
            let needed = le64(&header, 32).saturating_add(1).saturating_mul(sector);
            if needed > image.size.next_multiple_of(SECTOR) {
                return Err(beyond(image, needed));
            }
        }
    }
    Ok(())
}

fn beyond(image: &Image<'_>, needed: u64) -> crate::model::error::Error {
    cut_off(&format!("its partition table needs {needed} bytes, and it has {}", image.size))
}
