//! What ends a pass, or a copy of a VM that runs, before it is done: a full disk here, and a snapshot there that has stood for too long. Neither leaves a
//! snapshot, and what is here already is gone on from.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clones::asked;
use crate::jobs::{prepared, store};
use crate::support::small_disk::SmallDisk;
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};
use crate::warm::{
    ALLOWED, MIB, is_left_alone, is_migrated, manifest, passes, running, wait_between, wait_for_pass,
};

fn calls(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

/// It waits for room, and says so; its snapshot is gone, and changes go on being tracked.
#[track_caller]
fn waits_for_room(daemon: &Daemon, vcenter: &Vcenter) {
    let waiting = wait_for("the job to wait for room", || {
        Some(daemon.client(&["show", "web"])).filter(|job| job["waiting_reason"] == "disk_space")
    });
    let detail = waiting["waiting_detail"].as_str().unwrap();
    assert!(detail.contains("No space left") || detail.contains("needs"), "{waiting}");
    is_left_alone(daemon, vcenter, true);
    let acts = waiting["acts"].as_array().unwrap();
    let left: Vec<&Value> = acts.iter().filter(|act| act["state"] != "undone").collect();
    assert!(left.len() == 1 && left[0]["act"] == "change_tracking", "{waiting}");
}

#[test]
fn a_pass_without_room_waits_for_some_with_no_snapshot_left_and_goes_on_from_the_last_one() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    let small = SmallDisk::mount(&daemon.state().join("output"), 12);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "power: shutdown, warm: {interval_s: 600}"));
    waits_for_room(&daemon, &vcenter);
    small.resize(128);
    let first = wait_between(&daemon, 1);
    assert_eq!(first["kind"], "full", "{first}");

    // A little is free, for what is written down.
    let ballast = small.fill();
    let full = fs::metadata(&ballast).unwrap().len();
    fs::File::options().write(true).open(&ballast).unwrap().set_len(full - 3 * MIB).unwrap();
    vcenter.guest_writes("web", 0, 20 * MIB, &vec![7; 10 * MIB as usize]);
    vcenter.guest_writes("web", 1, MIB, &[8; 70_000]);
    daemon.client(&["resume", "web"]);
    waits_for_room(&daemon, &vcenter);
    // A VM that runs is not frozen again and again for a pass that cannot be made.
    let frozen = calls(&vcenter, "CreateSnapshot_Task");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(calls(&vcenter, "CreateSnapshot_Task"), frozen);
    fs::remove_file(ballast).unwrap();
    let second = wait_for_pass(&daemon, 2);
    assert_eq!(second["kind"], "changes", "{second}");
    daemon.client(&["cutover", "web"]);
    let passes = is_migrated(&daemon, &vcenter);
    assert_eq!(passes.iter().filter(|pass| pass["kind"] == "full").count(), 1, "{passes:?}");
    daemon.kill9();
    drop(small);
}

#[test]
fn a_snapshot_of_a_pass_that_stands_too_long_goes_and_changes_go_on_being_tracked() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    let removed = |number| {
        wait_for("the snapshot to be given up", || {
            (calls(&vcenter, "RemoveSnapshot_Task") >= number).then_some(())
        });
    };
    daemon.start();
    vcenter.throttle(MIB / 4);
    let limits = "power: shutdown, snapshot: {max_age_s: 2}, warm: {interval_s: 600}";
    daemon.drop_file("web.yaml", manifest(&vcenter, limits));
    removed(1);
    vcenter.throttle(0);
    wait_between(&daemon, 1);
    let before = calls(&vcenter, "RemoveSnapshot_Task");
    vcenter.guest_writes("web", 0, 20 * MIB, &vec![7; 8 * MIB as usize]);
    vcenter.throttle(MIB / 4);
    daemon.client(&["resume", "web"]);
    removed(before + 1);
    assert_eq!(passes(&daemon).len(), 1, "{:?}", passes(&daemon));
    vcenter.throttle(0);
    let second = wait_for_pass(&daemon, 2);
    assert_eq!(second["kind"], "changes", "{second}");
    assert_eq!(calls(&vcenter, "ReconfigVM_Task"), 1, "it was switched on once");
    let events = daemon.client(&["show", "web"])["events"].to_string();
    assert!(events.contains("stands for longer than"), "{events}");
    daemon.client(&["cutover", "web"]);
    is_migrated(&daemon, &vcenter);
}

#[test]
fn a_snapshot_that_stands_too_long_goes_and_the_copy_begins_anew_as_of_another_one() {
    let mut daemon = prepared("");
    let content = disks::disk(daemon.scratch(), "system", "raw", 8, 6, 1);
    let machine = json!({ "name": "web", "on": true, "disks": [disk(&content)] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    store(&daemon, &vcenter, PASSWORD);
    vcenter.throttle(MIB / 8);
    daemon.start();
    let port = vcenter.port();
    let manifest = format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web, mode: clone, snapshot: {{max_age_s: 2}}}}\n"
    );
    daemon.drop_file("web.yaml", manifest);
    let is_read = || vcenter.requests().iter().any(|request| request.path.starts_with("/folder/"));
    wait_for("the disk to be read", || is_read().then_some(()));
    vcenter.guest_writes("web", 0, 0, &[9; 4096]);
    wait_for("the snapshot to be given up", || (calls(&vcenter, "RemoveSnapshot_Task") > 0).then_some(()));
    vcenter.throttle(0);
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    let (result, now) = (daemon.state().join("output/web/web/disk-0.qcow2"), daemon.scratch().join("now"));
    fs::write(&now, vcenter.disk_now("web", 0)).unwrap();
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&now, "raw"));
    let snapshots = asked(&daemon, &vcenter, &["snapshot", "list", "web"]);
    assert_eq!(snapshots["snapshots"], json!([]));
    assert!(calls(&vcenter, "CreateSnapshot_Task") >= 2);
    let shown = daemon.client(&["show", "web"]);
    assert!(shown["events"].to_string().contains("stands for longer than"), "{shown}");
}
