//! Repairs of Linux guests, one file each, in the order in which they are made.
//!
//! The order matters where one reads what another wrote: names in fstab before the boot loader's, the boot loader's choice of a kernel
//! before its initial RAM disk. What is not here: Windows.

mod initramfs;

use super::fix::Fix;

/// All of them.
pub const ALL: &[&dyn Fix] = &[&initramfs::Initramfs];
