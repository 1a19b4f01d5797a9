//! Repairs of Linux guests, one file each, in the order in which they are made.
//!
//! The order matters where one reads what another wrote: names in fstab before the boot loader's, the boot loader's choice of a kernel
//! before its initial RAM disk, and both before a unified image is copied to where UEFI finds it. What is not here: Windows.

pub mod agent;
pub mod bootloader;
mod configure;
pub mod crypttab;
pub mod efi_fallback;
pub mod fstab;
pub mod identity;
mod initramfs;
pub mod names;
pub mod network;
pub mod resume;
#[cfg(test)]
mod samples;
pub mod selinux;
pub mod text;
pub mod tools;

pub(super) use initramfs::check_default as check_default_kernel;

use super::fix::Fix;

/// All of them.
pub const ALL: &[&dyn Fix] = &[
    &fstab::Fstab,
    &crypttab::Crypttab,
    &resume::Resume,
    &network::Network,
    &network::Addresses,
    &tools::GuestTools,
    &identity::Identity,
    &agent::Agent,
    &bootloader::Bootloader,
    &initramfs::Initramfs,
    &efi_fallback::EfiFallback,
    // What the administrator wants in the guest, on top of what it needs.
    &configure::Hostname,
    &configure::Accounts,
    &configure::Services,
    &configure::FirstBoot,
    &configure::CloudInit,
    &configure::NetworkFiles,
    // Labels what all the others made.
    &selinux::Selinux,
];
