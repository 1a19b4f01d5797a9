//! Transfers of jobs that meet failing networks, servers that go away, and kills; and what cannot be transferred at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::faults::{Fault, Relay};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 32;
/// On the way in connections, and not written down yet, when everything dies.
const LOST: u64 = 12 * MIB;

fn vcenter(daemon: &Daemon) -> (Vcenter, PathBuf) {
    let content = disks::disk(daemon.scratch(), "system", "raw", DISK_MIB, DISK_MIB, 1);
    let machine = |folder: &str, name: &str| json!({ "name": name, "folder": folder, "directory": format!("{folder}-{name}"), "disks": [{ "capacity": MIB }] });
    let options = Options::vcenter()
        .machine(json!({ "name": "web", "disks": [disk(&content)] }))
        .machine(machine("a", "twice"))
        .machine(machine("b", "twice"))
        .machine(json!({ "name": "empty" }))
        .machine(json!({ "name": "lun", "disks": [{ "capacity": MIB, "backing": "rdm" }] }));
    (Vcenter::start(options), content)
}

fn manifest(port: u16, vm: &str) -> String {
    format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: {vm}}}\n"
    )
}

#[track_caller]
fn is_result(daemon: &Daemon, content: &Path) {
    let result = daemon.state().join("output/web/web/disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(content, "raw"));
}

#[test]
fn a_service_that_is_killed_in_mid_transfer_goes_on_where_it_was() {
    let mut daemon = prepared("");
    let (vcenter, content) = vcenter(&daemon);
    store(&daemon, &vcenter, PASSWORD);
    vcenter.throttle(MIB);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(vcenter.port(), "web"));
    wait_for("half of the disk to be sent", || (vcenter.sent_of("-flat") > DISK_MIB * MIB / 2).then_some(()));
    daemon.kill9();
    vcenter.throttle(0);
    let before = vcenter.sent_of("-flat");
    assert!(before < DISK_MIB * MIB, "killed too late: {before}");
    daemon.start();
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    is_result(&daemon, &content);
    let sent = vcenter.sent_of("-flat");
    assert!(sent <= DISK_MIB * MIB + LOST, "{before} before, {sent} in all");
}

#[test]
fn a_job_over_a_network_and_from_a_server_that_fail_holds_what_the_datastore_does() {
    let mut daemon = Daemon::prepare();
    let credentials = daemon.scratch().join("credentials");
    fs::create_dir(&credentials).unwrap();
    daemon.configure(&format!("credentials: {{dir: {}}}\n", credentials.display()));
    let (vcenter, content) = vcenter(&daemon);
    let relay = Relay::to(&vcenter.address());
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    relay.fail_next([Fault::CutAfter(MIB / 2), Fault::ResetAfter(2 * MIB), Fault::CutAfter(3 * MIB)]);
    let status = |status: u16, skip: u32| json!({ "on": "folder", "named": "-flat", "kind": "status", "status": status, "retry_after": 1, "skip": skip, "times": 1 });
    vcenter.fault(&status(503, 4));
    for kind in ["truncated", "forget"] {
        vcenter.fault(&json!({ "on": "folder", "named": "-flat", "kind": kind, "skip": 8, "times": 1 }));
    }
    daemon.drop_file("web.yaml", manifest(relay.address().port(), "web"));
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    is_result(&daemon, &content);
    assert!(relay.connections() > 3);
}

/// What `convert` of a VM ends with.
fn refused(daemon: &Daemon, vcenter: &Vcenter, vm: &str) -> (Option<i32>, Value) {
    let input = format!("vsphere://vc:{}/{vm}", vcenter.port());
    let out = daemon.scratch().join("out");
    let (config, out) = (daemon.config(), out.to_str().unwrap().to_owned());
    let arguments =
        ["convert", &input, "-o", &out, "--profile", "none", "--config", config.to_str().unwrap()];
    let output: Output = daemon.run_client(&arguments);
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let told = String::from_utf8_lossy(text);
    let begin = told.find('{').unwrap_or_else(|| panic!("{vm}: {told}"));
    (output.status.code(), serde_json::from_str(&told[begin..]).unwrap())
}

#[test]
fn what_cannot_be_transferred_is_told_with_its_kind_and_what_to_do() {
    let daemon = prepared("");
    let (vcenter, _) = vcenter(&daemon);
    store(&daemon, &vcenter, PASSWORD);
    for (vm, kind, words) in [
        ("nobody", "source", "no machine with"),
        ("twice", "source", "2 machines"),
        ("empty", "source", "disk"),
        ("lun", "unsupported", "storage"),
    ] {
        let (code, error) = refused(&daemon, &vcenter, vm);
        assert_eq!(error["kind"], kind, "{vm}: {error}");
        assert_eq!(code, Some(if kind == "unsupported" { 3 } else { 1 }), "{vm}: {error}");
        assert!(error.to_string().contains(words), "{vm}: {error}");
        assert!(error["suggestion"].as_str().is_some_and(|advice| !advice.is_empty()), "{vm}: {error}");
    }
    vcenter.certificate("good");
    let (code, error) = refused(&daemon, &vcenter, "web");
    assert_eq!((code, &error["kind"]), (Some(1), &json!("network")), "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("thumbprint"), "{error}");
    store(&daemon, &vcenter, "wrong");
    let (code, error) = refused(&daemon, &vcenter, "web");
    assert_eq!((code, &error["kind"]), (Some(1), &json!("auth")), "{error}");
    assert!(!fs::exists(daemon.scratch().join("out/disk-0.qcow2")).unwrap());
}
