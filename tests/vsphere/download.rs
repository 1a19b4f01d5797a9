//! What lies on a datastore, and files of it saved here.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::disks;
use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};

/// The program, as somebody who may log in.
pub fn vsphere(vcenter: &Vcenter, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args([
        "vsphere",
        "--host",
        "127.0.0.1",
        "--port",
        &vcenter.port().to_string(),
        "--username",
        USER,
    ]);
    command.arg("--ca-file").arg(vcenter.ca()).args(["--password-env", "H2K_TEST_PASSWORD", "--json"]);
    command.args(arguments).env("H2K_TEST_PASSWORD", PASSWORD).env("HYPER2KVM_STATE_DIR", dir.path());
    command.output().unwrap()
}

fn told(vcenter: &Vcenter, arguments: &[&str]) -> Value {
    let output = vsphere(vcenter, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn error(vcenter: &Vcenter, arguments: &[&str]) -> Value {
    let output = vsphere(vcenter, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    serde_json::from_slice(&output.stderr).unwrap()
}

fn site() -> (Vcenter, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    disks::raw(&content, 20, 10, 3);
    let machine = json!({ "name": "web", "directory": "prod/web 1", "disks": [disk(&content)] });
    (Vcenter::start(Options::vcenter().machine(machine)), dir)
}

fn is_same(one: &Path, other: &Path) {
    assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{} is another file", one.display());
}

#[test]
fn what_lies_on_a_datastore_is_listed() {
    let (vcenter, _dir) = site();
    let names = |directory: &str| -> Vec<String> {
        let listed = told(&vcenter, &["datastore-ls", directory]);
        let entries = listed["entries"].as_array().unwrap().clone();
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("ds1"), ["prod"]);
    let web = names("[ds1] prod/web 1");
    assert!(web.contains(&"web 1.vmx".to_owned()) && web.contains(&"web 1.vmdk".to_owned()), "{web:?}");
    assert_eq!(error(&vcenter, &["datastore-ls", "nowhere"])["kind"], "source");
    assert_eq!(error(&vcenter, &["datastore-ls", "[ds1] nowhere"])["kind"], "source");
}

#[test]
fn files_and_directories_are_saved_with_their_digests_and_nothing_is_replaced() {
    let (vcenter, dir) = site();
    let out = dir.path().join("out");
    let to = out.to_str().unwrap();
    let plan = told(&vcenter, &["download", "[ds1] prod/*/*.vmdk", "-o", to, "--dry-run"]);
    assert_eq!(plan["files"].as_array().unwrap().len(), 2, "{plan}");
    assert!(!out.exists());
    let saved = told(&vcenter, &["download", "[ds1] prod/web*", "-o", to]);
    let flat = out.join("web 1/web 1-flat.vmdk");
    let original = vcenter.datastore("ds1").join("prod/web 1/web 1-flat.vmdk");
    is_same(&flat, &original);
    let digest: String =
        Sha256::digest(fs::read(&original).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let files = saved["files"].as_array().unwrap();
    let of_disk = files.iter().find(|file| file["file"] == "web 1/web 1-flat.vmdk").unwrap();
    assert_eq!(of_disk["sha256"], json!(digest));
    assert!(files.iter().all(|file| !file["file"].as_str().unwrap().ends_with(".log")), "{saved}");
    assert!(out.join("web 1/web 1.vmx").exists());
    assert_eq!(error(&vcenter, &["download", "[ds1] prod/web*", "-o", to])["kind"], "exists");
}

#[test]
fn a_download_that_was_cut_goes_on_with_the_same_file_and_not_with_another() {
    let (vcenter, dir) = site();
    let out = dir.path().join("out");
    let to = out.to_str().unwrap();
    let what = ["download", "[ds1] prod/web 1/web 1-flat.vmdk", "-o", to];
    let original = vcenter.datastore("ds1").join("prod/web 1/web 1-flat.vmdk");
    let partial = out.join("web 1-flat.vmdk.partial");
    let note = out.join("web 1-flat.vmdk.partial.json");
    vcenter.fault(&json!({ "on": "folder", "named": "-flat", "kind": "status", "status": 404, "skip": 3, "times": 100 }));
    assert_eq!(error(&vcenter, &what)["kind"], "source");
    vcenter.calm();
    assert!(partial.exists() && !out.join("web 1-flat.vmdk").exists());
    // As a run of a larger file leaves it behind that was killed.
    let size = original.metadata().unwrap().len();
    let mut bytes = fs::read(&original).unwrap();
    bytes[size as usize / 2..].fill(0xee);
    fs::write(&partial, &bytes).unwrap();
    let before = vcenter.requests();
    let first =
        before.iter().rfind(|request| request.path.ends_with("-flat.vmdk") && request.status == 206).unwrap();
    assert!(first.sent > 0);
    let saved = told(&vcenter, &what);
    assert_eq!(saved["files"][0]["resumed_bytes"], json!(0), "nothing said how far it was");
    is_same(&out.join("web 1-flat.vmdk"), &original);
    assert!(!partial.exists() && !note.exists());
}

#[test]
fn a_name_that_several_datacenters_have_has_to_be_said_with_one() {
    let vcenter = Vcenter::start(Options::vcenter().with("datacenters", 2));
    let error = error(&vcenter, &["datastore-ls", "ds1"]);
    assert_eq!(error["kind"], "source");
    assert!(error.to_string().contains("DC1"), "{error}");
    told(&vcenter, &["datastore-ls", "ds1", "--datacenter", "DC1"]);
}
