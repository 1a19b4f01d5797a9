//! Secure boot, which exists only with UEFI: what a source and a manifest say of both.

use std::path::Path;

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Result;
use hyper2kvm::model::facts::{Controller, Facts, FoundDisk};
use hyper2kvm::model::machine::Firmware;
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::model::planner::{Nowhere, Origin, Submission, Surroundings};

/// A source that describes this machine.
struct Source(Facts);

impl Surroundings for Source {
    fn machines(&mut self, _: &Origin) -> Result<Vec<Facts>> {
        Ok(vec![self.0.clone()])
    }

    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>> {
        Nowhere.manifest(path)
    }
}

#[test]
fn a_source_whose_secure_boot_has_no_uefi_is_told_and_somebody_who_wants_both_is_refused() {
    let facts = |firmware, secure_boot| Facts {
        name: "web".to_owned(),
        firmware: Some(firmware),
        secure_boot,
        disks: vec![FoundDisk {
            id: "web".to_owned(),
            path: "/srv/web.vmdk".into(),
            member: None,
            packing: None,
            format: SourceFormat::Vmdk,
            capacity_bytes: None,
            checksum: None,
            piece_checksums: Vec::new(),
            is_chain: false,
            allowed_paths: Vec::new(),
            controller: Controller::Scsi,
            bus: 0,
            unit: 0,
        }],
        ..Facts::default()
    };
    let settings = Settings::defaults(Path::new("/state"), 2);
    let read = |vm: &str, facts: Facts| {
        let text = format!("manifest_version: \"1.0\"\nsource: {{ova: {{path: /srv/web.ova}}}}\n{vm}");
        let mut around = Source(facts);
        Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings, &mut around)
    };
    let plan =
        |vm: &str, facts: Facts| read(vm, facts).unwrap().plans("web", "", &settings).unwrap().remove(0);
    let left_out = "the source has secure boot, which is left out: it exists only with UEFI, and the machine starts by BIOS";
    for (vm, facts) in [
        ("", facts(Firmware::Bios, true)),
        ("vm: {firmware: bios}\n", facts(Firmware::Uefi, true)),
        ("vm: {firmware: bios, machine: pc}\n", facts(Firmware::Uefi, true)),
    ] {
        let plan = plan(vm, facts);
        let machine = plan.machine.unwrap();
        assert_eq!((machine.firmware, machine.secure_boot), (Some(Firmware::Bios), false), "{vm}");
        assert!(plan.warnings.iter().any(|warning| warning == left_out), "{vm}: {:?}", plan.warnings);
    }
    let both = plan("", facts(Firmware::Uefi, true));
    assert!(both.machine.unwrap().secure_boot && both.warnings.is_empty());
    let error = read("vm: {secureboot: true}\n", facts(Firmware::Bios, false)).unwrap_err();
    let place = (error.details().place.field.as_deref(), error.details().place.line);
    assert_eq!(place, (Some("vm.secureboot"), Some(3)), "{error}");
    assert!(
        error.to_string().contains("the source starts by BIOS; remove it, or set `firmware: uefi`"),
        "{error}"
    );
    let uefi = plan("vm: {secureboot: true, firmware: uefi}\n", facts(Firmware::Bios, false));
    assert!(uefi.machine.unwrap().secure_boot);
}
