//! `hyper2kvm boot-test`, on a Debian, on disks that hold nothing, and what its QEMU has open meanwhile.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::guests::Guest;
use crate::support::{disks, wait_for, within};

/// Generous: emulated, on a machine that does other things too. Under emulation a guest gets four times this.
const TIMEOUT: &str = "200s";

fn boot_test(disk: &Path, temp: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args([
        "boot-test",
        "--json",
        "--accel",
        "tcg",
        "--memory",
        "1GiB",
        "--vcpus",
        "1",
        "--timeout",
        TIMEOUT,
    ]);
    command.args(words).arg(disk).env("TMPDIR", temp).stdin(Stdio::null());
    command
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The sample guest as a disk of this format in this directory.
fn sample(dir: &Path, format: &str) -> PathBuf {
    let guest = Guest::build("debian");
    let disk = dir.join("debian").with_extension(format);
    let status = Command::new("qemu-img")
        .args(["convert", "-f", "vmdk", "-O", format])
        .args([&guest.disks[0], &disk])
        .status()
        .unwrap();
    assert!(status.success());
    disk
}

fn children(pid: u32) -> Vec<u32> {
    let told = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    told.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn is_qemu(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| exe.to_string_lossy().contains("qemu-system"))
}

/// What a process has open, as the kernel names it.
fn open_files(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

#[test]
fn a_debian_comes_up_in_a_machine_that_has_no_way_out() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let temp = dir.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    let disk = sample(dir.path(), "qcow2");
    let before = disks::sha256(&disk);
    let running = boot_test(&disk, &temp, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = running.id();
    let qemu = wait_for("QEMU", || children(pid).into_iter().find(|child| is_qemu(*child)));
    // Long enough for all that it will ever open: its two conversations are connected.
    let sockets = |open: &[String]| open.iter().filter(|name| name.starts_with("socket:")).count();
    let open = wait_for("QEMU's sockets", || Some(open_files(qemu)).filter(|open| sockets(open) >= 4));

    let unix = std::fs::read_to_string(format!("/proc/{qemu}/net/unix")).unwrap();
    for name in &open {
        if let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            let is_local = unix.lines().any(|line| line.split_whitespace().nth(6) == Some(inode));
            assert!(is_local, "{name} is no socket of this machine's own: {open:?}");
        }
        let leads_out = ["/dev/net/tun", "/dev/vhost", "/dev/tap", "/dev/vsock"];
        assert!(!leads_out.iter().any(|device| name.starts_with(device)), "{name}");
    }
    // The guest's changes go into a file that has lost its name already.
    assert!(
        open.iter().any(|name| name.starts_with(temp.to_str().unwrap()) && name.ends_with("(deleted)")),
        "{open:?}"
    );

    let output = running.wait_with_output().unwrap();
    let found = document(&output);
    assert_eq!((output.status.code(), found["verdict"].as_str()), (Some(0), Some("booted")), "{found:#}");
    // Whichever is first: its agent, or its console.
    let evidence = found["evidence"].as_str().unwrap();
    assert!(["login prompt: sample login:", "the guest agent answered"].contains(&evidence), "{evidence}");
    assert_eq!((found["accel"].as_str(), found["firmware"].as_str()), (Some("tcg"), Some("bios")));
    assert_eq!(disks::sha256(&disk), before, "the test wrote into the disk");
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "something was left behind");
}

#[test]
fn a_debian_whose_root_is_missing_is_recognised() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = sample(dir.path(), "raw");
    lose_the_root(&disk);
    let output = boot_test(&disk, dir.path(), &[]).output().unwrap();
    let found = document(&output);
    assert_eq!((output.status.code(), found["verdict"].as_str()), (Some(1), Some("failed")), "{found:#}");
    let error = found["error"].as_str().unwrap();
    assert!(error.starts_with("the initramfs does not find the root file system"), "{error}");
    assert!(found["console_tail"].as_str().unwrap().contains("does not exist"), "{found:#}");
}

/// Makes every kernel of a disk look for a root that is not there.
fn lose_the_root(path: &Path) {
    // Gigabytes are searched by a program that was made for it.
    let mut search = Command::new("grep");
    search.args(["-obUaE", "root=UUID=[0-9a-f-]{36}"]).arg(path).env("LC_ALL", "C");
    let told = String::from_utf8(search.output().unwrap().stdout).unwrap();
    assert!(!told.is_empty());
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    for line in told.lines() {
        let (place, words) = line.split_once(':').unwrap();
        let last = place.parse::<u64>().unwrap() + words.len() as u64 - 1;
        file.seek(SeekFrom::Start(last)).unwrap();
        file.write_all(if words.ends_with('0') { b"1" } else { b"0" }).unwrap();
    }
}

#[test]
fn an_empty_disk_has_nothing_to_boot_from() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disks::disk(dir.path(), "nothing", "qcow2", 16, 0, 3);
    let output = boot_test(&disk, dir.path(), &[]).output().unwrap();
    let found = document(&output);
    assert_eq!((output.status.code(), found["verdict"].as_str()), (Some(1), Some("failed")), "{found:#}");
    assert_eq!(found["error"], "no bootable device");
    assert_eq!(found["booted"], false);
}

#[test]
fn a_machine_with_secure_boot_and_a_tpm_has_its_own_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let temp = dir.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    let disk = disks::disk(dir.path(), "nothing", "vmdk", 16, 0, 3);
    let output = boot_test(&disk, &temp, &["--firmware", "uefi", "--secure-boot", "--tpm"]).output().unwrap();
    let found = document(&output);
    assert_eq!((output.status.code(), found["firmware"].as_str()), (Some(1), Some("uefi")), "{found:#}");
    assert_eq!(found["error"], "the UEFI shell: the firmware found nothing to boot", "{found:#}");
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "something was left behind");
}

#[test]
fn an_interrupt_ends_the_guest_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let temp = dir.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    let disk = disks::disk(dir.path(), "nothing", "qcow2", 16, 0, 3);
    let words = ["--firmware", "uefi", "--expect", "never said"];
    let mut running = boot_test(&disk, &temp, &words).stderr(Stdio::piped()).spawn().unwrap();
    let pid = running.id();
    let qemu = wait_for("QEMU", || children(pid).into_iter().find(|child| is_qemu(*child)));
    let own = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(own, rustix::process::Signal::INT).unwrap();
    let ended = within(Duration::from_secs(60), || running.try_wait().unwrap());
    assert_eq!(ended.expect("the command goes on").code(), Some(130));
    assert!(!is_qemu(qemu), "QEMU goes on");
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "something was left behind");
}

#[test]
fn what_is_no_disk_and_what_is_no_expression_is_wrong_usage_or_a_bad_source() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("page.vmdk");
    std::fs::write(&text, "<!DOCTYPE html><html></html>").unwrap();
    let output = boot_test(&text, dir.path(), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let disk = disks::disk(dir.path(), "nothing", "raw", 1, 0, 3);
    for words in [&["--expect", "("][..], &["--memory", "7KiB"], &["--timeout", "0s"], &["--firmware", "efi"]]
    {
        assert_eq!(boot_test(&disk, dir.path(), words).output().unwrap().status.code(), Some(2), "{words:?}");
    }
}
