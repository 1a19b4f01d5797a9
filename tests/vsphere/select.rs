//! Batches that select machines of a vCenter: asked for when they run, or at once by whoever wants to know beforehand.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter};
use crate::support::{Daemon, wait_for};

/// A vCenter with some machines that are off, one that runs, and one that is somewhere else.
fn vcenter(daemon: &Daemon) -> Vcenter {
    let machine = |name: &str, folder: &str, on: bool| json!({ "name": name, "folder": folder, "on": on, "disks": [{ "capacity": 4 << 20 }] });
    let options = Options::vcenter()
        .machine(machine("web-1", "prod", false))
        .machine(machine("web 2", "prod", false))
        .machine(machine("web-busy", "prod", true))
        .machine(machine("db", "prod", false))
        .machine(json!({ "name": "web-old", "folder": "test", "tags": ["env:test", "wave:one"] }))
        .machine(json!({ "name": "mail", "folder": "test", "tags": ["env:test", "wave:two"] }))
        .machine(json!({ "name": "dns", "folder": "test", "tags": ["env:prod", "wave:one"] }));
    let vcenter = Vcenter::start(options);
    store(daemon, &vcenter, PASSWORD);
    vcenter
}

fn batch(vcenter: &Vcenter, select: &str) -> String {
    let port = vcenter.port();
    format!(
        "batch_version: \"1.0\"\nshared_config: {{profile: none}}\nvms:\n  - {{id: db, manifest: {{source: {{vsphere: {{credential: vc, port: {port}, vm_name: db}}}}}}}}\n  - {{select: {{{select}}}, manifest: {{source: {{vsphere: {{credential: vc, port: {port}}}}}}}}}\n"
    )
}

const WEB: &str = "folder: prod, names: [\"web*\", \"prod/d?\"], power: off";

fn states(progress: &Value) -> Vec<(String, String)> {
    let vms = progress["vms"].as_object().unwrap().iter();
    vms.map(|(id, vm)| (id.clone(), vm["state"].as_str().unwrap().to_owned())).collect()
}

fn written(daemon: &Daemon, text: &str) -> PathBuf {
    let file = daemon.scratch().join("weekend.yaml");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_batch_asks_for_its_machines_when_it_runs_and_each_becomes_a_job_of_it() {
    let mut daemon = prepared("");
    let vcenter = vcenter(&daemon);
    daemon.start();
    daemon.drop_file("weekend.yaml", batch(&vcenter, WEB));
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    let told = |vm: &str, state: &str| (vm.to_owned(), state.to_owned());
    let mut found = states(&progress);
    found.sort();
    let expected = [
        told("db", "succeeded"),
        told("select_1", "skipped"),
        told("web-1", "succeeded"),
        told("web-2", "succeeded"),
    ];
    assert_eq!(found, expected, "{progress:#}");
    for vm in ["db", "web-1", "web-2"] {
        let results = daemon.state().join("output/weekend").join(vm);
        assert!(results.join("disk-0.qcow2").exists() && results.join("report.json").exists(), "{vm}");
    }
    let shown = daemon.client(&["show", "weekend/select_1"]).to_string();
    assert!(shown.contains("it stands for 3 machines: db, web-2, web-1"), "{shown}");
    daemon.wait_settled("processed", "weekend.yaml.report.json");
}

#[test]
fn another_host_that_takes_a_batch_over_leaves_out_the_machines_that_the_first_has_made() {
    let shared = tempfile::tempdir().unwrap();
    let output = shared.path().join("output");
    let host =
        || prepared(&format!("output_dir: {}\nretry: {{base_delay_s: 2, jitter: 0}}\n", output.display()));
    let (mut one, mut two) = (host(), host());
    let vcenter = vcenter(&one);
    store(&two, &vcenter, PASSWORD);
    let file = written(&one, &batch(&vcenter, "folder: prod, names: [\"web*\"]"));
    let file = file.to_str().unwrap();
    one.start();
    let done = one.run_client(&["submit", file, "--wait"]);
    assert!(!done.status.success() && one.wait_batch("weekend")["state"] == "failed", "web-busy runs");
    let lock = output.join("weekend/.hyper2kvm-lock");
    wait_for("the first host to give it up", || (!lock.exists()).then_some(()));
    vcenter.power(&json!({ "vm": "web-busy", "on": false }));
    let before = vcenter.sent_of("web 2/");
    // It can be asked late which machines are meant: by then what the second host has written of the batch lies where that of the first did.
    vcenter.fault(&json!({ "on": "sdk", "named": "RetrieveServiceContent", "times": 1, "kind": "status", "status": 503 }));
    two.start();
    let done = two.run_client(&["submit", file, "--takeover", "--wait"]);
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), two.log());
    let of = |vm: &str| two.client(&["show", &format!("weekend/{vm}")]);
    for vm in ["db", "web-1", "web-2"] {
        let shown = of(vm);
        assert_eq!(shown["state"], "skipped", "{shown:#}");
        assert!(shown["events"].to_string().contains("another host made this result"), "{shown:#}");
    }
    assert_eq!(of("web-busy")["state"], "succeeded");
    assert_eq!(vcenter.sent_of("web 2/"), before, "it was fetched again");
    assert!(output.join("weekend/web-busy/disk-0.qcow2").exists());
}

#[test]
fn what_is_not_there_fails_the_entry_alone_with_what_is_and_can_be_tried_again() {
    let mut daemon = prepared("");
    let vcenter = vcenter(&daemon);
    daemon.start();
    daemon.drop_file("weekend.yaml", batch(&vcenter, "names: [\"mail-*\"]"));
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["state"], "failed", "{progress:#}");
    let failed = &progress["vms"]["select_1"];
    assert_eq!((&progress["vms"]["db"]["state"], &failed["state"]), (&json!("succeeded"), &json!("failed")));
    let error: Value =
        serde_json::from_slice(&fs::read(daemon.wait_settled("failed", "weekend.yaml.error.json")).unwrap())
            .unwrap();
    assert_eq!(
        (&error["kind"], &error["field"]),
        (&json!("source"), &json!("vms[1].select.names[0]")),
        "{error}"
    );
    assert!(error.to_string().contains("/DC0/vm/prod/web-1"), "{error}");
    let logins = || vcenter.requests().iter().filter(|request| request.call == "Login").count();
    let before = logins();
    daemon.client(&["retry", "weekend", "--failed"]);
    wait_for("it to be asked again", || (logins() > before).then_some(()));
}

#[test]
fn commands_ask_at_once_and_list_what_is_selected() {
    let daemon = prepared("");
    let vcenter = vcenter(&daemon);
    let config = daemon.config().to_str().unwrap().to_owned();
    let file = written(&daemon, &batch(&vcenter, WEB));
    let file = file.to_str().unwrap();
    let plan = daemon.client(&["plan", file, "--config", &config]);
    let ids = |plans: &Value| -> Vec<String> {
        let ids = plans.as_array().unwrap().iter().map(|plan| plan["vm_id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    assert_eq!(ids(&plan["plans"]), ["db", "web-2", "web-1"], "{plan}");
    assert_eq!(plan["plans"][1]["disks"][0]["id"], "disk-0");
    assert_eq!(vcenter.sent_of("web 2/"), 0);
    let checked = daemon.client(&["validate", "--deep", file, "--config", &config]);
    assert_eq!(checked["inputs"][0]["ok"], true, "{checked}");
    assert!(vcenter.sent_of("web 2/") > 0, "its disk was not looked at");
    let out = daemon.scratch().join("out");
    daemon.client(&["convert", file, "-o", out.to_str().unwrap(), "--config", &config]);
    for vm in ["db", "web-1", "web-2"] {
        assert!(out.join(vm).join("disk-0.qcow2").exists(), "{vm}");
    }
    assert!(!out.join("select_1").exists());
}

#[test]
fn machines_are_selected_by_their_tags_and_a_tag_that_is_not_there_is_told_with_those_that_are() {
    let daemon = prepared("");
    let vcenter = vcenter(&daemon);
    let config = daemon.config().to_str().unwrap().to_owned();
    let planned = |select: &str| {
        let file = written(&daemon, &batch(&vcenter, select));
        Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
            .args(["plan", "--config", &config])
            .arg(file)
            .output()
            .unwrap()
    };
    for (select, expected) in [
        ("tags: [\"env:test\"]", "mail web-old"),
        ("tags: [one]", "dns web-old"),
        ("tags: [\"env:*\", \"wave:one\"]", "dns web-old"),
        ("tags: [test, one], names: [\"w*\"]", "web-old"),
    ] {
        let done = planned(select);
        // They have no disks, which is told of each: they were found.
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        for vm in ["mail", "web-old", "dns", "web-1"] {
            let is_told = told.contains(&format!("{vm}: "));
            assert_eq!(is_told, expected.split(' ').any(|name| name == vm), "{select} {vm}: {told}");
        }
    }
    let done = planned("tags: [one, three]");
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && told.contains("vms[1].select.tags[1]"), "{told}");
    assert!(told.contains("no tag `three`") && told.contains("wave:two"), "{told}");
    let ended = |request: &&crate::support::vcenter::Request| request.method == "DELETE";
    let (begun, over) = (vcenter.requests(), vcenter.requests().iter().filter(ended).count());
    let begun = begun.iter().filter(|request| request.method == "POST" && request.path.ends_with("/session"));
    assert_eq!((begun.count(), over), (5, 5), "a session was left");
}

#[test]
fn selected_machines_are_copied_while_they_run_and_cut_over_by_the_name_of_their_batch() {
    let mut daemon = prepared("sources: {allow_shutdown: true}\n");
    let machine = |name: &str| json!({ "name": name, "on": true, "disks": [{ "capacity": 4 << 20 }] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine("web-1")).machine(machine("web-2")));
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    let port = vcenter.port();
    let batch = format!(
        "batch_version: \"1.0\"\nshared_config: {{profile: none}}\nvms:\n  - {{select: {{names: [\"web-*\"]}}, manifest: {{source: {{vsphere: {{credential: vc, port: {port}, mode: warm, power: shutdown, warm: {{interval_s: 600}}}}}}}}}}\n"
    );
    daemon.drop_file("weekend.yaml", batch);
    let between = |vm: &str| {
        wait_for("its first pass", || {
            let vm = daemon.progress("weekend")?["vms"][vm].clone();
            (vm["waiting_reason"] == "cutover").then_some(vm)
        })
    };
    for vm in ["web-1", "web-2"] {
        let vm = between(vm);
        let ended =
            vm["passes"][0]["started_at"].as_f64().unwrap() + vm["passes"][0]["seconds"].as_f64().unwrap();
        let next = vm["next_pass_at"].as_f64().unwrap();
        assert!((ended + 599.0..ended + 601.0).contains(&next), "{vm}");
        assert_eq!(vm["passes"][0]["number"], 1, "{vm}");
    }
    let acted = daemon.client(&["cutover", "weekend"]);
    assert_eq!(acted["jobs"].as_array().map(Vec::len), Some(2), "{acted}");
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    for vm in ["web-1", "web-2"] {
        assert_eq!(progress["vms"][vm]["state"], "succeeded", "{progress:#}");
        assert!(progress["vms"][vm]["next_pass_at"].is_null(), "{progress:#}");
        assert!(daemon.state().join("output/weekend").join(vm).join("report.json").exists(), "{vm}");
    }
}
