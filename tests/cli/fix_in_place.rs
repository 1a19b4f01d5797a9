//! `fix --in-place`: the disk itself is repaired, whole or not at all, and only where nobody uses it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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

/// A guest's disk, and another of its machine.
fn machine(dir: &Path) -> [PathBuf; 2] {
    let (web, data) = (qcow2(dir), dir.join("data.qcow2"));
    qemu_img(&["create", "-f", "qcow2", text(&data), "8M"]);
    [web, data]
}

fn in_place<D: AsRef<OsStr>>(disks: &[D]) -> Done {
    hyper2kvm().args(["fix", "--in-place", "--json"]).args(disks).output().unwrap().into()
}

/// A repair that is killed at a failpoint.
fn cut<D: AsRef<OsStr>>(disks: &[D], failpoint: &str) {
    assert!(failpoint::IN_PLACE.contains(&failpoint));
    let mut cut = hyper2kvm();
    cut.args(["fix", "--in-place"]).args(disks).env("HYPER2KVM_FAILPOINT", failpoint);
    assert_eq!(cut.output().unwrap().status.signal(), Some(9), "{failpoint}");
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
    }
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
    let done = in_place(&[&disk]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(changed_paths(&done).contains(&"/etc/fstab".to_owned()), "{}", done.stdout);
    qemu_img(&["check", text(&disk)]);
    let before = fs::read(&disk).unwrap();
    let again = in_place(&[&disk]);
    assert_eq!(changed_paths(&again), [""; 0]);
    assert!(fs::read(&disk).unwrap() == before, "a repaired disk was written to");
    assert_eq!(names(dir.path()), ["web.qcow2"], "something is left behind");
}

#[test]
fn cut_off_before_a_disk_is_begun_the_repair_begins_anew() {
    for failpoint in ["in-place.repaired", "in-place.recorded"] {
        let dir = tempfile::tempdir().unwrap();
        let disks = machine(dir.path());
        let before = disks.each_ref().map(|disk| fs::read(disk).unwrap());
        cut(&disks, failpoint);
        assert!(disks.each_ref().map(|disk| fs::read(disk).unwrap()) == before, "{failpoint}");
        let next = in_place(&disks);
        assert_eq!(next.code, 0, "{failpoint}: {}", next.stderr);
        assert!(changed_paths(&next).contains(&"/etc/fstab".to_owned()), "{failpoint}: {}", next.stdout);
        assert_eq!(names(dir.path()), ["data.qcow2", "web.qcow2"], "{failpoint}");
    }
}

#[test]
fn cut_off_later_the_next_repair_makes_all_disks_whole_in_whichever_order_they_are_named() {
    let finished = "an interrupted repair of these disks was finished first";
    for (failpoint, has_to_finish) in
        [("in-place.begun", true), ("in-place.committed", true), ("in-place.cleared", false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let [web, data] = machine(dir.path());
        cut(&[&web, &data], failpoint);
        let next = in_place(&[&data, &web]);
        assert_eq!(next.code, 0, "{failpoint}: {}", next.stderr);
        assert_eq!(next.stdout.contains(finished), has_to_finish, "{failpoint}: {}", next.stdout);
        assert_eq!(changed_paths(&next), [""; 0], "{failpoint}: it was not finished whole");
        qemu_img(&["check", text(&web)]);
        assert_eq!(names(dir.path()), ["data.qcow2", "web.qcow2"], "{failpoint}");
    }
}

#[test]
fn an_interrupted_repair_is_finished_for_all_disks_though_only_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [web, data] = machine(dir.path());
    cut(&[&web, &data], "in-place.begun");
    let next = in_place(&[&data]);
    assert!(next.stderr.contains("no operating system"), "{}", next.stderr);
    assert_eq!(names(dir.path()), ["data.qcow2", "web.qcow2"]);
    assert_eq!(changed_paths(&in_place(&[&web])), [""; 0]);
}

#[test]
fn disks_that_changed_or_parted_under_an_interrupted_repair_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [web, data] = machine(dir.path());
    cut(&[&web, &data], "in-place.begun");
    let before = fs::read(&web).unwrap();
    let refused = |why: &str| {
        let done = in_place(&[&data, &web]);
        assert_ne!(done.code, 0, "{why}");
        assert!(done.stderr.contains(why), "{}", done.stderr);
        assert!(fs::read(&web).unwrap() == before, "{why}");
    };
    let (record, hidden) = (dir.path().join(".data.qcow2.in-place.json"), dir.path().join("record"));
    fs::rename(&record, &hidden).unwrap();
    refused("data.qcow2 was repaired together with it, but what the repair left beside it is gone");
    fs::rename(&hidden, &record).unwrap();
    assert!(
        names(dir.path()).contains(&".data.qcow2.in-place.qcow2".to_owned()),
        "what is needed was thrown away"
    );

    let elsewhere = dir.path().join("elsewhere.qcow2");
    fs::rename(&data, &elsewhere).unwrap();
    let alone = in_place(&[&web]);
    assert!(alone.stderr.contains("put ") && alone.stderr.contains("back where it was"), "{}", alone.stderr);
    fs::rename(&elsewhere, &data).unwrap();

    fs::File::options().append(true).open(&data).unwrap().write_all(&[0; 512]).unwrap();
    refused("data.qcow2 may be repaired in part: it was changed after its repair was worked out");
}

#[test]
fn interrupted_by_its_user_a_repair_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let disk = qcow2(dir.path());
    let before = fs::read(&disk).unwrap();
    let mut repair = hyper2kvm();
    repair.args(["fix", "--in-place"]).arg(&disk).stderr(Stdio::piped());
    let repair = repair.spawn().unwrap();
    until(|| names(dir.path()).contains(&".web.qcow2.in-place.qcow2".to_owned()));
    let pid = rustix::process::Pid::from_child(&repair);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let done = repair.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(names(dir.path()), ["web.qcow2"]);
    assert!(fs::read(&disk).unwrap() == before);
}

#[test]
fn a_disk_that_a_machine_is_defined_with_or_has_a_disk_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (disk, top) = (at("web.qcow2"), at("machines/top.qcow2"));
    fs::create_dir_all(at("settings/libvirt/qemu")).unwrap();
    fs::create_dir(at("machines")).unwrap();
    qemu_img(&["create", "-f", "qcow2", text(&disk), "8M"]);
    qemu_img(&["create", "-f", "qcow2", "-b", text(&disk), "-F", "qcow2", text(&top)]);
    for (named, why) in
        [(&disk, "the machine web is defined with it"), (&top, "a disk of the machine web, stands on it")]
    {
        let definition = format!(
            "<domain type='kvm'><name>web</name><devices><disk type='file'><source file='{}'/></disk></devices></domain>",
            named.display()
        );
        fs::write(at("settings/libvirt/qemu/web.xml"), definition).unwrap();
        let mut fix = hyper2kvm();
        fix.args(["fix", "--in-place"]).arg(&disk).env("XDG_CONFIG_HOME", at("settings"));
        let done: Done = fix.output().unwrap().into();
        assert!(done.code == 1 && done.stderr.contains(why), "{}", done.stderr);
    }
}

#[test]
fn a_disk_that_is_used_or_cannot_be_written_to_as_it_is_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = qcow2(dir.path());
    let before = fs::read(&disk).unwrap();
    let refused = |disk: &Path, why: &str| {
        let done = in_place(&[disk]);
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
