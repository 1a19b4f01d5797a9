//! Domains of libvirt in dropped manifests: read when they are accepted, and not again.

use std::fs;

use serde_json::Value;

use crate::support::{Daemon, disks, wait_for};

fn domain(disk: &str) -> String {
    format!(
        "<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu>3</vcpu><devices>\
         <disk type='file'><driver type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
         </devices></domain>"
    )
}

#[test]
fn a_domain_is_converted_as_it_was_when_it_was_accepted() {
    let mut daemon = Daemon::prepare();
    let dir = daemon.scratch().join("domains");
    fs::create_dir(&dir).unwrap();
    daemon.configure(&format!("paths: {{read: [{}]}}\n", dir.display()));
    daemon.start();
    let disk = disks::disk(&dir, "system", "qcow2", 8, 2, 1);
    let content = disks::content_sha256(&disk, "qcow2");
    fs::write(dir.join("web.xml"), domain("system.qcow2")).unwrap();
    daemon.client(&["pause"]);
    let path = dir.join("web.xml").display().to_string();
    daemon.drop_file(
        "web.yaml",
        format!("manifest_version: \"1.0\"\nprofile: none\nsource: {{libvirt-xml: {{path: {path}}}}}\n"),
    );
    let dropped = daemon.state().join("incoming/web.yaml");
    wait_for("the manifest to be accepted", || (!dropped.exists()).then_some(()));
    fs::write(dir.join("web.xml"), domain("/etc/passwd")).unwrap();
    daemon.client(&["resume"]);
    assert_eq!(daemon.wait_batch("web")["state"], "completed");
    let result = daemon.state().join("output/web/web/vda.qcow2");
    assert_eq!(disks::content_sha256(&result, "qcow2"), content);
    let written = fs::read_to_string(daemon.state().join("output/web/web/domain.xml")).unwrap();
    assert!(written.contains(">3</vcpu>"), "{written}");
}

#[test]
fn a_domain_that_is_dropped_itself_is_refused_with_what_to_drop_instead() {
    let mut daemon = Daemon::prepare();
    daemon.configure("");
    daemon.start();
    daemon.drop_file("web.xml", domain("/no/such/disk"));
    let refused = daemon.wait_settled("failed", "web.xml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(refused).unwrap()).unwrap();
    assert_eq!(error["kind"], "unsupported", "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("libvirt-xml"), "{error}");
}
