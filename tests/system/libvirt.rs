//! The installed service and the system's libvirt: who lets it in, and what it does there as its own user, in the sandbox of its unit.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::installed::Installed;
use super::machine::Kind;
use crate::support::disks;

/// The host does other things, too.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Drops a small disk that is to be converted and handed to libvirt under the batch's name.
fn drop_disk(installed: &Installed, name: &str, told: &str) {
    disks::raw(&installed.machine.shared().join(format!("{name}.raw")), 4, 2, 1);
    let inside = format!("/srv/host/{name}.raw");
    let further = format!(
        "name: {name}\nprofile: none\nvm: {{mem_mb: 128}}\npipeline: {{convert: {{enabled: true}}}}\n\
         libvirt_integration: {{enabled: true, {told}}}\n"
    );
    installed.drop(name, &disks::manifest(&[("boot", Path::new(&inside), "raw")], &further));
}

fn is_well(installed: &Installed, name: &str) {
    let ended = format!("ls -d /var/lib/hyper2kvm/*ed/*/{name}.yaml");
    let ended = installed.machine.wait_sh_for(PATIENCE, &ended);
    assert!(ended.contains("/processed/"), "{ended}\n{}", installed.journal());
}

fn well(installed: &Installed, name: &str, told: &str) {
    drop_disk(installed, name, told);
    is_well(installed, name);
}

/// What `status` says of libvirt once it has asked.
fn libvirt(installed: &Installed) -> Value {
    let asked = "hyper2kvm status --json | grep -q '\"answers\"' && hyper2kvm status --json";
    serde_json::from_str::<Value>(&installed.machine.wait_sh(asked)).unwrap()["libvirt"].clone()
}

#[test]
fn the_installed_service_is_let_in_to_libvirt_by_a_rule_or_by_the_group_and_not_without() {
    let installed = Installed::on(Kind::WithGuest("bookworm-bios"));
    let machine = &installed.machine;

    // It may look. What it may not change is told before a byte is copied, and goes well as soon as it is let in.
    assert!(libvirt(&installed)["detail"].as_str().unwrap().starts_with("QEMU "));
    drop_disk(&installed, "stranger", "auto_start: false");
    let waits = "hyper2kvm show stranger/stranger --json | grep -E '\"waiting_reason\": *\"auth\"'";
    machine.wait_sh_for(PATIENCE, waits);
    let told = machine.sh("hyper2kvm show stranger/stranger --json");
    assert!(told.contains("docs/libvirt.md says how the service is let in"), "{told}");
    machine.sh("! ls /var/lib/hyper2kvm/output/stranger/stranger/.boot.qcow2.partial");
    machine.sh("cp /usr/share/doc/hyper2kvm/examples/polkit/50-hyper2kvm.rules /etc/polkit-1/rules.d/");
    machine.sh("hyper2kvm resume stranger");
    is_well(&installed, "stranger");
    assert_eq!(machine.sh("virsh -q domstate stranger"), "shut off");

    well(&installed, "ruled", "create_snapshot: true, autostart: true");
    assert_eq!(machine.sh("virsh -q snapshot-list ruled --name"), "pre-first-boot");
    machine.sh("virsh -q dumpxml ruled | grep /var/lib/hyper2kvm/output/ruled/ruled/boot.qcow2");
    machine.sh("virsh dominfo ruled | grep -E 'Autostart: +enable'");
    let report = machine.sh("cat /var/lib/hyper2kvm/output/ruled/ruled/report.json");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["libvirt"]["domain"], "ruled", "{report:#}");

    machine.sh("rm /etc/polkit-1/rules.d/50-hyper2kvm.rules && adduser --quiet hyper2kvm libvirt && systemctl restart hyper2kvm");
    machine.sh(
        "mkdir -p /srv/pool && virsh -q pool-define-as vms dir --target /srv/pool && virsh -q pool-start vms",
    );
    // No machine is started: control groups are read-only in a container, and libvirt makes one for each.
    well(&installed, "member", "import_to_pool: vms");
    machine.sh("virsh -q domblklist member | grep /srv/pool/member-boot.qcow2");
    assert_eq!(
        machine.sh("stat -c %a /var/lib/hyper2kvm/output /var/lib/hyper2kvm/output/member"),
        "751\n751"
    );
    machine.sh("runuser -u hyper2kvm -- hyper2kvm doctor | grep -i 'libvirt' | grep -iq 'ok'");
}
