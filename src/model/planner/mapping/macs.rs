//! Addresses of network cards: those that they had, new ones, or as the manifest says.
//!
//! A new one is made from the names of batch, VM and card: the same card has the same one, however often it is planned. It is marked as locally
//! administered, so no maker has given it to a card. What is not here: whether another batch's machine has it.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::model::error::{Kind, Result};
use crate::model::machine::Machine;
use crate::model::manifest::values::Mac;
use crate::model::manifest::{MacPolicy, Manifest};
use crate::model::parse::Tree;
use crate::model::plan::PlannedNic;

const OVERRIDES: &str = "network_mapping.mac_address_overrides";
const POLICY: &str = "network_mapping.mac_address_policy";
/// No card has it.
const ZERO: &str = "00:00:00:00:00:00";

fn policy(manifest: &Manifest) -> MacPolicy {
    manifest.network_mapping.as_ref().and_then(|mapping| mapping.mac_address_policy).unwrap_or_default()
}

/// Gives the cards their addresses, in the machine and in what is done inside the guest.
pub(in crate::model::planner) fn apply(
    manifest: &Manifest,
    (batch_id, vm_id): (&str, &str),
    machine: &mut Machine,
    guest: &mut [PlannedNic],
) {
    let mut taken = BTreeSet::new();
    for (index, card) in machine.nics.iter_mut().enumerate() {
        let old = card.mac.clone();
        card.mac = match policy(manifest) {
            MacPolicy::Preserve => continue,
            MacPolicy::Regenerate => Some(new(batch_id, vm_id, index, &taken)),
            MacPolicy::Custom => old.as_deref().map(|old| custom(manifest, old).unwrap_or(old).to_owned()),
        };
        taken.extend(card.mac.clone());
        if let Some(nic) = guest.get_mut(index) {
            nic.mac.clone_from(&card.mac);
            nic.was = old.filter(|old| Some(old) != card.mac.as_ref());
        }
    }
}

/// What stands there for an address.
fn custom<'m>(manifest: &'m Manifest, old: &str) -> Option<&'m str> {
    let overrides = manifest.network_mapping.as_ref()?.mac_address_overrides.as_ref()?;
    overrides.iter().find(|(from, _)| from.as_str() == old).map(|(_, to)| to.as_str())
}

/// An address that none of `taken` is.
fn new(batch_id: &str, vm_id: &str, index: usize, taken: &BTreeSet<String>) -> String {
    let mut again = 0_u32;
    loop {
        let hash = Sha256::digest(format!("network card\0{batch_id}\0{vm_id}\0{index}\0{again}"));
        // The two lowest bits of the first byte: locally administered, and no group's.
        let first = (hash[0] & !0b11) | 0b10;
        let rest: String = hash[1..6].iter().map(|byte| format!(":{byte:02x}")).collect();
        let mac = format!("{first:02x}{rest}");
        if !taken.contains(&mac) {
            return mac;
        }
        again += 1;
    }
}

/// Overrides for cards that the machine has not got.
pub(in crate::model::planner) fn warnings(manifest: &Manifest) -> Vec<String> {
    let overrides =
        manifest.network_mapping.as_ref().and_then(|mapping| mapping.mac_address_overrides.as_ref());
    let has = |mac: &Mac| manifest.nics.iter().flatten().any(|nic| nic.mac.as_ref() == Some(mac));
    let without = overrides.into_iter().flatten().filter(|(from, _)| !has(from));
    without.map(|(from, _)| format!("{OVERRIDES}: no network card of the machine has {from}")).collect()
}

/// Refuses overrides that nothing heeds, and addresses that no card, or two cards, would have.
pub(super) fn check(tree: &Tree, manifest: &Manifest) -> Result<()> {
    let Some(overrides) =
        manifest.network_mapping.as_ref().and_then(|mapping| mapping.mac_address_overrides.as_ref())
    else {
        return Ok(());
    };
    if policy(manifest) != MacPolicy::Custom && !overrides.is_empty() {
        let field = if tree.node(POLICY).is_some() { POLICY } else { OVERRIDES };
        return Err(tree
            .error(Kind::Manifest, field, "`mac_address_overrides` hold only with the policy `custom`")
            .advice("write `mac_address_policy: custom`, or remove the overrides"));
    }
    let written: Vec<(&str, Mac)> = tree
        .node(OVERRIDES)
        .map_or(&[][..], |node| node.entries())
        .iter()
        .filter(|(_, value)| value.says_something())
        .filter_map(|(key, _)| Some((key.name.as_str(), Mac::new(&key.name).ok()?)))
        .collect();
    for (nth, (key, mac)) in written.iter().enumerate() {
        let complain = |cause: String| tree.error_at_key(Kind::Manifest, OVERRIDES, key, cause);
        if let Some((first, _)) = written[..nth].iter().find(|(_, other)| other == mac) {
            return Err(complain(format!("`{first}` is the same address")).advice("keep one of them"));
        }
        let Some(to) = overrides.get(mac) else { continue };
        if to.as_str() == ZERO {
            return Err(complain(format!("no card has the address {ZERO}"))
                .advice("give one of your own, as 52:54:00:12:34:56"));
        }
    }
    check_doubles(tree, manifest, &written)
}

fn check_doubles(tree: &Tree, manifest: &Manifest, written: &[(&str, Mac)]) -> Result<()> {
    let olds = manifest.nics.iter().flatten().map(|nic| nic.mac.as_ref().map(Mac::as_str));
    let news: Vec<Option<&str>> =
        olds.map(|old| old.map(|old| custom(manifest, old).unwrap_or(old))).collect();
    for (index, new) in news.iter().enumerate().filter(|(_, new)| new.is_some()) {
        let Some(first) = news[..index].iter().position(|other| other == new) else { continue };
        // One of the two was given it.
        let given = written.iter().find(|(_, from)| {
            [first, index].iter().any(|card| {
                let nic = manifest.nics.iter().flatten().nth(*card);
                nic.and_then(|nic| nic.mac.as_ref()) == Some(from)
            })
        });
        let key = given.map_or("", |(key, _)| key);
        let mac = new.unwrap_or_default();
        return Err(tree
            .error_at_key(
                Kind::Manifest,
                OVERRIDES,
                key,
                format!("nics[{first}] and nics[{index}] would both have the address {mac}"),
            )
            .advice("each card has its own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_address_is_the_cards_own_for_good_and_no_makers() {
        let none = BTreeSet::new();
        let mac = new("batch", "web", 0, &none);
        assert_eq!(mac, new("batch", "web", 0, &none));
        let others =
            [new("batch", "web", 1, &none), new("batch", "db", 0, &none), new("other", "web", 0, &none)];
        assert!(!others.contains(&mac), "{others:?}");
        for mac in others {
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            assert_eq!(first & 0b11, 0b10, "{mac}");
            assert!(Mac::new(&mac).is_ok_and(|same| same.as_str() == mac), "{mac}");
        }
    }

    #[test]
    fn an_address_that_is_taken_is_not_given_again() {
        let first = new("batch", "web", 0, &BTreeSet::new());
        let second = new("batch", "web", 0, &BTreeSet::from([first.clone()]));
        assert_ne!(first, second);
    }
}
