//! Copies of VMs that run (`mode: clone`) by another way than their files: as of a snapshot, which their host exports.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::clones::asked;
use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;

/// A service, and a vCenter whose `busy` runs, with a disk of these bytes.
fn site(more: &Value, change: impl FnOnce(Options) -> Options) -> (Daemon, Vcenter, PathBuf) {
    let daemon = prepared("");
    let content = disks::disk(daemon.scratch(), "system", "raw", 8, 6, 1);
    let mut machine = json!({ "name": "busy", "on": true, "disks": [disk(&content)] });
    machine.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let vcenter = Vcenter::start(change(Options::vcenter().machine(machine)));
    store(&daemon, &vcenter, PASSWORD);
    (daemon, vcenter, content)
}

fn drop_busy(daemon: &mut Daemon, vcenter: &Vcenter, further: &str) {
    daemon.start();
    let port = vcenter.port();
    daemon.drop_file(
        "busy.yaml",
        format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: busy, mode: clone{further}}}\n"),
    );
}

/// What `load` says of the source, once the result holds these bytes.
#[track_caller]
fn copied(daemon: &Daemon, content: &Path) -> (Value, Value) {
    let progress = daemon.wait_batch("busy");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    let results = daemon.state().join("output/busy/busy");
    let result = results.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(content, "raw"));
    let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
    let remote = report["pipeline"]["stages"]["load"]["result"]["remote"].clone();
    assert_eq!(remote["transport"], "nfc", "{report}");
    (remote, report)
}

fn snapshots(daemon: &Daemon, vcenter: &Vcenter) -> Vec<String> {
    let told = asked(daemon, vcenter, &["snapshot", "list", "busy"]);
    let all = told["snapshots"].as_array().unwrap();
    all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn calls(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

#[test]
fn a_vm_that_runs_is_exported_as_it_was_while_its_guest_goes_on_writing() {
    let (mut daemon, vcenter, content) = site(&json!({}), |options| options);
    vcenter.throttle(2 * MIB);
    drop_busy(&mut daemon, &vcenter, ", transport: nfc");
    wait_for("it to be exported", || (vcenter.leases() == 1).then_some(()));
    vcenter.guest_writes("busy", 0, 0, &[9; 4096]);
    vcenter.guest_writes("busy", 0, 7 * MIB, &[9; 4096]);
    let (remote, report) = copied(&daemon, &content);
    assert!(remote["as_of"].is_string() && report["acts"][0]["state"] == "undone", "{report}");
    let now = vcenter.disk_now("busy", 0);
    assert_eq!((now[0], now[7 * MIB as usize]), (9, 9), "what the guest wrote is in its disk");
    assert!(snapshots(&daemon, &vcenter).is_empty() && vcenter.leases() == 0);
    assert_eq!((calls(&vcenter, "ExportVm"), vcenter.sent_of("-flat")), (0, 0));
}

#[test]
fn files_that_are_refused_leave_a_vm_that_runs_to_an_export_and_that_is_told() {
    let (mut daemon, vcenter, content) = site(&json!({}), |options| options);
    vcenter
        .fault(&json!({ "on": "folder", "named": "busy", "times": 1000, "kind": "status", "status": 405 }));
    drop_busy(&mut daemon, &vcenter, "");
    let (remote, report) = copied(&daemon, &content);
    let way = &remote["ways"][0];
    assert!(way["transport"] == "https" && way["left"].as_str().unwrap().contains("405"), "{remote}");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("the disks do not come over files over HTTPS"), "{warnings}");
    assert_eq!((calls(&vcenter, "CreateSnapshot_Task"), snapshots(&daemon, &vcenter).len()), (1, 0));
}

#[test]
fn files_that_end_in_mid_copy_leave_the_rest_to_an_export_of_the_same_snapshot() {
    let (mut daemon, vcenter, content) = site(&json!({}), |options| options);
    vcenter.fault(
        &json!({ "on": "folder", "named": "busy", "skip": 5, "times": 1000, "kind": "status", "status": 403 }),
    );
    drop_busy(&mut daemon, &vcenter, "");
    let (remote, _) = copied(&daemon, &content);
    assert!(remote["ways"][0]["left"].as_str().unwrap().contains("403"), "{remote}");
    assert!(vcenter.sent_of("-flat") >= MIB, "some of it had come: {}", vcenter.sent_of("-flat"));
    assert_eq!((calls(&vcenter, "CreateSnapshot_Task"), snapshots(&daemon, &vcenter).len()), (1, 0));
}

#[test]
fn snapshots_of_somebody_else_are_read_through_and_stay() {
    let (mut daemon, vcenter, _) = site(&json!({ "snapshots": ["before the update"] }), |options| options);
    vcenter.guest_writes("busy", 0, 5 * MIB, &[7; 70_000]);
    let now = daemon.scratch().join("now.raw");
    fs::write(&now, vcenter.disk_now("busy", 0)).unwrap();
    let input = daemon.scratch().join("plan.yaml");
    let port = vcenter.port();
    fs::write(&input, format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: busy, mode: clone}}\n")).unwrap();
    let config = daemon.config();
    let plan = daemon.client(&["plan", input.to_str().unwrap(), "--config", config.to_str().unwrap()]);
    let ways = &plan["plans"][0]["remote"]["ways"];
    assert!(ways[0]["left"] == "the VM has snapshots" && ways[1].get("left").is_none(), "{plan}");
    drop_busy(&mut daemon, &vcenter, "");
    copied(&daemon, &now);
    assert_eq!(snapshots(&daemon, &vcenter), ["before the update"]);
    assert!(vcenter.disk_now("busy", 0) == fs::read(&now).unwrap(), "the disk is another one now");
    assert_eq!((vcenter.leases(), calls(&vcenter, "RemoveSnapshot_Task")), (0, 1));
}

#[test]
fn a_worker_that_is_killed_in_mid_export_leaves_neither_lease_nor_snapshot() {
    let (mut daemon, vcenter, content) = site(&json!({}), |options| options.with("lease_timeout", 3));
    vcenter.throttle(4 * MIB);
    daemon.env("HYPER2KVM_FAILPOINT", "copy.after-journal");
    daemon.env("HYPER2KVM_FAILPOINT_ONCE", daemon.scratch().join("once").to_str().unwrap());
    drop_busy(&mut daemon, &vcenter, ", transport: nfc");
    let (_, report) = copied(&daemon, &content);
    assert_eq!(fs::read(daemon.scratch().join("once")).unwrap(), b"x", "nobody died there");
    // The next attempt waits for the other lease to end, and exports the same snapshot, whose beginning is not written twice.
    let progress = daemon.progress("busy").unwrap();
    assert_eq!(progress["vms"]["busy"]["attempt"], 2, "{progress}");
    assert_eq!(calls(&vcenter, "CreateSnapshot_Task"), 1);
    assert!(report["pipeline"]["stages"].to_string().contains("\"kept_bytes\":"), "{report}");
    assert!(snapshots(&daemon, &vcenter).is_empty() && vcenter.leases() == 0);
}

#[test]
fn a_copy_that_is_cancelled_in_mid_export_leaves_neither_lease_nor_snapshot() {
    let (mut daemon, vcenter, _) = site(&json!({}), |options| options);
    vcenter.throttle(MIB);
    drop_busy(&mut daemon, &vcenter, ", transport: nfc");
    wait_for("it to be exported", || (vcenter.leases() == 1).then_some(()));
    daemon.client(&["cancel", "busy/busy"]);
    assert_eq!(daemon.wait_batch("busy")["state"], "cancelled");
    // The server would have refused to remove it while it is exported.
    assert!(snapshots(&daemon, &vcenter).is_empty() && vcenter.leases() == 0);
    assert_eq!(calls(&vcenter, "RemoveSnapshot_Task"), 1);
}
