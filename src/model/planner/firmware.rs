//! Secure boot, which exists only with UEFI: what contradicts itself is refused, and what a source says of it beside BIOS is left out and told.
//!
//! What is not here: whether this host has such a firmware, and what the disks are set up for.

use super::effective::is_written;
use crate::model::error::{Kind, Result};
use crate::model::manifest::{Firmware, Manifest};
use crate::model::parse::Tree;

/// Secure boot is said, and BIOS beside it.
fn is_contradiction(manifest: &Manifest) -> bool {
    let vm = manifest.vm.as_ref();
    vm.is_some_and(|vm| vm.secureboot == Some(true) && vm.firmware == Some(Firmware::Bios))
}

/// Refuses secure boot that somebody wants beside BIOS; a source may have said either.
pub(super) fn check(tree: &Tree, manifest: &Manifest) -> Result<()> {
    let is_said = |field: &str| tree.node(field).is_some_and(|node| is_written(tree, node.layer));
    if !is_contradiction(manifest) || !is_said("vm.secureboot") {
        return Ok(());
    }
    let (cause, advice) = match is_said("vm.firmware") {
        true => (
            "secure boot exists only with UEFI, and `vm.firmware` is `bios`",
            "set `firmware: uefi`, or `secureboot: false`",
        ),
        false => (
            "secure boot exists only with UEFI, and the source starts by BIOS",
            "remove it, or set `firmware: uefi` if the disks can start by that, too",
        ),
    };
    Err(tree.error(Kind::Manifest, "vm.secureboot", cause).advice(advice))
}

/// Says that what the source has said is left out.
pub(super) fn warnings(manifest: &Manifest) -> Vec<String> {
    let left_out = "the source has secure boot, which is left out: it exists only with UEFI, and the machine starts by BIOS";
    is_contradiction(manifest).then(|| left_out.to_owned()).into_iter().collect()
}
