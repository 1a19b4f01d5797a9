//! Domains of a real libvirt as sources: by their names, with volumes of its pools, and not while they run.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::disks;
use crate::support::libvirtd::Libvirtd;

const UUID: &str = "564d1c2a-0000-1111-2222-333344445555";

/// A libvirtd with a machine that has a disk by its file and one by its volume, and a name that nobody would choose.
fn site() -> Libvirtd {
    let libvirtd = Libvirtd::start();
    let images = libvirtd.images();
    disks::disk(&images, "system", "qcow2", 16, 4, 1);
    disks::disk(&images, "data", "qcow2", 16, 3, 2);
    let shown = images.display();
    libvirtd.sh(&format!(
        "virsh -q pool-define-as 'the pool' dir --target '{shown}' && virsh -q pool-start 'the pool'
virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web &amp; \"co\"</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{shown}/system.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='the pool' volume='data.qcow2'/><target dev='vdb' bus='virtio'/></disk>
</devices></domain>
end"
    ));
    libvirtd
}

const DOMAIN: &str = "libvirt://web & \"co\"";

fn run(libvirtd: &Libvirtd, at: &Path, words: &[&str]) -> Output {
    // Who enters its namespaces is in another directory.
    let mut command = libvirtd.inside("env");
    command.arg("-C").arg(at).arg(env!("CARGO_BIN_EXE_hyper2kvm")).args(words).arg("--json").output().unwrap()
}

fn refused(libvirtd: &Libvirtd, at: &Path, words: &[&str]) -> (String, String) {
    let output = run(libvirtd, at, words);
    assert!(!output.status.success(), "{words:?}: {output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert!(error["suggestion"].is_string(), "{error}");
    (error["kind"].as_str().unwrap().to_owned(), error["error"].as_str().unwrap().to_owned())
}

#[test]
fn a_machine_that_is_off_is_converted_by_its_name_with_its_volumes() {
    let (libvirtd, here) = (site(), tempfile::tempdir().unwrap());
    let output = run(&libvirtd, here.path(), &["convert", DOMAIN, "-o", "out", "--no-fix"]);
    assert!(output.status.success(), "{output:?}");
    for (id, source) in [("vda", "system"), ("vdb", "data")] {
        let source = libvirtd.images().join(format!("{source}.qcow2"));
        let result = here.path().join(format!("out/{id}.qcow2"));
        assert_eq!(disks::content_sha256(&source, "qcow2"), disks::content_sha256(&result, "qcow2"), "{id}");
    }
    // The same through a manifest, and what else takes a machine.
    let manifest = "manifest_version: \"1.0\"\nprofile: none\nsource:\n  libvirt-xml:\n    uri: qemu:///system\n    domain: web & \"co\"\n";
    fs::write(here.path().join("vm.yaml"), manifest).unwrap();
    for words in [["plan", "vm.yaml"], ["plan", DOMAIN]] {
        let output = run(&libvirtd, here.path(), &words);
        assert!(output.status.success(), "{output:?}");
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let plan = &plan["plans"][0];
        assert_eq!(
            (&plan["machine"]["uuid"], &plan["machine"]["vcpus"]),
            (&Value::from(UUID), &Value::from(2))
        );
        let data = libvirtd.images().join("data.qcow2");
        assert_eq!(plan["disks"][1]["source"], data.to_str().unwrap(), "{words:?}");
    }
    let output = run(&libvirtd, here.path(), &["validate", DOMAIN]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_machine_of_the_configured_libvirt_is_found_by_its_name_and_by_its_xml() {
    let (libvirtd, here) = (site(), tempfile::tempdir().unwrap());
    let config = here.path().join("hyper2kvm.yaml");
    fs::write(&config, format!("libvirt: {{uri: \"{}\"}}\n", libvirtd.uri())).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.arg("--config").arg(&config).args(words).arg("--json").current_dir(here.path());
        command.output().unwrap()
    };
    fs::write(here.path().join("web.xml"), libvirtd.sh(&format!("virsh dumpxml --inactive {UUID}"))).unwrap();
    let manifest = "--no-compute-checksums";
    for words in [
        &["manifest", DOMAIN, manifest][..],
        &["plan", DOMAIN],
        &["validate", DOMAIN],
        &["manifest", "web.xml", manifest],
    ] {
        let output = run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        let data = libvirtd.images().join("data.qcow2");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(words[0] == "validate" || told.contains(data.to_str().unwrap()), "{words:?}: {told}");
    }
    libvirtd.sh(&format!("virsh -q start {UUID}"));
    for words in [["manifest", DOMAIN, manifest], ["manifest", "web.xml", manifest]] {
        let output = run(&words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("runs on this host"), "{words:?}: {told}");
    }
    // What a manifest names is allowed by the configuration, and by nothing else.
    let text = "manifest_version: \"1.0\"\nsource:\n  libvirt-xml: {uri: \"qemu:///session\", domain: web}\n";
    fs::write(here.path().join("vm.yaml"), text).unwrap();
    let output = run(&["plan", "vm.yaml"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("may not name the libvirt `qemu:///session`"), "{told}");
}

#[test]
fn a_machine_that_runs_is_refused_by_its_name_and_by_its_xml() {
    let (libvirtd, here) = (site(), tempfile::tempdir().unwrap());
    fs::write(here.path().join("web.xml"), libvirtd.sh(&format!("virsh dumpxml --inactive {UUID}"))).unwrap();
    let inputs =
        [["manifest", DOMAIN, "--no-compute-checksums"], ["manifest", "web.xml", "--no-compute-checksums"]];
    for words in &inputs {
        let output = run(&libvirtd, here.path(), words);
        assert!(output.status.success(), "{output:?}");
    }
    libvirtd.sh(&format!("virsh -q start {UUID}"));
    for words in &inputs {
        let (kind, told) = refused(&libvirtd, here.path(), words);
        assert!(kind == "source" && told.contains("runs on this host"), "{kind}: {told}");
    }
    // Saved, it is off; what it had in memory is told of.
    libvirtd.sh(&format!("virsh -q managedsave {UUID}"));
    let output = libvirtd.hyper2kvm().args(["manifest", DOMAIN, "--no-compute-checksums"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("stays behind"), "{output:?}");
}

#[test]
fn a_machine_or_a_volume_that_is_not_there_is_told() {
    let (libvirtd, here) = (site(), tempfile::tempdir().unwrap());
    let (kind, told) = refused(&libvirtd, here.path(), &["convert", "libvirt://nobody", "--no-fix"]);
    assert!(kind == "libvirt" && told.contains("nobody"), "{kind}: {told}");
    fs::remove_file(libvirtd.images().join("data.qcow2")).unwrap();
    let (kind, told) = refused(&libvirtd, here.path(), &["convert", DOMAIN, "--no-fix"]);
    assert!(kind == "source" && told.contains("its disk `vdb` is not there"), "{kind}: {told}");
    libvirtd.sh("virsh -q pool-refresh 'the pool'");
    let (kind, told) = refused(&libvirtd, here.path(), &["convert", DOMAIN, "--no-fix"]);
    assert!(
        kind == "libvirt" && told.contains("volume `data.qcow2` of the pool `the pool`"),
        "{kind}: {told}"
    );
}

#[test]
fn a_libvirt_that_hangs_costs_half_a_minute_and_not_the_command() {
    let (libvirtd, here) = (site(), tempfile::tempdir().unwrap());
    libvirtd.signal(rustix::process::Signal::STOP);
    let (kind, told) = refused(&libvirtd, here.path(), &["convert", DOMAIN, "--no-fix"]);
    libvirtd.signal(rustix::process::Signal::CONT);
    assert!(kind == "libvirt" && told.contains("did not answer for 30 s"), "{kind}: {told}");
}
