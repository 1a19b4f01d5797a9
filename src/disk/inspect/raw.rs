//! Raw disks: nothing to parse but a partition table that tells whether the end is missing.

use super::bytes::{Image, le16, le32, le64};
use super::{Layer, cut_off};
use crate::model::error::Result;

const SECTOR: u64 = 512;
/// Partition type of a GPT disk's guard entry, whose size means nothing.
const PROTECTIVE: u8 = 0xee;

/// What is told of a disk that does not end with a sector.
pub(crate) fn odd_size(bytes: u64) -> String {
    format!("its size ({bytes} bytes) is no multiple of {SECTOR}: the last sector is filled up with zeros")
}

pub(crate) fn layer(image: &Image<'_>) -> Result<Layer> {
    let mut layer = Layer::default();
    if !image.size.is_multiple_of(SECTOR) {
        layer.warnings.push(odd_size(image.size));
    }
    if image.size >= SECTOR {
        check_partitions(image)?;
    }
    Ok(layer)
}

/// Whether there is a partition table that tells where the disk ends, or where what counts of it does.
pub(crate) fn tells_its_end(image: &Image<'_>) -> Result<bool> {
    if image.size < SECTOR { Ok(false) } else { check_partitions(image) }
}

/// Answers whether there are any.
fn check_partitions(image: &Image<'_>) -> Result<bool> {
    let record = image.read(0, SECTOR, "the boot record")?;
    if le16(&record, 510) != 0xaa55 {
        return Ok(false);
    }
    let entries = || (0..4).map(|number| &record[446 + 16 * number..][..16]);
    // A file system's own boot sector ends like a boot record, with code where the table would be.
    if !entries().all(|entry| matches!(entry[0], 0 | 0x80)) {
        return Ok(false);
    }
    if entries().any(|entry| entry[4] == PROTECTIVE) {
        return check_gpt(image);
    }
    let mut any = false;
    for entry in entries().filter(|entry| entry[4] != 0) {
        let (start, sectors) = (u64::from(le32(entry, 8)), u64::from(le32(entry, 12)));
        // Nothing begins at 0 or is empty in a real table.
        if start != 0 && sectors != 0 && (start + sectors) * SECTOR > image.size.next_multiple_of(SECTOR) {
            return Err(beyond(image, (start + sectors) * SECTOR));
        }
        any |= start != 0 && sectors != 0;
    }
    Ok(any)
}

/// A GPT has its second header in the very last sector, and the first one says where.
fn check_gpt(image: &Image<'_>) -> Result<bool> {
    let mut found = false;
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
            found = true;
        }
    }
    Ok(found)
}

fn beyond(image: &Image<'_>, needed: u64) -> crate::model::error::Error {
    cut_off(&format!("its partition table needs {needed} bytes, and it has {}", image.size))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use std::path::Path;

    use crate::disk::control::Control;
    use crate::disk::window::Place;

    /// A disk with one MBR partition that ends there, or none.
    fn disk(sectors: u64, partition_end: Option<u32>) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(sectors * SECTOR).unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();
        if let Some(end) = partition_end {
            file.write_all_at(&[0x83], 446 + 4).unwrap();
            file.write_all_at(&2048_u32.to_le_bytes(), 446 + 8).unwrap();
            file.write_all_at(&(end - 2048).to_le_bytes(), 446 + 12).unwrap();
        }
        file
    }

    fn told(file: &File) -> Result<bool> {
        let window = Place::from(Path::new("x")).window(&mut |_| file.try_clone()).unwrap();
        tells_its_end(&Image::new(&window, &Control::new()))
    }

    #[test]
    fn a_partition_table_tells_where_a_disk_ends_and_nothing_else_does() {
        assert!(told(&disk(8192, Some(8192))).unwrap());
        assert!(!told(&disk(8192, None)).unwrap());
        assert!(told(&disk(8191, Some(8192))).unwrap_err().to_string().contains("cut off"));
        let small = disk(1, None);
        small.set_len(100).unwrap();
        assert!(!told(&small).unwrap());
    }
}
