//! By which way the disks of a VM come: what leaves one for the next, before the first byte and in the middle of a copy, and what never does.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks};

const MIB: u64 = 1 << 20;

fn site() -> (Daemon, Vcenter, PathBuf) {
    site_with(|options| options)
}

fn site_with(change: impl FnOnce(Options) -> Options) -> (Daemon, Vcenter, PathBuf) {
    let daemon = prepared("");
    let content = disks::disk(daemon.scratch(), "system", "raw", 24, 24, 1);
    let options = Options::vcenter()
        .machine(json!({ "name": "web", "disks": [disk(&content)] }))
        .machine(json!({ "name": "kept", "disks": [{ "capacity": MIB }], "snapshots": ["before"] }));
    let vcenter = Vcenter::start(change(options));
    store(&daemon, &vcenter, PASSWORD);
    (daemon, vcenter, content)
}

/// Files are refused so from some request on.
fn refuse_files(vcenter: &Vcenter, kind: &Value, skip: u32) {
    let mut fault = json!({ "on": "folder", "named": "web", "skip": skip, "times": 100_000 });
    for (key, value) in kind.as_object().unwrap() {
        fault[key] = value.clone();
    }
    vcenter.fault(&fault);
}

fn status(status: u16) -> Value {
    json!({ "kind": "status", "status": status })
}

fn drop_web(daemon: &mut Daemon, vcenter: &Vcenter) {
    daemon.start();
    let port = vcenter.port();
    daemon.drop_file(
        "web.yaml",
        format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web}}\n"),
    );
}

/// What `load` says of it, once the result holds what the VM did.
#[track_caller]
fn loaded(daemon: &Daemon, content: &std::path::Path) -> Value {
    loaded_by(daemon, content, 1)
}

/// The same of this attempt.
#[track_caller]
fn loaded_by(daemon: &Daemon, content: &std::path::Path, attempt: u32) -> Value {
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    assert_eq!(progress["vms"]["web"]["attempt"], attempt, "{progress}\n{}", daemon.log());
    let results = daemon.state().join("output/web/web");
    let result = results.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(content, "raw"));
    let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
    let text = report.to_string();
    assert!(text.contains("the disks do not come over files over HTTPS"), "{text}");
    remote_of(&report["pipeline"]["stages"]).unwrap_or_else(|| panic!("{report}")).clone()
}

/// Wherever in the report it stands.
fn remote_of(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(members) if members.contains_key("ways") => Some(value),
        Value::Object(members) => members.values().find_map(remote_of),
        Value::Array(items) => items.iter().find_map(remote_of),
        _ => None,
    }
}

fn calls(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

#[test]
fn a_server_that_gives_no_files_is_asked_for_an_export_and_the_report_says_why() {
    let (mut daemon, vcenter, content) = site();
    refuse_files(&vcenter, &status(405), 0);
    drop_web(&mut daemon, &vcenter);
    let remote = loaded(&daemon, &content);
    assert_eq!(remote["transport"], "nfc", "{remote}");
    let why = remote["ways"][0]["left"].as_str().unwrap();
    assert!(remote["ways"][0]["transport"] == "https" && why.contains("405"), "{remote}");
    assert!(remote["ways"][1].get("left").is_none(), "{remote}");
    assert_eq!(vcenter.sent_of("-flat"), 0);
}

#[test]
fn somebody_in_between_who_does_not_understand_ranges_is_gone_around() {
    let (mut daemon, vcenter, content) = site();
    refuse_files(&vcenter, &json!({ "kind": "whole" }), 0);
    drop_web(&mut daemon, &vcenter);
    assert_eq!(loaded(&daemon, &content)["transport"], "nfc");
}

#[test]
fn a_way_that_ends_in_mid_copy_is_left_for_the_next_and_the_disk_begins_anew() {
    let (mut daemon, vcenter, content) = site();
    refuse_files(&vcenter, &status(403), 7);
    drop_web(&mut daemon, &vcenter);
    let remote = loaded(&daemon, &content);
    assert_eq!(remote["transport"], "nfc", "{remote}");
    assert!(vcenter.sent_of("-flat") >= MIB, "some of it had come: {}", vcenter.sent_of("-flat"));
    // All of it once more: nothing of the two is mixed.
    assert_eq!(calls(&vcenter, "ExportVm"), calls(&vcenter, "HttpNfcLeaseComplete"));
}

#[test]
fn a_worker_that_is_killed_when_a_way_was_left_is_followed_by_one_that_takes_the_next() {
    let (mut daemon, vcenter, content) = site();
    refuse_files(&vcenter, &status(403), 7);
    daemon.env("HYPER2KVM_FAILPOINT", "ways.left");
    daemon.env("HYPER2KVM_FAILPOINT_ONCE", daemon.scratch().join("once").to_str().unwrap());
    drop_web(&mut daemon, &vcenter);
    let remote = loaded_by(&daemon, &content, 2);
    assert_eq!(fs::read(daemon.scratch().join("once")).unwrap(), b"x", "nobody died there");
    assert_eq!(remote["transport"], "nfc", "{remote}");
    assert!(remote["ways"][0]["left"].as_str().unwrap().contains("403"), "{remote}");
    let asked = vcenter.requests();
    let begun = asked.iter().position(|request| request.call == "ExportVm").unwrap();
    let again = asked[begun..].iter().find(|request| request.path.starts_with("/folder/"));
    assert!(again.is_none(), "the first way was tried once more: {again:?}");
}

#[test]
fn a_worker_that_is_killed_on_the_second_way_is_followed_by_one_that_goes_on_there_or_begins_anew() {
    for (refused, transport) in [(1000, "nfc"), (1, "https")] {
        let (mut daemon, vcenter, content) = site_with(|options| options.with("lease_timeout", 3));
        vcenter.fault(
            &json!({ "on": "folder", "named": "web", "times": refused, "kind": "status", "status": 405 }),
        );
        daemon.env("HYPER2KVM_FAILPOINT", "copy.after-journal");
        daemon.env("HYPER2KVM_FAILPOINT_ONCE", daemon.scratch().join("once").to_str().unwrap());
        drop_web(&mut daemon, &vcenter);
        let remote = loaded_by(&daemon, &content, 2);
        assert_eq!(fs::read(daemon.scratch().join("once")).unwrap(), b"x", "nobody died there");
        assert_eq!(remote["transport"], transport, "{remote}");
        let report = fs::read_to_string(daemon.state().join("output/web/web/report.json")).unwrap();
        assert_eq!(report.contains("\"kept_bytes\""), transport == "nfc", "{report}");
    }
}

/// What `convert` ends with.
fn convert(daemon: &Daemon, vcenter: &Vcenter, further: &str) -> Value {
    let (manifest, port) = (daemon.scratch().join("one.yaml"), vcenter.port());
    let text = format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web{further}}}\n"
    );
    fs::write(&manifest, text).unwrap();
    let (out, config) = (daemon.scratch().join("out"), daemon.config());
    let arguments = [
        "convert",
        manifest.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    let output = daemon.run_client(&arguments);
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let told = String::from_utf8_lossy(text).into_owned();
    let begin = told.find('{').unwrap_or_else(|| panic!("{told}"));
    serde_json::from_str(&told[begin..]).unwrap()
}

#[test]
fn neither_a_network_that_fails_nor_a_way_that_was_asked_for_is_left() {
    let (daemon, vcenter, _) = site();
    refuse_files(&vcenter, &status(405), 0);
    let error = convert(&daemon, &vcenter, ", transport: https");
    assert!(error["kind"] == "source" && error.to_string().contains("405"), "{error}");
    vcenter.calm();
    refuse_files(&vcenter, &status(503), 3);
    let error = convert(&daemon, &vcenter, "");
    assert_eq!(error["kind"], "network", "{error}");
    assert_eq!(calls(&vcenter, "ExportVm"), 0);
}

#[test]
fn a_plan_says_by_which_way_and_why_not_by_the_others() {
    let (daemon, vcenter, _) = site();
    let plan = |vm: &str, format: &[&str]| {
        let input = format!("vsphere://vc:{}/{vm}", vcenter.port());
        let config = daemon.config();
        let arguments = [&["plan", &input, "--config", config.to_str().unwrap()], format].concat();
        daemon.run_client(&arguments).stdout
    };
    let told: Value = serde_json::from_slice(&plan("web", &[])).unwrap();
    let remote = &told["plans"][0]["remote"];
    assert_eq!(remote["transport"], "auto", "{remote}");
    assert!(remote["ways"][0].get("left").is_none(), "{remote}");
    let told: Value = serde_json::from_slice(&plan("kept", &[])).unwrap();
    let remote = &told["plans"][0]["remote"];
    assert_eq!(remote["ways"][0]["left"], "the VM has snapshots", "{remote}");
    assert!(remote["ways"][1].get("left").is_none(), "{remote}");
    assert!(remote["ways"][3]["left"].as_str().unwrap().contains("not configured"), "{remote}");
}
