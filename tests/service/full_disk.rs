//! No room, anywhere: a typed error or a wait, nothing corrupt, and it goes on when there is room again.
//!
//! Each test has a small tmpfs of its own, mounted in the test's directory and taken away with it.

use std::fs;

use crate::support::small_disk::SmallDisk;
use crate::support::{Daemon, disks, wait_for};

fn job(daemon: &Daemon) -> serde_json::Value {
    daemon.client(&["list"])["jobs"][0].clone()
}

#[test]
fn a_result_that_does_not_fit_waits_and_says_what_it_needs_and_goes_on_when_there_is_room() {
    let mut daemon = Daemon::prepare();
    let target = daemon.scratch().join("target");
    let small = SmallDisk::mount(&target, 8);
    daemon.configure(&format!("output_dir: {}\n", target.display()));
    daemon.start();
    let source = disks::disk(daemon.scratch(), "big", "raw", 32, 24, 1);
    daemon.drop_file("big.yaml", disks::manifest(&[("root", &source, "raw")], ""));
    let waiting = wait_for("the job to wait for room", || {
        Some(job(&daemon)).filter(|job| job["waiting_reason"] == "disk_space")
    });
    let detail = waiting["waiting_detail"].as_str().unwrap();
    assert!(detail.contains(target.to_str().unwrap()) && detail.contains("free"), "{detail}");
    assert_eq!(waiting["attempt"].as_u64().unwrap_or(0), job(&daemon)["attempt"].as_u64().unwrap_or(0));
    small.resize(128);
    let progress = daemon.wait_batch("big");
    assert_eq!(progress["state"], "completed", "{progress:#}");
    let result = target.join("big/big/root.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::sha256(&source));
    daemon.kill9();
    drop(small);
}

#[test]
fn what_is_laid_out_beforehand_waits_for_all_that_the_guest_sees_before_it_starts() {
    let mut daemon = Daemon::prepare();
    let target = daemon.scratch().join("target");
    let small = SmallDisk::mount(&target, 24);
    daemon.configure(&format!("output_dir: {}\n", target.display()));
    daemon.start();
    // A file of 2 MiB, which the target could take many times.
    let source = disks::disk(daemon.scratch(), "thin", "qcow2", 64, 2, 1);
    let falloc = "output: {format: qcow2, preallocation: falloc}\n";
    daemon.drop_file("thin.yaml", disks::manifest(&[("root", &source, "qcow2")], falloc));
    wait_for("the job to wait for room", || {
        Some(job(&daemon)).filter(|job| job["waiting_reason"] == "disk_space")
    });
    let shown = daemon.client(&["show", "thin"]);
    let started = |event: &serde_json::Value| event["message"].as_str().unwrap().contains("starts");
    assert!(!shown["events"].as_array().unwrap().iter().any(started), "{shown:#}");
    small.resize(128);
    let progress = daemon.wait_batch("thin");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    daemon.kill9();
    drop(small);
}

#[test]
fn room_that_vanishes_during_the_copy_is_waited_for() {
    let mut daemon = Daemon::prepare();
    let target = daemon.scratch().join("target");
    let small = SmallDisk::mount(&target, 64);
    daemon.configure(&format!("output_dir: {}\n", target.display()));
    let ballast = small.fill();
    // Looks as if there were room when the job is claimed: the ballast is made sparse only for that moment.
    fs::remove_file(&ballast).unwrap();
    daemon.start();
    let source = disks::disk(daemon.scratch(), "big", "raw", 64, 40, 1);
    daemon.drop_file("big.yaml", disks::manifest(&[("root", &source, "raw")], ""));
    wait_for("the copy to begin", || {
        let copying = !Daemon::files_below(&target, |name| name.ends_with(".partial")).is_empty();
        (copying || job(&daemon)["state"] == "succeeded").then_some(())
    });
    let ballast = small.fill();
    wait_for("the job to wait for room (or to have been faster)", || {
        let now = job(&daemon);
        (now["waiting_reason"] == "disk_space" || now["state"] == "succeeded").then_some(())
    });
    fs::remove_file(ballast).unwrap();
    let progress = daemon.wait_batch("big");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    assert_eq!(disks::content_sha256(&target.join("big/big/root.qcow2"), "qcow2"), disks::sha256(&source));
    daemon.kill9();
    drop(small);
}

#[test]
fn a_full_state_directory_loses_no_drop_and_breaks_no_file() {
    let scratch = tempfile::Builder::new().prefix("h2k-").tempdir().unwrap();
    let state = scratch.path().join("state");
    let small = SmallDisk::mount(&state, 16);
    let mut daemon = Daemon::prepare_in(scratch, state.clone());
    // It goes before the directory in which it is mounted, so it is declared after it.
    let small = small;
    let target = daemon.scratch().join("target");
    daemon.configure(&format!("output_dir: {}\n", target.display()));
    daemon.start();
    let source = disks::disk(daemon.scratch(), "disk", "raw", 8, 2, 1);
    // The drop itself fits; nothing else does.
    let text = disks::manifest(&[("root", &source, "raw")], "");
    let aside = state.join(".dropping");
    fs::write(&aside, &text).unwrap();
    let ballast = small.fill();
    fs::rename(&aside, state.join("incoming/vm.yaml")).unwrap();
    wait_for("the daemon to notice that it cannot write", || {
        let log = daemon.log();
        (log.contains("No space left") || log.contains("full") || log.contains("disk_space")).then_some(())
    });
    assert!(daemon.ended().is_none(), "the daemon stays up:\n{}", daemon.log());
    for path in Daemon::files_below(&state.join("progress"), |name| name.ends_with(".json")) {
        serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).expect("never half-written");
    }
    fs::remove_file(ballast).unwrap();
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    daemon.wait_settled("processed", "vm.yaml");
    daemon.kill9();
}
