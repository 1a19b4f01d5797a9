//! The domain that is written for a machine: reviewed texts, valid by libvirt's own schema, whatever a name holds.
//!
//! `UPDATE_GOLDEN=1 cargo test --test libvirt` writes the reviewed texts anew.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/machines.rs"]
mod machines;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use hyper2kvm::libvirt::xml::domain_xml;
use hyper2kvm::model::machine::{DiskBus, Machine, MachineDisk, MachineNic, NicLink};
use hyper2kvm::model::manifest::DiskCache;
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

#[test]
fn machines_of_all_kinds_are_written_as_reviewed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libvirt/golden");
    let mut differ = Vec::new();
    for (name, machine) in machines::all() {
        let xml = domain_xml(&machine);
        assert_eq!(objections(&xml), "", "{name}");
        let path = golden.join(format!("{name}.xml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &xml).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != xml {
            differ.push(path);
        }
    }
    assert!(differ.is_empty(), "{differ:?} (review with UPDATE_GOLDEN=1)");
    let reviewed = std::fs::read_dir(golden).unwrap().count();
    assert_eq!(reviewed, machines::all().len(), "each text is one of these machines'");
}

#[test]
fn each_way_to_cache_a_disk_is_one_that_libvirt_knows() {
    let mut machine = machines::mapped();
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
