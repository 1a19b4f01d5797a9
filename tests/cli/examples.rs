//! The examples of the documentation do what they say.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::hyper2kvm;
use crate::support::disks;

/// The examples, with the disks that they name beside them.
fn site(disks: &[&str]) -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    for entry in fs::read_dir(examples).unwrap().flatten() {
        fs::copy(entry.path(), site.path().join(entry.file_name())).unwrap();
    }
    for (seed, path) in (1..).zip(disks) {
        let path = site.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        disks::disk(path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap(), "vmdk", 8, 1, seed);
    }
    site
}

fn convert(site: &Path, example: &str) -> serde_json::Value {
    let done = hyper2kvm()
        .current_dir(site)
        .args(["convert", example, "--no-fix", "--parallel", "2", "--json"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn results(site: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for vm in fs::read_dir(site.join("migrated")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let files = fs::read_dir(vm.path()).unwrap().flatten().map(|entry| entry.path());
        let disks = files.filter(|path| path.extension().is_some_and(|end| end == "qcow2"));
        found.extend(disks.map(|path| path.strip_prefix(site.join("migrated")).unwrap().to_owned()));
    }
    found.sort();
    found
}

#[test]
fn the_batch_of_three_becomes_three_machines_in_their_order() {
    let site = site(&["web.vmdk", "db.vmdk", "db-data.vmdk", "mail.vmdk"]);
    let report = convert(site.path(), "batch-of-three.yaml");
    let vms: Vec<&str> =
        report["vm_results"].as_array().unwrap().iter().map(|vm| vm["vm_id"].as_str().unwrap()).collect();
    assert_eq!(vms.len(), 3, "old-web is off: {vms:?}");
    let paths = ["db/data.qcow2", "db/system.qcow2", "mail/system.qcow2", "web/system.qcow2"];
    assert_eq!(results(site.path()), paths.map(PathBuf::from));
    for (source, result) in [("db-data", paths[0]), ("db", paths[1]), ("mail", paths[2]), ("web", paths[3])] {
        let source = disks::content_sha256(&site.path().join(format!("{source}.vmdk")), "vmdk");
        let result = disks::content_sha256(&site.path().join("migrated").join(result), "qcow2");
        assert_eq!(source, result);
    }
    let domain = fs::read_to_string(site.path().join("migrated/web/domain.xml")).unwrap();
    assert!(domain.contains(">4</vcpu>"), "overrides go before the manifest: {domain}");
    let ended = |vm: &str| {
        let results = report["vm_results"].as_array().unwrap();
        results.iter().find(|result| result["vm_id"] == vm).unwrap()["timestamp"].as_str().unwrap().to_owned()
    };
    assert!(ended("db") < ended("web"));
}

#[test]
fn the_batch_of_a_folder_becomes_a_machine_for_each_disk_and_for_each_group() {
    let disks = ["web", "mail", "web-template", "db-1-system", "db-1-data", "db-2-system"];
    let disks = disks.map(|name| format!("exports/{name}.vmdk"));
    let site = site(&disks.iter().map(String::as_str).collect::<Vec<_>>());
    convert(site.path(), "batch-of-a-folder.yaml");
    let paths = [
        "db-1/db-1-data.qcow2",
        "db-1/db-1-system.qcow2",
        "db-2/db-2-system.qcow2",
        "mail/mail.qcow2",
        "web/web.qcow2",
    ];
    assert_eq!(results(site.path()), paths.map(PathBuf::from));
}

#[test]
fn the_batch_with_a_window_is_valid_and_says_when_it_works() {
    let site = site(&[]);
    let done = hyper2kvm().current_dir(site.path()).args(["validate", "batch-window.yaml"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("Sat 22:00 Europe/Berlin") && said.contains("Sun 05:00"), "{said}");
}

#[test]
fn the_domain_becomes_a_machine_with_its_two_disks() {
    let site = site(&["mail.vmdk", "mail-spool.vmdk"]);
    convert(site.path(), "domain.yaml");
    let paths = ["mail/vda.qcow2", "mail/vdb.qcow2"];
    assert_eq!(results(site.path()), paths.map(PathBuf::from));
    for (source, result) in [("mail", paths[0]), ("mail-spool", paths[1])] {
        let source = disks::content_sha256(&site.path().join(format!("{source}.vmdk")), "vmdk");
        let result = disks::content_sha256(&site.path().join("migrated").join(result), "qcow2");
        assert_eq!(source, result);
    }
    let domain = fs::read_to_string(site.path().join("migrated/mail/domain.xml")).unwrap();
    assert!(domain.contains(">4096</memory>") && domain.contains("bridge='br0'"), "{domain}");
}
