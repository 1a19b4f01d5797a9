//! The domain that is written for a machine: reviewed texts, valid by libvirt's own schema, whatever a name holds.
//!
//! `UPDATE_GOLDEN=1 cargo test --test libvirt` writes the reviewed texts anew.

#![allow(clippy::unwrap_used)] // A test that fails may panic.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper2kvm::libvirt::xml::domain_xml;
use hyper2kvm::model::limits::{DiskLimits, FlowLimit};
use hyper2kvm::model::machine::{DiskBus, Firmware, Machine, MachineDisk, MachineNic, NicLink};
use hyper2kvm::model::manifest::{DiskCache, Manifest};
use hyper2kvm::model::plan::SourceFormat;
use proptest::prelude::*;

/// Installed with the library itself.
const SCHEMA: &str = "/usr/share/libvirt/schemas/domain.rng";

/// What libvirt's schema has against this text; empty if nothing.
fn objections(xml: &str) -> String {
    let mut child = Command::new("xmllint")
        .args(["--noout", "--relaxng", SCHEMA, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xmllint (package libxml2-utils)");
    child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => String::new(),
        false => format!("{}\n{xml}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn machine(name: &str, manifest: &str) -> Machine {
    let manifest: Manifest = serde_yaml::from_str(manifest).unwrap();
    let image =
        |id: &str| (id.to_owned(), PathBuf::from(format!("/srv/out/{name}/{id}.qcow2")), SourceFormat::Qcow2);
    Machine::of_manifest(name, &manifest, ["boot", "data"].map(image))
}

fn reviewed(name: &str, machine: &Machine) {
    let xml = domain_xml(machine);
    assert_eq!(objections(&xml), "");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libvirt/golden").join(format!("{name}.xml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &xml).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(xml, expected, "{} (review with UPDATE_GOLDEN=1)", path.display());
}

#[test]
fn a_plain_bios_machine_is_written_as_reviewed() {
    reviewed("bios", &machine("web", "nics: [{mac: '00:50:56:aa:bb:cc'}, {bridge: br0, model: e1000e}]"));
}

#[test]
fn a_machine_with_all_that_windows_11_asks_for_is_written_as_reviewed() {
    let mut machine = machine(
        "desk",
        "vm: {cpu: 4, mem_mb: 6144, firmware: uefi, secureboot: true, tpm: true, disk_bus: scsi, os_hint: windows,
              uuid: 564d1c2a-0000-1111-2222-333344445555, serial: 'VMware-56 4d 1c 2a'}",
    );
    machine.disks[0].serial = Some("6000c29a8b".to_owned());
    reviewed("secure-boot", &machine);
}

#[test]
fn a_guest_that_was_not_repaired_is_written_with_emulated_parts() {
    let machine = machine("old", "nics: [{mac: '00:50:56:aa:bb:cc'}]").found(Some(Firmware::Uefi)).emulated();
    reviewed("emulated", &machine);
}

#[test]
fn cards_and_disks_with_all_that_a_mapping_can_give_them_are_written_as_reviewed() {
    let mut machine = machine("mapped", "nics: [{mac: '00:50:56:aa:bb:01'}, {bridge: br0}, {}, {}]");
    let flow = |average, peak, burst| FlowLimit { average, peak, burst };
    machine.nics[0].link = NicLink::OpenVswitch("ovs-dmz".to_owned());
    machine.nics[0].vlan = Some(120);
    machine.nics[0].limits.inbound = Some(flow(50 << 20, None, None));
    machine.nics[0].limits.outbound = Some(flow(1, Some(40_000_000), Some(8 << 20)));
    machine.nics[2].link = NicLink::Network("lan".to_owned());
    machine.nics[2].limits.outbound = Some(flow(1 << 40, Some(1 << 40), Some(1 << 40)));
    machine.nics[3].link = NicLink::OpenVswitch("ovs0".to_owned());
    machine.disks[0].cache = Some(DiskCache::None);
    machine.disks[0].limits = DiskLimits {
        read_bytes_sec: Some(100 << 20),
        write_bytes_sec: Some(50 << 20),
        total_iops_sec: Some(500),
        ..DiskLimits::default()
    };
    machine.disks[1].format = SourceFormat::Raw;
    machine.disks[1].path = PathBuf::from("/srv/slow/mapped-data.raw");
    machine.disks[1].limits = DiskLimits {
        total_bytes_sec: Some(1 << 40),
        read_iops_sec: Some(1),
        write_iops_sec: Some(1_000_000_000),
        ..DiskLimits::default()
    };
    reviewed("mapped", &machine);
    for cache in [DiskCache::Writeback, DiskCache::Writethrough, DiskCache::Directsync, DiskCache::Unsafe] {
        machine.disks[1].cache = Some(cache);
        assert_eq!(objections(&domain_xml(&machine)), "");
    }
}

/// Names as nobody sane gives them, and some do.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[<>&'\"/\\\\\n\r\t\0 .-]{0,12}",
        Just("</name><devices><hostdev/></devices>".to_owned()),
        Just("&xxe; ]]> <![CDATA[".to_owned()),
    ]
}

proptest! {
    // Each case starts a process.
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_or_a_person_calls_things_the_text_stays_valid_and_means_the_same(
        name in hostile(), serial in hostile(), path in "/[^\u{0}-\u{1f}]{1,20}", network in "[^\u{0}/]{1,12}", bus in 0..3_u8,
    ) {
        let mut machine = Machine::new(name);
        machine.serial = Some(serial.clone());
        machine.disks.push(MachineDisk {
            bus: [DiskBus::VirtioBlk, DiskBus::VirtioScsi, DiskBus::Sata][usize::from(bus)],
            serial: Some(serial),
            boot_order: Some(1),
            ..MachineDisk::new("boot", &path, SourceFormat::Raw)
        });
        machine.nics.push(MachineNic::new(NicLink::Network(network)));
        let xml = domain_xml(&machine);
        prop_assert_eq!(objections(&xml), "");
        for (element, count) in [("<disk ", 1), ("<interface ", 1), ("<name>", 1), ("<hostdev", 0)] {
            prop_assert_eq!(xml.matches(element).count(), count, "{}", xml);
        }
    }
}
