//! addresses: network cards get the addresses, the gateway and the name servers that the manifest gives them.
//!
//! ```text
//!   files ─▶ units: what configures which card ─▶ settle: each card's units, rewritten in their own language ─▶ files
//! ```
//!
//! All is decided on texts in memory, so that a guest is changed wholly or not at all; then the files that differ are written. Which card
//! is which is told as for names. What is not here: names and MACs, which the repair of the network has settled before.

mod fresh;
mod ifcfg;
mod ifupdown;
mod keyfile;
mod netplan;
mod networkd;
mod request;
mod resolv;
mod settle;
mod suse;
mod units;
mod yaml;

use super::{Format, Plan, gather, ini, keep_names, plan, udev};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::inspect;
use crate::guest::linux::text::{self, Rewritten, not_kept};
use crate::guest::tree::Tree;
use crate::model::address::CardAddress;
use crate::model::error::Result;
use crate::model::guest::GuestNic;
use request::{Version, Wanted};
use settle::{Installed, Resolver, Settled, settle};
use units::System;

/// The repair.
#[derive(Debug)]
pub struct Addresses;

/// cloud-init's own switch for what it would do to the network.
const CLOUD: &str = "/etc/cloud/cloud.cfg.d/99-hyper2kvm-network.cfg";
const CLOUD_TEXT: &str = "\
# Addresses were set by the migration to KVM: cloud-init leaves the network as it is configured.
network:
  config: disabled
";
const CLOUD_INIT: &str = "/etc/cloud/cloud.cfg";
const CLOUD_OFF: &str = "/etc/cloud/cloud-init.disabled";
const RESOLV: &str = "/etc/resolv.conf";
const SUSE_DIRECTORY: &str = "/etc/sysconfig/network";
/// Programs that make `/etc/resolv.conf` of what cards say.
const RESOLVERS: [&str; 4] =
    ["/sbin/resolvconf", "/usr/sbin/resolvconf", "/usr/bin/resolvconf", "/bin/resolvconf"];
/// What tells that a system configures the network, in the order in which they are asked.
const SIGNS: [(System, &[&str]); 6] = [
    (System::Netplan, &["/usr/sbin/netplan"]),
    (System::Suse, &["/usr/sbin/wicked"]),
    (System::RedHat, &["/etc/sysconfig/network-scripts/ifup-eth"]),
    (System::Ifupdown, &["/etc/network/interfaces"]),
    (System::Keyfile, &["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"]),
    (
        System::Networkd,
        &[
            "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            "/etc/systemd/system/dbus-org.freedesktop.network1.service",
        ],
    ),
];
/// Readable by root alone, as their systems want it.
const SECRET: [&str; 2] = ["/etc/NetworkManager/", "/etc/netplan/"];

/// A file of the guest, in memory.
#[derive(Debug, Clone, Default)]
struct Doc {
    /// `None` for what is no configuration of cards.
    format: Option<Format>,
    before: Option<String>,
    now: Option<String>,
    told: Vec<String>,
}

impl Doc {
    fn read(format: Option<Format>, text: Option<String>) -> Doc {
        Doc { format, before: text.clone(), now: text, told: Vec::new() }
    }

    /// Has it say something else, for this reason.
    fn set(&mut self, now: Option<String>, why: impl IntoIterator<Item = String>) {
        if self.now != now {
            self.now = now;
            for why in why {
                if !self.told.contains(&why) {
                    self.told.push(why);
                }
            }
        }
    }
}

impl Fix for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        let wanted = options.network && options.nics.iter().any(|nic| !nic.addresses.is_empty());
        wanted.then_some("network cards get the addresses that they are given")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let settled = settled(guest)?;
        guest.warnings.extend(settled.warnings.iter().cloned());
        for (path, doc) in settled.docs.iter().filter(|(_, doc)| doc.now != doc.before) {
            let told = Rewritten { changes: doc.told.clone(), ..Rewritten::default() };
            match (&doc.before, &doc.now) {
                (_, None) => guest.tree.remove(path, &told.detail())?,
                (None, Some(text)) => {
                    let secret = SECRET.iter().any(|start| path.starts_with(start));
                    let mode = if secret { 0o600 } else { 0o644 };
                    guest.tree.write_with_mode(path, text.as_bytes(), mode, &told.detail())?;
                }
                (Some(_), Some(text)) => {
                    let new = Rewritten { text: text.clone(), ..told };
                    text::edit(&mut guest.tree, &mut guest.warnings, path, |_| new)?;
                }
            }
        }
        // A card that had no name has one now.
        let plan = plan(&gather(&guest.tree)?, guest);
        keep_names(guest, &plan)?;
        if cloud_init_runs(&guest.tree)? {
            guest.tree.write(CLOUD, CLOUD_TEXT.as_bytes(), "cloud-init leaves the network as it is")?;
        }
        Ok(())
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let settled = settled(guest)?;
        if let Some((path, doc)) = settled.docs.iter().find(|(_, doc)| doc.now != doc.before) {
            return Err(not_kept(path, &format!("it still has to be changed: {}", doc.told.join("; "))));
        }
        let nics = inspect::nics(guest.tree.appliance())?;
        for place in &settled.places {
            let of_file: Vec<&GuestNic> = nics.iter().filter(|nic| nic.file == place.path).collect();
            if !of_file.iter().any(|nic| has(nic, &place.wanted)) {
                return Err(not_kept(&place.path, "it does not have the addresses that were wanted"));
            }
        }
        if cloud_init_runs(&guest.tree)? && guest.tree.read(CLOUD)?.as_deref() != Some(CLOUD_TEXT.as_bytes())
        {
            return Err(not_kept(CLOUD, "it is not there, or says something else"));
        }
        Ok(())
    }
}

/// What is to be, of what is there now.
fn settled(guest: &Guest<'_>) -> Result<Settled> {
    let tree = &guest.tree;
    let pieces = gather(tree)?;
    let plan: Plan = plan(&pieces, guest);
    let installed = installed(tree)?;
    let mut docs: std::collections::BTreeMap<String, Doc> = pieces
        .into_iter()
        .map(|piece| (piece.path, Doc::read(Some(piece.format), Some(piece.text))))
        .collect();
    if installed.resolver == Resolver::Plain {
        docs.insert(RESOLV.to_owned(), Doc::read(None, text::read(tree, RESOLV)?));
    }
    let of_suse =
        |path: &&String| path.strip_prefix(SUSE_DIRECTORY).is_some_and(|rest| rest.starts_with("/ifcfg-"));
    let mut beside: Vec<String> =
        docs.keys().filter(of_suse).map(|path| path.replacen("/ifcfg-", "/ifroute-", 1)).collect();
    if !beside.is_empty() {
        beside.extend(["routes", "config"].map(|name| format!("{SUSE_DIRECTORY}/{name}")));
    }
    for path in beside {
        let text = text::read(tree, &path)?;
        docs.insert(path, Doc::read(None, text));
    }
    settle(docs, &plan, &guest.options.nics, &installed)
}

fn installed(tree: &Tree) -> Result<Installed> {
    let any = |paths: &[&str]| -> Result<bool> {
        for path in paths {
            // A unit that is enabled is a link, which need not lead anywhere here.
            if tree.exists(path)? || tree.link_target(path)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut systems = Vec::new();
    for (system, signs) in SIGNS {
        if any(signs)? {
            systems.push(system);
        }
    }
    let resolver = if any(&RESOLVERS)? {
        Resolver::OfCards
    } else if tree.link_target(RESOLV)?.is_some() {
        Resolver::Other
    } else {
        Resolver::Plain
    };
    Ok(Installed { systems, udev: udev(tree)?.rules, resolver })
}

fn cloud_init_runs(tree: &Tree) -> Result<bool> {
    Ok(tree.exists(CLOUD_INIT)? && !tree.exists(CLOUD_OFF)?)
}

/// Whether a key is this word with a number behind it, or none.
fn is_numbered(key: &str, word: &str) -> bool {
    key.strip_prefix(word).is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether inspection sees all that is wanted, and of the same families nothing else.
fn has(nic: &GuestNic, wanted: &Wanted) -> bool {
    let addresses: Vec<CardAddress> =
        nic.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let all = wanted.addresses().iter().all(|address| addresses.contains(address));
    let more = nic.addresses.iter().any(|text| {
        wanted.replaces(text) && !text.parse().is_ok_and(|address| wanted.addresses().contains(&address))
    });
    all && !more && !(nic.dhcp && wanted.sets(Version::V4))
}

#[cfg(test)]
mod tests {
    use super::request::testing::wanted;
    use super::*;

    #[test]
    fn nothing_is_done_where_no_address_is_given_or_the_network_is_to_stay() {
        use crate::guest::facts::WantedNic;
        let nic = WantedNic { addresses: vec!["192.0.2.10/24".to_owned()], ..WantedNic::default() };
        let mut options = FixOptions { nics: vec![nic], ..FixOptions::default() };
        assert!(Addresses.purpose(&options).is_some());
        options.network = false;
        assert_eq!(Addresses.purpose(&options), None);
        assert_eq!(
            Addresses.purpose(&FixOptions { nics: vec![WantedNic::default()], ..FixOptions::default() }),
            None
        );
    }

    #[test]
    fn what_is_read_again_has_to_be_what_was_wanted_and_no_more() {
        let nic = |addresses: &[&str], dhcp: bool| GuestNic {
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            dhcp,
            ..GuestNic::default()
        };
        let wanted = wanted("192.0.2.10/24");
        assert!(has(&nic(&["192.0.2.10/24", "2001:db8::1/64"], false), &wanted));
        assert!(!has(&nic(&["192.0.2.10/24", "198.51.100.7/24"], false), &wanted));
        assert!(!has(&nic(&["192.0.2.10/24"], true), &wanted) && !has(&nic(&[], false), &wanted));
    }

    #[test]
    fn what_is_written_is_what_cloud_init_reads() {
        let switch: serde_json::Value = serde_yaml::from_str(CLOUD_TEXT).unwrap();
        assert_eq!(switch, serde_json::json!({"network": {"config": "disabled"}}));
    }
}
