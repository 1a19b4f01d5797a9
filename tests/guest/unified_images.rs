//! Unified kernel images: which are made fit to start here, and which stay as they are.

use hyper2kvm::guest::work::Event;

use crate::bad_guests::{debian, disk, repair};
use crate::support::trees;
use crate::systems::archive;

const SIGNED: &str = "/boot/efi/EFI/Linux/debian-6.1.0-1-amd64.efi";
const UNSIGNED: &str = "/boot/efi/EFI/Linux/debian-6.1.0-2-amd64.efi";
const DRIVERS: [&str; 2] = ["kernel/drivers/block/virtio_blk.ko", "kernel/drivers/virtio/virtio_pci.ko"];

/// An EFI program with a section `.initrd` and another of this name.
fn unified_image(other: &[u8; 8]) -> Vec<u8> {
    const OPTIONAL: usize = 0x80 + 24;
    const OPTIONAL_BYTES: u16 = 240;
    let mut image = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0\x64\x86\x02\0");
    put(0x80 + 20, &OPTIONAL_BYTES.to_le_bytes());
    put(OPTIONAL, &0x20b_u16.to_le_bytes());
    for (at, value) in [(32, 0x1000_u32), (36, 0x200), (56, 0x3000), (108, 16)] {
        put(OPTIONAL + at, &value.to_le_bytes());
    }
    let table = OPTIONAL + usize::from(OPTIONAL_BYTES);
    for (at, name, numbers) in [
        (table, b".initrd\0", [0x200_u32, 0x1000, 0x200, 0x400]),
        (table + 40, other, [0x200, 0x2000, 0x200, 0x600]),
    ] {
        put(at, name);
        for (index, number) in numbers.into_iter().enumerate() {
            put(at + 8 + 4 * index, &number.to_le_bytes());
        }
    }
    image.extend(archive(&[]));
    image.extend([0x5a; 0x200]);
    image
}

#[test]
fn one_that_is_signed_is_never_rewritten_and_one_that_nobody_signed_gets_its_drivers() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    let put = |path: &str, bytes: &[u8]| {
        let path = tree.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    for version in ["6.1.0-1-amd64", "6.1.0-2-amd64"] {
        let modules = format!("lib/modules/{version}");
        put(&format!("{modules}/modules.dep"), format!("{}:\n{}:\n", DRIVERS[0], DRIVERS[1]).as_bytes());
        put(
            &format!("{modules}/modules.builtin"),
            b"kernel/drivers/scsi/sd_mod.ko\nkernel/drivers/net/virtio_net.ko\n",
        );
        for driver in DRIVERS {
            put(&format!("{modules}/{driver}"), b"a driver");
        }
    }
    let (signed, unsigned) = (unified_image(b".pcrsig\0"), unified_image(b".linux\0\0"));
    put(SIGNED, &signed);
    put(UNSIGNED, &unsigned);
    let disk = disk(dir.path(), "unified.raw", &tree, 64);

    let events = repair(dir.path(), &[&disk]).unwrap();

    assert_eq!(trees::bytes_in(&disk, SIGNED), signed, "what is signed was rewritten");
    let told = format!("{events:?}");
    assert!(told.contains("6.1.0-1-amd64 cannot start here"), "{told}");
    assert!(told.contains("is a signed unified kernel image without"), "{told}");
    let now = trees::bytes_in(&disk, UNSIGNED);
    let has = |bytes: &[u8]| now.windows(bytes.len()).any(|window| window == bytes);
    assert!(DRIVERS.iter().all(|driver| has(driver.as_bytes())), "no drivers in it");
    assert!(has(&[0x5a; 0x200]), "another section was lost");
    let changed = events.iter().any(
        |event| matches!(event, Event::Fixed { fixes, .. } if fixes.iter().any(|fix| fix.path == UNSIGNED)),
    );
    assert!(changed, "{told}");
}
