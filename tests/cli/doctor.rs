//! `doctor`: what it tells of this machine.

use crate::run::{hyper2kvm, run_at};

const NAMES: [&str; 14] = [
    "kvm",
    "qemu-img",
    "qemu-system",
    "libguestfs",
    "libvirt",
    "ovmf",
    "swtpm",
    "ssh",
    "virt-v2v",
    "nbdkit-vddk",
    "python",
    "state-dir",
    "disk-space",
    "network",
];

#[test]
fn every_part_is_told_by_its_name_with_status_and_advice() {
    let dir = tempfile::tempdir().unwrap();
    let done = run_at(dir.path(), &["doctor", "--json"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    let document = done.json();
    let checks = document["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, NAMES);
    for check in checks {
        assert_eq!(check.as_object().unwrap().len(), 5, "{check}");
        let status = check["status"].as_str().unwrap();
        assert!(matches!(status, "ok" | "degraded" | "missing" | "broken"), "{check}");
        assert!(status == "ok" || check["advice"].is_string(), "{check}");
        assert!(check["detail"].is_string(), "{check}");
    }
    let qemu_img = &checks[1];
    assert_eq!(qemu_img["status"], "ok", "{qemu_img}");
    assert!(qemu_img["version"].is_string());
}

#[test]
fn kvm_that_does_not_work_is_told_with_what_is_used_instead() {
    let dir = tempfile::tempdir().unwrap();
    let document = run_at(dir.path(), &["doctor", "--json"]).json();
    let kvm = &document["checks"][0];
    if kvm["status"] != "ok" {
        let detail = kvm["detail"].as_str().unwrap();
        assert!(detail.contains("TCG is used"), "{detail}");
        let present = std::path::Path::new("/dev/kvm").exists();
        assert_eq!(detail.contains("is present but does not work"), present, "{detail}");
    }
}

#[test]
fn what_is_missing_is_told_with_what_it_disables() {
    let dir = tempfile::tempdir().unwrap();
    let text = run_at(dir.path(), &["doctor"]).stdout;
    for name in NAMES {
        assert!(text.contains(name), "{text}");
    }
    assert!(!text.contains("conversions cannot work"), "{text}");
}

#[test]
fn a_machine_that_cannot_convert_ends_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let done = run_at(&file, &["doctor"]);
    assert_eq!(done.code, 3);
    assert!(done.stdout.contains("conversions cannot work"), "{}", done.stdout);

    // A qemu-img that does not even start.
    let fake = dir.path().join("qemu-img");
    std::fs::write(&fake, "#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let done = hyper2kvm()
        .args(["doctor", "--json", "--state-dir"])
        .arg(dir.path())
        .env("PATH", path)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(3), "{}", String::from_utf8_lossy(&done.stdout));
}
