//! Copies of VMs that run (`mode: clone`): as of a snapshot that is gone when they are done, whoever dies meanwhile.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::privileges::waits_for;
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;

/// A vCenter whose `busy` runs, with a disk of these bytes.
fn vcenter(daemon: &Daemon) -> (Vcenter, PathBuf) {
    let content = disks::disk(daemon.scratch(), "system", "raw", 8, 6, 1);
    let options = Options::vcenter().machine(json!({
        "name": "busy", "on": true, "disks": [disk(&content)],
        "nics": [{ "kind": "vmxnet3", "mac": "00:50:56:aa:bb:01" }],
    }));
    let vcenter = Vcenter::start(options);
    store(daemon, &vcenter, PASSWORD);
    (vcenter, content)
}

fn manifest(vcenter: &Vcenter) -> String {
    format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: busy, mode: clone}}\n",
        vcenter.port()
    )
}

/// What a command says of the server.
pub fn asked(daemon: &Daemon, vcenter: &Vcenter, arguments: &[&str]) -> Value {
    let port = vcenter.port().to_string();
    let config = daemon.config();
    let access = ["vsphere", "--credential", "vc", "--port", &port, "--config", config.to_str().unwrap()];
    daemon.client(&[&access, arguments].concat())
}

/// The snapshots of the machine.
fn snapshots(daemon: &Daemon, vcenter: &Vcenter) -> Vec<Value> {
    asked(daemon, vcenter, &["snapshot", "list", "busy"])["snapshots"].as_array().unwrap().clone()
}

fn calls(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

/// Waits until its disks are read.
fn wait_for_the_copy(vcenter: &Vcenter) {
    let is_read = || vcenter.requests().iter().any(|request| request.path.starts_with("/folder/"));
    wait_for("the disk to be read", || is_read().then_some(()));
}

fn acts(daemon: &Daemon, job: &str) -> Vec<String> {
    let shown = daemon.client(&["show", job]);
    let acts = shown["acts"].as_array().cloned().unwrap_or_default();
    acts.iter().map(|act| act["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_vm_that_runs_is_copied_as_it_was_while_its_guest_goes_on_writing() {
    let mut daemon = prepared("");
    let (vcenter, content) = vcenter(&daemon);
    vcenter.throttle(MIB / 8);
    daemon.start();
    daemon.drop_file("busy.yaml", manifest(&vcenter));
    wait_for_the_copy(&vcenter);
    let made = snapshots(&daemon, &vcenter);
    let name = made[0]["name"].as_str().unwrap();
    assert!(name.starts_with("hyper2kvm/") && name.ends_with("/busy/busy"), "{made:?}");
    assert!(made[0]["description"].as_str().unwrap().contains("hyper2kvm on"), "{made:?}");
    vcenter.guest_writes("busy", 0, 0, &[9; 4096]);
    vcenter.guest_writes("busy", 0, 7 * MIB, &[9; 4096]);
    assert!(daemon.client(&["status"])["oldest_snapshot_at"].is_number());
    vcenter.throttle(0);
    let progress = daemon.wait_batch("busy");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    let results = daemon.state().join("output/busy/busy");
    let result = results.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
    let now = vcenter.disk_now("busy", 0);
    assert_eq!((now[0], now[7 * MIB as usize]), (9, 9), "what the guest wrote is in its disk");
    assert!(snapshots(&daemon, &vcenter).is_empty());
    let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["acts"][0]["state"], "undone", "{report}");
    let remote = &report["pipeline"]["stages"]["load"]["result"]["remote"];
    assert!(remote["as_of"].is_string() && remote["quiesced"].is_boolean(), "{remote}");
    assert!(report["warnings"].to_string().contains("it runs on"), "{report}");
    let domain = fs::read_to_string(results.join("domain.xml")).unwrap();
    assert!(domain.contains("<link state=\"down\"/>") || domain.contains("<link state='down'/>"), "{domain}");
    assert_eq!(acts(&daemon, "busy"), ["undone"]);
    assert!(daemon.client(&["status"])["oldest_snapshot_at"].is_null());
}

#[test]
fn killed_between_any_two_steps_a_job_ends_with_its_result_and_without_a_snapshot() {
    for point in ["acts.intended", "acts.did", "acts.done", "acts.undoing", "acts.undid", "acts.undone"] {
        let mut daemon = prepared("");
        let (vcenter, content) = vcenter(&daemon);
        daemon.env("HYPER2KVM_FAILPOINT", point);
        let once = daemon.scratch().join("once");
        daemon.env("HYPER2KVM_FAILPOINT_ONCE", once.to_str().unwrap());
        daemon.start();
        daemon.drop_file("busy.yaml", manifest(&vcenter));
        let progress = daemon.wait_batch("busy");
        assert_eq!(progress["state"], "completed", "{point}: {progress}\n{}", daemon.log());
        assert_eq!(fs::read(&once).unwrap(), b"x", "{point}: nobody died there");
        let result = daemon.state().join("output/busy/busy/disk-0.qcow2");
        assert_eq!(
            disks::content_sha256(&result, "qcow2"),
            disks::content_sha256(&content, "raw"),
            "{point}"
        );
        assert!(snapshots(&daemon, &vcenter).is_empty(), "{point}");
        assert!(acts(&daemon, "busy").iter().all(|state| state == "undone"), "{point}");
    }
}

#[test]
fn what_a_killed_worker_left_is_undone_when_its_job_is_cancelled() {
    for point in ["acts.did", "acts.done"] {
        let mut daemon = prepared("retry: {base_delay_s: 600, max_delay_s: 600}\n");
        let (vcenter, _) = vcenter(&daemon);
        daemon.env("HYPER2KVM_FAILPOINT", point);
        daemon.env("HYPER2KVM_FAILPOINT_ONCE", daemon.scratch().join("once").to_str().unwrap());
        daemon.start();
        daemon.drop_file("busy.yaml", manifest(&vcenter));
        wait_for("the worker to have died", || {
            (daemon.progress("busy")?["waiting_reason"] == "retry").then_some(())
        });
        assert_eq!(snapshots(&daemon, &vcenter).len(), 1, "{point}");
        daemon.client(&["cancel", "busy/busy"]);
        wait_for("the snapshot to be gone", || snapshots(&daemon, &vcenter).is_empty().then_some(()));
        wait_for("that to be known", || (acts(&daemon, "busy/busy") == ["undone"]).then_some(()));
        assert_eq!(daemon.progress("busy").unwrap()["state"], "cancelled");
    }
}

#[test]
fn a_server_that_was_away_when_the_job_ended_is_asked_again() {
    let mut daemon = prepared("retry: {base_delay_s: 600, max_delay_s: 600}\n");
    let (vcenter, _) = vcenter(&daemon);
    daemon.env("HYPER2KVM_FAILPOINT", "acts.done");
    daemon.env("HYPER2KVM_FAILPOINT_ONCE", daemon.scratch().join("once").to_str().unwrap());
    daemon.start();
    daemon.drop_file("busy.yaml", manifest(&vcenter));
    wait_for("the worker to have died", || {
        (daemon.progress("busy")?["waiting_reason"] == "retry").then_some(())
    });
    vcenter.fault(&json!({ "on": "sdk", "named": "Login", "times": 1, "kind": "status", "status": 500 }));
    daemon.client(&["cancel", "busy/busy"]);
    wait_for("it to be tried in vain", || {
        daemon.client(&["show", "busy/busy"])["events"]
            .to_string()
            .contains("not undone at its source")
            .then_some(())
    });
    assert_eq!(acts(&daemon, "busy/busy"), ["done"]);
    // A service that starts again does not wait.
    daemon.stop();
    daemon.start();
    wait_for("the snapshot to be gone", || snapshots(&daemon, &vcenter).is_empty().then_some(()));
}

#[test]
fn a_cancelled_copy_leaves_no_snapshot() {
    let mut daemon = prepared("");
    let (vcenter, _) = vcenter(&daemon);
    vcenter.throttle(MIB / 8);
    daemon.start();
    daemon.drop_file("busy.yaml", manifest(&vcenter));
    wait_for_the_copy(&vcenter);
    daemon.client(&["cancel", "busy/busy"]);
    assert_eq!(daemon.wait_batch("busy")["state"], "cancelled");
    wait_for("the snapshot to be gone", || snapshots(&daemon, &vcenter).is_empty().then_some(()));
}

#[test]
fn no_snapshot_is_made_where_little_is_free_and_a_copy_is_given_up_before_nothing_is() {
    let mut daemon = prepared("");
    let (vcenter, _) = vcenter(&daemon);
    vcenter.free("ds1", 15);
    daemon.start();
    daemon.drop_file("busy.yaml", manifest(&vcenter));
    let error = daemon.wait_settled("failed", "busy.yaml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(error).unwrap()).unwrap();
    assert!(error["error"].as_str().unwrap().contains("datastore ds1"), "{error}");
    assert_eq!((&error["kind"], calls(&vcenter, "CreateSnapshot_Task")), (&json!("source"), 0));
    vcenter.free("ds1", 25);
    vcenter.throttle(MIB / 8);
    daemon.drop_file("again.yaml", manifest(&vcenter));
    wait_for_the_copy(&vcenter);
    vcenter.free("ds1", 5);
    let error = daemon.wait_settled("failed", "again.yaml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(error).unwrap()).unwrap();
    assert!(error["error"].as_str().unwrap().contains("the copy is given up"), "{error}");
    wait_for("the snapshot to be gone", || snapshots(&daemon, &vcenter).is_empty().then_some(()));
}

#[test]
fn no_snapshot_is_made_that_the_account_could_not_remove() {
    let mut daemon = prepared("");
    let (vcenter, _) = vcenter(&daemon);
    vcenter.lacks(&["VirtualMachine.State.RemoveSnapshot"]);
    daemon.start();
    daemon.drop_file("busy.yaml", manifest(&vcenter));
    waits_for(&daemon, "VirtualMachine.State.RemoveSnapshot");
    assert_eq!(calls(&vcenter, "CreateSnapshot_Task"), 0);
    vcenter.lacks(&[]);
    daemon.client(&["retry", "busy"]);
    assert_eq!(daemon.wait_batch("busy")["state"], "completed", "{}", daemon.log());
    assert_eq!(calls(&vcenter, "CreateSnapshot_Task"), 1);
    assert_eq!(snapshots(&daemon, &vcenter), Vec::<Value>::new());
}

#[test]
fn a_conversion_without_a_service_leaves_no_snapshot_either() {
    let daemon = prepared("");
    let (vcenter, content) = vcenter(&daemon);
    let file = daemon.scratch().join("clone.yaml");
    fs::write(&file, manifest(&vcenter)).unwrap();
    let out = daemon.scratch().join("out");
    let config = daemon.config();
    let (file, config) = (file.to_str().unwrap(), config.to_str().unwrap());
    let plan = daemon.client(&["plan", file, "--config", config]);
    assert_eq!(plan["plans"][0]["remote"]["snapshot"]["min_free"], 20, "{plan}");
    daemon.client(&["convert", file, "-o", out.to_str().unwrap(), "--config", config]);
    let result = out.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
    assert!(snapshots(&daemon, &vcenter).is_empty());
}
