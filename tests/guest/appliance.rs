//! An appliance opens what is in a disk, and only in there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};

/// A disk without partitions: ext4 with a few files.
fn disk(dir: &Path) -> std::path::PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/hostname"), "inside\n").unwrap();
    std::os::unix::fs::symlink("../../../../../../etc/passwd", tree.join("etc/escape")).unwrap();
    let image = dir.join("disk.raw");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(64 * 1024 * 1024).unwrap();
    let made =
        Command::new("/sbin/mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(&image).status();
    assert!(made.unwrap().success());
    image
}

fn settings(dir: &Path) -> Settings {
    Settings { kvm: false, memory_mb: None, temp: dir.to_owned(), log: Some(dir.join("appliance.log")) }
}

#[test]
fn an_appliance_reads_and_writes_a_guest_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path());
    let drive = Drive { path: image, format: "raw".to_owned(), readonly: false };
    let appliance = Appliance::launch(&settings(dir.path()), &[drive]).unwrap();
    let devices = appliance.devices().unwrap();
    assert_eq!(devices, ["/dev/sda"]);
    assert_eq!(appliance.content_of("/dev/sda").unwrap(), "ext4");
    appliance.mount("", "/dev/sda", "/").unwrap();
    assert_eq!(appliance.read("/etc/hostname", u64::MAX).unwrap(), b"inside\n");
    assert!(appliance.read("/etc/escape", u64::MAX).is_err(), "a link out of the guest leads nowhere");
    appliance.write("/etc/hostname", b"changed\n").unwrap();
    let stat = appliance.look("/etc/hostname").unwrap().unwrap();
    assert_eq!((stat.size, stat.mode & 0o777), (8, 0o644));
    assert!(appliance.room("/").unwrap().free_bytes > 10 * 1024 * 1024);
    assert_eq!(appliance.appliance_command("echo here").unwrap(), "here");
    assert!(appliance.read("/nothing", u64::MAX).unwrap_err().contains("No such file"));
    appliance.finish().unwrap();
    assert!(std::fs::read_to_string(dir.path().join("appliance.log")).unwrap().contains("launch"));
}

/// Set in the process that is inside: where its QEMU is, and what it may leave.
const INSIDE: &str = "HYPER2KVM_TEST_APPLIANCE_DIR";

/// A QEMU whose first start of an appliance ends at once, after some words; each start is counted in `starts`.
fn reluctant_qemu(dir: &Path, words: &str) -> PathBuf {
    let qemu = dir.join("qemu");
    let starts = dir.join("starts");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-append*)\n  echo >>{starts}\n  [ $(wc -l <{starts}) -gt 1 ] || {{ printf '{words}' >&2; exit 1; }}\nesac\n\
         exec qemu-system-x86_64 \"$@\"\n",
        starts = starts.display()
    );
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    qemu
}

/// Starts an appliance by such a QEMU, in a process of its own, as libguestfs takes it from the environment; how often it was started and
/// what came of it.
fn started_by(words: &str) -> (usize, String) {
    let dir = tempfile::tempdir().unwrap();
    disk(dir.path());
    let qemu = reluctant_qemu(dir.path(), words);
    let mut inside = Command::new(std::env::current_exe().unwrap());
    inside.args(["--exact", std::thread::current().name().unwrap(), "--nocapture", "--test-threads=1"]);
    inside.env(INSIDE, dir.path()).env("LIBGUESTFS_HV", &qemu);
    let done = inside.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // What libguestfs keeps of every QEMU that it meets.
    let (found, user) = (fs::metadata(&qemu).unwrap(), fs::metadata("/proc/self").unwrap().uid());
    let cache = ["LIBGUESTFS_CACHEDIR", "TMPDIR"].into_iter().find_map(std::env::var_os);
    let kept = Path::new(&cache.unwrap_or_else(|| "/var/tmp".into())).join(format!(".guestfs-{user}"));
    let of_it = format!("qemu-{}-{}.", found.size(), found.mtime());
    for entry in fs::read_dir(kept).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&of_it) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let starts = fs::read_to_string(dir.path().join("starts")).unwrap().lines().count();
    (starts, fs::read_to_string(dir.path().join("outcome")).unwrap())
}

#[test]
fn one_that_ends_without_a_word_is_started_once_more_and_one_that_says_why_is_not() {
    if let Some(dir) = std::env::var_os(INSIDE).map(PathBuf::from) {
        let drive = Drive { path: dir.join("disk.raw"), format: "raw".to_owned(), readonly: true };
        let outcome = match Appliance::launch(&settings(&dir), &[drive]) {
            Ok(appliance) => appliance.devices().unwrap().join(" "),
            Err(error) => error.details().console_tail.clone().unwrap(),
        };
        fs::write(dir.join("outcome"), outcome).unwrap();
        return;
    }
    assert_eq!(started_by(""), (2, "/dev/sda".to_owned()));
    let (starts, outcome) = started_by("qemu: no such device\\n");
    assert_eq!(starts, 1, "{outcome}");
    assert!(outcome.contains("no such device"), "{outcome}");
}
