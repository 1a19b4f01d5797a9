//! The boot loader: its entries find the root file system, speak on a serial console, and start a kernel that has virtio.
//!
//! ```text
//!   files (which, and in what language) ─▶ grub_cfg grubenv bls legacy extlinux shell device_map ─▶ arguments
//!   choice (which kernel starts) ────────▶ the same
//! ```
//!
//! Files are edited where arguments stand. No tool of the guest is run to make a menu anew: it would look at the appliance's disks and
//! firmware, and write what suits those. What is not here: loaders' programs (see [`super::efi_fallback`]) and initial RAM disks.

mod arguments;
mod bls;
mod choice;
mod device_map;
mod extlinux;
mod files;
mod grub_cfg;
mod grubenv;
mod legacy;
mod shell;

use files::{Format, Plan, UUIDS_OFF};

use super::names::Names;
use super::text;
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::model::error::Result;

/// The repair.
#[derive(Debug)]
pub struct Bootloader;

impl Fix for Bootloader {
    fn name(&self) -> &'static str {
        "bootloader"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        match (options.boot_loader, options.console) {
            (true, true) => {
                Some("the boot loader finds the root, starts a kernel with virtio, and has a serial console")
            }
            (true, false) => Some("the boot loader finds the root and starts a kernel with virtio"),
            (false, _) => None,
        }
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let files = files::find(&guest.tree, &guest.facts)?;
        choice::apply(&mut guest.tree, &mut guest.facts, &files)?;
        let names = Names::of(&guest.facts);
        let plan = Plan::of(&guest.tree, &guest.facts, &names, &files, guest.options.console)?;
        for file in &files {
            let mut uuids_off = false;
            let mut empty = false;
            text::edit(&mut guest.tree, &mut guest.warnings, &file.path, |text| {
                let result = plan.rewrite(file.format, text);
                uuids_off = result.changes.iter().any(|change| change == UUIDS_OFF);
                empty = file.format == Format::DeviceMap && result.text.is_empty() && !text.is_empty();
                if empty { text::Rewritten { text: text.to_owned(), ..result } } else { result }
            })?;
            if uuids_off {
                guest.warnings.push(UUIDS_OFF.to_owned());
            }
            if empty {
                guest.tree.remove(&file.path, "GRUB finds the disks itself; these have other names now")?;
            }
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let files = files::find(&guest.tree, &guest.facts)?;
        let names = Names::of(&guest.facts);
        let plan = Plan::of(&guest.tree, &guest.facts, &names, &files, guest.options.console)?;
        for file in &files {
            text::is_settled(&guest.tree, &guest.warnings, &file.path, |text| {
                plan.rewrite(file.format, text)
            })?;
        }
        choice::verify(&guest.tree, &guest.facts, &files)
    }
}
