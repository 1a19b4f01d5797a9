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
    Some(if guest.is_some_and(|guest| guest.emulated) { machine.emulated() } else { machine })
}
