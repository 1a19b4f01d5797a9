//! Disks of ESXi hosts over SSH: a real server with BusyBox behind it, networks that fail, and kills.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::jobs;
use crate::support::esxi::{Esxi, descriptor};
use crate::support::faults::{Fault, Relay};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 32;
/// What may be read anew of it after a cut.
const LOST: u64 = 8 * MIB;
/// Beside the bytes of files: keys, answers, and the maps of disks.
const TALK: u64 = 2 * MIB;
/// A network that fails is met again soon.
const SOON: &str =
    "vc_connection_max_retries: 6\nvc_connection_base_backoff_s: 0.2\nvc_connection_timeout_s: 3\n";

fn prepared(further: &str) -> Daemon {
    let daemon = Daemon::prepare();
    let credentials = daemon.scratch().join("credentials");
    fs::create_dir(&credentials).unwrap();
    daemon.configure(&format!("credentials: {{dir: {}}}\n{further}", credentials.display()));
    daemon
}

fn store(daemon: &Daemon, credential: &Value) {
    let file = daemon.scratch().join("credentials/esx.yaml");
    fs::write(&file, credential.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn content(daemon: &Daemon, data_mib: u64) -> PathBuf {
    disks::disk(daemon.scratch(), "system", "raw", DISK_MIB, data_mib, 1)
}

fn manifest(port: u16, path: &str) -> String {
    json!({
        "manifest_version": "1.0",
        "profile": "none",
        "source": { "esxi": { "credential": "esx", "port": port, "path": path } },
    })
    .to_string()
}

/// The directory with the results of a batch of one.
fn results(daemon: &Daemon, batch: &str, vm: &str) -> PathBuf {
    daemon.state().join("output").join(batch).join(vm)
}

#[track_caller]
fn is_result(daemon: &Daemon, vm: &str, content: &Path) {
    let result = results(daemon, "vm", vm).join("disk-0.qcow2");
    assert_eq!(
        disks::content_sha256(&result, "qcow2"),
        disks::content_sha256(content, "raw"),
        "{}",
        daemon.log()
    );
}

#[track_caller]
fn completed(daemon: &Daemon) -> Value {
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    progress
}

/// What a command says of an input that it refuses, with its exit code.
fn refused(daemon: &Daemon, input: &str) -> (Option<i32>, Value) {
    let (config, out) = (daemon.config(), daemon.scratch().join("out"));
    let arguments = [
        "convert",
        input,
        "-o",
        out.to_str().unwrap(),
        "--profile",
        "none",
        "--config",
        config.to_str().unwrap(),
    ];
    let output = daemon.run_client(&arguments);
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let told = String::from_utf8_lossy(text);
    let begin = told.find('{').unwrap_or_else(|| panic!("{input}: {told}"));
    let told: Value = serde_json::from_str(&told[begin..]).unwrap_or_else(|error| panic!("{error}: {told}"));
    (output.status.code(), told)
}

#[test]
fn a_vm_of_a_host_becomes_a_result_whatever_its_files_are_called() {
    let mut daemon = prepared("");
    let esxi = Esxi::start();
    store(&daemon, &esxi.credential(&[esxi.port()], "key"));
    let content = content(&daemon, 4);
    let name = "it's $(reboot) ü `x`; web & 100%";
    let path = esxi.machine(name, &content);
    daemon.start();
    daemon.drop_file("vm.json", manifest(esxi.port(), &path));
    let progress = completed(&daemon);
    let (vm, told) = progress["vms"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(told["attempt"], 1, "to be asked is no attempt: {progress}");
    is_result(&daemon, vm, &content);
    let report = fs::read_to_string(results(&daemon, "vm", vm).join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let remote = &report["pipeline"]["stages"]["load"];
    assert!(remote.to_string().contains("\"transport\":\"ssh\""), "{report}");
    let written = fs::read_to_string(results(&daemon, "vm", vm).join("domain.xml")).unwrap();
    assert!(written.contains(">2</vcpu>"), "{written}");
}

#[test]
fn a_chain_of_snapshots_is_flattened_over_a_network_that_cuts_and_stalls() {
    let mut daemon = prepared(SOON);
    let esxi = Esxi::start();
    let relay = Relay::to(&esxi.address());
    store(&daemon, &esxi.credential_behind(relay.address(), "key"));
    let content = content(&daemon, DISK_MIB);
    let path = esxi.machine("web", &content);
    esxi.snapshots("web", &content);
    daemon.start();
    relay.fail_next([
        Fault::Refuse,
        Fault::CutAfter(20_000),
        Fault::CutAfter(MIB / 2),
        Fault::ResetAfter(2 * MIB),
        Fault::StallAfter(3 * MIB),
        Fault::DripAfter(3 * MIB),
        Fault::CutAfter(4 * MIB),
        Fault::CutAfter(5 * MIB),
    ]);
    daemon.drop_file("vm.json", manifest(relay.address().port(), &path));
    completed(&daemon);
    is_result(&daemon, "web", &content);
    assert!(relay.connections() > 8, "{}", relay.connections());
}

#[test]
fn a_service_that_is_killed_in_mid_transfer_goes_on_where_it_was() {
    let mut daemon = prepared(SOON);
    let esxi = Esxi::start();
    let relay = Relay::to(&esxi.address());
    store(&daemon, &esxi.credential_behind(relay.address(), "key"));
    let content = content(&daemon, DISK_MIB);
    let path = esxi.machine("web", &content);
    daemon.start();
    // The first is for asking only.
    relay.fail_next([
        Fault::Slow(64 * MIB),
        Fault::Slow(2 * MIB),
        Fault::Slow(2 * MIB),
        Fault::Slow(2 * MIB),
        Fault::Slow(2 * MIB),
    ]);
    daemon.drop_file("vm.json", manifest(relay.address().port(), &path));
    wait_for("half of the disk to be sent", || (relay.passed() > DISK_MIB * MIB / 2).then_some(()));
    daemon.kill9();
    let before = relay.passed();
    assert!(before < DISK_MIB * MIB, "killed too late: {before}");
    daemon.start();
    completed(&daemon);
    is_result(&daemon, "web", &content);
    let sent = relay.passed();
    assert!(sent <= DISK_MIB * MIB + LOST + TALK, "{before} before, {sent} in all");
}

#[test]
fn a_host_that_goes_away_in_mid_transfer_and_comes_back_is_read_on() {
    let mut daemon = prepared(SOON);
    let mut esxi = Esxi::start();
    let relay = Relay::to(&esxi.address());
    store(&daemon, &esxi.credential_behind(relay.address(), "key"));
    let content = content(&daemon, DISK_MIB);
    let path = esxi.machine("web", &content);
    daemon.start();
    relay.fail_next([
        Fault::Slow(64 * MIB),
        Fault::Slow(4 * MIB),
        Fault::Slow(4 * MIB),
        Fault::Slow(4 * MIB),
        Fault::Slow(4 * MIB),
    ]);
    daemon.drop_file("vm.json", manifest(relay.address().port(), &path));
    wait_for("some of the disk to be sent", || (relay.passed() > 6 * MIB).then_some(()));
    esxi.kill();
    std::thread::sleep(std::time::Duration::from_millis(500));
    esxi.start_again();
    let progress = completed(&daemon);
    assert_eq!(progress["vms"]["web"]["attempt"], 1, "{progress}");
    is_result(&daemon, "web", &content);
}

#[test]
fn what_cannot_be_read_over_ssh_is_told_with_its_kind_and_what_to_do() {
    let daemon = prepared("vc_connection_max_retries: 0\n");
    let mut esxi = Esxi::start();
    let content = content(&daemon, 1);
    let path = esxi.machine("web", &content);
    let directory = esxi.datastore().join("web");
    let good = esxi.credential(&[esxi.port()], "key");
    store(&daemon, &good);
    let at = format!("esxi://esx:{}", esxi.port());
    let told = |path: &str, kind: &str, code: i32, words: &str| {
        let (is, error) = refused(&daemon, &format!("{at}{path}"));
        assert_eq!((is, &error["kind"]), (Some(code), &json!(kind)), "{path}: {error}");
        assert!(error.to_string().contains(words), "{path}: {error}");
        assert!(error["suggestion"].as_str().is_some_and(|advice| !advice.is_empty()), "{path}: {error}");
    };
    told("/vmfs/volumes/ds1/web/none.vmx", "source", 1, "No such file");
    // Named so by whoever runs the command.
    told("/etc/passwd.vmx", "manifest", 2, "/vmfs/volumes/");
    told("/vmfs/volumes/ds1/web/web-flat.vmdk", "source", 1, "descriptor");
    let extra = |name: &str, text: String| fs::write(directory.join(name), text).unwrap();
    extra("rdm.vmdk", descriptor("vmfsPassthroughRawDeviceMap", "RW 8 VMFSRDM \"rdm-rdmp.vmdk\"", None));
    told("/vmfs/volumes/ds1/web/rdm.vmdk", "unsupported", 3, "LUN");
    extra(
        "clone.vmdk",
        descriptor("vmfsSparse", "RW 65536 VMFS \"web-flat.vmdk\"", Some("../other/base.vmdk")),
    );
    told("/vmfs/volumes/ds1/web/clone.vmdk", "source", 1, "linked clone");
    extra("away.vmdk", descriptor("vmfs", "RW 65536 VMFS \"/etc/shadow\"", None));
    told("/vmfs/volumes/ds1/web/away.vmdk", "source", 1, "another directory");
    extra("loop.vmdk", descriptor("vmfs", "RW 65536 VMFS \"web-flat.vmdk\"", Some("loop.vmdk")));
    told("/vmfs/volumes/ds1/web/loop.vmdk", "source", 1, "no end");
    extra("short.vmdk", descriptor("vmfs", "RW 99999999 VMFS \"web-flat.vmdk\"", None));
    told("/vmfs/volumes/ds1/web/short.vmdk", "source", 1, "less than its disk needs");
    extra("web.vmx.lck", String::new());
    told(&path, "source", 1, "open elsewhere");
    fs::remove_file(directory.join("web.vmx.lck")).unwrap();
    store(&daemon, &esxi.credential(&[esxi.port()], "stranger"));
    told(&path, "auth", 1, "authorized_keys");
    store(&daemon, &esxi.credential(&[1], "key"));
    told(&path, "network", 1, "ssh-keyscan");
    store(&daemon, &good);
    esxi.credential(&[esxi.port()], "key");
    esxi.kill();
    told(&path, "network", 1, "TSM-SSH");
    esxi.new_host_key();
    esxi.start_again();
    told(&path, "network", 1, "another key");
    assert!(!fs::exists(daemon.scratch().join("out/disk-0.qcow2")).unwrap());
}

#[test]
fn a_host_that_sends_a_byte_now_and_then_is_given_up() {
    let daemon = prepared("vc_connection_max_retries: 0\nvc_connection_timeout_s: 3\n");
    let esxi = Esxi::start();
    store(&daemon, &esxi.credential(&[esxi.port()], "key"));
    let path = esxi.machine("web", &content(&daemon, 1));
    esxi.drips();
    let (code, told) = refused(&daemon, &format!("esxi://esx:{}{path}", esxi.port()));
    assert_eq!((code, &told["kind"]), (Some(1), &json!("network")), "{told}");
    assert!(told["error"].as_str().unwrap().contains("sends less than 4 KiB a second"), "{told}");
}

#[test]
fn commands_take_a_vm_by_its_file_on_a_host() {
    let daemon = prepared("");
    let esxi = Esxi::start();
    store(&daemon, &esxi.credential(&[esxi.port()], "key"));
    let content = content(&daemon, 2);
    esxi.machine("web", &content);
    esxi.snapshots("web", &content);
    let config = daemon.config();
    let config = config.to_str().unwrap();
    let vmx = format!("esxi://esx:{}/vmfs/volumes/ds1/web/web.vmx", esxi.port());
    let plan = daemon.client(&["plan", &vmx, "--config", config]);
    let planned = &plan["plans"][0];
    assert_eq!(planned["disks"][0]["source"], "/vmfs/volumes/ds1/web/web-000002.vmdk", "{plan}");
    assert_eq!(planned["remote"]["found"]["host"], esxi.host(), "{plan}");
    let manifest = daemon.client(&["manifest", &vmx, "--config", config]);
    assert_eq!(manifest["manifests"][0]["source"]["esxi"]["credential"], "esx", "{manifest}");
    let validated = daemon.client(&["validate", &vmx, "--config", config]);
    assert!(validated.to_string().contains("web"), "{validated}");
    // One disk by its descriptor.
    let out = daemon.scratch().join("out");
    let lone = format!("esxi://{}/vmfs/volumes/5f3a-ds1/web/web-000002.vmdk", esxi.address());
    let arguments = ["convert", &lone, "-o", out.to_str().unwrap(), "--profile", "none", "--config", config];
    let converted = daemon.client(&arguments);
    assert_eq!(converted["pipeline"]["success"], true, "{converted}");
    let result = out.join("disk-0.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&content, "raw"));
}

#[test]
fn disks_of_a_vm_that_the_api_names_are_read_on_its_host() {
    // An address of its own, so that port 22 there is nobody's.
    let address = format!("127.{}.{}.7", 64 + std::process::id() / 256 % 128, std::process::id() % 256);
    let mut daemon = jobs::prepared("");
    let content = content(&daemon, 4);
    let machine = json!({ "name": "web", "disks": [disk(&content)] });
    let vcenter = Vcenter::start(Options::esxi().with("user", "root").machine(machine));
    let relay = Relay::at(&format!("{address}:0"), &vcenter.address());
    let esxi = Esxi::at(&address, 22);
    fs::remove_file(esxi.datastore().with_file_name("ds1")).unwrap();
    copy(&vcenter.datastore("ds1"), &esxi.datastore().with_file_name("ds1"));
    let mut credential = esxi.credential(&[22], "key");
    // Whose login it is is the same for both.
    credential["username"] = json!("root");
    credential["password"] = json!(PASSWORD);
    credential["thumbprint"] = json!(vcenter.thumbprint());
    store(&daemon, &credential);
    daemon.start();
    let text = json!({
        "manifest_version": "1.0",
        "profile": "none",
        "source": { "vsphere": { "credential": "esx", "port": relay.address().port(), "vm_name": "web", "transport": "ssh" } },
    });
    daemon.drop_file("vm.json", text.to_string());
    completed(&daemon);
    is_result(&daemon, "web", &content);
    assert_eq!(vcenter.sent_of("-flat"), 0, "no byte of the disk came over the API");
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}
