//! The pre-flight inside guests: `validate --deep` with disks that hold a system, and what is the matter with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest_disk::GUEST;
use crate::run::{Done, hyper2kvm};
use crate::support::hive::Key;
use crate::support::trees;

/// A raw disk of one ext4 with these files.
fn ext4(dir: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let path = dir.join(name);
    let below = dir.join(format!("{name}.files"));
    fs::create_dir(&below).unwrap();
    trees::ext4(&path, 32, &trees::tree(&below, files), &["-m", "0"]);
    path
}

fn debian(further: &[(&'static str, &'static [u8])]) -> Vec<(&'static str, &'static [u8])> {
    let mut files: Vec<(&str, &[u8])> = GUEST.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    files.retain(|(path, _)| further.iter().all(|(other, _)| other != path));
    files.extend(further);
    files
}

/// What is said of a machine with these disks: by rule, how bad it is and of what kind.
fn look(dir: &Path, disks: &[PathBuf], further: &str) -> (Done, BTreeMap<String, (String, String)>) {
    let mut text = format!(
        "manifest_version: '1.0'\nname: web\noutput: {{directory: {}}}\npipeline: {{boot_test: {{enabled: false}}}}\n{further}disks:\n",
        dir.join("out").display()
    );
    for (number, disk) in disks.iter().enumerate() {
        text.push_str(&format!(
            "  - {{id: disk{number}, source_format: raw, local_path: {}}}\n",
            disk.display()
        ));
    }
    let manifest = dir.join("vm.yaml");
    fs::write(&manifest, text).unwrap();
    let before: Vec<Vec<u8>> = disks.iter().map(|disk| fs::read(disk).unwrap()).collect();
    let done: Done =
        hyper2kvm().args(["validate", "--deep", "--json"]).arg(&manifest).output().unwrap().into();
    for (disk, before) in disks.iter().zip(before) {
        assert!(fs::read(disk).unwrap() == before, "{} was written to", disk.display());
    }
    let document = done.json();
    let results =
        document["inputs"][0]["validation"]["results"].as_array().unwrap_or_else(|| panic!("{document}"));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let found = results
        .iter()
        .filter(|finding| text(&finding["rule"]).starts_with("guest."))
        .map(|finding| (text(&finding["rule"]), (text(&finding["severity"]), text(&finding["kind"]))))
        .collect();
    (done, found)
}

fn found(expected: &[(&str, &str, &str)]) -> BTreeMap<String, (String, String)> {
    expected
        .iter()
        .map(|(rule, severity, kind)| ((*rule).to_owned(), ((*severity).to_owned(), (*kind).to_owned())))
        .collect()
}

fn debugfs(disk: &Path, request: &str) {
    let done = Command::new("/sbin/debugfs").args(["-w", "-R", request]).arg(disk).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Swap in which a system sleeps.
fn asleep(dir: &Path) -> PathBuf {
    let path = dir.join("swap.raw");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    assert!(Command::new("/sbin/mkswap").arg("-q").arg(&path).status().unwrap().success());
    let mut bytes = fs::read(&path).unwrap();
    bytes[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    fs::write(&path, bytes).unwrap();
    path
}

fn luks(dir: &Path) -> PathBuf {
    let (path, key) = (dir.join("luks.raw"), dir.join("key"));
    fs::File::create(&path).unwrap().set_len(32 << 20).unwrap();
    fs::write(&key, "geheim").unwrap();
    let mut format = Command::new("/sbin/cryptsetup");
    format.args([
        "luksFormat",
        "-q",
        "--type=luks2",
        "--pbkdf=pbkdf2",
        "--pbkdf-force-iterations=1000",
        "--key-file",
    ]);
    assert!(format.arg(&key).arg(&path).status().unwrap().success());
    path
}

/// The two places by which a volume is known for one of BitLocker's.
fn bitlocker(dir: &Path) -> PathBuf {
    let path = dir.join("bitlocker.raw");
    let mut bytes = vec![0; 8 << 20];
    bytes[..11].copy_from_slice(b"\xeb\x58\x90-FVE-FS-");
    bytes[176..184].copy_from_slice(&4096u64.to_le_bytes());
    bytes[4096..4104].copy_from_slice(b"-FVE-FS-");
    bytes[4104..4108].copy_from_slice(&[0, 4, 2, 0]);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_sound_guest_is_not_complained_about() {
    let dir = tempfile::tempdir().unwrap();
    let root = ext4(dir.path(), "root.raw", &debian(&[]));
    let (done, rules) = look(dir.path(), &[root], "");
    assert_eq!((done.code, rules), (0, found(&[])), "{}{}", done.stdout, done.stderr);
}

#[test]
fn what_a_repair_would_stumble_over_is_told_before_and_may_be_lowered() {
    let dir = tempfile::tempdir().unwrap();
    let root = ext4(dir.path(), "root.raw", &debian(&[("etc/hostname", b"localhost\n")]));
    let filler = dir.path().join("filler");
    fs::write(&filler, vec![b'x'; 64 << 20]).unwrap();
    // Writes as much as there is room for.
    debugfs(&root, &format!("write {} filler", filler.display()));
    let disks = [root, asleep(dir.path()), luks(dir.path()), bitlocker(dir.path())];
    let (done, rules) = look(dir.path(), &disks, "");
    let expected = found(&[
        ("guest.space", "error", "guest"),
        ("guest.hibernated", "error", "guest"),
        ("guest.encrypted", "warning", "guest"),
        ("guest.bitlocker", "warning", "guest"),
        ("guest.hostname", "info", "guest"),
    ]);
    assert_eq!((done.code, rules), (2, expected), "{}", done.stdout);

    let rules = "preflight: {rules: {guest.hibernated: warning, guest.space: off, guest.bitlocker: info}}\n";
    let (done, rules) = look(dir.path(), &disks, rules);
    let expected = found(&[
        ("guest.hibernated", "warning", "guest"),
        ("guest.encrypted", "warning", "guest"),
        ("guest.bitlocker", "info", "guest"),
        ("guest.hostname", "info", "guest"),
    ]);
    assert_eq!((done.code, rules), (0, expected), "{}", done.stdout);
}

#[test]
fn a_guest_of_another_architecture_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // The head of an ELF program for AArch64.
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    (elf[16], elf[18]) = (3, 183);
    let elf: &'static [u8] = elf.leak();
    let root = ext4(dir.path(), "arm.raw", &debian(&[("bin/sh", elf)]));
    let (done, rules) = look(dir.path(), &[root], "");
    let expected = found(&[("guest.architecture", "error", "unsupported")]);
    assert_eq!((done.code, rules), (2, expected), "{}", done.stdout);
}

#[test]
fn disks_without_a_system_are_told_and_a_plan_that_opens_none_looks_into_none() {
    let dir = tempfile::tempdir().unwrap();
    let blank = dir.path().join("blank.raw");
    fs::write(&blank, vec![0; 16 << 20]).unwrap();
    let (done, rules) = look(dir.path(), std::slice::from_ref(&blank), "");
    assert_eq!((done.code, rules), (2, found(&[("guest.no_system", "error", "guest")])), "{}", done.stdout);
    for further in ["profile: none\n", "preflight: metadata\n"] {
        let (done, rules) = look(dir.path(), std::slice::from_ref(&blank), further);
        assert_eq!((done.code, rules), (0, found(&[])), "{}", done.stdout);
    }
    // Where its disks cannot be opened, nobody looks into it, and that is said.
    fs::write(dir.path().join("empty.raw"), "").unwrap();
    let (done, rules) = look(dir.path(), &[dir.path().join("empty.raw")], "");
    assert_eq!((done.code, rules), (2, found(&[("guest.not_opened", "info", "guest")])), "{}", done.stdout);
}

#[test]
fn a_windows_that_sleeps_is_told_to_and_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("windows.raw");
    fs::File::create(&disk).unwrap().set_len(48 << 20).unwrap();
    let mut software = Key::default();
    software.at("Microsoft\\Windows NT\\CurrentVersion").set("ProductName", "Windows 10 Pro");
    let (hive, hiberfil) = (dir.path().join("SOFTWARE"), dir.path().join("hiberfil.sys"));
    fs::write(&hive, software.hive()).unwrap();
    let mut memory = vec![0; 64 << 10];
    memory[..4].copy_from_slice(b"hibr");
    fs::write(&hiberfil, memory).unwrap();
    trees::guestfish(
        &[&disk],
        &format!(
            "mkfs ntfs /dev/sda\nmount /dev/sda /\nmkdir-p /Windows/System32/config\nupload {} /Windows/System32/config/SOFTWARE\nupload {} /hiberfil.sys\n",
            hive.display(),
            hiberfil.display()
        ),
    );
    let (done, rules) = look(dir.path(), &[disk], "");
    let expected = found(&[
        ("guest.hibernated", "error", "guest"),
        ("guest.unsupported", "error", "unsupported"),
        ("guest.hostname", "info", "guest"),
    ]);
    assert_eq!((done.code, rules), (2, expected), "{}", done.stdout);
}
