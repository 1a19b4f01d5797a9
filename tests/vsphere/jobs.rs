//! VMs of a vCenter as the sources of jobs: who is asked when, what of them is refused, and logins that do not work.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

/// Where a vCenter's VM has these files as disks: `web` is off, `busy` runs.
fn vcenter(daemon: &Daemon) -> (Vcenter, PathBuf) {
    let content = disks::disk(daemon.scratch(), "system", "raw", 8, 2, 1);
    let options = Options::vcenter()
        .machine(json!({ "name": "web", "disks": [disk(&content), { "capacity": 4 << 20 }] }))
        .machine(json!({ "name": "busy", "on": true, "disks": [{ "capacity": 4 << 20 }] }));
    (Vcenter::start(options), content)
}

pub fn prepared(further: &str) -> Daemon {
    let daemon = Daemon::prepare();
    let credentials = daemon.scratch().join("credentials");
    fs::create_dir(&credentials).unwrap();
    daemon.configure(&format!(
        "credentials: {{dir: {}}}\nvc_connection_max_retries: 0\n{further}",
        credentials.display()
    ));
    daemon
}

/// Stores the login of a vCenter as `vc`.
pub fn store(daemon: &Daemon, vcenter: &Vcenter, password: &str) {
    store_for(daemon, vcenter, "127.0.0.1", password);
}

/// The same, at another address.
pub fn store_for(daemon: &Daemon, vcenter: &Vcenter, host: &str, password: &str) {
    let login = json!({
        "host": host, "username": USER, "password": password, "thumbprint": vcenter.thumbprint(),
    });
    let file = daemon.scratch().join("credentials/vc.yaml");
    fs::write(&file, login.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn manifest(vcenter: &Vcenter, vm: &str) -> String {
    format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: {vm}}}\n",
        vcenter.port()
    )
}

fn logins(vcenter: &Vcenter) -> usize {
    vcenter.requests().iter().filter(|request| request.call == "Login").count()
}

#[test]
fn a_dropped_vm_of_a_vcenter_becomes_a_result_that_holds_what_it_holds() {
    let mut daemon = prepared("");
    let (vcenter, content) = vcenter(&daemon);
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "web"));
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    assert_eq!(progress["vms"]["web"]["attempt"], 1, "to be asked is no attempt: {progress}");
    let results = daemon.state().join("output/web/web");
    let result = results.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
    assert!(results.join("disk-1.qcow2").exists());
    let report: Value = serde_json::from_slice(&fs::read(results.join("report.json")).unwrap()).unwrap();
    let load = &report["pipeline"]["stages"]["load"];
    assert!(load.to_string().contains("\"transport\":\"https\""), "{report}");
    let written = fs::read_to_string(results.join("domain.xml")).unwrap();
    assert!(written.contains("<name>web</name>"), "{written}");
    for file in Daemon::files_below(daemon.state(), |_| true) {
        let bytes = fs::read(&file).unwrap_or_default();
        let is_in = bytes.windows(PASSWORD.len()).any(|here| here == PASSWORD.as_bytes());
        assert!(!is_in, "{} holds the password", file.display());
    }
}

#[test]
fn one_refused_login_holds_all_jobs_that_have_it_until_it_is_mended() {
    let mut daemon = prepared("max_concurrent_jobs: 3\n");
    let (vcenter, _) = vcenter(&daemon);
    store(&daemon, &vcenter, "wrong");
    daemon.start();
    for name in ["a", "b", "c"] {
        daemon.drop_file(&format!("{name}.yaml"), format!("name: {name}\n{}", manifest(&vcenter, "web")));
    }
    let waiting = |name: &str| {
        let progress = daemon.progress(name)?;
        (progress["waiting_reason"] == "auth").then_some(())
    };
    for name in ["a", "b", "c"] {
        wait_for("the job to wait for its login", || waiting(name));
    }
    assert_eq!(logins(&vcenter), 1, "one refusal is enough: {:?}", vcenter.requests());
    // Whoever says that it was mended has one job try it; it was not, and no other does.
    daemon.client(&["retry", "a"]);
    wait_for("the login to be tried once more", || (logins(&vcenter) == 2).then_some(()));
    wait_for("the job to wait again", || waiting("a"));
    assert_eq!(logins(&vcenter), 2);
    let details = daemon.client(&["show", "b/b"]);
    assert!(details["waiting_detail"].as_str().unwrap().contains("login"), "{details}");
    store(&daemon, &vcenter, PASSWORD);
    for name in ["a", "b", "c"] {
        let progress = daemon.wait_batch(name);
        assert_eq!(progress["state"], "completed", "{progress}");
    }
}

#[test]
fn a_vm_that_runs_is_refused_and_can_be_converted_when_it_is_off() {
    let mut daemon = prepared("");
    let (vcenter, _) = vcenter(&daemon);
    store(&daemon, &vcenter, PASSWORD);
    daemon.start();
    daemon.drop_file("busy.yaml", manifest(&vcenter, "busy"));
    let error = daemon.wait_settled("failed", "busy.yaml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(error).unwrap()).unwrap();
    assert_eq!((&error["kind"], &error["stage"]), (&json!("source"), &json!("load")), "{error}");
    assert!(error["error"].as_str().unwrap().contains("power is on"), "{error}");
    assert!(!daemon.state().join("output/busy/busy/disk-0.qcow2").exists());
    daemon.drop_file("none.yaml", manifest(&vcenter, "no-such-vm"));
    let error = daemon.wait_settled("failed", "none.yaml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(error).unwrap()).unwrap();
    assert_eq!((&error["kind"], &error["attempts"]), (&json!("source"), &json!(1)), "{error}");
}

#[test]
fn commands_ask_at_once_and_show_the_whole_plan() {
    let daemon = prepared("");
    let (vcenter, content) = vcenter(&daemon);
    store(&daemon, &vcenter, PASSWORD);
    let input = format!("vsphere://vc:{}/web", vcenter.port());
    let plan = daemon.client(&["plan", &input, "--config", daemon.config().to_str().unwrap()]);
    let disks_of: Vec<&str> = plan["plans"][0]["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["id"].as_str().unwrap())
        .collect();
    assert_eq!(disks_of, ["disk-0", "disk-1"], "{plan}");
    assert_eq!(plan["plans"][0]["remote"]["found"]["host"], "127.0.0.1");
    assert!(plan["plans"][0]["remote"]["draft"].is_null());
    let out = daemon.scratch().join("out");
    let converted = daemon.client(&[
        "convert",
        &input,
        "-o",
        out.to_str().unwrap(),
        "--profile",
        "none",
        "--config",
        daemon.config().to_str().unwrap(),
    ]);
    assert_eq!(converted["pipeline"]["success"], true, "{converted}");
    let result = out.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
    let written = daemon.client(&["manifest", &input, "--config", daemon.config().to_str().unwrap()]);
    assert_eq!(written["manifests"][0]["source"]["vsphere"]["vm_name"], "web", "{written}");
    assert!(written["manifests"][0].get("disks").is_none(), "{written}");
}
