//! An account that lacks privileges: each missing one is named, nothing is tried twice, and who gives it has the job go on.

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

fn site() -> (Daemon, Vcenter) {
    let daemon = prepared("");
    let content = disks::disk(daemon.scratch(), "system", "raw", 8, 2, 1);
    let machine = json!({ "name": "web", "disks": [disk(&content)] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    store(&daemon, &vcenter, PASSWORD);
    (daemon, vcenter)
}

/// `vsphere …`: its exit code, and what it says.
fn asks(daemon: &Daemon, vcenter: &Vcenter, arguments: &[&str]) -> (Option<i32>, Value) {
    let (config, port) = (daemon.config(), vcenter.port().to_string());
    let before = ["vsphere", "--config", config.to_str().unwrap(), "--credential", "vc", "--port", &port];
    let done = daemon.run_client(&[&before, arguments].concat());
    let text = if done.stdout.is_empty() { &done.stderr } else { &done.stdout };
    let told = String::from_utf8_lossy(text);
    let begin = told.find('{').unwrap_or_else(|| panic!("{arguments:?}: {told}"));
    (done.status.code(), serde_json::from_str(&told[begin..]).unwrap())
}

/// The job waits until its account has this privilege.
#[track_caller]
pub fn waits_for(daemon: &Daemon, privilege: &str) {
    let job = wait_for("the job to wait for the privilege", || {
        let job = daemon.client(&["list"])["jobs"][0].clone();
        (job["waiting_reason"] == "auth").then_some(job)
    });
    assert!(job["waiting_detail"].as_str().unwrap().contains(privilege), "{job}");
}

#[test]
fn check_names_every_privilege_that_is_missing() {
    let (daemon, vcenter) = site();
    let (code, all) = asks(&daemon, &vcenter, &["check", "web"]);
    assert_eq!((code, &all["ok"]), (Some(0), &json!(true)), "{all}");
    let every: Vec<&str> =
        all["checks"].as_array().unwrap().iter().map(|check| check["privilege"].as_str().unwrap()).collect();
    assert!(every.contains(&"VApp.Export") && every.contains(&"Datastore.FileManagement"), "{every:?}");
    for missing in every.iter().map(|one| vec![*one]).chain([every.clone()]) {
        vcenter.lacks(&missing);
        let (code, told) = asks(&daemon, &vcenter, &["check", "web"]);
        assert_eq!(code, Some(1), "{told}");
        let checks = told["checks"].as_array().unwrap();
        let named = checks.iter().filter(|check| check["granted"] == false);
        let named: Vec<&str> = named.map(|check| check["privilege"].as_str().unwrap()).collect();
        assert_eq!(named, missing);
    }
}

#[test]
fn a_command_that_is_refused_says_which_privilege_and_on_what() {
    let (daemon, vcenter) = site();
    for (privilege, arguments) in [
        ("VirtualMachine.State.CreateSnapshot", &["snapshot", "create", "web", "first"][..]),
        ("VApp.Export", &["export", "web", "-o", "/nowhere"]),
        ("Datastore.Browse", &["datastore-ls", "[ds1] web"]),
    ] {
        vcenter.lacks(&[privilege]);
        let (code, error) = asks(&daemon, &vcenter, arguments);
        assert_eq!((code, &error["kind"]), (Some(1), &json!("auth")), "{error}");
        assert!(error["error"].as_str().unwrap().contains(privilege), "{error}");
        assert!(error["suggestion"].as_str().unwrap().contains("vsphere check"), "{error}");
    }
}

#[test]
fn a_job_that_lacks_a_privilege_waits_for_it_and_asks_nobody_twice() {
    let (mut daemon, vcenter) = site();
    // Without the second one it would be exported.
    vcenter.lacks(&["Datastore.FileManagement", "VApp.Export"]);
    daemon.start();
    daemon.drop_file(
        "web.yaml",
        format!(
            "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web}}\n",
            vcenter.port()
        ),
    );
    waits_for(&daemon, "Datastore.FileManagement");
    let refused = || vcenter.requests().iter().filter(|request| request.status == 403).count();
    let asked = refused();
    assert_eq!(asked, 1);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(refused(), asked);
    assert_eq!(vcenter.sessions(), 0, "whoever waits is not logged in");

    let input = format!("vsphere://vc:{}/web", vcenter.port());
    let (config, out) = (daemon.config(), daemon.scratch().join("out"));
    let (config, out) = (config.to_str().unwrap(), out.to_str().unwrap());
    let done = daemon.run_client(&["convert", &input, "-o", out, "--profile", "none", "--config", config]);
    let told = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{told}");
    assert!(told.contains("\"kind\":\"auth\"") || told.contains("\"kind\": \"auth\""), "{told}");

    vcenter.lacks(&[]);
    daemon.client(&["retry", "web"]);
    assert_eq!(daemon.wait_batch("web")["state"], "completed", "{}", daemon.log());
}
