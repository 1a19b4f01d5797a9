//! A guest that has been opened: where its file systems lie, who it is, and what is to be done to it.
//!
//! Made by [`super::inspect`], used by every fix. What is not here: how it is found out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::guest::{GuestIdentity, GuestNic};
use crate::model::manifest::FixEngine;
use crate::model::setup::Setup;

/// A block device that holds something: a partition, a whole disk, a logical volume, an array, an unlocked volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// In the appliance: `/dev/sda1`, `/dev/vg/root`, `/dev/mapper/luks-…`
    pub device: String,
    /// The disk it lies on, counted in the plan's order; `None` where it lies on several or none can be told.
    pub disk: Option<usize>,
    /// The number of its partition.
    pub partition: Option<u32>,
    /// In libblkid's words: `ext4`, `xfs`, `crypto_LUKS`, `LVM2_member`, `swap`, `vfat`, `linux_raid_member`.
    pub content: String,
    /// `UUID` of what is on it.
    pub uuid: Option<String>,
    /// `LABEL` of what is on it.
    pub label: Option<String>,
    /// `PARTUUID`
    pub partuuid: Option<String>,
    /// `PARTLABEL`
    pub partlabel: Option<String>,
    /// Type of its partition in a GPT, upper case, or of the MBR: `0x83`.
    pub partition_type: Option<String>,
    /// Bytes.
    pub bytes: u64,
}

/// A file system that is mounted in the appliance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounted {
    /// In the guest: `/`, `/boot`.
    pub path: String,
    /// Its device in the appliance.
    pub device: String,
    /// Options that it was mounted with here: `subvol=@`.
    pub options: String,
}

/// What firmware the disk is partitioned for, and where the pieces are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Disks in the appliance, in the plan's order: `/dev/sda`.
    pub disks: Vec<String>,
    /// Everything that was found, in the order of disks and partitions.
    pub volumes: Vec<Volume>,
    /// What the appliance's kernel calls each.
    pub nodes: BTreeMap<String, String>,
    /// What is mounted, `/` first.
    pub mounted: Vec<Mounted>,
    /// The EFI system partition's device.
    pub efi_partition: Option<String>,
    /// Where the EFI system partition is mounted in the guest: `/boot/efi`, `/efi`, `/boot`.
    pub efi_path: Option<String>,
}

impl Layout {
    /// The file systems that are mounted, with the names that a script in the appliance knows them by.
    pub fn opened(&self) -> impl Iterator<Item = (&Volume, &str)> {
        let volumes = self.mounted.iter().filter_map(|mounted| self.volume(&mounted.device));
        volumes.map(|volume| {
            (volume, self.nodes.get(&volume.device).map_or(volume.device.as_str(), String::as_str))
        })
    }

    /// The volume of a device of the appliance.
    #[must_use]
    pub fn volume(&self, device: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.device == device)
    }

    /// The mounted file system that a path of the guest lies on.
    #[must_use]
    pub fn file_system_of(&self, path: &str) -> Option<&Mounted> {
        let holds = |mount: &&Mounted| {
            mount.path == "/"
                || path == mount.path
                || path.strip_prefix(&mount.path).is_some_and(|rest| rest.starts_with('/'))
        };
        self.mounted.iter().filter(holds).max_by_key(|mount| mount.path.len())
    }
}

/// What is to be done to a guest, from its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FixOptions {
    /// Who repairs; what follows counts only for our own repairs.
    pub engine: FixEngine,
    /// What becomes of device names in fstab.
    pub fstab: FstabMode,
    /// Repair the boot loader.
    pub boot_loader: bool,
    /// Put drivers into the initramfs.
    pub initramfs: bool,
    /// Keep names and addresses of the network.
    pub network: bool,
    /// Remove what VMware and others installed.
    pub remove_tools: bool,
    /// Give the guest a serial console.
    pub console: bool,
    /// Keep the old content of files inside the guest.
    pub backup: bool,
    /// Put fstab into the log.
    pub print_fstab: bool,
    /// The root file system, where it cannot be found: `/dev/vg/root`, `UUID=…`.
    pub root: Option<String>,
    /// The NICs that the machine will have, in order: their MACs, and addresses to be applied.
    pub nics: Vec<WantedNic>,
    /// What is to be set up.
    pub setup: Setup,
}

impl FixOptions {
    /// Whether nothing is to be set in the guest beyond what it needs to start: all that virt-v2v can do.
    #[must_use]
    pub fn only_repairs(&self) -> bool {
        self.setup == Setup::default() && self.nics.iter().all(|nic| nic.addresses.is_empty())
    }
}

impl Default for FixOptions {
    /// What the profile `production` asks for.
    fn default() -> FixOptions {
        FixOptions {
            engine: FixEngine::Native,
            fstab: FstabMode::StabilizeAll,
            boot_loader: true,
            initramfs: true,
            network: true,
            remove_tools: true,
            console: true,
            backup: true,
            print_fstab: false,
            root: None,
            nics: Vec::new(),
            setup: Setup::default(),
        }
    }
}

/// What becomes of device names in fstab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FstabMode {
    /// Every unstable name becomes a stable one.
    #[default]
    StabilizeAll,
    /// Only by-path names.
    BypathOnly,
    /// Nothing.
    Noop,
}

/// A NIC of the machine to come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WantedNic {
    /// Its MAC, lower case with colons.
    pub mac: Option<String>,
    /// The one that it had where it came from, if that is another one.
    pub was: Option<String>,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Default gateway.
    pub gateway: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
}

/// A guest whose file systems are mounted: what a fix looks at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Who it is.
    pub identity: GuestIdentity,
    /// Where things lie.
    pub layout: Layout,
}

impl Facts {
    /// The NICs that are configured.
    #[must_use]
    pub fn nics(&self) -> &[GuestNic] {
        &self.identity.nics
    }
}
