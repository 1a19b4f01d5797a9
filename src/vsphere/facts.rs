//! What of a machine at a vCenter or host is a fact for everybody: the same words and units as of any other source.
//!
//! A disk's place is the server's own (`[ds1] web/web.vmdk`): it is no file of this machine, and whoever reads it asks the server. What is not here: reading
//! disks, and which of them can be read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::devices::VmDisk;
use super::inventory::Power;
use super::machine::Machine;
use crate::model::facts::{Facts, FoundDisk, FoundNic, SourceNote, is_windows};
use crate::model::machine::Firmware;
use crate::model::manifest::values::Mac;
use crate::model::plan::SourceFormat;
use crate::model::units::own_id;
use crate::model::vmware::SystemId;

/// The facts of a machine.
#[must_use]
pub fn facts(machine: &Machine) -> Facts {
    let mut facts = Facts {
        name: machine.name.clone(),
        vcpus: Some(machine.cpus).filter(|cpus| *cpus > 0),
        memory_bytes: machine.memory_mb.checked_mul(1 << 20).filter(|bytes| *bytes > 0),
        firmware: machine.firmware.or(Some(Firmware::Bios)),
        secure_boot: machine.secure_boot,
        tpm: machine.tpm,
        guest_os: machine.guest_id.clone(),
        warnings: warnings(machine),
        notes: machine.disks.iter().flat_map(notes).collect(),
        ..Facts::default()
    };
    let hardware = machine.hardware.strip_prefix("vmx-").and_then(|version| version.parse().ok());
    if let Some(id) = machine.uuid.as_deref().and_then(SystemId::parse) {
        facts.uuid = Some(id.uuid(hardware, machine.guest_id.as_deref().is_some_and(is_windows)));
        facts.serial = Some(id.serial());
    }
    let mut disks: Vec<&VmDisk> = machine.disks.iter().collect();
    let place =
        |disk: &VmDisk| machine.boot_disks.iter().position(|key| *key == disk.key).unwrap_or(usize::MAX);
    disks.sort_by_key(|disk| place(disk));
    let mut ids = BTreeSet::new();
    facts.disks = disks.into_iter().map(|disk| found_disk(disk, &mut ids)).collect();
    for nic in &machine.nics {
        let mac = nic.mac.as_deref().and_then(|mac| Mac::new(mac).ok());
        facts.nics.push(FoundNic {
            mac: mac.map(|mac| mac.as_str().to_owned()),
            network: nic.network.clone(),
            model: Some(nic.model.strip_prefix("Virtual").unwrap_or(&nic.model).to_owned()),
            ..FoundNic::default()
        });
    }
    facts
}

/// Where its disks are: names of datastores are one another's only within a datacenter.
#[must_use]
pub fn datastores(machine: &Machine) -> BTreeSet<String> {
    let datacenter = machine.datacenter.as_deref().unwrap_or_default();
    let named = machine.disks.iter().filter(|disk| !disk.datastore.is_empty());
    named.map(|disk| format!("{datacenter}/{}", disk.datastore)).collect()
}

fn found_disk(disk: &VmDisk, ids: &mut BTreeSet<String>) -> FoundDisk {
    let file = disk.path.split_once("] ").map_or(disk.path.as_str(), |(_, file)| file);
    FoundDisk {
        id: own_id(file, ids),
        path: PathBuf::from(&disk.path),
        member: None,
        packing: None,
        format: SourceFormat::Vmdk,
        capacity_bytes: Some(disk.capacity_bytes),
        checksum: None,
        piece_checksums: Vec::new(),
        is_chain: disk.parent.is_some(),
        allowed_paths: Vec::new(),
        controller: disk.controller,
        bus: disk.bus,
        unit: disk.unit,
    }
}

fn warnings(machine: &Machine) -> Vec<String> {
    let mut warnings = Vec::new();
    if machine.power == Power::Suspended {
        warnings.push(
            "the machine is suspended: what it had in memory stays behind; wake it and shut it down first"
                .to_owned(),
        );
    }
    if machine.consolidation_needed {
        warnings.push("files of snapshots are left that no snapshot has any more: consolidate its disks in vSphere first".to_owned());
    }
    for nic in machine.nics.iter().filter(|nic| nic.mac.as_deref().is_some_and(|mac| Mac::new(mac).is_err()))
    {
        warnings.push(format!("`{}` has an address that no card has: it gets another", nic.label));
    }
    warnings
}

/// What vSphere does with a disk that copies of it do not show.
fn notes(disk: &VmDisk) -> Vec<SourceNote> {
    let note = |rule: &str, message: String, advice: &str| SourceNote {
        rule: rule.to_owned(),
        about: Some(disk.path.clone()),
        message,
        advice: advice.to_owned(),
    };
    let mut notes = Vec::new();
    if disk.independent {
        notes.push(note(
            "disk.independent",
            format!("`{}` is independent: it is left out of VMware's snapshots, and may be of another moment than the others", disk.label),
            "shut the machine down before its disks are copied",
        ));
    }
    if disk.multi_writer {
        notes.push(note(
            "disk.shared",
            format!("`{}` may be written by several machines", disk.label),
            "shut down all of them before it is copied; on this side it belongs to one machine",
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::Controller;
    use crate::vsphere::devices::VmNic;

    #[test]
    fn a_machine_becomes_the_facts_that_a_manifest_is_made_of() {
        let disk = |key, path: &str, unit| VmDisk {
            key,
            path: path.to_owned(),
            unit,
            controller: Controller::Scsi,
            capacity_bytes: 1 << 30,
            ..VmDisk::default()
        };
        let machine = Machine {
            name: "web/1".to_owned(),
            cpus: 4,
            memory_mb: 2048,
            hardware: "vmx-19".to_owned(),
            guest_id: Some("debian11_64Guest".to_owned()),
            uuid: Some("564d0b8a-1122-3344-5566-778899aabbcc".to_owned()),
            disks: vec![
                disk(2000, "[ds1] web/web.vmdk", 0),
                VmDisk { independent: true, ..disk(2001, "[ds2] web/web.vmdk", 1) },
            ],
            boot_disks: vec![2001],
            nics: vec![VmNic {
                model: "VirtualVmxnet3".to_owned(),
                mac: Some("00:50:56:AA:BB:01".to_owned()),
                network: Some("VM Network".to_owned()),
                ..VmNic::default()
            }],
            ..Machine::default()
        };
        let facts = facts(&machine);
        assert_eq!((facts.vcpus, facts.memory_bytes), (Some(4), Some(2 << 30)));
        assert_eq!(facts.uuid.as_deref(), Some("8a0b4d56-2211-4433-5566-778899aabbcc"));
        let ids: Vec<&str> = facts.disks.iter().map(|disk| disk.id.as_str()).collect();
        assert_eq!(ids, ["web", "web-2"], "the disk that it boots from first");
        assert_eq!(facts.disks[0].path, PathBuf::from("[ds2] web/web.vmdk"));
        assert_eq!(facts.notes[0].rule, "disk.independent");
        assert_eq!(facts.nics[0].model.as_deref(), Some("Vmxnet3"));
        assert!(facts.nics[0].mac.is_some());
    }
}
