//! `fix --in-place`: the disk itself is repaired, whole or not at all, and only where nobody uses it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper2kvm::sys::failpoint;

use crate::guest_disk::{GUEST, disk};
use crate::run::{Done, hyper2kvm};

/// A guest's disk as qcow2.
fn qcow2(dir: &Path) -> PathBuf {
    let (vmdk, qcow2) = (disk(dir, &GUEST), dir.join("web.qcow2"));
    qemu_img(&["convert", "-O", "qcow2", text(&vmdk), text(&qcow2)]);
    for made_of in ["disk.raw", "disk.vmdk"] {
        fs::remove_file(dir.join(made_of)).unwrap();
    }
    fs::remove_dir_all(dir.join("tree")).unwrap();
    qcow2
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn qemu_img(words: &[&str]) {
    let done = Command::new("qemu-img").args(words).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn in_place(disk: &Path) -> Done {
    hyper2kvm().args(["fix", "--in-place", "--json"]).arg(disk).output().unwrap().into()
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn changed_paths(done: &Done) -> Vec<String> {
    let fixes = done.json()["fixes"].clone();
    fixes.as_array().unwrap().iter().map(|fix| fix["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_disk_itself_is_repaired_and_a_second_time_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = qcow2(dir.path());
    let done = in_place(&disk);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(changed_paths(&done).contains(&"/etc/fstab".to_owned()), "{}", done.stdout);
    qemu_img(&["check", text(&disk)]);
    let before = fs::read(&disk).unwrap();
    let again = in_place(&disk);
    assert_eq!(changed_paths(&again), [""; 0]);
    assert!(fs::read(&disk).unwrap() == before, "a repaired disk was written to");
    assert_eq!(names(dir.path()), ["web.qcow2"], "something is left behind");
}

#[test]
fn cut_off_at_any_step_the_next_repair_finishes_it() {
    for failpoint in failpoint::IN_PLACE {
        let dir = tempfile::tempdir().unwrap();
        let disk = qcow2(dir.path());
        let mut cut = hyper2kvm();
        cut.args(["fix", "--in-place"]).arg(&disk).env("HYPER2KVM_FAILPOINT", failpoint);
        assert_eq!(cut.output().unwrap().status.signal(), Some(9), "{failpoint}");
        assert!(names(dir.path()).contains(&".web.qcow2.in-place.json".to_owned()), "{failpoint}");
        let next = in_place(&disk);
        assert_eq!(next.code, 0, "{failpoint}: {}", next.stderr);
        assert!(
            next.stdout.contains("an interrupted repair of these disks was finished first"),
            "{}",
            next.stdout
        );
        assert_eq!(changed_paths(&next), [""; 0], "{failpoint}: it was not finished whole");
        qemu_img(&["check", text(&disk)]);
        assert_eq!(names(dir.path()), ["web.qcow2"], "{failpoint}");
    }
}

#[test]
fn a_disk_that_changed_under_an_interrupted_repair_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = qcow2(dir.path());
    let mut cut = hyper2kvm();
    cut.args(["fix", "--in-place"]).arg(&disk).env("HYPER2KVM_FAILPOINT", "in-place.recorded");
    assert_eq!(cut.output().unwrap().status.signal(), Some(9));
    fs::File::options().append(true).open(&disk).unwrap().write_all(&[0; 512]).unwrap();
    let before = fs::read(&disk).unwrap();
    let next = in_place(&disk);
    assert_ne!(next.code, 0);
    let error = &next.stderr;
    assert!(error.contains("was changed after its repair was worked out"), "{error}");
    assert!(error.contains(".web.qcow2.in-place.json"), "{error}");
    assert!(fs::read(&disk).unwrap() == before);
}

#[test]
fn a_disk_that_is_used_or_cannot_be_written_to_as_it_is_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = qcow2(dir.path());
    let before = fs::read(&disk).unwrap();
    let refused = |disk: &Path, why: &str| {
        let done = in_place(disk);
        let error = &done.stderr;
        assert!(error.contains(why), "{error}");
        assert!(error.contains("--output DIR"), "no way out: {error}");
    };
    let snapshot = dir.path().join("snapshot.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-b", text(&disk), "-F", "qcow2", text(&snapshot)]);
    refused(&disk, "snapshot.qcow2 stands on it");
    fs::remove_file(&snapshot).unwrap();

    let mut machine = Command::new("qemu-io");
    machine.args(["-f", "qcow2"]).arg(&disk).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut machine = machine.spawn().unwrap();
    let mut console = machine.stdin.take().unwrap();
    writeln!(console, "length").unwrap();
    let mut line = String::new();
    BufReader::new(machine.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    refused(&disk, "holds a lock on it");
    drop(console);
    machine.wait().unwrap();

    let vmdk = dir.path().join("web.vmdk");
    qemu_img(&["convert", "-O", "vmdk", text(&disk), text(&vmdk)]);
    refused(&vmdk, "only raw and qcow2 disks are repaired in place");
    assert!(fs::read(&disk).unwrap() == before);
    assert_eq!(names(dir.path()), ["web.qcow2", "web.vmdk"]);
}
