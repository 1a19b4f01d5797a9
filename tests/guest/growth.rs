//! Disks that have become larger, and what is in them grows with them: every way in which a file system may lie on a disk, all in one guest.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper2kvm::guest::facts::FixOptions;
use hyper2kvm::guest::work::{self, Event, Key, Order, OrderedDrive};
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::report::FixReport;

use crate::support::trees;

const MIB: u64 = 1 << 20;
const KEY: &str = "open sesame";
const DEBIAN: &[(&str, &str)] = &[
    ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
    ("etc/fstab", "UUID=6c0f3c52-51d1-4b5e-8a6f-7d8a1f3f9a01 / ext4 errors=remount-ro 0 1\n"),
    ("etc/hostname", "web\n"),
    ("usr/bin/apt-get", ""),
];

/// Runs a program, with something on its standard input; what it wrote.
#[track_caller]
fn run(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

fn blank(path: &Path, mib: u64) {
    fs::File::create(path).unwrap().set_len(mib * MIB).unwrap();
}

fn divide(disk: &Path, table: &str) {
    run(Command::new("/sbin/sfdisk").args(["--quiet", "--wipe=never"]).arg(disk), table);
}

/// Puts a Debian on an ext4 into a disk, without what newer kernels make of it.
fn put_root(dir: &Path, disk: &Path, at_mib: u64, mib: u64) {
    let (image, tree) = (dir.join("root.ext4"), trees::tree(dir, DEBIAN));
    let old = ["-U", "6c0f3c52-51d1-4b5e-8a6f-7d8a1f3f9a01", "-O", "^64bit,^metadata_csum,^orphan_file"];
    trees::ext4(&image, mib, &tree, &old);
    put(&image, disk, at_mib);
}

/// Puts an image into a disk.
fn put(image: &Path, disk: &Path, at_mib: u64) {
    let mut dd = Command::new("dd");
    dd.args(["status=none", "conv=notrunc", "bs=1M"]).arg(format!("seek={at_mib}"));
    run(dd.arg(format!("if={}", image.display())).arg(format!("of={}", disk.display())), "");
}

/// Makes disks larger, and has a worker grow what is in them.
fn grow(dir: &Path, disks: &[PathBuf], by_mib: u64) -> Result<(Vec<FixReport>, Vec<Event>), Error> {
    let drives = disks.iter().enumerate().map(|(index, path)| {
        let before = fs::metadata(path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(before + by_mib * MIB).unwrap();
        let (id, path) = (format!("disk{index}"), path.clone());
        OrderedDrive { id, path, format: "raw".to_owned(), grown_from: Some(before) }
    });
    let order = Order {
        kvm: false,
        memory_mb: None,
        temp: dir.to_owned(),
        log: Some(dir.join("appliance.log")),
        drives: drives.collect(),
        keys: vec![Key { uuid: None, device: None, passphrase: KEY.to_owned() }],
        fix: Some(FixOptions::default()),
        diffs: false,
    };
    let mut events = Vec::new();
    work::run(&order, &mut |event| events.push(event))?;
    let fixed = events.iter().find_map(|event| match event {
        Event::Fixed { fixes, .. } => Some(fixes.clone()),
        _ => None,
    });
    let grown = fixed.unwrap().into_iter().filter(|fix| fix.name == "resize").collect();
    Ok((grown, events))
}

/// Has guestfish open the encrypted disk. The first key opens nothing: for it the appliance only loads its ciphers, for which its kernel has a
/// minute. On a busy machine that is too little.
fn open() -> String {
    format!("-cryptsetup-open /dev/sdc wrong\nnothing's\ncryptsetup-open /dev/sdc secret\n{KEY}")
}

/// A root behind what cloud images have in front of it; a logical partition with LVM; LVM that is encrypted, on a disk without partitions;
/// a btrfs alone.
fn guest(dir: &Path) -> Vec<PathBuf> {
    let disks: Vec<PathBuf> = ["root", "srv", "secret", "btrfs"].map(|name| dir.join(name)).to_vec();
    for (disk, mib) in disks.iter().zip([70, 420, 80, 128]) {
        blank(disk, mib);
    }
    divide(
        &disks[0],
        "label: gpt\nlabel-id: 0B1B6C5B-7C66-4E5A-9E65-0A1B2C3D4E5F\n\
         1: start=8192, type=linux, name=\"the root\", uuid=11111111-2222-4333-8444-555555555555, attrs=\"LegacyBIOSBootable\"\n\
         14: start=2048, size=4096, type=21686148-6449-6E6F-744E-656564454649\n",
    );
    put_root(dir, &disks[0], 4, 65);
    divide(
        &disks[1],
        "label: dos\nlabel-id: 0xdeadbeef\n1: start=2048, size=2048, type=83, bootable\n2: start=6144, type=5\n5: start=8192, type=8e\n",
    );
    run(
        Command::new("/sbin/cryptsetup")
            .args(["luksFormat", "-q", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"])
            .args(["--key-file=-"])
            .arg(&disks[2]),
        KEY,
    );
    trees::guestfish(
        &disks,
        &format!(
            "pvcreate /dev/sdb5\nvgcreate data /dev/sdb5\nlvcreate srv data 320\nlvcreate swap data 16\nmkfs xfs /dev/data/srv\n\
             mkswap /dev/data/swap\n{open}\npvcreate /dev/mapper/secret\nvgcreate secret /dev/mapper/secret\n\
             lvcreate-free home secret 100\nmkfs ext4 /dev/secret/home\nmkfs btrfs /dev/sdd\n\
             mount /dev/data/srv /\nwrite /kept srv\numount /\nmount /dev/secret/home /\nwrite /kept home\numount /\n",
            open = open(),
        ),
    );
    disks
}

#[test]
fn partitions_volumes_and_file_systems_take_the_room_of_larger_disks() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disks = guest(dir.path());
    let features = |text: &str| {
        text.lines().find(|line| line.starts_with("Filesystem features")).map(str::to_owned).unwrap()
    };
    let old = features(&run(Command::new("/sbin/dumpe2fs").arg("-h").arg(dir.path().join("root.ext4")), ""));

    let (grown, _) = grow(dir.path(), &disks, 200).unwrap_or_else(|error| panic!("{error}"));

    let told: Vec<String> = grown
        .iter()
        .map(|fix| {
            // The name of what was unlocked has a UUID in it.
            let device = if fix.path.starts_with("/dev/mapper/luks-") { "unlocked" } else { &fix.path };
            format!("{} {} {}: {}", fix.disk, device, fix.action, fix.detail)
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));

    // What other tools say of it.
    run(Command::new("/sbin/sgdisk").arg("--verify").arg(&disks[0]), "");
    let gpt = run(Command::new("/sbin/sfdisk").arg("--dump").arg(&disks[0]), "");
    for kept in [
        "label-id: 0B1B6C5B-7C66-4E5A-9E65-0A1B2C3D4E5F",
        "uuid=11111111-2222-4333-8444-555555555555",
        "name=\"the root\"",
        "attrs=\"LegacyBIOSBootable\"",
        "start=        2048, size=        4096, type=21686148-6449-6E6F-744E-656564454649",
        "start=        8192, size=      542720, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    ] {
        assert!(gpt.contains(kept), "{kept}: {gpt}");
    }
    let mbr = run(Command::new("/sbin/sfdisk").arg("--dump").arg(&disks[1]), "");
    for kept in [
        "label-id: 0xdeadbeef",
        "start=        2048, size=        2048, type=83, bootable",
        "start=        6144, size=     1263616, type=5",
        "start=        8192, size=     1261568, type=8e",
    ] {
        assert!(mbr.contains(kept), "{kept}: {mbr}");
    }
    let seen = trees::guestfish(
        &disks,
        &format!(
            "{open}\nvgscan\nvg-activate-all true\n\
             e2fsck-f /dev/sda1\ne2fsck-f /dev/secret/home\ntune2fs-l /dev/sda1\n\
             mount-ro /dev/data/srv /\ncat /kept\nstatvfs /\numount /\n\
             mount-ro /dev/secret/home /\ncat /kept\numount /\nmount-ro /dev/sda1 /\ncat /etc/hostname\numount /\n\
             lvs-full\nvgs-full\n",
            open = open(),
        ),
    );
    for kept in ["srv", "home", "web"] {
        assert!(seen.lines().any(|line| line == kept), "{kept}: {seen}");
    }
    let now = seen.lines().find(|line| line.starts_with("Filesystem features")).unwrap();
    let words = |line: &str| {
        line.split_once(':').unwrap().1.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(now), words(&old), "an old file system has the features that it had");
    // 16 MiB of swap; what was free of the group before is free still.
    assert!(seen.contains("lv_size: 16777216"), "{seen}");
    let free = seen.lines().filter_map(|line| line.trim().strip_prefix("vg_free: ")).collect::<Vec<_>>();
    assert!(free.contains(&"79691776"), "{free:?}");
}

#[test]
fn swap_behind_the_root_stands_in_the_way_and_is_named_before_anything_is_written() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = dir.path().join("disk");
    blank(&disk, 96);
    divide(
        &disk,
        "label: dos\n1: start=2048, size=133120, type=83, bootable\n2: start=137216, type=5\n5: start=139264, type=82\n",
    );
    put_root(dir.path(), &disk, 1, 65);
    let swap = dir.path().join("swap");
    blank(&swap, 20);
    run(Command::new("/sbin/mkswap").arg(&swap), "");
    put(&swap, &disk, 68);
    let before = fs::read(&disk).unwrap();

    let refused = grow(dir.path(), std::slice::from_ref(&disk), 64).unwrap_err();

    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("/dev/sda5, is swap"), "{refused}");
    assert!(
        refused.details().advice.as_ref().is_some_and(|advice| advice.contains("swap file")),
        "{refused}"
    );
    assert!(fs::read(&disk).unwrap().starts_with(&before), "something was written");
}
