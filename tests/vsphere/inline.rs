//! Passwords that a drop holds itself, where the configuration allows that: kept apart until the batch has ended, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::secrets::is_clean;
use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;

fn allowing(further: &str) -> Daemon {
    let daemon = Daemon::prepare();
    daemon
        .configure(&format!("credentials: {{allow_inline: true}}\nvc_connection_max_retries: 0\n{further}"));
    daemon
}

/// The source of a manifest, as JSON, which YAML is, too.
fn source(vcenter: &Vcenter, password: &str, further: &Value) -> Value {
    let mut vsphere = json!({
        "host": "127.0.0.1", "port": vcenter.port(), "thumbprint": vcenter.thumbprint(),
        "username": USER, "password": password,
    });
    vsphere.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    json!({ "vsphere": vsphere })
}

fn manifest(vcenter: &Vcenter, password: &str) -> String {
    let source = source(vcenter, password, &json!({ "vm_name": "web" }));
    json!({ "manifest_version": "1.0", "profile": "none", "source": source }).to_string()
}

/// The files in which passwords are kept.
fn kept(daemon: &Daemon) -> Vec<PathBuf> {
    Daemon::files_below(&daemon.state().join("passwords"), |_| true)
}

/// The password is where it is kept, in what was dropped, and in nothing else that the service has written.
#[track_caller]
fn is_only_kept(daemon: &Daemon) {
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in Daemon::files_below(daemon.state(), |name| !name.ends_with(".sock")) {
        let bytes = fs::read(&file).unwrap_or_default();
        if file.starts_with(daemon.state().join("passwords")) {
            assert_eq!(bytes, format!("{PASSWORD}\n").into_bytes());
            assert_eq!((mode(&file), mode(&file.parent().unwrap().to_owned())), (0o600, 0o700));
        } else if file.starts_with(daemon.state().join("processing")) {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        } else {
            is_clean(&file.display().to_string(), &bytes);
        }
    }
    is_clean("what the service prints", &fs::read(daemon.log_path()).unwrap());
}

#[test]
fn a_password_in_a_drop_is_kept_apart_through_a_kill_and_goes_with_its_batch() {
    let mut daemon = allowing("");
    let content = disks::disk(daemon.scratch(), "system", "raw", 16, 16, 1);
    let vcenter =
        Vcenter::start(Options::vcenter().machine(json!({ "name": "web", "disks": [disk(&content)] })));
    // Looking through everything takes a while.
    vcenter.throttle(MIB / 4);
    // As a service leaves it that dies before the job is recorded.
    let stray = daemon.state().join("passwords/ghost");
    fs::create_dir_all(&stray).unwrap();
    fs::write(stray.join("account"), PASSWORD).unwrap();
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, PASSWORD));
    wait_for("bytes to come", || (vcenter.sent_of("-flat") > MIB).then_some(()));
    assert_eq!(kept(&daemon).len(), 1);
    is_only_kept(&daemon);
    daemon.kill9();
    is_only_kept(&daemon);
    vcenter.throttle(0);
    daemon.start();
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    let result = daemon.state().join("output/web/web/disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
    daemon.wait_settled("processed", "web.yaml");
    wait_for("the password to go", || kept(&daemon).is_empty().then_some(()));
    is_only_kept(&daemon);
}

#[test]
fn one_that_is_refused_is_mended_by_another_drop_and_not_by_a_retry_without_it() {
    let mut daemon = allowing("");
    let vcenter = Vcenter::start(
        Options::vcenter().machine(json!({ "name": "web", "disks": [{ "capacity": 4 << 20 }] })),
    );
    let logins = || vcenter.requests().iter().filter(|request| request.call == "Login").count();
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "wrong"));
    wait_for("the job to wait for its login", || {
        (daemon.client(&["list"])["jobs"][0]["waiting_reason"] == "auth").then_some(())
    });
    daemon.client(&["cancel", "web"]);
    daemon.wait_settled("failed", "web.yaml");
    wait_for("the password to go", || kept(&daemon).is_empty().then_some(()));
    daemon.client(&["retry", "web"]);
    let told = wait_for("the job to end", || {
        let shown = daemon.client(&["show", "web/web"]);
        (shown["state"] == "failed").then(|| shown.to_string())
    });
    assert!(told.contains("is not kept here") && told.contains("drop the manifest again"), "{told}");
    assert_eq!(logins(), 1, "nobody logs in without a password");
    let file = daemon.scratch().join("web.yaml");
    fs::write(&file, manifest(&vcenter, PASSWORD)).unwrap();
    daemon.client(&["submit", file.to_str().unwrap()]);
    let state = || daemon.client(&["show", "web/web"])["state"].clone();
    wait_for("the job to succeed", || (state() == "succeeded").then_some(()));
    wait_for("the password to go", || kept(&daemon).is_empty().then_some(()));
    is_only_kept(&daemon);
}

#[test]
fn a_wrong_one_holds_its_own_batch_alone_and_can_be_mended_where_it_is_kept() {
    let mut daemon = allowing("");
    let machine = |name: &str| json!({ "name": name, "disks": [{ "capacity": 4 << 20 }] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine("web")).machine(machine("db")));
    daemon.start();
    daemon.drop_file("wrong.yaml", manifest(&vcenter, "wrong"));
    let waiting = || {
        let jobs = daemon.client(&["list"])["jobs"].clone();
        let job = jobs.as_array()?.iter().find(|job| job["batch_id"] == "wrong")?.clone();
        (job["waiting_reason"] == "auth").then(|| job["waiting_detail"].as_str().unwrap().to_owned())
    };
    let told = wait_for("the job to wait for its login", waiting);
    let file = kept(&daemon).remove(0);
    assert!(told.contains(&format!("when {} is changed", file.display())), "{told}");
    daemon.drop_file("mended.yaml", manifest(&vcenter, PASSWORD));
    let error = fs::read_to_string(daemon.wait_settled("failed", "mended.yaml.error.json")).unwrap();
    assert!(error.contains("duplicate") && error.contains("cancel that one"), "{error}");
    daemon.drop_file(
        "right.yaml",
        manifest(&vcenter, PASSWORD).replace("\"vm_name\":\"web\"", "\"vm_name\":\"db\""),
    );
    assert_eq!(daemon.wait_batch("right")["state"], "completed", "{}", daemon.log());
    assert!(waiting().is_some(), "another batch's password says nothing of this one's");
    fs::write(&file, PASSWORD).unwrap();
    assert_eq!(daemon.wait_batch("wrong")["state"], "completed", "{}", daemon.log());
    wait_for("the passwords to go", || kept(&daemon).is_empty().then_some(()));
}

#[test]
fn a_drop_whose_password_cannot_be_kept_is_refused_and_holds_up_no_other() {
    let mut daemon = allowing("");
    let vcenter = Vcenter::start(Options::vcenter().machine(json!({ "name": "web" })));
    daemon.start();
    let passwords = daemon.state().join("passwords");
    fs::remove_dir(&passwords).unwrap();
    fs::write(&passwords, "in the way").unwrap();
    daemon.drop_file("web.yaml", manifest(&vcenter, PASSWORD));
    let error = fs::read_to_string(daemon.wait_settled("failed", "web.yaml.error.json")).unwrap();
    assert!(error.contains("cannot keep the password"), "{error}");
    daemon.drop_file("broken.yaml", "manifest_version: \"1.0\"\n");
    daemon.wait_settled("failed", "broken.yaml.error.json");
    assert!(vcenter.requests().is_empty());
}

#[test]
fn machines_that_a_batch_selects_are_asked_for_with_the_one_password_that_it_holds() {
    let mut daemon = allowing("");
    let machine = |name: &str| json!({ "name": name, "disks": [{ "capacity": 4 << 20 }] });
    let vcenter = Vcenter::start(
        Options::vcenter().machine(machine("web-1")).machine(machine("web-2")).machine(machine("db")),
    );
    daemon.start();
    let batch = |first: &str, second: &str| {
        json!({
            "batch_version": "1.0", "shared_config": { "profile": "none" },
            "vms": [
                { "id": "db", "manifest": { "source": source(&vcenter, first, &json!({ "vm_name": "db" })) } },
                { "select": { "names": ["web*"] }, "manifest": { "source": source(&vcenter, second, &json!({})) } },
            ],
        })
        .to_string()
    };
    daemon.drop_file("two.yaml", batch(PASSWORD, "another"));
    let error = fs::read_to_string(daemon.wait_settled("failed", "two.yaml.error.json")).unwrap();
    assert!(error.contains("another password for migrator@vsphere.local"), "{error}");
    daemon.drop_file("weekend.yaml", batch(PASSWORD, PASSWORD));
    let progress = daemon.wait_batch("weekend");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    for vm in ["db", "web-1", "web-2"] {
        assert_eq!(progress["vms"][vm]["state"], "succeeded", "{progress:#}");
    }
    daemon.wait_settled("processed", "weekend.yaml");
    wait_for("the password to go", || kept(&daemon).is_empty().then_some(()));
    is_only_kept(&daemon);
}

#[test]
fn a_copy_without_its_password_and_one_that_is_not_allowed_are_refused_before_anybody_is_asked() {
    let mut daemon = allowing("");
    let vcenter = Vcenter::start(Options::vcenter().machine(json!({ "name": "web" })));
    daemon.start();
    daemon.drop_file("copy.yaml", manifest(&vcenter, "[redacted]"));
    let error = fs::read_to_string(daemon.wait_settled("failed", "copy.yaml.error.json")).unwrap();
    assert!(error.contains("it was taken out of this copy"), "{error}");
    daemon.stop();
    daemon.configure("");
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, PASSWORD));
    let error = fs::read_to_string(daemon.wait_settled("failed", "web.yaml.error.json")).unwrap();
    assert!(error.contains("credentials.allow_inline"), "{error}");
    let file = daemon.scratch().join("web.json");
    fs::write(&file, manifest(&vcenter, PASSWORD)).unwrap();
    let planned = daemon.run_client(&["convert", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&planned.stderr).into_owned();
    assert!(!planned.status.success() && said.contains("is not kept here"), "{said}");
    is_clean("what a command says", said.as_bytes());
    assert!(kept(&daemon).is_empty() && vcenter.requests().is_empty());
    // A batch goes on without a VM that is refused, and without one that is switched off.
    let vm = |id: &str, enabled: bool, source: Value| json!({ "id": id, "enabled": enabled, "manifest": { "source": source } });
    let inline = || source(&vcenter, PASSWORD, &json!({ "vm_name": "web" }));
    let stored = json!({ "vsphere": { "credential": "none-there", "vm_name": "web" } });
    let vms = [vm("a", true, inline()), vm("b", false, inline()), vm("c", true, stored)];
    daemon.drop_file("some.yaml", json!({ "batch_version": "1.0", "vms": vms }).to_string());
    wait_for("the batch to be there", || daemon.progress("some"));
    is_only_kept(&daemon);
    is_only_kept(&daemon);
}
