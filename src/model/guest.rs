//! What is inside a disk: the identity of a guest, as reports, `inspect --json` and the fixes know it.
//!
//! Pure data. What is not here: how it is found out (see `guest::inspect`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of system a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuestType {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
    /// A system that is neither, or one that cannot be told.
    #[default]
    Unknown,
}

/// What firmware a guest is set up to be started by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuestFirmware {
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// Either.
    Both,
    /// Nothing was found that starts it.
    #[default]
    Unknown,
}

/// Distributions that work alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Debian, Ubuntu and what is made of them.
    Debian,
    /// RHEL, Fedora, CentOS, Rocky, Alma, Oracle, Amazon, openEuler.
    Redhat,
    /// SLES, openSUSE.
    Suse,
    /// Arch.
    Arch,
    /// Alpine.
    Alpine,
    /// Photon.
    Photon,
    /// None of these.
    #[default]
    Other,
}

/// What a system starts its services with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitSystem {
    /// systemd.
    Systemd,
    /// Upstart.
    Upstart,
    /// System V init.
    Sysvinit,
    /// OpenRC.
    Openrc,
    /// Not known.
    #[default]
    Unknown,
}

/// What loads the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootLoader {
    /// GRUB 2.
    Grub2,
    /// GRUB 0.97.
    GrubLegacy,
    /// systemd-boot.
    SystemdBoot,
    /// extlinux, syslinux.
    Extlinux,
    /// None was found.
    #[default]
    Unknown,
}

/// What makes initial RAM disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InitramfsTool {
    /// dracut.
    Dracut,
    /// initramfs-tools.
    InitramfsTools,
    /// mkinitcpio.
    Mkinitcpio,
    /// mkinitfs.
    Mkinitfs,
    /// mkinitrd.
    Mkinitrd,
    /// booster.
    Booster,
    /// None was found.
    #[default]
    Unknown,
}

/// A kernel that a guest can be started with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestKernel {
    /// `6.1.0-56-amd64`
    pub version: String,
    /// `/boot/vmlinuz-6.1.0-56-amd64`; `null` where only its modules are there.
    pub image: Option<String>,
    /// `/boot/initrd.img-6.1.0-56-amd64`
    pub initramfs: Option<String>,
    /// A unified kernel image that holds it: `/boot/efi/EFI/Linux/debian-6.12.efi`
    pub unified_image: Option<String>,
    /// `/usr/lib/modules/6.1.0-56-amd64`
    pub modules: Option<String>,
    /// Whether it has virtio's block and network drivers, built in or as modules.
    pub virtio: bool,
    /// Whether its initial RAM disk has them (or needs none); `null` where that was not looked at.
    pub initramfs_virtio: Option<bool>,
    /// Whether it is the one that starts if nobody chooses.
    pub default: bool,
}

/// Where a file system belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestMount {
    /// `/`, `/boot`
    pub path: String,
    /// In the guest's words: `UUID=…`, `/dev/sda1`
    pub spec: String,
    /// `ext4`
    pub file_system: String,
    /// Bytes.
    pub total_bytes: Option<u64>,
    /// Bytes that are free.
    pub free_bytes: Option<u64>,
}

/// A network interface that is configured in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestNic {
    /// `ens192`
    pub name: String,
    /// Where the configuration names one.
    pub mac: Option<String>,
    /// Whether it asks for its address.
    pub dhcp: bool,
    /// `192.0.2.10/24`
    pub addresses: Vec<String>,
    /// Default gateway.
    pub gateway: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// What configures it: `ifupdown`, `networkmanager`, `netplan`, `networkd`, `ifcfg`, `wicked`
    pub configured_by: String,
    /// In which file.
    pub file: String,
}

/// What is inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestIdentity {
    /// What kind of system.
    #[serde(rename = "type")]
    pub kind: GuestType,
    /// `debian`
    pub os_id: Option<String>,
    /// `12`
    pub os_version: Option<String>,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub os_pretty: Option<String>,
    /// Which others it works like.
    pub family: Family,
    /// `x86_64`
    pub architecture: Option<String>,
    /// What starts it.
    pub firmware: GuestFirmware,
    /// What starts its services.
    pub init_system: InitSystem,
    /// `apt`, `dnf`, `zypper`, `pacman`, `apk`, `tdnf`
    pub package_manager: Option<String>,
    /// Its own name.
    pub hostname: Option<String>,
    /// Kernels, newest first.
    pub kernels: Vec<GuestKernel>,
    /// What loads them.
    pub bootloader: BootLoader,
    /// What makes their initial RAM disks.
    pub initramfs_tool: InitramfsTool,
    /// The root file system's device, as the guest knows it: `/dev/vg/root`, `UUID=…`
    pub root: Option<String>,
    /// File systems and where they belong.
    pub mounts: Vec<GuestMount>,
    /// Network interfaces that are configured.
    pub nics: Vec<GuestNic>,
    /// Guest tools that are installed: `open-vm-tools`, `qemu-guest-agent`, `cloud-init`
    pub agents: Vec<String>,
    /// What was decided in looking, and why: which of several roots was taken.
    pub notes: Vec<String>,
}
