//! The manifest's addresses in guests of several systems, on real file systems in one appliance: what each file then says, that inspection
//! reads it so, and that once is enough.

use std::fmt::Write as _;
use std::path::Path;

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::facts::{Facts, FixOptions, WantedNic};
use hyper2kvm::guest::fix::{self, Fix, Guest};
use hyper2kvm::guest::inspect;
use hyper2kvm::guest::linux;
use hyper2kvm::guest::tree::{Edit, Tree};
use hyper2kvm::model::error::{Kind, Result};

use crate::support::trees;

/// A system: its name, and its files.
type System = (&'static str, &'static [(&'static str, &'static str)]);

const UDEV: (&str, &str) = ("/usr/lib/udev/rules.d/80-net.rules", "\n");

const SYSTEMS: [System; 6] = [
    (
        "debian",
        &[
            UDEV,
            (
                "/etc/network/interfaces",
                "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n",
            ),
            (
                "/etc/network/interfaces.d/ens192",
                "# the server's card\nallow-hotplug ens192\niface ens192 inet static\n\taddress 198.51.100.7/24\n\tgateway 198.51.100.1\n\tmtu 9000\n",
            ),
            ("/etc/resolv.conf", "search example.org\nnameserver 198.51.100.53\n"),
            ("/etc/cloud/cloud.cfg", "users: [default]\n"),
        ],
    ),
    (
        "rhel",
        &[
            UDEV,
            (
                "/etc/sysconfig/network-scripts/ifcfg-ens192",
                "DEVICE=ens192\nHWADDR=00:50:56:01:02:03\nBOOTPROTO=dhcp\nONBOOT=yes\nPEERDNS=no\n",
            ),
            ("/etc/sysconfig/network-scripts/ifcfg-ens192:1", "DEVICE=ens192:1\nIPADDR=198.51.100.8\n"),
        ],
    ),
    (
        "sles",
        &[
            UDEV,
            (
                "/etc/sysconfig/network/ifcfg-eth0",
                "BOOTPROTO='static'\nIPADDR='198.51.100.7/24'\nSTARTMODE='auto'\n",
            ),
            ("/etc/sysconfig/network/routes", "default 198.51.100.1 - -\n203.0.113.0/24 198.51.100.9 - -\n"),
            ("/etc/sysconfig/network/config", "NETCONFIG_DNS_STATIC_SERVERS=\"198.51.100.53\"\n"),
        ],
    ),
    (
        "networkmanager-bond",
        &[
            UDEV,
            (
                "/etc/NetworkManager/system-connections/ens192.nmconnection",
                "[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\nmaster=bond0\nslave-type=bond\n",
            ),
            (
                "/etc/NetworkManager/system-connections/bond0.nmconnection",
                "[connection]\nid=bond0\ntype=bond\ninterface-name=bond0\n\n[bond]\nmode=active-backup\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n",
            ),
        ],
    ),
    (
        "ubuntu",
        &[
            UDEV,
            (
                "/etc/netplan/50-cloud-init.yaml",
                "# by cloud-init\nnetwork:\n    ethernets:\n        ens192:\n            dhcp4: true\n    version: 2\n",
            ),
            ("/etc/cloud/cloud.cfg", "users: [default]\n"),
        ],
    ),
    (
        "photon",
        &[
            UDEV,
            (
                "/etc/systemd/network/99-dhcp-en.network",
                "[Match]\nName=e*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\n",
            ),
        ],
    ),
];

/// What no program of ours configures.
const STRANGE: System = ("netctl", &[("/etc/netctl/wired", "Interface=ens192\nIP=dhcp\n")]);

fn options() -> FixOptions {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let nic = WantedNic {
        mac: Some("52:54:00:00:00:01".to_owned()),
        was: None,
        addresses: texts(&["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"]),
        gateway: Some("192.0.2.1".to_owned()),
        dns: texts(&["192.0.2.53", "2001:db8::53"]),
    };
    FixOptions { nics: vec![nic], ..FixOptions::default() }
}

fn drive(dir: &Path, (name, files): &System) -> Drive {
    let dir = dir.join(name);
    let image = dir.join("disk.raw");
    let tree = trees::tree(&dir, files);
    trees::ext4(&image, 16, &tree, &[]);
    Drive { path: image, format: "raw".to_owned(), readonly: false }
}

fn repaired(appliance: Appliance) -> (Result<()>, Vec<Edit>, Vec<String>, Appliance) {
    let ours = |fix: &&dyn Fix| ["network", "addresses"].contains(&fix.name());
    let fixes: Vec<&dyn Fix> = linux::ALL.iter().copied().filter(ours).collect();
    assert_eq!(fixes.len(), 2);
    let options = options();
    let mut guest = Guest {
        tree: Tree::new(appliance, options.backup),
        facts: Facts::default(),
        options: &options,
        warnings: Vec::new(),
    };
    let result = fix::carry_out(&fixes, &mut guest, &mut |_| ());
    let warnings = guest.warnings;
    let (appliance, edits) = guest.tree.into_appliance();
    (result, edits, warnings, appliance)
}

#[test]
fn guests_of_every_system_have_the_addresses_of_the_manifest_and_a_second_time_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { kvm: false, memory_mb: None, temp: dir.path().to_owned(), log: None };
    let drives: Vec<Drive> =
        SYSTEMS.iter().chain([&STRANGE]).map(|system| drive(dir.path(), system)).collect();
    let mut appliance = Appliance::launch(&settings, &drives).unwrap();
    let mut told = String::new();
    for ((name, _), letter) in SYSTEMS.iter().zip('a'..) {
        appliance.mount("", &format!("/dev/sd{letter}"), "/").unwrap();
        let (result, edits, warnings, open) = repaired(appliance);
        result.unwrap();
        let _ = writeln!(told, "#### {name}");
        for edit in edits.iter().filter(|edit| edit.fix == "addresses") {
            let _ = writeln!(told, "== {} {}: {}", edit.action.name(), edit.path, edit.detail);
            told.push_str(&String::from_utf8_lossy(edit.after.as_deref().unwrap_or_default()));
            assert!(edit.before.is_none() || edit.backup.is_some(), "{name}: no backup of {}", edit.path);
        }
        for warning in warnings {
            let _ = writeln!(told, "!! {warning}");
        }
        let nics = inspect::nics(&open).unwrap();
        let nic =
            nics.iter().find(|nic| nic.addresses.len() == 3).unwrap_or_else(|| panic!("{name}: {nics:#?}"));
        assert_eq!((nic.dhcp, nic.gateway.as_deref()), (false, Some("192.0.2.1")), "{name}");
        assert!(nic.addresses.contains(&"2001:db8::10/64".to_owned()), "{name}: {nic:#?}");

        let (again, edits, _, open) = repaired(open);
        again.unwrap();
        assert_eq!(edits, [], "{name}: a second time changes nothing");
        open.unmount_all().unwrap();
        appliance = open;
    }
    insta::assert_snapshot!("addresses", told);

    appliance.mount("", "/dev/sdg", "/").unwrap();
    let (result, edits, _, appliance) = repaired(appliance);
    let error = result.unwrap_err();
    assert_eq!((error.kind(), edits.len()), (Kind::Unsupported, 0), "{error}");
    assert!(error.to_string().contains("nothing is known that configures its network"), "{error}");
    appliance.finish().unwrap();
}
