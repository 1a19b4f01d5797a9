//! Machines that a VMX or a directory describes: manifests of them, and converting them, from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Done, hyper2kvm};
use crate::support::disks;

/// Runs one of QEMU's tools in a directory.
fn qemu(directory: &Path, tool: &str, words: &[&str]) {
    let done = Command::new(tool).args(words).current_dir(directory).output();
    let done = done.expect("QEMU's tools are installed by set-up");
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn at(directory: &Path, words: &[&str]) -> Done {
    hyper2kvm().args(words).current_dir(directory).output().unwrap().into()
}

/// What a VMX says of a disk.
fn disk(slot: &str, file: &str) -> String {
    format!("{slot}.present = \"TRUE\"\r\n{slot}.fileName = \"{file}\"\r\n")
}

const HEAD: &str = ".encoding = \"windows-1252\"\r\nvirtualHW.version = \"14\"\r\nnumvcpus = \"2\"\r\nmemsize = \"1024\"\r\n\
    displayName = \"web |22one|22\"\r\nguestOS = \"debian11-64\"\r\nfirmware = \"efi\"\r\nscsi0.present = \"TRUE\"\r\n\
    uuid.bios = \"56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc\"\r\n\
    ethernet0.present = \"TRUE\"\r\nethernet0.address = \"00:50:56:AA:BB:01\"\r\nethernet0.addressType = \"static\"\r\n\
    ethernet0.networkName = \"VM Network\"\r\nide1:0.present = \"TRUE\"\r\nide1:0.deviceType = \"cdrom-image\"\r\nide1:0.fileName = \"x.iso\"\r\n";

/// A machine with a snapshot of its first disk and a second one in pieces, as Workstation keeps it.
fn machine() -> (TempDir, PathBuf) {
    let site = tempfile::tempdir().unwrap();
    let home = site.path().join("web");
    fs::create_dir(&home).unwrap();
    fs::rename(disks::disk(&home, "web", "vmdk", 16, 4, 1), home.join("web.vmdk")).unwrap();
    qemu(
        &home,
        "qemu-img",
        &["create", "-q", "-f", "vmdk", "-b", "web.vmdk", "-F", "vmdk", "web-000001.vmdk"],
    );
    qemu(&home, "qemu-io", &["-f", "vmdk", "-c", "write -q -P 0x5a 1M 1M", "web-000001.vmdk"]);
    disks::raw(&home.join("data.raw"), 2100, 3, 2);
    let pieces = "subformat=twoGbMaxExtentSparse";
    qemu(&home, "qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", pieces, "data.raw", "data.vmdk"]);
    fs::remove_file(home.join("data.raw")).unwrap();
    assert!(home.join("data-s002.vmdk").exists(), "it is in pieces");
    let text = [HEAD, &disk("scsi0:10", "data.vmdk"), &disk("scsi0:2", "web-000001.vmdk")].concat();
    fs::write(home.join("web.vmx"), text).unwrap();
    (site, home)
}

#[test]
fn the_manifest_of_a_vmx_says_what_vmware_knows_of_the_machine() {
    let (site, home) = machine();
    let done = at(site.path(), &["manifest", "web/web.vmx", "--no-compute-checksums", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let manifest = &done.json()["manifests"][0];
    let wanted = json!({
        "manifest_version": "1.0",
        "name": "web \"one\"",
        "vm": {
            "cpu": 2, "mem_mb": 1024, "firmware": "uefi", "os_hint": "linux", "uuid": "8a0b4d56-2211-4433-5566-778899aabbcc",
            "serial": "VMware-56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc",
        },
        "disks": [
            { "id": "web-000001", "source_format": "vmdk", "local_path": home.join("web-000001.vmdk"), "backing_chain": true, "boot_order_hint": 0 },
            { "id": "data", "source_format": "vmdk", "local_path": home.join("data.vmdk"), "boot_order_hint": 1 },
        ],
        "nics": [{ "id": "nic0", "mac": "00:50:56:aa:bb:01", "network": "VM Network" }],
    });
    assert_eq!(manifest, &wanted);
}

#[test]
fn a_vmx_is_converted_with_all_its_disks() {
    let (site, home) = machine();
    let done = at(site.path(), &["convert", "web/web.vmx", "-o", "out", "--no-fix"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for id in ["web-000001", "data"] {
        let (source, result) = (home.join(format!("{id}.vmdk")), site.path().join(format!("out/{id}.qcow2")));
        let files = [source.to_str().unwrap(), result.to_str().unwrap()];
        qemu(site.path(), "qemu-img", &["compare", "-q", "-f", "vmdk", "-F", "qcow2", files[0], files[1]]);
    }
    let report: Value =
        serde_json::from_slice(&fs::read(site.path().join("out/report.json")).unwrap()).unwrap();
    assert_eq!(report["artifacts"].as_array().map(Vec::len), Some(2), "{report}");

    // The same through a manifest, which may say otherwise.
    let text = "manifest_version: \"1.0\"\nname: other\nprofile: none\nsource: {vmx: {path: web/web.vmx}}\nvm: {cpu: 7}\n";
    fs::write(site.path().join("vm.yaml"), text).unwrap();
    let plan = at(site.path(), &["plan", "vm.yaml", "--json", "--origins"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    let document = plan.json();
    assert_eq!(document["plans"][0]["disks"][0]["id"], "web-000001");
    let values = document["origins"][0]["values"].as_array().unwrap();
    let origin = |field: &str| values.iter().find(|value| value["field"] == field).unwrap()["origin"].clone();
    assert_eq!((origin("vm.cpu"), origin("vm.mem_mb")), (json!("manifest, line 5"), json!("source")));
}

#[test]
fn a_vmx_whose_disks_cannot_be_had_is_refused() {
    let (site, home) = machine();
    let refused = |text: &str, kind: &str, word: &str| {
        fs::write(home.join("odd.vmx"), text).unwrap();
        let done = at(site.path(), &["convert", "web/odd.vmx", "-o", "out", "--no-fix", "--json"]);
        assert_ne!(done.code, 0);
        let error = done.error_json();
        assert_eq!(error["kind"], kind, "{error}");
        assert!(error["error"].as_str().unwrap().contains(word), "{word}: {error}");
        assert!(error["suggestion"].is_string(), "{error}");
        assert!(!site.path().join("out").exists(), "{word}: something was written");
    };
    std::os::unix::fs::symlink(home.join("data.vmdk"), home.join("link.vmdk")).unwrap();
    fs::create_dir(home.join("directory.vmdk")).unwrap();
    fs::write(home.join("page.vmdk"), "<!DOCTYPE html><html></html>").unwrap();
    for (file, word) in [
        ("gone.vmdk", "`gone.vmdk` is not there"),
        ("/vmfs/volumes/5f/base/gone.vmdk", "lies outside"),
        ("../gone.vmdk", "lies outside"),
        ("C:\\\\VMs\\\\gone.vmdk", "lies outside"),
        ("link.vmdk", "is a symbolic link"),
        ("directory.vmdk", "is not a plain file"),
        ("page.vmdk", "a web page"),
        ("new|0Aline.vmdk", "characters"),
    ] {
        refused(&disk("scsi0:0", file), "source", word);
    }
    refused(
        &[disk("scsi0:0", "data.vmdk"), disk("scsi0:1", "./data.vmdk")].concat(),
        "source",
        "two of its disks",
    );
    refused(HEAD, "source", "no disk");
    refused("", "source", "no disk");
    refused("not a VMX\n", "source", "line 1");
    refused("encryption.keySafe = \"vmware:key/list/x\"\n", "unsupported", "encrypted");
    fs::create_dir(home.join("odd.vmx.lck")).unwrap();
    refused(&disk("scsi0:0", "gone.vmdk"), "source", "is not there");
    fs::write(home.join("odd.vmx.lck/M1.lck"), "").unwrap();
    refused(&disk("scsi0:0", "data.vmdk"), "source", "open elsewhere");
}

#[test]
fn of_a_directory_that_was_copied_the_disk_in_it_is_taken() {
    let (site, home) = machine();
    let text = disk("nvme0:0", "/vmfs/volumes/5f/web/data.vmdk")
        + &disk("sata0:0", home.join("web.vmdk").to_str().unwrap());
    fs::write(home.join("web.vmx"), text).unwrap();
    let done = at(site.path(), &["manifest", "web/web.vmx", "--no-compute-checksums"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let manifest: Value = serde_yaml::from_str(&done.stdout).unwrap();
    assert_eq!(manifest["name"], "web", "it is called like its file");
    assert_eq!(manifest["disks"][0]["local_path"], json!(home.join("web.vmdk")));
    assert_eq!(manifest["disks"][1]["local_path"], json!(home.join("data.vmdk")));
    assert!(done.stderr.contains("`data.vmdk` beside it is taken"), "{}", done.stderr);
    assert!(!done.stderr.contains("`web.vmdk` beside it"), "it is the same file: {}", done.stderr);
}

#[test]
fn a_directory_of_disks_is_a_machine_or_several() {
    let site = tempfile::tempdir().unwrap();
    let rack = site.path().join("rack");
    fs::create_dir(&rack).unwrap();
    for (seed, name) in [(1, "web-disk10"), (2, "web-disk2"), (3, "db-disk1")] {
        disks::disk(&rack, name, "qcow2", 8, 2, seed);
    }
    let ids = |manifest: &Value| {
        let disks = manifest["disks"].as_array().unwrap();
        disks.iter().map(|disk| disk["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let done = at(site.path(), &["manifest", "rack", "--no-compute-checksums", "--json"]);
    let manifest = &done.json()["manifests"][0];
    assert_eq!(
        (manifest["name"].as_str(), ids(manifest)),
        (Some("rack"), vec!["db-disk1".into(), "web-disk2".into(), "web-disk10".into()])
    );

    let write = |pattern: &str| {
        let text = format!(
            "manifest_version: \"1.0\"\nprofile: none\nsource:\n  local:\n    directory: rack\n    group_by: '{pattern}'\n"
        );
        fs::write(site.path().join("vm.yaml"), text).unwrap();
    };
    let refused = |pattern: &str, line: u64, word: &str| {
        write(pattern);
        let done = at(site.path(), &["convert", "vm.yaml", "-o", "out", "--json"]);
        let error = done.error_json();
        assert_eq!((&error["kind"], &error["line"]), (&json!("manifest"), &json!(line)), "{error}");
        assert!(error["error"].as_str().unwrap().contains(word), "{error}");
        error
    };
    refused("(", 6, "regular expression");
    refused("(?<vm>.+)", 6, "no group `disk`");
    let error = refused(r"^(?<vm>.+)-disk(?<disk>\d+)$", 6, "2 machines");
    assert_eq!(error["allowed"], json!(["db", "web"]));

    write(r"^(?<vm>web)-disk(?<disk>\d+)$");
    let done = at(site.path(), &["convert", "vm.yaml", "-o", "out"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for id in ["web-disk2", "web-disk10"] {
        let (source, result) = (format!("rack/{id}.qcow2"), format!("out/{id}.qcow2"));
        qemu(site.path(), "qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", &source, &result]);
    }
    assert!(!site.path().join("out/db-disk1.qcow2").exists());
    let report: Value =
        serde_json::from_slice(&fs::read(site.path().join("out/report.json")).unwrap()).unwrap();
    assert_eq!(report["artifacts"][0]["disk_id"], "web-disk2", "{report}");
}
