//! `network_mapping` and `storage_mapping`: which entry holds for which card and disk, and what is refused.
//!
//! An entry that is for nothing is an error, because most often a name is misspelled, and the machine would come up in the wrong network. What a profile
//! says is for machines that may come one day; what a batch says for many need not be for each of them, but has to be for one; and `optional: true` lets an entry be
//! for nothing. What is not here: what the entries may hold (the manifest's types).

pub(super) mod disks;
pub(super) mod macs;
pub(super) mod networks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::effective::{OVERRIDES, SHARED};
use super::remote::is_asked_for;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::Manifest;
use crate::model::parse::{Node, Tree};
use crate::model::plan::Plan;

/// Refuses what no machine can be given.
pub(super) fn check(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    networks::check(tree, manifest)?;
    macs::check(tree, manifest)?;
    disks::check(tree, manifest, &settings.paths.write)
}

/// Whether an entry of a mapping is said for many machines: by a profile, or by what a batch shares.
fn is_for_many(tree: &Tree, mapping: &str, key: &str) -> bool {
    let layer = tree.node(mapping).and_then(|entries| entries.get(key)).map(|entry| entry.layer);
    layer.is_some_and(|layer| layer < OVERRIDES || layer == SHARED)
}

/// Entries that are said for one machine alone.
pub(super) fn own_entries(tree: &Tree) -> Vec<(String, String)> {
    let entries = |mapping: &'static str| {
        let keys = tree.node(mapping).map(Node::entries).unwrap_or_default().iter();
        let own = keys.map(|(key, _)| key.name.clone()).filter(move |key| !is_for_many(tree, mapping, key));
        own.map(move |key| (mapping.to_owned(), key))
    };
    [networks::NETWORKS, disks::MAPPINGS].into_iter().flat_map(entries).collect()
}

/// Refuses what a batch shares and what is for none of its machines.
pub(super) fn check_shared(shared: &Tree, machines: &[&Manifest]) -> Result<()> {
    type Asks = fn(&str, &Manifest) -> bool;
    let mappings: [(&str, &str, Asks, Asks); 2] = [
        (networks::NETWORKS, "network card", networks::is_for_a_card, networks::is_optional),
        (disks::MAPPINGS, "disk", disks::is_for_a_disk, disks::is_optional),
    ];
    for (mapping, what, is_for, is_optional) in mappings {
        for (key, _) in shared.node(mapping).map(Node::entries).unwrap_or_default() {
            let name = key.name.as_str();
            // What one has that is still to be asked, nobody knows.
            let may_be = |machine: &&Manifest| {
                is_for(name, machine) || is_optional(name, machine) || is_asked_for(machine)
            };
            if machines.iter().any(may_be) {
                continue;
            }
            let cause = format!("no machine of the batch has a {what} that `{name}` is for");
            return Err(shared
                .error_at_key(Kind::Manifest, mapping, name, cause)
                .advice("look how the name is written, or write the entry as a map with `optional: true`"));
        }
    }
    Ok(())
}

/// Refuses what only shows when all machines of a batch are seen: two results with one path, and a card that was given another's address.
pub(super) fn check_together(plans: &[Plan]) -> Result<()> {
    let mut paths: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (plan, disk) in plans.iter().flat_map(|plan| plan.disks.iter().map(move |disk| (plan, disk))) {
        let path = plan.result_path(disk);
        if disk.elsewhere().is_some()
            && let Some(other) = paths.get(&path)
        {
            return Err(both(other, &plan.vm_id, &path));
        }
        paths.insert(path, &plan.vm_id);
    }
    let mut macs: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
    for (plan, nic) in plans.iter().flat_map(|plan| plan.guest.nics.iter().map(move |nic| (plan, nic))) {
        let (Some(mac), is_new) = (nic.mac.as_deref(), nic.was.is_some()) else { continue };
        match macs.insert(mac, (&plan.vm_id, is_new)) {
            // Two that bring the same one along have done so before.
            Some((other, other_is_new)) if is_new || other_is_new => {
                return Err(Error::new(
                    Kind::Manifest,
                    format!("`{other}` and `{}` would both have a card with the address {mac}", plan.vm_id),
                )
                .field("network_mapping")
                .advice("give one of them another address in `mac_address_overrides`"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn both(one: &str, other: &str, path: &Path) -> Error {
    Error::new(
        Kind::Manifest,
        format!("a disk of `{one}` and one of `{other}` would both be {}", path.display()),
    )
    .field("storage_mapping.disk_mappings")
    .advice("give one of the disks another id, or a directory of its own")
}
