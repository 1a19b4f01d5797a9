//! What a machine is fitted out with for the guest in it: chipset, buses, cards; and where on its bus each disk hangs.
//!
//! Read by whoever writes a domain and by whoever starts a test machine, so that a guest finds its devices in both where they are. What is
//! not here: how any of it is said to libvirt or to QEMU.

use super::guest::{GuestIdentity, GuestType};
use super::guest_age::GuestAge;
use super::libosinfo;
use super::machine::{DiskBus, DriverStage, Firmware, Machine, MachineDisk, MachineNic, RtcBase};
use super::manifest::NicModel;

/// QEMU's machine type without PCI Express (i440FX): the one that old guests were made for.
pub const OLD_MACHINE: &str = "pc";
/// Disks of one SCSI controller: each target has one, as at the source.
const SCSI_TARGETS: usize = 16;
/// Disks of one SATA controller.
const SATA_PORTS: usize = 6;
/// Disks of the two IDE channels; there is no second controller.
const IDE_PLACES: usize = 4;

impl Machine {
    /// The same machine, fit for the guest that was found in it. What a person said holds.
    #[must_use]
    pub fn fit_for(mut self, guest: &GuestIdentity) -> Machine {
        let age = GuestAge::of(guest);
        self.os_id = self.os_id.or_else(|| libosinfo::name(guest));
        self.is_virtio_old = age < GuestAge::Modern;
        if guest.kind == GuestType::Windows && self.os_hint.is_none() {
            self.rtc = RtcBase::Localtime;
        }
        // Old guests do not know UEFI, and secure boot needs the newer chipset.
        let can_be_old = !self.is_type_said && !self.secure_boot && self.starts_with() == Firmware::Bios;
        if age == GuestAge::BeforeQ35 && can_be_old {
            self.machine_type = OLD_MACHINE.to_owned();
        }
        self
    }

    /// The same machine of parts that need no driver of ours: for a guest that was not repaired.
    #[must_use]
    pub fn emulated(mut self) -> Machine {
        let (bus, card) = (self.known_bus(), self.known_card());
        for disk in &mut self.disks {
            disk.bus = bus;
        }
        for nic in &mut self.nics {
            nic.model = card;
        }
        self
    }

    /// Whether it has PCI Express.
    #[must_use]
    pub fn is_pcie(&self) -> bool {
        is_pcie(&self.machine_type)
    }

    /// Whether its TPM is spoken to in the newer way, which guests know since they know virtio 1.0; the other one is TIS.
    #[must_use]
    pub fn has_crb(&self) -> bool {
        self.is_pcie() && !self.is_virtio_old
    }

    /// Whether Windows runs on it, as far as somebody said or saw it.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        self.os_hint.as_deref().is_some_and(|hint| hint.eq_ignore_ascii_case("windows"))
            || self.os_id.as_deref().is_some_and(libosinfo::is_windows)
    }

    /// The bus on which this disk hangs.
    #[must_use]
    pub fn bus_of(&self, disk: &MachineDisk) -> DiskBus {
        match disk.bus {
            _ if self.stage != DriverStage::Final => self.known_bus(),
            // q35 has no IDE; its SATA controller answers to drivers of IDE times as well as anything there.
            DiskBus::Ide if self.is_pcie() => DiskBus::Sata,
            bus => bus,
        }
    }

    /// The model of this card.
    #[must_use]
    pub fn model_of(&self, nic: &MachineNic) -> NicModel {
        if self.stage == DriverStage::Final { nic.model } else { self.known_card() }
    }

    /// The bus for which a guest that is made for this machine has a driver of its own.
    #[must_use]
    pub fn known_bus(&self) -> DiskBus {
        if self.is_pcie() { DiskBus::Sata } else { DiskBus::Ide }
    }

    /// The network card for which it has one.
    fn known_card(&self) -> NicModel {
        match (self.is_pcie(), self.os_id.as_deref().is_some_and(libosinfo::is_before_vista)) {
            (true, _) => NicModel::E1000e,
            (false, false) => NicModel::E1000,
            (false, true) => NicModel::Rtl8139,
        }
    }
}

/// Whether machines of this type have PCI Express.
#[must_use]
pub fn is_pcie(machine_type: &str) -> bool {
    machine_type.contains("q35")
}

/// Where a disk hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// On which bus: the controller of IDE is soon full, and what does not fit hangs on SATA.
    pub bus: DiskBus,
    /// On which of its controllers; 0 for a disk that is its own.
    pub controller: usize,
    /// At which of its ports, or as which target; with IDE two to a channel.
    pub port: usize,
}

/// Hands out places to disks, in order.
#[derive(Debug, Default)]
pub struct Slots {
    scsi: usize,
    sata: usize,
    ide: usize,
}

impl Slots {
    /// The next place on this bus.
    pub fn next_on(&mut self, bus: DiskBus) -> Slot {
        match bus {
            DiskBus::VirtioBlk => Slot { bus, controller: 0, port: 0 },
            DiskBus::VirtioScsi => taken(&mut self.scsi, SCSI_TARGETS, bus),
            DiskBus::Ide if self.ide < IDE_PLACES => taken(&mut self.ide, IDE_PLACES, bus),
            DiskBus::Sata | DiskBus::Ide => taken(&mut self.sata, SATA_PORTS, DiskBus::Sata),
        }
    }

    /// How many controllers of SCSI are in use.
    #[must_use]
    pub fn scsi_controllers(&self) -> usize {
        self.scsi.div_ceil(SCSI_TARGETS)
    }
}

fn taken(count: &mut usize, of_controller: usize, bus: DiskBus) -> Slot {
    let slot = Slot { bus, controller: *count / of_controller, port: *count % of_controller };
    *count += 1;
    slot
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guest::GuestKernel;
    use crate::model::machine::NicLink;
    use crate::model::plan::SourceFormat;

    fn linux(kernel: &str) -> GuestIdentity {
        let kernel = GuestKernel { version: kernel.to_owned(), default: true, ..GuestKernel::default() };
        GuestIdentity {
            kind: GuestType::Linux,
            os_id: Some("centos".to_owned()),
            os_version: Some("5.11".to_owned()),
            kernels: vec![kernel],
            ..GuestIdentity::default()
        }
    }

    fn windows(version: &str) -> GuestIdentity {
        GuestIdentity {
            kind: GuestType::Windows,
            os_version: Some(version.to_owned()),
            os_pretty: Some("Windows Server".to_owned()),
            ..GuestIdentity::default()
        }
    }

    fn machine() -> Machine {
        let mut machine = Machine::new("web");
        machine.disks = vec![MachineDisk::new("boot", "/d", SourceFormat::Raw)];
        machine.nics = vec![MachineNic::new(NicLink::Network("lan".to_owned()))];
        machine
    }

    #[test]
    fn an_old_guest_gets_an_old_machine_unless_somebody_said_otherwise() {
        let old = machine().fit_for(&linux("2.6.18-398.el5"));
        assert_eq!((old.machine_type.as_str(), old.is_virtio_old, old.is_pcie()), ("pc", true, false));
        assert_eq!(old.os_id.as_deref(), Some("http://centos.org/centos/5.11"));
        let younger = machine().fit_for(&linux("2.6.32-754.el6"));
        assert_eq!((younger.machine_type.as_str(), younger.is_virtio_old), ("q35", true));
        let modern = machine().fit_for(&linux("6.1.0-56-amd64"));
        assert_eq!((modern.machine_type.as_str(), modern.is_virtio_old), ("q35", false));
        let said = Machine { is_type_said: true, ..machine() };
        assert_eq!(said.fit_for(&linux("2.6.18")).machine_type, "q35");
        let uefi = Machine { firmware: Some(Firmware::Uefi), ..machine() };
        assert_eq!(uefi.fit_for(&linux("2.6.18")).machine_type, "q35");
    }

    #[test]
    fn a_windows_has_its_clock_on_the_wall_unless_somebody_said_what_it_is() {
        let found = machine().fit_for(&windows("10.0.20348"));
        assert_eq!((found.rtc, found.is_windows()), (RtcBase::Localtime, true));
        let said = Machine { os_hint: Some("linux".to_owned()), ..machine() };
        assert_eq!(said.fit_for(&windows("10.0.20348")).rtc, RtcBase::Utc);
        assert!(Machine { os_hint: Some("Windows".to_owned()), ..machine() }.is_windows());
        assert!(!machine().fit_for(&linux("6.1")).is_windows());
    }

    #[test]
    fn a_guest_that_was_not_repaired_gets_parts_that_need_no_driver_of_ours() {
        let parts = |machine: Machine| {
            let machine = machine.emulated();
            (machine.disks[0].bus, machine.nics[0].model)
        };
        assert_eq!(parts(machine()), (DiskBus::Sata, NicModel::E1000e));
        assert_eq!(parts(machine().fit_for(&linux("2.6.18"))), (DiskBus::Ide, NicModel::E1000));
        assert_eq!(parts(machine().fit_for(&windows("5.2.3790"))), (DiskBus::Ide, NicModel::Rtl8139));
    }

    #[test]
    fn a_windows_that_still_has_to_install_its_drivers_starts_from_what_it_knows() {
        let mut machine = machine().fit_for(&windows("10.0.20348"));
        assert_eq!(machine.bus_of(&machine.disks[0]), DiskBus::VirtioBlk);
        machine.stage = DriverStage::Bootstrap { cd: None, disk: None };
        assert_eq!(machine.bus_of(&machine.disks[0]), DiskBus::Sata);
        assert_eq!(machine.model_of(&machine.nics[0]), NicModel::E1000e);
    }

    #[test]
    fn disks_fill_one_controller_after_the_other() {
        let mut slots = Slots::default();
        let mut last = |bus, count: usize| (0..count).map(|_| slots.next_on(bus)).last();
        let at = |bus, controller, port| Some(Slot { bus, controller, port });
        assert_eq!(last(DiskBus::VirtioScsi, 16), at(DiskBus::VirtioScsi, 0, 15));
        assert_eq!(last(DiskBus::VirtioScsi, 1), at(DiskBus::VirtioScsi, 1, 0));
        assert_eq!(last(DiskBus::Sata, 7), at(DiskBus::Sata, 1, 0));
        assert_eq!(last(DiskBus::Ide, 4), at(DiskBus::Ide, 0, 3));
        assert_eq!(last(DiskBus::Ide, 1), at(DiskBus::Sata, 1, 1), "IDE is full");
        assert_eq!(last(DiskBus::VirtioBlk, 30), at(DiskBus::VirtioBlk, 0, 0));
        assert_eq!(slots.scsi_controllers(), 2);
    }
}
