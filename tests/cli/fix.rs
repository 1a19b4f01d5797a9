//! `fix` against a real disk: what it would change, what its copy holds, and that the disk is left as it was.

use std::fs;
use std::path::Path;

use crate::guest_disk::{GUEST, disk};
use crate::run::{Done, hyper2kvm, run};

fn fix(dir: &Path, words: &[&str]) -> Done {
    let temp = dir.join("temp");
    fs::create_dir_all(&temp).unwrap();
    let done = hyper2kvm().arg("fix").args(words).env("TMPDIR", &temp).output().unwrap().into();
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0, "something is left behind");
    done
}

#[test]
fn a_dry_run_shows_how_each_file_would_change_and_changes_none() {
    let dir = tempfile::tempdir().unwrap();
    let vmdk = disk(dir.path(), &GUEST);
    let before = fs::read(&vmdk).unwrap();
    let done = fix(dir.path(), &[vmdk.to_str().unwrap(), "--dry-run"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for line in
        ["--- a/etc/fstab", "+++ b/etc/fstab", " # the root", "-/dev/sda / ext4 errors=remount-ro 0 1"]
    {
        assert!(done.stdout.lines().any(|shown| shown == line), "{line}\n{}", done.stdout);
    }
    assert!(done.stdout.contains("\n+UUID="), "{}", done.stdout);
    assert_eq!(fs::read(&vmdk).unwrap(), before);
}

#[test]
fn a_copy_is_repaired_and_a_repaired_one_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vmdk = disk(dir.path(), &GUEST);
    let before = fs::read(&vmdk).unwrap();
    let out = dir.path().join("out");
    let done = fix(dir.path(), &[vmdk.to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report = done.json();
    assert!(report["fixes"].as_array().unwrap().iter().any(|fix| fix["path"] == "/etc/fstab"), "{report:#}");
    assert!(report["pipeline"]["stages"].get("boot_test").is_none(), "{report:#}");
    assert_eq!(fs::read(&vmdk).unwrap(), before);

    let copy = out.join("disk.qcow2");
    let again = fix(dir.path(), &[copy.to_str().unwrap(), "--dry-run", "--json"]).json();
    assert_eq!((&again["fixes"], &again["diffs"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!(again["guest"]["hostname"], "web");
}

#[test]
fn it_says_what_it_needs_to_know() {
    let neither = run(&["fix", "web.vmdk"]);
    assert_eq!(neither.code, 2);
    assert!(
        neither.stderr.contains("--dry-run") && neither.stderr.contains("--output"),
        "{}",
        neither.stderr
    );
    assert_eq!(run(&["fix", "web.vmdk", "--dry-run", "-o", "out"]).code, 2);
    let mac = run(&["fix", "web.vmdk", "--dry-run", "--mac", "00:50:56"]);
    assert_eq!(mac.code, 2);
    assert!(mac.stderr.contains("six pairs of hex digits"), "{}", mac.stderr);
}
