//! VMDKs that ESXi writes and no tool here can: snapshots and space-saving disks, made by hand from a raw disk.

use std::fs;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;
const GRAIN: usize = 4096;

/// A disk of the kind that ESXi makes of snapshots of large disks.
///
/// Its grains lie in the file in the opposite order of the disk; some that hold zeros say so, others that they were given back.
pub fn se_sparse(raw: &Path) -> PathBuf {
    const DIRECTORY: usize = 8;
    const TABLES: usize = 16;
    const TABLE_SECTORS: usize = 64;
    const ENTRIES: usize = TABLE_SECTORS * SECTOR / 8;
    let disk = fs::read(raw).unwrap();
    let grains: Vec<&[u8]> = disk.chunks(GRAIN).collect();
    let tables = grains.len().div_ceil(ENTRIES);
    let first_grain = TABLES + tables * TABLE_SECTORS;
    let mut file = vec![0; first_grain * SECTOR];
    let put = |file: &mut Vec<u8>, at: usize, value: u64| {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    let header = [
        0xcafe_babe,
        0x2_0000_0001,
        (disk.len() / SECTOR) as u64,
        (GRAIN / SECTOR) as u64,
        TABLE_SECTORS as u64,
    ];
    for (number, value) in header.into_iter().enumerate() {
        put(&mut file, number * 8, value);
    }
    let places = [
        1,
        1,
        2,
        1,
        3,
        1,
        DIRECTORY,
        TABLES - DIRECTORY,
        TABLES,
        tables * TABLE_SECTORS,
        0,
        0,
        0,
        0,
        first_grain,
    ];
    for (number, sector) in places.into_iter().enumerate() {
        put(&mut file, 80 + number * 8, sector as u64);
    }
    put(&mut file, SECTOR, 0xcafe_cafe);
    for (number, entries) in grains.chunks(ENTRIES).enumerate().rev() {
        if entries.iter().all(|grain| is_empty(grain)) {
            continue;
        }
        put(&mut file, DIRECTORY * SECTOR + number * 8, 1 << 60 | number as u64);
        for (index, grain) in entries.iter().enumerate().rev() {
            let entry = match (is_empty(grain), index % 3) {
                (true, 0) => 0,
                (true, 1) => 1 << 60,
                (true, _) => 2 << 60,
                (false, _) => {
                    let place = ((file.len() / SECTOR - first_grain) / (GRAIN / SECTOR)) as u64;
                    file.extend(*grain);
                    3 << 60 | (place & 0xfff) << 48 | place >> 12
                }
            };
            put(&mut file, (TABLES + number * TABLE_SECTORS) * SECTOR + index * 8, entry);
        }
    }
    described(raw, "seSparse", "SESPARSE", disk.len(), &file)
}

/// A disk of the kind that ESXi makes of snapshots of small disks. It has no grains for what is empty.
pub fn vmfs_sparse(raw: &Path) -> PathBuf {
    const DIRECTORY: usize = 4;
    const ENTRIES: usize = 4096;
    let disk = fs::read(raw).unwrap();
    // Grains of one sector, as ESXi has them.
    let grains: Vec<&[u8]> = disk.chunks(SECTOR).collect();
    let tables = grains.len().div_ceil(ENTRIES);
    let mut file = vec![0; (DIRECTORY + (tables * 4).div_ceil(SECTOR)) * SECTOR];
    let put = |file: &mut Vec<u8>, at: usize, value: usize| {
        file[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    };
    file[..4].copy_from_slice(b"COWD");
    for (number, value) in [1, 3, grains.len(), 1, DIRECTORY, tables].into_iter().enumerate() {
        put(&mut file, 4 + number * 4, value);
    }
    for (number, entries) in grains.chunks(ENTRIES).enumerate() {
        if entries.iter().all(|grain| is_empty(grain)) {
            continue;
        }
        let table = file.len();
        put(&mut file, DIRECTORY * SECTOR + number * 4, table / SECTOR);
        file.resize(table + ENTRIES * 4, 0);
        for (index, grain) in entries.iter().enumerate().filter(|(_, grain)| !is_empty(grain)) {
            let place = file.len() / SECTOR;
            put(&mut file, table + index * 4, place);
            file.extend(*grain);
        }
    }
    described(raw, "vmfsSparse", "VMFSSPARSE", disk.len(), &file)
}

fn is_empty(grain: &[u8]) -> bool {
    grain.iter().all(|byte| *byte == 0)
}

/// The extent, and the descriptor that names it.
fn described(raw: &Path, kind: &str, extent: &str, bytes: usize, content: &[u8]) -> PathBuf {
    let stem = raw.file_stem().unwrap().to_string_lossy();
    let name = format!("{stem}-{}.vmdk", kind.to_lowercase());
    fs::write(raw.with_file_name(&name), content).unwrap();
    let descriptor = raw.with_file_name(format!("{stem}-{kind}-descriptor.vmdk"));
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\
         # Extent description\nRW {} {extent} \"{name}\"\n",
        bytes / SECTOR
    );
    fs::write(&descriptor, text).unwrap();
    descriptor
}
