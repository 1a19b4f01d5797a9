//! A real guest: built from Debian packages, converted by the program, booted under QEMU.
//!
//! The same builder and the same proof serve `make run`. The guest is cached outside the checkout;
//! the first run on a machine builds it.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::disks;

/// Emulated, on a machine that does other things too.
const BOOT_TIMEOUT_S: &str = "600";

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name));
    command
}

/// The sample guest's disk, as VMware would have it.
fn sample() -> PathBuf {
    let built = script("build").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8(built.stdout).unwrap().trim_end())
}

fn boot(disk: &Path, timeout_s: &str) -> Output {
    script("boot").args(["--timeout", timeout_s]).arg(disk).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_converted_guest_comes_up_to_its_login_prompt() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = sample();
    let source_before = disks::sha256(&source);
    let converted = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["convert", "--no-fix", "-o"])
        .arg(scratch.path())
        .arg(&source)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{}", told(&converted));
    let result = scratch.path().join("debian.qcow2");
    let result_before = disks::sha256(&result);

    let booted = boot(&result, BOOT_TIMEOUT_S);

    assert!(booted.status.success(), "{}", told(&booted));
    assert!(told(&booted).contains("booted after"), "{}", told(&booted));
    assert_eq!(disks::sha256(&result), result_before, "the boot proof wrote into the result");
    assert_eq!(disks::sha256(&source), source_before, "the conversion wrote into the source");
}

#[test]
fn a_disk_without_a_system_is_not_said_to_boot() {
    let scratch = tempfile::tempdir().unwrap();
    let empty = disks::disk(scratch.path(), "nothing", "qcow2", 16, 4, 3);
    let booted = boot(&empty, "5");
    assert_eq!(booted.status.code(), Some(1), "{}", told(&booted));
    assert!(told(&booted).contains("did not boot"), "{}", told(&booted));
}
