//! What the target machine is made of: the facts from which its domain is written and a test machine started.
//!
//! Facts come from what a person wrote (the manifest's `vm` and `nics`), from the source, and from what
//! was found in the disk; the defaults for what nobody says stand here. What is not here: how any
//! of it is said to libvirt or to QEMU.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::limits::{DiskLimits, NicLimits};
use super::manifest::{self, DiskCache, Manifest, NicModel};
use super::plan::SourceFormat;
use super::provenance::Provenance;

/// Processors of a machine of which nobody says how many it has.
pub const DEFAULT_VCPUS: u32 = 2;
/// Memory of a machine of which nobody says how much it has, MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 2048;
/// QEMU's machine type with PCI Express: the one that UEFI with secure boot needs, and that will be maintained longest.
pub const DEFAULT_MACHINE: &str = "q35";
/// libvirt's own network, which every installation has.
pub const DEFAULT_NETWORK: &str = "default";

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// SMBIOS UUID; none: whoever defines it makes one up.
    pub uuid: Option<String>,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// Processors.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// What starts it; none as long as nobody said it and nobody looked at the disk.
    pub firmware: Option<Firmware>,
    /// Whether only signed boot loaders run; needs UEFI.
    pub secure_boot: bool,
    /// Whether it has a TPM (2.0).
    pub tpm: bool,
    /// QEMU machine type.
    pub machine_type: String,
    /// Which processor the guest sees.
    pub cpu: CpuModel,
    /// The disks, the one to boot from first.
    pub disks: Vec<MachineDisk>,
    /// The network cards, in the guest's order.
    pub nics: Vec<MachineNic>,
    /// What its clock counts.
    pub rtc: RtcBase,
    /// What runs on it, as somebody said: `linux`, `windows`, or anything.
    pub os_hint: Option<String>,
    /// Who made it; none as long as it is not handed to libvirt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// What runs its code.
    #[serde(default, skip_serializing_if = "Virtualization::is_default")]
    pub virtualization: Virtualization,
    /// Changes where one machine became another, so that a guest that looks at it makes up new secrets (a UUID).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
    /// The system that runs on it, by libosinfo's name: `http://debian.org/debian/12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_id: Option<String>,
    /// How far a Windows is with virtio's drivers.
    #[serde(default, skip_serializing_if = "DriverStage::is_default")]
    pub stage: DriverStage,
    /// Whether its guest knows no virtio 1.0: then it sees devices that speak the older kind, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_virtio_old: bool,
    /// Whether a person chose the machine type: then it holds, however old the guest is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_type_said: bool,
    /// The firmware by its files; none: libvirt looks for one that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_files: Option<FirmwareFiles>,
}

/// What runs a machine's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Virtualization {
    /// The processor.
    #[default]
    Kvm,
    /// QEMU, where there is no KVM: slowly.
    Emulated,
}

impl Virtualization {
    fn is_default(&self) -> bool {
        *self == Virtualization::default()
    }
}

/// How far a guest is with virtio's drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverStage {
    /// It has them.
    #[default]
    Final,
    /// It installs them while it runs for the first time: it is started by devices that it knows, and sees some of virtio beside them.
    Bootstrap {
        /// The drivers, as a CD.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cd: Option<PathBuf>,
        /// A small raw disk on virtio, for which the guest looks for a driver.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<PathBuf>,
    },
}

impl DriverStage {
    fn is_default(&self) -> bool {
        *self == DriverStage::Final
    }
}

/// A UEFI firmware by its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareFiles {
    /// Its code: only read.
    pub code: PathBuf,
    /// Its variables as they are delivered: each machine gets a copy.
    pub variables: PathBuf,
}

/// What starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

impl Firmware {
    /// The name in manifests and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
        }
    }
}

/// Which processor a guest sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuModel {
    /// As much of the host's as can be moved to another host.
    #[default]
    HostModel,
    /// One that libvirt knows by this name.
    Named(String),
}

/// What a machine's clock counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtcBase {
    /// Universal time: everything but Windows.
    #[default]
    Utc,
    /// The time on the wall.
    Localtime,
}

/// The bus of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// The fastest and simplest.
    #[default]
    VirtioBlk,
    /// SCSI over virtio.
    VirtioScsi,
    /// What any guest since 2006 has a driver for.
    Sata,
    /// What guests before that have one for. Machines with PCI Express have none, and SATA in its place.
    Ide,
}

impl From<manifest::DiskBus> for DiskBus {
    fn from(bus: manifest::DiskBus) -> DiskBus {
        match bus {
            manifest::DiskBus::Virtio => DiskBus::VirtioBlk,
            manifest::DiskBus::Scsi => DiskBus::VirtioScsi,
            manifest::DiskBus::Sata => DiskBus::Sata,
            manifest::DiskBus::Ide => DiskBus::Ide,
        }
    }
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// Its id in the manifest.
    pub id: String,
    /// The image (absolute).
    pub path: PathBuf,
    /// The image's format.
    pub format: SourceFormat,
    /// What it hangs on.
    pub bus: DiskBus,
    /// Serial number, as the guest sees it.
    pub serial: Option<String>,
    /// Lowest boots; none: never.
    pub boot_order: Option<u32>,
    /// How the host caches it; none: as QEMU does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DiskCache>,
    /// What it may read and write.
    #[serde(default, skip_serializing_if = "DiskLimits::is_none")]
    pub limits: DiskLimits,
    /// The volume that it is in a pool of libvirt's: libvirt is told this in place of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<DiskVolume>,
}

/// A disk in a pool of libvirt's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskVolume {
    /// The pool.
    pub pool: String,
    /// The volume's name in it.
    pub name: String,
}

impl MachineDisk {
    /// A disk of which only the image is known.
    pub fn new(id: impl Into<String>, path: impl Into<PathBuf>, format: SourceFormat) -> MachineDisk {
        MachineDisk {
            id: id.into(),
            path: path.into(),
            format,
            bus: DiskBus::default(),
            serial: None,
            boot_order: None,
            cache: None,
            limits: DiskLimits::default(),
            volume: None,
        }
    }
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNic {
    /// Its address; none: whoever defines it makes one up.
    pub mac: Option<String>,
    /// Its model.
    pub model: NicModel,
    /// What it is plugged into on the target host.
    pub link: NicLink,
    /// The VLAN that its frames are tagged with there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// What it may receive and send.
    #[serde(default, skip_serializing_if = "NicLimits::is_none")]
    pub limits: NicLimits,
    /// Whether its cable is out: a clone must not speak with its original's addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unplugged: bool,
}

impl MachineNic {
    /// A card of which only its plug is known.
    #[must_use]
    pub fn new(link: NicLink) -> MachineNic {
        MachineNic {
            mac: None,
            model: NicModel::Virtio,
            link,
            vlan: None,
            limits: NicLimits::default(),
            is_unplugged: false,
        }
    }
}

/// What a network card is plugged into on the target host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicLink {
    /// A network of libvirt.
    Network(String),
    /// A bridge of the host.
    Bridge(String),
    /// A bridge of Open vSwitch's.
    OpenVswitch(String),
}

impl Machine {
    /// A machine of which nothing is known but its name: the defaults, without disks and network cards.
    pub fn new(name: impl Into<String>) -> Machine {
        Machine {
            name: name.into(),
            uuid: None,
            serial: None,
            vcpus: DEFAULT_VCPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            firmware: None,
            secure_boot: false,
            tpm: false,
            machine_type: DEFAULT_MACHINE.to_owned(),
            cpu: CpuModel::default(),
            disks: Vec::new(),
            nics: Vec::new(),
            rtc: RtcBase::default(),
            os_hint: None,
            provenance: None,
            virtualization: Virtualization::default(),
            generation_id: None,
            os_id: None,
            stage: DriverStage::default(),
            is_virtio_old: false,
            is_type_said: false,
            firmware_files: None,
        }
    }

    /// The machine that a manifest describes, around these images (id, path, format; the one to boot from first).
    pub fn of_manifest(
        name: &str,
        manifest: &Manifest,
        images: impl IntoIterator<Item = (String, PathBuf, SourceFormat)>,
    ) -> Machine {
        let mut machine = Machine::new(name);
        let vm = manifest.vm.as_ref();
        if let Some(vm) = vm {
            machine.take(vm);
        }
        let bus = vm.and_then(|vm| vm.disk_bus).map(DiskBus::from).unwrap_or_default();
        machine.disks = images
            .into_iter()
            .zip(1..)
            .map(|((id, path, format), order)| MachineDisk {
                bus,
                boot_order: Some(order),
                ..MachineDisk::new(id, path, format)
            })
            .collect();
        let model = vm.and_then(|vm| vm.nic_model).unwrap_or(NicModel::Virtio);
        machine.nics = manifest.nics.iter().flatten().map(|nic| nic_of(nic, model)).collect();
        machine
    }

    fn take(&mut self, vm: &manifest::Vm) {
        if let Some(count) = vm.cpu.and_then(|count| u32::try_from(count.get()).ok()) {
            self.vcpus = count;
        }
        let gib = vm.mem_gb.map(|gib| gib.get().unsigned_abs() * 1024);
        if let Some(mib) = vm.mem_mb.map(|mib| mib.get().unsigned_abs()).or(gib) {
            self.memory_mib = mib;
        }
        self.uuid = vm.uuid.as_ref().map(|uuid| uuid.as_str().to_owned());
        self.serial = vm.serial.as_ref().map(|serial| serial.as_str().to_owned());
        self.tpm = vm.tpm.unwrap_or(false);
        self.firmware = match vm.firmware {
            Some(manifest::Firmware::Bios) => Some(Firmware::Bios),
            Some(manifest::Firmware::Uefi) => Some(Firmware::Uefi),
            Some(manifest::Firmware::Auto | manifest::Firmware::Unknown) | None => None,
        };
        // With BIOS there is none.
        self.secure_boot = vm.secureboot.unwrap_or(false) && self.firmware != Some(Firmware::Bios);
        if let Some(machine_type) = &vm.machine {
            self.machine_type = machine_type.as_str().to_owned();
            self.is_type_said = true;
        }
        self.os_hint = vm.os_hint.as_ref().map(|hint| hint.as_str().to_owned());
        if self.os_hint.as_deref().is_some_and(|hint| hint.eq_ignore_ascii_case("windows")) {
            self.rtc = RtcBase::Localtime;
        }
    }

    /// Takes what the disk is set up for where nobody said what starts the machine; who says secure boot has said UEFI.
    #[must_use]
    pub fn found(mut self, firmware: Option<Firmware>) -> Machine {
        self.firmware = self.firmware.or(firmware.filter(|_| !self.secure_boot));
        self
    }

    /// What starts it: what was said or found; secure boot exists only with UEFI; else BIOS.
    #[must_use]
    pub fn starts_with(&self) -> Firmware {
        match self.firmware {
            Some(firmware) => firmware,
            None if self.secure_boot => Firmware::Uefi,
            None => Firmware::Bios,
        }
    }
}

fn nic_of(nic: &manifest::Nic, model: NicModel) -> MachineNic {
    MachineNic {
        mac: nic.mac.as_ref().map(|mac| mac.as_str().to_owned()),
        model: nic.model.unwrap_or(model),
        ..MachineNic::new(match &nic.bridge {
            Some(bridge) => NicLink::Bridge(bridge.as_str().to_owned()),
            // `nics[].network` is the source's network, which the target does not have unless something maps it.
            None => NicLink::Network(DEFAULT_NETWORK.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(manifest: &str) -> Machine {
        let manifest: Manifest = serde_yaml::from_str(manifest).unwrap();
        let images = ["boot", "data"]
            .map(|id| (id.to_owned(), PathBuf::from(format!("/out/{id}.qcow2")), SourceFormat::Qcow2));
        Machine::of_manifest("web", &manifest, images)
    }

    #[test]
    fn what_nobody_says_is_a_plain_modern_machine() {
        let machine = machine("{}");
        assert_eq!((machine.vcpus, machine.memory_mib, machine.machine_type.as_str()), (2, 2048, "q35"));
        assert_eq!((machine.firmware, machine.starts_with()), (None, Firmware::Bios));
        assert_eq!(machine.disks.iter().map(|disk| disk.boot_order).collect::<Vec<_>>(), [Some(1), Some(2)]);
        assert!(machine.disks.iter().all(|disk| disk.bus == DiskBus::VirtioBlk));
        assert!(machine.nics.is_empty() && machine.uuid.is_none() && !machine.tpm);
    }

    #[test]
    fn what_the_manifest_says_is_taken() {
        let machine = machine(
            "{vm: {cpu: 4, mem_gb: 3, firmware: uefi, secureboot: true, tpm: true, serial: VMware-56, os_hint: Windows,
               uuid: 564D1C2A-0000-1111-2222-333344445555, disk_bus: scsi, nic_model: e1000},
              nics: [{mac: 00-50-56-AA-BB-CC, network: VM Network}, {bridge: br0, model: virtio}]}",
        );
        assert_eq!((machine.vcpus, machine.memory_mib), (4, 3072));
        assert_eq!((machine.starts_with(), machine.secure_boot, machine.tpm), (Firmware::Uefi, true, true));
        assert_eq!(machine.uuid.as_deref(), Some("564d1c2a-0000-1111-2222-333344445555"));
        assert_eq!(machine.rtc, RtcBase::Localtime);
        assert_eq!(machine.disks[0].bus, DiskBus::VirtioScsi);
        assert_eq!(machine.nics[0].mac.as_deref(), Some("00:50:56:aa:bb:cc"));
        assert_eq!(machine.nics[0].link, NicLink::Network("default".to_owned()));
        assert_eq!((machine.nics[0].model, machine.nics[1].model), (NicModel::E1000, NicModel::Virtio));
        assert_eq!(machine.nics[1].link, NicLink::Bridge("br0".to_owned()));
    }

    #[test]
    fn what_is_found_in_the_disk_counts_only_where_nobody_said_it() {
        let said = machine("vm: {firmware: bios}");
        assert_eq!(said.found(Some(Firmware::Uefi)).starts_with(), Firmware::Bios);
        assert_eq!(machine("{}").found(Some(Firmware::Uefi)).starts_with(), Firmware::Uefi);
        let secure = machine("vm: {secureboot: true}");
        assert_eq!(secure.starts_with(), Firmware::Uefi);
        assert_eq!(secure.found(Some(Firmware::Bios)).starts_with(), Firmware::Uefi);
        // As a source may say, and nobody in a manifest.
        assert!(!machine("vm: {firmware: bios, secureboot: true}").secure_boot);
    }

    #[test]
    fn a_machine_of_a_plan_that_was_stored_before_is_what_it_was() {
        let now = serde_json::to_value(machine("nics: [{}]")).unwrap();
        for fact in [
            "virtualization",
            "generation_id",
            "os_id",
            "stage",
            "is_virtio_old",
            "is_type_said",
            "firmware_files",
        ] {
            assert_eq!(now.get(fact), None, "what nobody needs is not written, and not asked for");
        }
        assert_eq!(serde_json::from_value::<Machine>(now).unwrap(), machine("nics: [{}]"));
        let mut clone = machine("{vm: {machine: pc}, nics: [{}]}");
        clone.virtualization = Virtualization::Emulated;
        clone.generation_id = Some("564d1c2a-0000-1111-2222-333344445555".to_owned());
        clone.stage = DriverStage::Bootstrap { cd: Some(PathBuf::from("/virtio-win.iso")), disk: None };
        clone.disks[0].volume = Some(DiskVolume { pool: "vms".to_owned(), name: "web".to_owned() });
        clone.nics[0].is_unplugged = true;
        let stored = serde_json::to_value(&clone).unwrap();
        assert_eq!(serde_json::from_value::<Machine>(stored).unwrap(), clone);
    }
}
