//! What a disk's partition table says about how it is started: enough to choose a firmware, no more.
//!
//! Reads the first megabyte through QEMU, whatever the image's format. What is not here: file systems,
//! and what is in them.

use std::path::Path;

use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::model::error::Result;

/// The partition table and what stands before the first partition.
const HEAD_BYTES: u64 = 1 << 20;
const SECTOR: usize = 512;
/// Type GUIDs as they stand on the disk.
const EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
const BIOS_BOOT: [u8; 16] =
    [0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49];
/// Type of an EFI system partition in the old partition table.
const EFI_SYSTEM_MBR: u8 = 0xef;
/// Code of the old boot sector.
const BOOT_CODE_BYTES: usize = 440;

/// What there is to start from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootTraces {
    /// A partition with UEFI boot loaders.
    pub efi_system: bool,
    /// Code that a BIOS would run: a boot sector, or a partition made for a boot loader.
    pub bios: bool,
}

impl BootTraces {
    /// Whether it can be started by UEFI and by nothing else.
    #[must_use]
    pub fn only_uefi(self) -> bool {
        self.efi_system && !self.bios
    }
}

/// Looks at a disk; `scratch` is a directory for a small file, which is removed.
pub fn boot_traces(
    engine: &Engine,
    source: &SourceDisk,
    scratch: &Path,
    control: &Control,
) -> Result<BootTraces> {
    Ok(read(&engine.head(source, HEAD_BYTES, &scratch.join("head"), control)?))
}

fn read(head: &[u8]) -> BootTraces {
    let sector = |number: usize| head.get(number * SECTOR..(number + 1) * SECTOR);
    let Some(mbr) = sector(0).filter(|mbr| mbr.ends_with(&[0x55, 0xaa])) else {
        return BootTraces::default();
    };
    match sector(1).filter(|header| header.starts_with(b"EFI PART")) {
        Some(header) => read_gpt(head, header),
        None => BootTraces {
            efi_system: mbr[446..510].chunks(16).any(|entry| entry[4] == EFI_SYSTEM_MBR),
            bios: mbr[..BOOT_CODE_BYTES].iter().any(|byte| *byte != 0),
        },
    }
}

/// A boot sector beside a GPT proves nothing (many tools write one that only complains); the partition does.
fn read_gpt(head: &[u8], header: &[u8]) -> BootTraces {
    let number = |at: usize| {
        header[at..at + 4].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (start, count, size) = (number(72), number(80).min(1024), number(84));
    if !(128..=4096).contains(&size) {
        return BootTraces::default();
    }
    let entries = start.checked_mul(SECTOR).and_then(|at| head.get(at..)).unwrap_or_default();
    let has = |kind: [u8; 16]| entries.chunks_exact(size).take(count).any(|entry| entry.starts_with(&kind));
    BootTraces { efi_system: has(EFI_SYSTEM), bios: has(BIOS_BOOT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbr(code: u8, partition: u8) -> Vec<u8> {
        let mut head = vec![0; 64 * SECTOR];
        head[0] = code;
        head[446 + 4] = partition;
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head
    }

    fn gpt(kinds: &[[u8; 16]]) -> Vec<u8> {
        let mut head = mbr(0x90, 0xee);
        head[SECTOR..SECTOR + 8].copy_from_slice(b"EFI PART");
        for (at, number) in [(72, 2_u32), (80, 128), (84, 128)] {
            head[SECTOR + at..SECTOR + at + 4].copy_from_slice(&number.to_le_bytes());
        }
        for (number, kind) in kinds.iter().enumerate() {
            head[2 * SECTOR + number * 128..][..16].copy_from_slice(kind);
        }
        head
    }

    #[test]
    fn a_disk_with_an_efi_partition_and_nothing_for_a_bios_is_started_by_uefi() {
        assert!(read(&gpt(&[EFI_SYSTEM])).only_uefi());
        assert!(read(&mbr(0, EFI_SYSTEM_MBR)).only_uefi());
        for both in
            [gpt(&[BIOS_BOOT, EFI_SYSTEM]), gpt(&[[7; 16]]), mbr(0xeb, EFI_SYSTEM_MBR), mbr(0xeb, 0x83)]
        {
            assert!(!read(&both).only_uefi());
        }
    }

    #[test]
    fn a_table_that_makes_no_sense_says_nothing() {
        for head in [Vec::new(), vec![0xff; 700], vec![0xff; 4096]] {
            assert_eq!(read(&head), BootTraces::default());
        }
        for (at, number) in [(72, u32::MAX), (80, u32::MAX), (84, 0), (84, u32::MAX)] {
            let mut head = gpt(&[EFI_SYSTEM]);
            head[SECTOR + at..SECTOR + at + 4].copy_from_slice(&number.to_le_bytes());
            let found = read(&head);
            assert!(!found.bios, "{found:?}");
        }
    }
}
