//! Repairs of network, guest tools and identity on a real file system, in the appliance: what is changed, what is kept, and that once is
//! enough.

use std::path::{Path, PathBuf};

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::facts::{Facts, FixOptions, WantedNic};
use hyper2kvm::guest::fix::{self, Fix, Guest};
use hyper2kvm::guest::linux;
use hyper2kvm::guest::tree::{Edit, Tree};
use hyper2kvm::model::guest::{GuestIdentity, GuestType, InitSystem};

use crate::support::trees;

const OURS: [&str; 5] = ["network", "guest-tools", "identity", "guest-agent", "selinux"];
const MAC: &str = "52:54:00:00:00:01";
const IFCFG: &str =
    "DEVICE=ens192\nHWADDR=00:50:56:01:02:03\nBOOTPROTO=none\nIPADDR=192.0.2.10\nPREFIX=24\nONBOOT=yes\n";
const CONTEXTS: &str = "/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n\
    /etc/udev/rules.d(/.*)?\tsystem_u:object_r:udev_rules_t:s0\n\
    /usr/lib/systemd/system(/.*)?\tsystem_u:object_r:systemd_unit_file_t:s0\n\
    /var/lib(/.*)?\tsystem_u:object_r:var_lib_t:s0\n";

/// A guest of the RHEL family, as VMware ran it.
fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("/etc/sysconfig/network-scripts/ifcfg-ens192", IFCFG),
        ("/usr/lib/systemd/network/99-default.link", "[Match]\nOriginalName=*\n"),
        ("/usr/lib/udev/rules.d/80-net-setup-link.rules", "\n"),
        ("/usr/lib/systemd/systemd", "\n"),
        ("/usr/lib/systemd/system/vmtoolsd.service", "[Unit]\n"),
        ("/usr/lib/systemd/system/sshd.service", "[Unit]\n"),
        ("/usr/lib/systemd/system/qemu-guest-agent.service", "[Install]\nWantedBy=multi-user.target\n"),
        ("/etc/systemd/system/x.service", "[Unit]\n"),
        ("/etc/vmware-tools/locations", "answer BINDIR /usr/bin\n"),
        ("/opt/VBoxGuestAdditions-6.1.50/uninstall.sh", "#!/bin/sh\n"),
        ("/usr/sbin/VBoxService", "\n"),
        ("/etc/modules-load.d/vmware.conf", "vmw_balloon\nloop\n"),
        ("/etc/cloud/cloud.cfg", "users: [default]\n"),
        ("/var/lib/cloud/instance/obj.pkl", "pickle"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
        ("/etc/selinux/targeted/contexts/files/file_contexts", CONTEXTS),
        (
            "/etc/selinux/targeted/contexts/files/file_contexts.subs_dist",
            "/etc/systemd/system /usr/lib/systemd/system\n",
        ),
    ]
}

fn disk(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    let image = dir.join("disk.raw");
    trees::ext4(&image, 64, &trees::tree(dir, files), &[]);
    image
}

/// Repairs and verifies, and gives back what was changed, warned of, and the appliance to look around in.
fn repaired(appliance: Appliance) -> (Vec<Edit>, Vec<String>, Appliance) {
    let fixes: Vec<&dyn Fix> = linux::ALL.iter().copied().filter(|fix| OURS.contains(&fix.name())).collect();
    assert_eq!(fixes.len(), OURS.len());
    let nics = vec![WantedNic { mac: Some(MAC.to_owned()), ..WantedNic::default() }];
    let options = FixOptions { nics, ..FixOptions::default() };
    let identity = GuestIdentity {
        kind: GuestType::Linux,
        init_system: InitSystem::Systemd,
        ..GuestIdentity::default()
    };
    let mut guest = Guest {
        tree: Tree::new(appliance, options.backup),
        facts: Facts { identity, ..Facts::default() },
        options: &options,
        warnings: Vec::new(),
    };
    fix::carry_out(&fixes, &mut guest, &mut |_| ()).unwrap();
    let warnings = guest.warnings;
    let (appliance, edits) = guest.tree.into_appliance();
    (edits, warnings, appliance)
}

#[test]
fn a_guest_of_vmware_keeps_its_card_and_its_identity_and_loses_its_tools() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path(), &files());
    let settings = Settings { kvm: false, memory_mb: None, temp: dir.path().to_owned(), log: None };
    let drive = Drive { path: image, format: "raw".to_owned(), readonly: false };
    let appliance = Appliance::launch(&settings, &[drive]).unwrap();
    appliance.mount("", "/dev/sda", "/").unwrap();

    let (edits, warnings, appliance) = repaired(appliance);
    let mut changed: Vec<String> =
        edits.iter().map(|edit| format!("{} {}", edit.action.name(), edit.path)).collect();
    changed.sort();
    assert_eq!(
        changed,
        [
            "changed /etc/modules-load.d/vmware.conf",
            "changed /etc/sysconfig/network-scripts/ifcfg-ens192",
            "created /etc/cloud/cloud.cfg.d/99-hyper2kvm.cfg",
            "created /etc/systemd/network/10-hyper2kvm-ens192.link",
            "created /etc/udev/rules.d/70-hyper2kvm-net.rules",
            "created /var/lib/cloud/instance/manual-clean",
            "linked /etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service",
            "linked /etc/systemd/system/vmtoolsd.service",
            "removed /opt/VBoxGuestAdditions-6.1.50",
            "removed /usr/sbin/VBoxService",
        ]
    );
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("open-vm-tools"), "{warnings:?}");

    let text = |path: &str| String::from_utf8(appliance.read(path, u64::MAX).unwrap()).unwrap();
    let ifcfg = text("/etc/sysconfig/network-scripts/ifcfg-ens192");
    assert_eq!(ifcfg, IFCFG.replace("00:50:56:01:02:03", MAC));
    assert_eq!(text("/etc/modules-load.d/vmware.conf"), "#vmw_balloon\nloop\n");
    assert_eq!(appliance.link_target("/etc/systemd/system/vmtoolsd.service").unwrap(), "/dev/null");
    let label =
        |path: &str| String::from_utf8(appliance.attribute(path, "security.selinux").unwrap()).unwrap();
    let of = |name: &str| format!("system_u:object_r:{name}:s0\0");
    assert_eq!(label("/etc/udev/rules.d/70-hyper2kvm-net.rules"), of("udev_rules_t"));
    assert_eq!(label("/etc/systemd/system/vmtoolsd.service"), of("systemd_unit_file_t"));
    assert_eq!(label("/etc/cloud/cloud.cfg.d"), of("etc_t"));

    let (edits, _, appliance) = repaired(appliance);
    assert_eq!(edits, [], "a second time changes nothing");
    appliance.finish().unwrap();
}
