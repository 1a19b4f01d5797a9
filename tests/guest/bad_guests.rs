//! Guests that cannot be repaired as they are: what is said about each, and that nothing was written before it was said.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::guest::facts::FixOptions;
use hyper2kvm::guest::work::{self, Event, Order, OrderedDrive};
use hyper2kvm::model::error::{Error, Kind};

use crate::support::trees;

const DEBIAN: &str = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
const FSTAB: &str = "/dev/sda / ext4 errors=remount-ro 0 1\n";

/// The files of a Debian.
pub(crate) fn debian(dir: &Path) -> PathBuf {
    trees::tree(
        dir,
        &[
            ("etc/os-release", DEBIAN),
            ("etc/fstab", FSTAB),
            ("etc/hostname", "web\n"),
            ("usr/bin/apt-get", ""),
        ],
    )
}

/// A disk with these files on one ext4, all of it for everybody.
pub(crate) fn disk(dir: &Path, name: &str, tree: &Path, size_mib: u64) -> PathBuf {
    let path = dir.join(name);
    trees::ext4(&path, size_mib, tree, &["-m", "0"]);
    path
}

/// Changes a file system without mounting it.
fn debugfs(disk: &Path, request: &str) {
    let done = Command::new("/sbin/debugfs").args(["-w", "-R", request]).arg(disk).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Repairs the disks themselves: what was written to them shows.
pub(crate) fn repair(dir: &Path, disks: &[&Path]) -> Result<Vec<Event>, Error> {
    run_on(dir, disks, Some(FixOptions::default()))
}

/// Looks into the disks, and repairs them if that is wanted.
pub(crate) fn run_on(dir: &Path, disks: &[&Path], fix: Option<FixOptions>) -> Result<Vec<Event>, Error> {
    let drives = disks.iter().enumerate().map(|(index, path)| OrderedDrive {
        id: format!("disk{index}"),
        path: path.to_path_buf(),
        format: "raw".to_owned(),
        grown_from: None,
    });
    let order = Order {
        kvm: false,
        memory_mb: None,
        temp: dir.to_owned(),
        log: Some(dir.join("appliance.log")),
        drives: drives.collect(),
        keys: Vec::new(),
        fix,
        diffs: false,
    };
    let mut events = Vec::new();
    work::run(&order, &mut |event| events.push(event)).map(|()| events)
}

#[track_caller]
fn refused(dir: &Path, disks: &[&Path], kind: Kind, cause: &str) -> Error {
    let error = repair(dir, disks).expect_err("it was repaired");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(cause), "{error}");
    assert!(error.details().advice.is_some(), "no advice: {error}");
    error
}

fn fstab_of(disk: &Path) -> String {
    trees::file_in(disk, "/etc/fstab")
}

#[test]
fn a_file_system_without_room_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    let disk = disk(dir.path(), "full.raw", &tree, 16);
    let filler = dir.path().join("filler");
    std::fs::write(&filler, vec![b'x'; 64 << 20]).unwrap();
    // Writes as much as there is room for.
    debugfs(&disk, &format!("write {} filler", filler.display()));
    refused(dir.path(), &[&disk], Kind::Guest, "room");
    assert_eq!(fstab_of(&disk), FSTAB);
}

#[test]
fn a_file_that_may_not_be_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), "immutable.raw", &debian(dir.path()), 32);
    debugfs(&disk, "set_inode_field /etc/fstab flags 0x80010");
    refused(dir.path(), &[&disk], Kind::Guest, "/etc/fstab");
    assert_eq!(fstab_of(&disk), FSTAB);
}

#[test]
fn a_link_that_leads_out_of_the_guest_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    std::fs::remove_file(tree.join("etc/fstab")).unwrap();
    let host = dir.path().join("host-fstab");
    std::fs::write(&host, FSTAB).unwrap();
    let out = format!("../../../../../../..{}", host.display());
    std::os::unix::fs::symlink(&out, tree.join("etc/fstab")).unwrap();
    let disk = disk(dir.path(), "link.raw", &tree, 32);
    // Whatever is said about the guest: the file of this machine is neither read nor written.
    let told = repair(dir.path(), &[&disk]);
    assert_eq!(std::fs::read_to_string(&host).unwrap(), FSTAB);
    let fixed = told.iter().flatten().any(|event| matches!(event, Event::Fixed { fixes, .. } if fixes.iter().any(|fix| fix.path == "/etc/fstab")));
    assert!(!fixed, "a file outside was taken for the guest's");
}

#[test]
fn of_two_systems_one_is_chosen_by_rule_and_the_other_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    let (one, other) = (disk(dir.path(), "one.raw", &tree, 32), disk(dir.path(), "other.raw", &tree, 32));
    let events = repair(dir.path(), &[&one, &other]).unwrap();
    let notes = events.iter().find_map(|event| match event {
        Event::Inspected { identity, .. } => Some(identity.notes.join("\n")),
        _ => None,
    });
    let notes = notes.unwrap();
    assert!(notes.contains("2 systems were found") && notes.contains("/dev/sda was taken"), "{notes}");
    assert!(fstab_of(&one).starts_with("UUID="), "{}", fstab_of(&one));
    assert_eq!(fstab_of(&other), FSTAB);
}

#[test]
fn a_file_system_that_is_broken_is_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), "broken.raw", &debian(dir.path()), 32);
    // The root directory's inode is gone.
    debugfs(&disk, "clri <2>");
    let error = refused(dir.path(), &[&disk], Kind::Guest, "");
    assert!(!error.to_string().contains("internal"), "{error}");
}

#[test]
fn a_file_system_with_errors_is_refused_and_one_that_a_crash_left_open_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    let wrong = disk(dir.path(), "wrong.raw", &tree, 32);
    debugfs(&wrong, "set_inode_field /etc/hostname links_count 5");
    refused(dir.path(), &[&wrong], Kind::Guest, "has errors");
    assert_eq!(fstab_of(&wrong), FSTAB);

    // A file that was removed while it was open, and then the power went: the kernel removes it at the next start.
    let cut = disk(dir.path(), "cut.raw", &tree, 32);
    std::fs::write(dir.path().join("open"), vec![b'x'; 100_000]).unwrap();
    debugfs(&cut, &format!("write {} open", dir.path().join("open").display()));
    let told = Command::new("/sbin/debugfs").args(["-R", "stat open"]).arg(&cut).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let inode = told.split_whitespace().nth(1).unwrap();
    for request in [
        "unlink open".to_owned(),
        format!("set_inode_field <{inode}> links_count 0"),
        format!("set_super_value last_orphan {inode}"),
        "set_super_value state 0".to_owned(),
    ] {
        debugfs(&cut, &request);
    }
    repair(dir.path(), &[&cut]).unwrap();
    assert!(fstab_of(&cut).starts_with("UUID="));
    let mut check = Command::new("/sbin/e2fsck");
    assert!(check.arg("-fn").arg(&cut).status().unwrap().success());
}

#[test]
fn a_guest_of_another_architecture_is_told_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    // The head of an ELF program for AArch64.
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[16] = 3;
    elf[18] = 183;
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    for program in ["bin/sh", "bin/bash", "usr/bin/apt-get"] {
        std::fs::write(tree.join(program), &elf).unwrap();
    }
    let disk = disk(dir.path(), "arm.raw", &tree, 32);
    refused(dir.path(), &[&disk], Kind::Unsupported, "aarch64");
    assert_eq!(fstab_of(&disk), FSTAB);
}

#[test]
fn nothing_of_a_guest_is_run_and_what_it_has_a_key_file_for_stays_shut_under_a_name_that_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    let crypttab = "data /dev/sdb /etc/keys/data.key luks\n";
    let fstab = format!("{FSTAB}/dev/mapper/data /srv ext4 defaults 0 2\n");
    let bomb = "#!/bin/sh\necho ran >>/ran\n:(){ :|:& };:\n";
    for (path, text) in [("etc/crypttab", crypttab), ("etc/fstab", &fstab), ("etc/keys/data.key", "geheim")] {
        std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.join(path), text).unwrap();
    }
    for path in ["usr/sbin/update-initramfs", "usr/sbin/update-grub", "usr/bin/dpkg", "bin/sh", "sbin/dracut"]
    {
        std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.join(path), bomb).unwrap();
        std::fs::set_permissions(tree.join(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let root = disk(dir.path(), "root.raw", &tree, 32);
    let data = dir.path().join("data.raw");
    std::fs::File::create(&data).unwrap().set_len(32 << 20).unwrap();
    let uuid = "6a7c3e5e-1111-4222-8333-944455556666";
    let mut luks = Command::new("/sbin/cryptsetup");
    luks.args(["luksFormat", "-q", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"]);
    luks.args(["--uuid", uuid, "--key-file"]).arg(tree.join("etc/keys/data.key"));
    assert!(luks.arg(&data).status().unwrap().success());

    repair(dir.path(), &[&root, &data]).unwrap();
    assert_eq!(trees::file_in(&root, "/etc/crypttab"), format!("data UUID={uuid} /etc/keys/data.key luks\n"));
    assert!(fstab_of(&root).ends_with("/dev/mapper/data /srv ext4 defaults 0 2\n"), "{}", fstab_of(&root));
    assert_eq!(trees::bytes_in(&root, "/ran"), b"", "a program of the guest was run");
}

#[test]
fn of_two_volume_groups_of_one_name_the_one_that_cannot_be_opened_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tree = debian(dir.path());
    let disks: Vec<PathBuf> = ["one.raw", "other.raw"].map(|name| dir.path().join(name)).to_vec();
    let root = disk(dir.path(), "root.raw", &tree, 24);
    for volume in &disks {
        std::fs::File::create(volume).unwrap().set_len(48 << 20).unwrap();
        trees::guestfish(
            &[volume.as_path(), root.as_path()],
            "pvcreate /dev/sda\nvgcreate vg0 /dev/sda\nlvcreate root vg0 24\ncopy-device-to-device /dev/sdb /dev/vg0/root\n",
        );
    }
    let events = repair(dir.path(), &[&disks[0], &disks[1]]).unwrap();
    let told = format!("{events:?}");
    assert!(
        told.contains("nothing of the LVM on /dev/sd") && told.contains("another group has its name"),
        "{told}"
    );
}
