//! A conversion that hands its result to libvirt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::libvirtd::Libvirtd;

const MIB: usize = 1 << 20;

/// A libvirtd, and a manifest of one small disk that is handed to it.
pub struct Site {
    pub libvirtd: Libvirtd,
}

impl Site {
    pub fn new() -> Site {
        let libvirtd = Libvirtd::start();
        let mut disk = vec![0_u8; 8 * MIB];
        disk[..5 * MIB].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
        fs::write(libvirtd.images().join("web.img"), disk).unwrap();
        Site { libvirtd }
    }

    pub fn out(&self) -> PathBuf {
        self.libvirtd.images().join("out")
    }

    /// The manifest with this said of libvirt, and what else is said.
    pub fn manifest(&self, told: &str, rest: &str) -> PathBuf {
        let images = self.libvirtd.images();
        let text = format!(
            "manifest_version: \"1.0\"\nname: web\nprofile: none\ndisks:\n  - {{id: boot, source_format: raw, local_path: {}}}\n\
             output: {{directory: {}}}\npipeline: {{convert: {{enabled: true}}, validate: {{enabled: true}}}}\nlibvirt_integration: {{enabled: true, {told}}}\n{rest}",
            images.join("web.img").display(),
            self.out().display(),
        );
        let path = images.join("web.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    pub fn convert(&self, told: &str, rest: &str) -> Output {
        self.convert_with(told, rest, &[])
    }

    pub fn convert_with(&self, told: &str, rest: &str, env: &[(&str, &str)]) -> Output {
        let manifest = self.manifest(told, rest);
        let mut command = self.libvirtd.hyper2kvm();
        command.arg("convert").arg(manifest).envs(env.iter().copied());
        // What an earlier one left is gone on with.
        if self.out().exists() {
            command.arg("--resume");
        }
        command.output().unwrap()
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.out().join("report.json")).unwrap()).unwrap()
    }

    pub fn virsh(&self, words: &str) -> String {
        self.libvirtd.sh(&format!("virsh -q {words}")).trim().to_owned()
    }

    pub fn pool(&self, name: &str) -> PathBuf {
        let path = self.libvirtd.images().join(name);
        self.virsh(&format!("pool-define-as {name} dir --target {}", path.display()));
        self.virsh(&format!("pool-build {name}"));
        self.virsh(&format!("pool-start {name}"));
        path
    }

    /// Nothing of the conversion is left: no machine, no volume, no result with its final name.
    pub fn is_clean(&self) {
        assert_eq!(self.virsh("list --all --name"), "");
        for pool in self.virsh("pool-list --name").lines().map(str::trim).filter(|name| !name.is_empty()) {
            self.virsh(&format!("pool-refresh {pool}"));
            assert_eq!(self.virsh(&format!("vol-list {pool}")), "", "{pool}");
        }
        let left: Vec<_> = names(&self.out());
        assert!(left.iter().all(|name| name.starts_with('.') || name == "replaced"), "{left:?}");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn went_well(output: &Output) {
    assert!(output.status.success(), "{}", told(output));
}

pub fn failed_with(output: &Output, words: &str) {
    assert!(!output.status.success() && told(output).contains(words), "{}", told(output));
}

#[test]
fn a_result_is_defined_where_it_lies_with_a_snapshot_and_starts_with_the_host() {
    let site = Site::new();
    went_well(
        &site.convert("create_snapshot: true, autostart: true", "nics: [{mac: \"52:54:00:12:34:56\"}]\n"),
    );
    assert_eq!(site.virsh("list --all --name"), "web");
    assert_eq!(site.virsh("snapshot-list web --name"), "pre-first-boot");
    assert!(site.virsh("dominfo web").contains("Autostart:      enable"));
    let report = site.report();
    let libvirt = &report["libvirt"];
    assert_eq!((&libvirt["domain"], &libvirt["autostart"]), (&"web".into(), &true.into()));
    assert_eq!(libvirt["uuid"].as_str(), Some(site.virsh("domuuid web").as_str()));
    assert_eq!(report["pipeline"]["stages"]["libvirt"]["success"], true);
    let defined = site.virsh("dumpxml web --inactive");
    assert!(defined.contains(&site.out().join("boot.qcow2").display().to_string()), "{defined}");
    assert!(defined.contains("urn:hyper2kvm:domain:1") && defined.contains("vm=\"web\""), "{defined}");
    let written = fs::read_to_string(site.out().join("domain.xml")).unwrap();
    assert!(
        written.contains(libvirt["uuid"].as_str().unwrap()) && written.contains("type='qemu'"),
        "{written}"
    );
    assert!(report["artifacts"][0]["sha256"].is_string());
}

#[test]
fn a_result_goes_into_a_pool_and_its_machine_is_started_from_there() {
    let site = Site::new();
    let pool = site.pool("vms");
    went_well(&site.convert("import_to_pool: vms, auto_start: true", ""));
    assert_eq!(site.virsh("domstate web"), "running");
    let report = site.report();
    let volume = &report["libvirt"]["volumes"][0];
    assert_eq!(volume["volume"], "web-boot.qcow2");
    assert_eq!(volume["path"].as_str().map(Path::new), Some(pool.join("web-boot.qcow2").as_path()));
    assert!(report["libvirt"]["started"].as_bool().unwrap());
    assert!(site.out().join("boot.qcow2").exists(), "a copy stays where results lie");
    assert!(site.virsh("domblklist web").contains("web-boot.qcow2"));
}

#[test]
fn a_result_that_is_moved_lies_in_the_pool_alone() {
    let site = Site::new();
    let pool = site.libvirtd.images().join("made");
    went_well(
        &site.convert(&format!("import_to_pool: made, pool_path: {}, copy_disks: false", pool.display()), ""),
    );
    assert!(pool.join("web-boot.qcow2").exists() && !site.out().join("boot.qcow2").exists());
    let report = site.report();
    assert_eq!(
        report["artifacts"][0]["path"].as_str().map(Path::new),
        Some(pool.join("web-boot.qcow2").as_path())
    );
    assert!(report["artifacts"][0]["sha256"].is_string());
}

#[test]
fn what_cannot_succeed_is_told_before_a_byte_is_copied() {
    let site = Site::new();
    site.libvirtd.sh(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><interface type='user'><mac address='52:54:00:12:34:56'/></interface></devices></domain>
end",
    );
    let cases = [
        ("overwrite_domain: true", "", "was not made by hyper2kvm"),
        ("vm_name: db, import_to_pool: nowhere", "", "no storage pool nowhere"),
        ("vm_name: db", "nics: [{mac: \"52:54:00:12:34:56\"}]\n", "hardware address 52:54:00:12:34:56"),
        ("vm_name: db", "vm: {uuid: 564d1c2a-0000-1111-2222-333344445555}\n", "UUID"),
        (
            "vm_name: db, auto_start: true",
            "network_mapping: {source_networks: {lab: nonsense}}\nnics: [{network: lab}]\n",
            "nonsense",
        ),
    ];
    for (said, rest, words) in cases {
        failed_with(&site.convert(said, rest), words);
        assert!(!site.out().join("boot.qcow2").exists() && !site.out().join(".boot.qcow2.partial").exists());
    }
    let pool = site.pool("vms");
    fs::write(pool.join("db-boot.qcow2"), "of somebody else").unwrap();
    site.virsh("pool-refresh vms");
    failed_with(&site.convert("vm_name: db, import_to_pool: vms", ""), "volume db-boot.qcow2 already");
    went_well(&site.convert("vm_name: db, import_to_pool: vms, overwrite_volumes: true", ""));
    fs::remove_dir_all(site.out()).unwrap();
    site.libvirtd.hold(true);
    site.libvirtd.kill();
    failed_with(&site.convert("vm_name: other", ""), "libvirt");
}

#[test]
fn a_machine_of_ours_that_is_off_gives_way_and_is_kept() {
    let site = Site::new();
    went_well(&site.convert("", ""));
    let first = site.virsh("domuuid web");
    fs::rename(site.out(), site.libvirtd.images().join("first")).unwrap();
    failed_with(&site.convert("", "priority: 1\n"), "may not be replaced");
    went_well(&site.convert("overwrite_domain: true, auto_start: true", ""));
    let kept = site.report()["libvirt"]["replaced"].as_str().map(PathBuf::from);
    if let Some(kept) = kept {
        assert!(fs::read_to_string(kept.join("domain.xml")).unwrap().contains(&first));
    }
    fs::rename(site.out(), site.libvirtd.images().join("second")).unwrap();
    failed_with(&site.convert("overwrite_domain: true", "priority: 2\n"), "is not off");
    assert_eq!(site.virsh("domstate web"), "running");
}

#[test]
fn what_libvirt_will_be_told_is_planned_in_words() {
    let site = Site::new();
    let manifest = site.manifest(
        "vm_name: db, import_to_pool: vms, copy_disks: false, create_snapshot: true, auto_start: true",
        "",
    );
    let output = site.libvirtd.hyper2kvm().arg("plan").arg(manifest).output().unwrap();
    went_well(&output);
    let expected = "\nlibvirt (qemu:///system)\n  disk boot is moved as db-boot.qcow2 into the pool vms\n  \
                    the machine db is defined\n  a snapshot pre-first-boot is made before it ever runs\n  it is started\n";
    assert!(told(&output).contains(expected), "{}", told(&output));
}
