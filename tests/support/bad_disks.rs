//! Bad disks: hostile, broken, cut off, locked, of the wrong kind. Each with the kind of error it has to end in.
//!
//! A table of names, declared formats, expected kinds and makers, used by the tests of disks and by
//! those of the service, so that both see the same disks.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disks;
use super::vhd::Vhd;
use super::vhdx::{self, Block, Change, Entry, Vhdx};

/// One bad disk.
pub struct BadDisk {
    /// Says what is wrong with it.
    pub name: &'static str,
    /// What a manifest declares it as.
    pub format: &'static str,
    /// The kind of error it has to end in.
    pub kind: &'static str,
    /// Makes it in an empty directory and gives its path.
    pub make: fn(&Path) -> PathBuf,
}

const fn bad(
    name: &'static str,
    format: &'static str,
    kind: &'static str,
    make: fn(&Path) -> PathBuf,
) -> BadDisk {
    BadDisk { name, format, kind, make }
}

/// All of them.
pub const ALL: &[BadDisk] = &[
    bad("nothing-there", "vmdk", "source", |dir| dir.join("missing.vmdk")),
    bad("an-empty-file", "vmdk", "source", |dir| file(dir, "disk.vmdk", b"")),
    bad("an-empty-raw-file", "raw", "source", |dir| file(dir, "disk.raw", b"")),
    bad("a-directory", "qcow2", "source", |dir| {
        std::fs::create_dir(dir.join("disk.qcow2")).unwrap();
        dir.join("disk.qcow2")
    }),
    bad("a-fifo", "raw", "source", |dir| fifo(&dir.join("disk.raw"))),
    bad("a-device", "raw", "source", |_| PathBuf::from("/dev/zero")),
    bad("a-web-page", "vmdk", "source", |dir| {
        file(dir, "disk.vmdk", b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n")
    }),
    bad("a-gzip-file", "vmdk", "source", |dir| file(dir, "disk.vmdk", b"\x1f\x8b\x08\x00 not unpacked yet")),
    bad("an-appliance-instead-of-a-disk", "vmdk", "source", |dir| {
        let mut tar = vec![0; 10_240];
        tar[..8].copy_from_slice(b"disk.ovf");
        tar[257..262].copy_from_slice(b"ustar");
        file(dir, "disk.vmdk", &tar)
    }),
    bad("a-qcow2-declared-as-vmdk", "vmdk", "source", |dir| made(dir, "qcow2")),
    bad("a-vmdk-declared-as-qcow2", "qcow2", "source", |dir| made(dir, "vmdk")),
    bad("a-raw-disk-declared-as-vhdx", "vhdx", "source", |dir| made(dir, "raw")),
    bad("a-luks-volume-declared-as-qcow2", "qcow2", "source", |dir| {
        let mut header = vec![0; 4096];
        header[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
        file(dir, "disk.qcow2", &header)
    }),
    bad("a-qed-image", "qcow2", "source", |dir| made_with(dir, "disk.qed", &["-O", "qed"])),
    bad("an-image-locked-by-vmware", "vmdk", "source", |dir| {
        let disk = made(dir, "vmdk");
        std::fs::create_dir_all(dir.join("disk.vmdk.lck")).unwrap();
        std::fs::write(dir.join("disk.vmdk.lck/M12345.lck"), "vmx").unwrap();
        disk
    }),
    // VMDK descriptors
    bad("an-extent-of-the-host", "vmdk", "source", |dir| descriptor(dir, "RW 8 FLAT \"/etc/shadow\" 0")),
    bad("an-extent-above-the-directory", "vmdk", "source", |dir| {
        std::fs::write(dir.parent().unwrap().join("outside-flat.vmdk"), vec![0; 4096]).unwrap();
        descriptor(dir, "RW 8 FLAT \"../outside-flat.vmdk\" 0")
    }),
    bad("an-extent-that-is-a-link", "vmdk", "source", |dir| {
        std::os::unix::fs::symlink("/etc/passwd", dir.join("disk-flat.vmdk")).unwrap();
        descriptor(dir, "RW 2 FLAT \"disk-flat.vmdk\" 0")
    }),
    bad("an-extent-that-is-a-fifo", "vmdk", "source", |dir| {
        fifo(&dir.join("disk-flat.vmdk"));
        descriptor(dir, "RW 8 FLAT \"disk-flat.vmdk\" 0")
    }),
    bad("an-extent-that-is-a-device", "vmdk", "source", |dir| descriptor(dir, "RW 8 FLAT \"/dev/zero\" 0")),
    bad("an-extent-that-is-a-protocol", "vmdk", "source", |dir| {
        descriptor(dir, "RW 8 FLAT \"nbd:localhost:10809\" 0")
    }),
    bad("a-missing-extent", "vmdk", "source", |dir| descriptor(dir, "RW 8 FLAT \"disk-flat.vmdk\" 0")),
    bad("a-short-extent", "vmdk", "source", |dir| {
        file(dir, "disk-flat.vmdk", &[0; 2048]);
        descriptor(dir, "RW 8 FLAT \"disk-flat.vmdk\" 0")
    }),
    bad("an-extent-offset-beyond-all-files", "vmdk", "source", |dir| {
        file(dir, "disk-flat.vmdk", &[0; 4096]);
        descriptor(dir, "RW 8 FLAT \"disk-flat.vmdk\" 36028797018963967")
    }),
    bad("a-missing-piece-of-a-split-disk", "vmdk", "source", |dir| {
        let disk = made_with(dir, "disk.vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]);
        std::fs::remove_file(dir.join("disk-s001.vmdk")).unwrap();
        disk
    }),
    bad("one-piece-of-a-split-disk", "vmdk", "source", |dir| {
        made_with(dir, "disk.vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]);
        dir.join("disk-s001.vmdk")
    }),
    bad("a-read-only-extent", "vmdk", "unsupported", |dir| {
        file(dir, "disk-flat.vmdk", &[0; 4096]);
        descriptor(dir, "RDONLY 8 FLAT \"disk-flat.vmdk\" 0")
    }),
    bad("a-zero-extent", "vmdk", "unsupported", |dir| {
        file(dir, "disk-flat.vmdk", &[0; 4096]);
        descriptor(dir, "RW 8 FLAT \"disk-flat.vmdk\" 0\nRW 8 ZERO")
    }),
    bad("a-raw-device-mapping", "vmdk", "unsupported", |dir| {
        file(
            dir,
            "disk.vmdk",
            b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfsRawDeviceMap\"\n\
              RW 8 VMFSRDM \"disk-rdm.vmdk\"\n",
        )
    }),
    bad("a-malformed-extent-line", "vmdk", "source", |dir| descriptor(dir, "RW many FLAT \"x\" 0")),
    bad("a-huge-descriptor", "vmdk", "source", |dir| {
        let disk = descriptor(dir, "RW 8 FLAT \"disk-flat.vmdk\" 0");
        OpenOptions::new().write(true).open(&disk).unwrap().set_len(1 << 30).unwrap();
        disk
    }),
    bad("a-vmware-snapshot", "vmdk", "source", |dir| {
        file(
            dir,
            "disk.vmdk",
            b"# Disk DescriptorFile\nversion=1\nCID=2\nparentCID=1\nparentFileNameHint=\"base.vmdk\"\n\
              createType=\"vmfsSparse\"\nRW 8 VMFSSPARSE \"disk-delta.vmdk\"\n",
        )
    }),
    // sparse VMDK
    bad("a-cut-off-stream", "vmdk", "source", |dir| {
        cut(made_with(dir, "disk.vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]), 60)
    }),
    bad("a-stream-without-its-end", "vmdk", "source", |dir| {
        let disk = made(dir, "vmdk");
        patch(&disk, 8, &0x3_0001u32.to_le_bytes());
        patch(&disk, 56, &u64::MAX.to_le_bytes());
        patch(&disk, 77, &1u16.to_le_bytes());
        disk
    }),
    bad("a-cut-off-vmdk", "vmdk", "source", |dir| cut(made(dir, "vmdk"), 60)),
    bad("a-vmdk-of-impossible-size", "vmdk", "source", |dir| {
        patched(made(dir, "vmdk"), 12, &(1u64 << 62).to_le_bytes())
    }),
    bad("a-vmdk-of-no-size", "vmdk", "source", |dir| patched(made(dir, "vmdk"), 12, &[0; 8])),
    bad("a-grain-directory-beyond-the-end", "vmdk", "source", |dir| {
        patched(made(dir, "vmdk"), 56, &(1u64 << 50).to_le_bytes())
    }),
    bad("a-grain-table-beyond-the-end", "vmdk", "source", |dir| {
        let disk = made(dir, "vmdk");
        let at = u64::from_le_bytes(bytes(&disk, 56, 8).try_into().unwrap()) * 512;
        patched(disk, at, &0x7fff_ffffu32.to_le_bytes())
    }),
    bad("grain-tables-that-overlap", "vmdk", "source", |dir| {
        let disk = disks::disk(dir, "disk", "vmdk", 80, 4, 3);
        let at = u64::from_le_bytes(bytes(&disk, 56, 8).try_into().unwrap()) * 512;
        let first = u32::from_le_bytes(bytes(&disk, at, 4).try_into().unwrap());
        patched(disk, at + 4, &(first + 1).to_le_bytes())
    }),
    bad("a-vmdk-of-version-9", "vmdk", "unsupported", |dir| {
        patched(made(dir, "vmdk"), 4, &9u32.to_le_bytes())
    }),
    bad("a-vmdk-changed-by-a-text-transfer", "vmdk", "source", |dir| {
        patched(made(dir, "vmdk"), 73, b"\n \n\n")
    }),
    bad("an-embedded-descriptor-of-a-gigabyte", "vmdk", "source", |dir| {
        patched(made(dir, "vmdk"), 36, &(1u64 << 21).to_le_bytes())
    }),
    bad("a-snapshot-extent-named-as-a-disk", "vmdk", "source", |dir| {
        let mut header = vec![0; 4096];
        header[..4].copy_from_slice(b"COWD");
        file(dir, "disk.vmdk", &header)
    }),
    // VHD
    bad("a-fixed-vhd-with-a-wrong-checksum", "vhd", "source", |dir| {
        let disk = made_with(dir, "disk.vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"]);
        let end = std::fs::metadata(&disk).unwrap().len() - 512;
        patched(disk, end + 64, &[1, 2, 3, 4])
    }),
    bad("a-vhd-with-two-wrong-checksums", "vhd", "source", |dir| {
        let disk = made(dir, "vhd");
        let end = std::fs::metadata(&disk).unwrap().len() - 512;
        patch(&disk, 64, &[1, 2, 3, 4]);
        patched(disk, end + 64, &[1, 2, 3, 4])
    }),
    bad("a-vhd-with-two-sizes", "vhd", "source", |dir| {
        let disk = made(dir, "vhd");
        let mut footer = bytes(&disk, 0, 512);
        footer[48..56].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        vhd_checksum(&mut footer, 64);
        patched(disk, 0, &footer)
    }),
    bad("a-vhd-without-its-footer", "vhd", "source", |dir| cut(made(dir, "vhd"), 60)),
    bad("a-vhd-with-blocks-of-nothing", "vhd", "source", |dir| {
        let disk = made(dir, "vhd");
        let mut header = bytes(&disk, 512, 1024);
        header[32..36].fill(0);
        vhd_checksum(&mut header, 36);
        patched(disk, 512, &header)
    }),
    bad("a-vhd-with-a-table-beyond-its-end", "vhd", "source", |dir| {
        let disk = made(dir, "vhd");
        let mut header = bytes(&disk, 512, 1024);
        header[28..32].copy_from_slice(&0xffff_ffffu32.to_be_bytes());
        vhd_checksum(&mut header, 36);
        patched(disk, 512, &header)
    }),
    bad("a-vhd-that-differs-from-nothing", "vhd", "source", |dir| {
        let disk = made(dir, "vhd");
        let end = std::fs::metadata(&disk).unwrap().len() - 512;
        for at in [0, end] {
            let mut footer = bytes(&disk, at, 512);
            footer[60..64].copy_from_slice(&4u32.to_be_bytes());
            vhd_checksum(&mut footer, 64);
            patch(&disk, at, &footer);
        }
        disk
    }),
    bad("a-fixed-vhd-that-lost-data", "vhd", "source", |dir| {
        let disk = made_with(dir, "disk.vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"]);
        let length = std::fs::metadata(&disk).unwrap().len();
        let footer = bytes(&disk, length - 512, 512);
        let disk = cut(disk, 50);
        let length = std::fs::metadata(&disk).unwrap().len();
        patched(disk, length, &footer)
    }),
    bad("a-differencing-vhd", "vhd", "source", |dir| {
        let base = Vhd::new(8 << 20, 1, vec![]);
        base.write(&dir.join("base.vhd"));
        let disk = dir.join("disk.avhd");
        base.on("base.vhd", 2, vec![(0, vec![(0, vec![1; 512])])]).write(&disk);
        disk
    }),
    // VHDX
    bad("a-differencing-vhdx", "vhdx", "source", |dir| {
        hyper_v().write(&dir.join("base.vhdx"));
        let disk = dir.join("disk.avhdx");
        hyper_v().on("base.vhdx", 2, vec![]).write(&disk);
        disk
    }),
    bad("a-differencing-vhdx-of-a-network-drive", "vhdx", "source", |dir| {
        let disk = dir.join("disk.avhdx");
        let path = "\\\\?\\UNC\\server\\share\\base.vhdx".to_owned();
        let locator = vec![("parent_linkage", vhdx::linkage(1)), ("absolute_win32_path", path)];
        Vhdx { locator, ..hyper_v() }.write(&disk);
        disk
    }),
    bad("a-vhdx-whose-log-has-a-gap", "vhdx", "source", |dir| {
        unfinished(dir, &[Entry::new(0, 1, vec![]), Entry { tail: 0, ..Entry::new(1, 3, vec![]) }])
    }),
    bad("a-vhdx-whose-log-is-of-another-time", "vhdx", "source", |dir| {
        unfinished(dir, &[Entry { id: 8, ..Entry::new(0, 1, vec![]) }])
    }),
    bad("a-vhdx-cut-off-below-its-log", "vhdx", "source", |dir| {
        unfinished(dir, &[Entry { flushed: 1 << 40, ..Entry::new(0, 1, vec![]) }])
    }),
    bad("a-vhdx-whose-log-changes-its-headers", "vhdx", "source", |dir| {
        unfinished(dir, &[Entry::new(0, 1, vec![Change::Zeros { from: 0, bytes: 1 << 20 }])])
    }),
    bad("a-vhdx-whose-log-makes-exabytes-of-zeros", "vhdx", "source", |dir| {
        unfinished(dir, &[Entry::new(0, 1, vec![Change::Zeros { from: 1 << 30, bytes: 1 << 62 }])])
    }),
    bad("a-vhdx-whose-log-entries-cover-each-other", "vhdx", "source", |dir| {
        let disk = unfinished(dir, &[]);
        let mut entry = Entry::new(0, 1, vec![]).bytes();
        entry[8..12].copy_from_slice(&(vhdx::LOG_BYTES as u32).to_le_bytes());
        let pages = vhdx::LOG_BYTES / vhdx::PAGE;
        (0..pages).for_each(|page| patch(&disk, vhdx::LOG + page * vhdx::PAGE, &entry));
        disk
    }),
    bad("a-vhdx-with-a-log-of-gigabytes", "vhdx", "unsupported", |dir| {
        let disk = unfinished(dir, &[]);
        OpenOptions::new().write(true).open(&disk).unwrap().set_len(4 << 30).unwrap();
        for at in [64 << 10, 128 << 10] {
            let mut header = bytes(&disk, at, 4096);
            header[68..72].copy_from_slice(&(2_u32 << 30).to_le_bytes());
            patch(&disk, at, &vhdx::summed(header));
        }
        disk
    }),
    bad("a-vhdx-whose-headers-contradict-each-other", "vhdx", "source", |dir| {
        let disk = dir.join("disk.vhdx");
        hyper_v().write(&disk);
        let mut header = bytes(&disk, 128 << 10, 4096);
        header[16] = 1;
        patched(disk, 64 << 10, &vhdx::summed(header))
    }),
    bad("a-vhdx-with-a-region-that-nobody-knows", "vhdx", "unsupported", |dir| {
        let disk = dir.join("disk.vhdx");
        hyper_v().write(&disk);
        let mut table = bytes(&disk, 192 << 10, 64 << 10);
        table[8] = 3;
        table[80..112].copy_from_slice(&[[7; 16], [0; 16]].concat());
        table[108] = 1;
        patched(disk, 192 << 10, &vhdx::summed(table))
    }),
    bad("a-vhdx-with-nothing-in-its-log", "vhdx", "source", |dir| {
        let disk = made(dir, "vhdx");
        for at in [64 << 10, 128 << 10] {
            let mut header = bytes(&disk, at, 4096);
            header[48..64].fill(7);
            header[4..8].fill(0);
            let checksum = crc32c(&header);
            header[4..8].copy_from_slice(&checksum.to_le_bytes());
            patch(&disk, at, &header);
        }
        disk
    }),
    bad("a-vhdx-without-a-valid-header", "vhdx", "source", |dir| {
        let disk = made(dir, "vhdx");
        patch(&disk, (64 << 10) + 100, b"x");
        patched(disk, (128 << 10) + 100, b"x")
    }),
    bad("a-cut-off-vhdx", "vhdx", "source", |dir| cut(made(dir, "vhdx"), 60)),
    // qcow2
    bad("a-qcow2-on-a-host-file", "qcow2", "source", |dir| on(dir, "/etc/passwd")),
    bad("a-qcow2-on-a-json-name", "qcow2", "source", |dir| {
        on(dir, r#"json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}"#)
    }),
    bad("a-qcow2-on-a-network-name", "qcow2", "source", |dir| on(dir, "nbd:localhost:10809")),
    bad("a-qcow2-with-its-data-elsewhere", "qcow2", "unsupported", |dir| {
        let data = dir.join("data.raw");
        let disk = dir.join("disk.qcow2");
        let options = format!("data_file={},data_file_raw=on", data.display());
        qemu_img(&["create", "-f", "qcow2", "-o", &options, disk.to_str().unwrap(), "8M"]);
        disk
    }),
    bad("an-encrypted-qcow2", "qcow2", "unsupported", |dir| {
        let disk = dir.join("disk.qcow2");
        let secret = "secret,id=s,data=abcdefgh";
        let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
        let name = disk.to_str().unwrap();
        qemu_img(&["create", "--object", secret, "-f", "qcow2", "-o", options, name, "8M"]);
        disk
    }),
    bad("a-qcow2-with-unknown-features", "qcow2", "unsupported", |dir| {
        patched(made(dir, "qcow2"), 72, &(1u64 << 40).to_be_bytes())
    }),
    bad("a-qcow2-marked-corrupt", "qcow2", "source", |dir| {
        patched(made(dir, "qcow2"), 72, &2u64.to_be_bytes())
    }),
    bad("a-qcow-of-version-1", "qcow2", "unsupported", |dir| {
        patched(made(dir, "qcow2"), 4, &1u32.to_be_bytes())
    }),
    bad("a-qcow2-of-version-4", "qcow2", "unsupported", |dir| {
        patched(made(dir, "qcow2"), 4, &4u32.to_be_bytes())
    }),
    bad("a-qcow2-with-impossible-clusters", "qcow2", "source", |dir| {
        patched(made(dir, "qcow2"), 20, &40u32.to_be_bytes())
    }),
    bad("a-qcow2-that-asks-for-terabytes-of-tables", "qcow2", "source", |dir| {
        patched(made(dir, "qcow2"), 36, &0xffff_ffffu32.to_be_bytes())
    }),
    bad("a-qcow2-larger-than-its-tables", "qcow2", "source", |dir| {
        patched(made(dir, "qcow2"), 24, &(1u64 << 60).to_be_bytes())
    }),
    bad("a-cut-off-qcow2", "qcow2", "source", |dir| cut(made(dir, "qcow2"), 60)),
    // VDI
    bad("a-cut-off-vdi", "vdi", "source", |dir| cut(made(dir, "vdi"), 60)),
    bad("a-virtualbox-snapshot", "vdi", "unsupported", |dir| {
        patched(made(dir, "vdi"), 0x4c, &4u32.to_le_bytes())
    }),
    bad("a-vdi-with-blocks-of-nothing", "vdi", "source", |dir| patched(made(dir, "vdi"), 0x178, &[0; 4])),
    // raw
    bad("a-raw-disk-shorter-than-its-partitions", "raw", "source", |dir| {
        let disk = made(dir, "raw");
        patch(&disk, 446, &[0; 64]);
        patch(&disk, 446, &[0x80, 0, 0, 0, 0x83, 0, 0, 0]);
        patch(&disk, 454, &2048u32.to_le_bytes());
        patch(&disk, 458, &1_000_000u32.to_le_bytes());
        patched(disk, 510, &[0x55, 0xaa])
    }),
    bad("a-gpt-disk-without-its-end", "raw", "source", |dir| {
        let disk = made(dir, "raw");
        patch(&disk, 446, &[0; 64]);
        patch(&disk, 446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        patch(&disk, 510, &[0x55, 0xaa]);
        patch(&disk, 512, b"EFI PART");
        patched(disk, 512 + 32, &1_000_000u64.to_le_bytes())
    }),
];

/// A sound disk as Hyper-V makes them.
fn hyper_v() -> Vhdx {
    Vhdx::new(8 << 20, 1, vec![(3, Block::Full(vec![(0, vec![7; 5000])]))])
}

/// One that was not closed cleanly, with these entries in its log.
fn unfinished(dir: &Path, entries: &[Entry]) -> PathBuf {
    let disk = dir.join("disk.vhdx");
    hyper_v().write(&disk);
    vhdx::leave_open(&disk, 9);
    entries.iter().for_each(|entry| entry.write(&disk));
    disk
}

/// A sound disk of this format, 16 MiB with 4 MiB of data, named `disk.<format>`.
fn made(dir: &Path, format: &str) -> PathBuf {
    disks::disk(dir, "disk", format, 16, 4, 3)
}

/// The same, made with these options of `qemu-img convert`.
fn made_with(dir: &Path, name: &str, options: &[&str]) -> PathBuf {
    let flat = dir.join(".flat.raw");
    disks::raw(&flat, 16, 4, 3);
    let path = dir.join(name);
    let mut args = vec!["convert", "-f", "raw"];
    args.extend(options);
    args.extend([flat.to_str().unwrap(), path.to_str().unwrap()]);
    qemu_img(&args);
    std::fs::remove_file(flat).unwrap();
    path
}

/// A qcow2 that says that it stands on this.
fn on(dir: &Path, backing: &str) -> PathBuf {
    let disk = dir.join("disk.qcow2");
    qemu_img(&["create", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", disk.to_str().unwrap(), "8M"]);
    disk
}

fn qemu_img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).output().expect("qemu-img is installed by set-up");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A descriptor of a flat disk with these extent lines.
fn descriptor(dir: &Path, extents: &str) -> PathBuf {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\n{extents}\n"
    );
    file(dir, "disk.vmdk", text.as_bytes())
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn fifo(path: &Path) -> PathBuf {
    let done = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(done.success());
    path.to_owned()
}

/// The file without its end: this many hundredths of it stay.
fn cut(path: PathBuf, hundredths: u64) -> PathBuf {
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length * hundredths / 100 / 512 * 512).unwrap();
    path
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn patched(path: PathBuf, at: u64, bytes: &[u8]) -> PathBuf {
    patch(&path, at, bytes);
    path
}

fn bytes(path: &Path, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

pub fn vhd_checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
