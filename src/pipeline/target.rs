//! The machine that a result is for: what the plan says of it, what was found in the guest, and where the disks lie.
//!
//! What is not here: how it is said to libvirt ([`crate::libvirt::xml`]) or tried out.

use std::path::PathBuf;

use super::boot_test::firmware;
use super::checkpoint::Checkpoint;
use crate::model::guest::GuestFirmware;
use crate::model::machine::{Firmware, Machine};
use crate::model::plan::Plan;

/// The machine around these images, which are in the plan's order.
pub(super) fn machine(plan: &Plan, checkpoint: &Checkpoint, images: &[PathBuf]) -> Option<Machine> {
    let mut machine = plan.machine.clone()?;
    for (disk, image) in machine.disks.iter_mut().zip(images) {
        disk.path.clone_from(image);
    }
    let guest = checkpoint.guest.as_ref();
    let found = guest.and_then(|guest| guest.identity.as_ref()).map(|identity| identity.firmware);
    let machine = machine.found(match found {
        Some(GuestFirmware::Bios) => Some(Firmware::Bios),
        Some(GuestFirmware::Uefi) => Some(Firmware::Uefi),
        // Either will do: whoever starts it decides.
        Some(GuestFirmware::Both | GuestFirmware::Unknown) | None => None,
    });
    let machine = match guest.and_then(|guest| guest.identity.as_ref()) {
        Some(identity) => machine.fit_for(identity),
        None => machine,
    };
    let machine = match machine.starts_with() {
        Firmware::Uefi => Machine { firmware_files: firmware::undescribed(machine.secure_boot), ..machine },
        Firmware::Bios => machine,
    };
    let mut machine = if guest.is_some_and(|guest| guest.emulated) { machine.emulated() } else { machine };
    if plan.remote.as_ref().is_some_and(|remote| remote.isolated) {
        machine.nics.iter_mut().for_each(|nic| nic.is_unplugged = true);
    }
    Some(machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guest::{GuestIdentity, GuestKernel, GuestType};
    use crate::model::machine::DiskBus;
    use crate::pipeline::checkpoint::GuestRecord;
    use crate::pipeline::preflight::tests::plan;

    /// The machine whose guest has this kernel and was started so far by this firmware.
    fn found(kernel: &str, firmware: GuestFirmware, emulated: bool) -> Machine {
        let plan = plan(&[]);
        let kernel = GuestKernel { version: kernel.to_owned(), default: true, ..GuestKernel::default() };
        let identity = GuestIdentity {
            kind: GuestType::Linux,
            firmware,
            kernels: vec![kernel],
            ..GuestIdentity::default()
        };
        let mut checkpoint = Checkpoint::new(1, "b", &plan, None);
        checkpoint.guest = Some(GuestRecord { identity: Some(identity), emulated, ..GuestRecord::default() });
        machine(&plan, &checkpoint, &[PathBuf::from("/srv/boot.qcow2")]).unwrap()
    }

    #[test]
    fn a_machine_is_that_of_the_plan_made_fit_for_the_guest_that_was_found() {
        let today = found("6.1.0-56-amd64", GuestFirmware::Bios, false);
        assert_eq!((today.machine_type.as_str(), today.disks[0].bus), ("q35", DiskBus::VirtioBlk));
        assert_eq!(today.disks[0].path, PathBuf::from("/srv/boot.qcow2"));
        let old = found("2.6.18-398.el5", GuestFirmware::Bios, true);
        assert_eq!((old.machine_type.as_str(), old.disks[0].bus), ("pc", DiskBus::Ide));
        let uefi = found("2.6.18-398.el5", GuestFirmware::Uefi, true);
        assert_eq!((uefi.machine_type.as_str(), uefi.disks[0].bus), ("q35", DiskBus::Sata));
    }

    #[test]
    fn firmware_that_is_described_is_left_for_libvirt_to_find() {
        let files = found("6.1", GuestFirmware::Uefi, false).firmware_files;
        assert_eq!(files, firmware::undescribed(false));
        assert_eq!(found("6.1", GuestFirmware::Bios, false).firmware_files, None);
    }
}
