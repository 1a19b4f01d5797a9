//! Sources that run: shut down when all else is ready, started again when nothing comes of it, changed when all is done, and given back.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const ALLOWED: &str = "sources: {allow_shutdown: true}\n";
const MIB: u64 = 1 << 20;

/// A service whose vCenter has a machine `web` that runs, with what more is said of it.
fn site(settings: &str, machine: &Value) -> (Daemon, Vcenter, PathBuf) {
    let daemon = prepared(settings);
    let content = disks::disk(daemon.scratch(), "system", "raw", 16, 16, 1);
    let mut web = json!({
        "name": "web", "on": true, "shutdown_ms": 300, "notes": "of the shop", "autostart": true, "nics": [{}],
        "disks": [disk(&content)],
    });
    for (member, value) in machine.as_object().unwrap() {
        web[member] = value.clone();
    }
    let vcenter = Vcenter::start(Options::vcenter().machine(web));
    store(&daemon, &vcenter, PASSWORD);
    (daemon, vcenter, content)
}

fn manifest(vcenter: &Vcenter, further: &str) -> String {
    format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web, \
         power: shutdown{further}}}\n",
        vcenter.port()
    )
}

fn asked(vcenter: &Vcenter, call: &str) -> usize {
    vcenter.requests().iter().filter(|request| request.call == call).count()
}

fn error_of(daemon: &Daemon) -> Value {
    let error = daemon.wait_settled("failed", "web.yaml.error.json");
    serde_json::from_slice(&fs::read(error).unwrap()).unwrap()
}

fn report_of(daemon: &Daemon) -> Value {
    let report = daemon.state().join("output/web/web/report.json");
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

#[track_caller]
fn completed(daemon: &Daemon) -> Value {
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    progress
}

fn runs(vcenter: &Vcenter, vm: &str) -> bool {
    vcenter.look(vm)["power"] == "poweredOn"
}

#[test]
fn a_source_is_shut_down_before_its_first_byte_and_stays_off_when_its_result_is_there() {
    let (mut daemon, vcenter, content) = site(ALLOWED, &json!({}));
    let file = daemon.scratch().join("web.yaml");
    fs::write(&file, manifest(&vcenter, "")).unwrap();
    let config = daemon.config();
    let plan = std::process::Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
        .args(["plan", file.to_str().unwrap(), "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("the source is SHUT DOWN before it is copied"), "{plan}");
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, ""));
    assert_eq!(completed(&daemon)["vms"]["web"]["attempt"], 1);
    let result = daemon.state().join("output/web/web/disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
    assert!(!runs(&vcenter, "web"));
    let requests = vcenter.requests();
    let shut = requests.iter().position(|request| request.call == "ShutdownGuest").unwrap();
    let read = requests.iter().position(|request| request.path.ends_with("-flat.vmdk")).unwrap();
    assert!(shut < read, "{requests:?}");
    for never in ["PowerOffVM_Task", "PowerOnVM_Task"] {
        assert_eq!(asked(&vcenter, never), 0);
    }
    let report = report_of(&daemon);
    let acts = &report["acts"];
    assert_eq!((&acts[0]["act"], &acts[0]["state"]), (&json!("shut_down"), &json!("done")), "{acts}");
    assert_eq!(acts[0]["forced"], false);
}

#[test]
fn without_the_hosts_consent_nobody_is_even_asked() {
    let (mut daemon, vcenter, _) = site("", &json!({}));
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, ""));
    let error = error_of(&daemon);
    assert_eq!(
        (&error["kind"], &error["field"]),
        (&json!("manifest"), &json!("source.vsphere.power")),
        "{error}"
    );
    assert!(error["suggestion"].as_str().unwrap().contains("sources.allow_shutdown: true"), "{error}");
    assert!(vcenter.requests().is_empty() && runs(&vcenter, "web"));
}

#[test]
fn a_job_that_fails_for_good_starts_its_source_again_and_one_that_is_tried_again_does_not() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    daemon.start();
    // No range is answered: that is the end where no other way is open.
    vcenter.fault(&json!({ "on": "folder", "named": "-flat", "times": 1000, "kind": "whole" }));
    daemon.drop_file("web.yaml", manifest(&vcenter, ", transport: https"));
    let error = error_of(&daemon);
    assert_eq!(error["stage"], "load", "{error}");
    assert!(asked(&vcenter, "ShutdownGuest") == 1 && asked(&vcenter, "PowerOnVM_Task") == 1, "{error}");
    assert!(runs(&vcenter, "web"));
    // What passes is tried again, with the source off.
    vcenter.calm();
    vcenter.fault(&json!({ "on": "folder", "named": "-flat", "times": 2, "skip": 3, "kind": "truncated" }));
    daemon.client(&["retry", "web"]);
    wait_for("it to be tried again", || (daemon.progress("web")?["state"] != "failed").then_some(()));
    let progress = completed(&daemon);
    assert!(progress["vms"]["web"]["attempt"].as_u64().unwrap() > 2, "{progress}");
    assert_eq!((asked(&vcenter, "ShutdownGuest"), asked(&vcenter, "PowerOnVM_Task")), (2, 1));
    assert!(!runs(&vcenter, "web"));
}

/// A copy begins, and everybody who has a part in it is killed; its job is not begun again by itself.
fn dies_in_mid_copy(daemon: &mut Daemon, vcenter: &Vcenter) {
    vcenter.throttle(MIB);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(vcenter, ""));
    wait_for("the copy to begin", || (vcenter.sent_of("-flat") > MIB).then_some(()));
    daemon.client(&["pause"]);
    daemon.kill9();
}

#[test]
fn what_a_killed_worker_has_shut_down_is_started_when_its_job_is_cancelled() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    dies_in_mid_copy(&mut daemon, &vcenter);
    daemon.start();
    assert!(!runs(&vcenter, "web"));
    daemon.client(&["cancel", "web"]);
    wait_for("the source to be started", || runs(&vcenter, "web").then_some(()));
    assert_eq!(asked(&vcenter, "PowerOnVM_Task"), 1);
    // Whoever died on the way down has it up again, too.
    vcenter.power(&json!({ "vm": "web", "shutdown_ms": 4000 }));
    daemon.client(&["resume"]);
    daemon.drop_file("again.yaml", format!("name: again\n{}", manifest(&vcenter, "")));
    wait_for("it to be asked", || (asked(&vcenter, "ShutdownGuest") == 2).then_some(()));
    daemon.client(&["cancel", "again"]);
    wait_for("the source to be started", || (asked(&vcenter, "PowerOnVM_Task") == 2).then_some(()));
    assert!(runs(&vcenter, "web"));
}

#[test]
fn a_guest_that_does_not_shut_down_is_refused_or_switched_off_by_name() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({ "deaf": true }));
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, ", shutdown_timeout_s: 1"));
    let error = error_of(&daemon);
    assert!(error["error"].as_str().unwrap().contains("has not shut down within 1 s"), "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("force_off: true"), "{error}");
    assert!(runs(&vcenter, "web") && asked(&vcenter, "PowerOffVM_Task") == 0);

    vcenter.power(&json!({ "vm": "web", "no_tools": true }));
    daemon.drop_file("web2.yaml", format!("name: web2\n{}", manifest(&vcenter, ", force_off: true")));
    let progress = daemon.wait_batch("web2");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    assert_eq!(asked(&vcenter, "PowerOffVM_Task"), 1);
    let report = daemon.state().join("output/web2/web2/report.json");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["acts"][0]["forced"], true, "{report}");
    assert!(report["warnings"].to_string().contains("was CUT"), "{report}");
}

#[test]
fn a_machine_without_tools_is_not_asked_what_it_cannot_hear() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({ "no_tools": true }));
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, ""));
    let error = error_of(&daemon);
    assert!(error["error"].as_str().unwrap().contains("VMware's tools do not run"), "{error}");
    assert!(runs(&vcenter, "web") && asked(&vcenter, "ShutdownGuest") == 0);
}

#[test]
fn a_source_is_not_shut_down_outside_its_window() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    daemon.start();
    // Three days ahead, whatever day it is.
    let day = (std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        / 86_400
        + 3
        + 3)
        % 7;
    let day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][usize::try_from(day).unwrap()];
    let batch = json!({
        "batch_version": "1.0",
        "batch_metadata": {
            "batch_id": "web", "window": { "open": format!("{day} 10:00"), "close": format!("{day} 11:00"), "gates": ["shutdown"] },
        },
        "vms": [{ "id": "web", "manifest": { "profile": "none", "source": { "vsphere": {
            "credential": "vc", "port": vcenter.port(), "vm_name": "web", "power": "shutdown" } } } }],
    });
    daemon.drop_file("web.json", batch.to_string());
    let detail = wait_for("the job to wait", || {
        let progress = daemon.progress("web")?;
        (progress["waiting_reason"] == "window").then_some(progress)
    });
    assert_eq!(detail["vms"]["web"]["attempt"], 0, "{detail}");
    assert!(runs(&vcenter, "web") && asked(&vcenter, "ShutdownGuest") == 0);
}

#[test]
fn a_source_that_has_moved_gives_way_and_is_given_back_as_it_was() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    daemon.start();
    let after =
        ", after: {disconnect_nics: true, annotate: true, disable_autostart: true, rename_suffix: -migrated}";
    let before = vcenter.look("web");
    assert_eq!(
        (&before["autostart"], &before["cards"][0]["starts"]),
        (&json!("powerOn"), &json!(true)),
        "{before}"
    );
    daemon.drop_file("web.yaml", manifest(&vcenter, after));
    completed(&daemon);
    let moved = vcenter.look("web-migrated");
    let notes = moved["notes"].as_str().unwrap();
    assert!(
        notes.starts_with("of the shop\nhyper2kvm: moved ") && notes.contains("by web/web (job 1)"),
        "{notes}"
    );
    assert_eq!(
        (&moved["autostart"], &moved["cards"][0]["starts"]),
        (&json!("none"), &json!(false)),
        "{moved}"
    );
    let report = report_of(&daemon);
    let done: Vec<&str> =
        report["acts"].as_array().unwrap().iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(
        done,
        ["shut_down", "annotated", "nics_disconnected", "autostart_disabled", "renamed"],
        "{report}"
    );
    assert!(report["acts"].as_array().unwrap().iter().all(|act| act["state"] == "done"), "{report}");

    let planned = daemon.client(&["rollback", "web", "--dry-run"]);
    assert_eq!(
        (&planned["done"], planned["steps"].as_array().unwrap().len()),
        (&json!(false), 5),
        "{planned}"
    );
    assert_eq!(planned["steps"][0], "the source is called web again, and not web-migrated");
    assert_eq!(planned["steps"][4], "the source is started");
    let unsaid = daemon.run_client(&["rollback", "web"]);
    assert_eq!(unsaid.status.code(), Some(2), "nobody has said that it is meant");
    assert!(!runs(&vcenter, "web-migrated"));

    let done = daemon.client(&["rollback", "web", "--yes"]);
    assert_eq!(done["done"], true, "{done}\n{}", daemon.log());
    let again = vcenter.look("web");
    for member in ["notes", "autostart", "cards", "power"] {
        assert_eq!(again[member], before[member], "{member}: {again}");
    }
    assert_eq!(daemon.client(&["rollback", "web", "--yes"])["done"], true, "once more is no harm");
    assert_eq!(asked(&vcenter, "PowerOnVM_Task"), 1);
}

#[test]
fn a_rollback_that_was_asked_for_survives_a_server_that_is_away_and_a_kill() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, ", after: {annotate: true}"));
    completed(&daemon);
    vcenter.fault(
        &json!({ "on": "sdk", "named": "PowerOnVM_Task", "times": 1000, "kind": "status", "status": 403 }),
    );
    let failed = daemon.run_client(&["rollback", "web", "--yes"]);
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(failed.status.code() == Some(1) && told.contains("not given back yet"), "{told}");
    daemon.kill9();
    vcenter.calm();
    daemon.start();
    wait_for("the source to be started", || runs(&vcenter, "web").then_some(()));
    assert_eq!(vcenter.look("web")["notes"], "of the shop");
}

#[test]
fn a_change_that_cannot_be_made_is_a_warning_and_made_later() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    daemon.start();
    vcenter.fault(
        &json!({ "on": "sdk", "named": "ReconfigVM_Task", "times": 1, "kind": "status", "status": 403 }),
    );
    daemon.drop_file("web.yaml", manifest(&vcenter, ", after: {annotate: true}"));
    completed(&daemon);
    let report = report_of(&daemon);
    assert!(
        report["warnings"].to_string().contains("the source was not changed as it was to be"),
        "{report}"
    );
    wait_for("it to be noted", || {
        vcenter.look("web")["notes"].as_str().unwrap().contains("hyper2kvm: moved").then_some(())
    });
    assert!(!runs(&vcenter, "web"));
}

#[test]
fn what_cannot_be_given_back_is_told_with_what_to_do() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({ "on": false }));
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, ""));
    completed(&daemon);
    assert_eq!(asked(&vcenter, "ShutdownGuest"), 0);
    let code = |target: &str| {
        let done = daemon.run_client(&["rollback", target, "--yes"]);
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (refused, why) = code("web");
    assert!(refused == Some(1) && why.contains("nothing was done at its source"), "{why}");
    assert_eq!(code("nobody").0, Some(5));
    vcenter.power(&json!({ "vm": "web", "on": true }));
    vcenter.throttle(MIB / 4);
    daemon.drop_file("slow.yaml", format!("name: slow\n{}", manifest(&vcenter, "")));
    wait_for("it to run", || (asked(&vcenter, "ShutdownGuest") == 1).then_some(()));
    let (refused, why) = code("slow");
    assert!(refused == Some(1) && why.contains("it has not ended"), "{why}");
}

#[test]
fn a_source_that_runs_again_at_the_end_is_not_changed_as_if_it_had_moved() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({ "on": false }));
    let hold = daemon.scratch().join("hold");
    fs::write(&hold, "").unwrap();
    // The first that is written down is what `after` wants.
    daemon.env("HYPER2KVM_FAILPOINT", "acts.intended");
    daemon.env("HYPER2KVM_FAILPOINT_HOLD", hold.to_str().unwrap());
    daemon.start();
    daemon.drop_file(
        "web.yaml",
        manifest(&vcenter, ", after: {annotate: true, disconnect_nics: true, rename_suffix: -migrated}"),
    );
    wait_for("all else to be done", || {
        Daemon::files_below(daemon.state(), |name| name == "disk-0.qcow2").pop()
    });
    let before = vcenter.look("web");
    vcenter.power(&json!({ "vm": "web", "on": true }));
    fs::remove_file(hold).unwrap();
    completed(&daemon);
    let after = vcenter.look("web");
    assert!(after["notes"] == before["notes"] && after["cards"] == before["cards"], "{after}");
    let report = report_of(&daemon);
    assert!(report["warnings"].to_string().contains("runs again since it was copied"), "{report}");
    assert!(report["acts"].as_array().unwrap().iter().all(|act| act["state"] == "undone"), "{report}");
    assert!(runs(&vcenter, "web") && asked(&vcenter, "PowerOffVM_Task") == 0);
}

#[test]
fn what_was_done_at_a_machine_that_is_there_no_more_is_gone_with_it_and_not_tried_for_ever() {
    let (mut daemon, vcenter, _) = site(ALLOWED, &json!({}));
    dies_in_mid_copy(&mut daemon, &vcenter);
    vcenter.gone("web");
    daemon.start();
    daemon.client(&["cancel", "web"]);
    wait_for("its source to be settled, and that to be told", || {
        let shown = daemon.client(&["show", "web"]);
        let is_told = shown["events"].to_string().contains("is not there any more");
        (shown["acts"][0]["state"] == "gone" && is_told).then_some(())
    });
    assert_eq!(asked(&vcenter, "PowerOnVM_Task"), 0);
    let refused = daemon.run_client(&["rollback", "web", "--yes"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && why.contains("not there any more"), "{why}");
    // Nobody asks for it again, not even a service that was started anew.
    daemon.stop();
    let before = vcenter.requests().len();
    daemon.start();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(vcenter.requests().len(), before, "{}", daemon.log());
}
