//! The sample, a guest that needs no repair, and the proof itself: what it says of a disk without a system.

use std::path::Path;
use std::process::{Command, Output};

use crate::guest::{script, told};
use crate::support::disks;

/// Emulated, on a machine that does other things too.
const BOOT_TIMEOUT_S: &str = "600";

fn boot(disk: &Path, timeout_s: &str) -> Output {
    script("boot").args(["--timeout", timeout_s]).arg(disk).output().unwrap()
}

#[test]
fn a_guest_that_is_converted_as_it_is_comes_up_to_its_login_prompt() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sample = crate::guest::Guest::build("debian");
    let source = &sample.disks[0];
    let source_before = disks::sha256(source);
    let converted = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["convert", "--no-fix", "-o"])
        .arg(scratch.path())
        .arg(source)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{}", told(&converted));
    let result = scratch.path().join("debian.qcow2");
    let result_before = disks::sha256(&result);

    let booted = boot(&result, BOOT_TIMEOUT_S);

    assert!(booted.status.success(), "{}", told(&booted));
    assert!(told(&booted).contains("booted after"), "{}", told(&booted));
    assert_eq!(disks::sha256(&result), result_before, "the boot proof wrote into the result");
    assert_eq!(disks::sha256(source), source_before, "the conversion wrote into the source");
}

#[test]
fn a_disk_without_a_system_is_not_said_to_boot() {
    let scratch = tempfile::tempdir().unwrap();
    let empty = disks::disk(scratch.path(), "nothing", "qcow2", 16, 4, 3);
    let booted = boot(&empty, "5");
    assert_eq!(booted.status.code(), Some(1), "{}", told(&booted));
    assert!(told(&booted).contains("did not boot"), "{}", told(&booted));
}
