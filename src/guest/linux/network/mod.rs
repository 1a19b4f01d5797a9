//! network: cards keep their names, so that all that is configured for them keeps its meaning.
//!
//! Addresses, bonds, bridges, VLANs and DHCP are kept by not touching them. What is changed is what binds them to hardware that stayed
//! behind: names (by a `.link` file and a rule of udev), MACs, drivers. Other addresses are a repair of their own ([`Addresses`]). What is
//! not here: Windows.

mod ifcfg;
mod ifupdown;
mod ini;
mod keyfile;
mod netplan;
mod networkd;
mod nic;
mod persistent;
mod pinned;
mod pins;
mod wanted;

use super::text::{self, Rewritten};
use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::guest::tree::Tree;
use crate::model::error::Result;
use nic::{Plan, Seen};
use pins::Udev;
pub use wanted::Addresses;

/// More files in one directory than any guest has; a hostile one could have a million.
const MOST_FILES: usize = 256;

/// The repair.
#[derive(Debug)]
pub struct Network;

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Ifcfg,
    Keyfile,
    Netplan,
    Networkd,
    Ifupdown,
    Rules,
    Aliases,
}

/// Directories and what is in them; which files of them are meant tells [`is_of`].
const PLACES: [(&str, Format); 8] = [
    ("/etc/sysconfig/network-scripts", Format::Ifcfg),
    ("/etc/sysconfig/network", Format::Ifcfg),
    ("/etc/NetworkManager/system-connections", Format::Keyfile),
    ("/etc/netplan", Format::Netplan),
    ("/etc/systemd/network", Format::Networkd),
    ("/etc/network/interfaces.d", Format::Ifupdown),
    ("/etc/udev/rules.d", Format::Rules),
    ("/etc/modprobe.d", Format::Aliases),
];
/// Files of their own.
const FILES: [(&str, Format); 2] =
    [("/etc/network/interfaces", Format::Ifupdown), ("/etc/modprobe.conf", Format::Aliases)];

/// A file of configuration.
#[derive(Debug)]
struct Piece {
    format: Format,
    path: String,
    text: String,
}

impl Fix for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        options.network.then_some("network cards keep their names")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let pieces = gather(&guest.tree)?;
        let plan = plan(&pieces, guest);
        guest.warnings.extend(plan.warnings.iter().cloned());
        for piece in &pieces {
            text::edit(&mut guest.tree, &mut guest.warnings, &piece.path, |text| repair(piece, text, &plan))?;
        }
        keep_names(guest, &plan)
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let pieces = gather(&guest.tree)?;
        let plan = plan(&pieces, guest);
        for piece in &pieces {
            text::is_settled(&guest.tree, &guest.warnings, &piece.path, |text| repair(piece, text, &plan))?;
        }
        for pin in pins::pins(&plan, udev(&guest.tree)?) {
            if guest.tree.read(&pin.path)?.as_deref() != Some(pin.text.as_bytes()) {
                return Err(text::not_kept(&pin.path, "it is not there, or says something else"));
            }
        }
        Ok(())
    }
}

fn keep_names(guest: &mut Guest<'_>, plan: &Plan) -> Result<()> {
    for pin in pins::pins(plan, udev(&guest.tree)?) {
        guest.tree.write(&pin.path, pin.text.as_bytes(), &pin.detail)?;
    }
    Ok(())
}

fn udev(tree: &Tree) -> Result<Udev> {
    let any = |paths: &[&str]| -> Result<bool> {
        for path in paths {
            if tree.exists(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let links = any(&["/usr/lib/systemd/network/99-default.link", "/lib/systemd/network/99-default.link"])?;
    let rules = links || any(&["/usr/lib/udev/rules.d", "/lib/udev/rules.d", "/etc/udev/rules.d"])?;
    Ok(Udev { rules, links })
}

fn is_of(format: Format, name: &str) -> bool {
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let left_behind = name.starts_with('.')
        || ends(&[
            "~",
            ".bak",
            ".rpmsave",
            ".rpmnew",
            ".rpmorig",
            ".orig",
            ".old",
            ".dpkg-old",
            ".dpkg-dist",
        ]);
    !left_behind
        && match format {
            Format::Ifcfg => name.starts_with("ifcfg-") && name != "ifcfg-lo",
            Format::Keyfile | Format::Ifupdown => true,
            Format::Netplan => ends(&[".yaml", ".yml"]),
            Format::Networkd => ends(&[".network", ".link"]) && !pins::is_ours(name),
            Format::Rules => ends(&[".rules"]) && !pins::RULES.ends_with(name),
            Format::Aliases => ends(&[".conf"]),
        }
}

fn gather(tree: &Tree) -> Result<Vec<Piece>> {
    let mut paths: Vec<(String, Format)> = Vec::new();
    for (directory, format) in PLACES {
        let names = tree.list(directory)?.into_iter().filter(|name| is_of(format, name));
        paths.extend(names.take(MOST_FILES).map(|name| (format!("{directory}/{name}"), format)));
    }
    paths.extend(FILES.iter().map(|(path, format)| ((*path).to_owned(), *format)));
    let mut pieces = Vec::new();
    for (path, format) in paths {
        // A profile may be a link to nothing or to /dev/null: that switches it off.
        if let Some(text) = text::read(tree, &path)? {
            pieces.push(Piece { format, path, text });
        }
    }
    Ok(pieces)
}

fn plan(pieces: &[Piece], guest: &Guest<'_>) -> Plan {
    Plan::new(cards(pieces), &guest.options.nics)
}

/// All cards that configuration speaks of.
fn cards(pieces: &[Piece]) -> Vec<Seen> {
    let mut cards: Vec<Seen> = Vec::new();
    let mut met: Vec<Seen> = Vec::new();
    for piece in pieces {
        let text = &piece.text;
        match piece.format {
            Format::Ifcfg => cards.extend(ifcfg::seen(&piece.path, text)),
            Format::Keyfile => cards.extend(keyfile::seen(text)),
            Format::Netplan => cards.extend(netplan::seen(text)),
            Format::Networkd => cards.extend(networkd::seen(&piece.path, text)),
            Format::Ifupdown => cards.extend(ifupdown::seen(text)),
            Format::Rules if persistent::is_generated(&piece.path) => met.extend(persistent::seen(text)),
            Format::Rules => cards.extend(persistent::seen(text)),
            Format::Aliases => {}
        }
    }
    // Of cards that udev has met, those that are configured.
    let configured = |seen: &Seen| cards.iter().any(|card| card.name == seen.name || card.mac == seen.mac);
    let met: Vec<Seen> = met.into_iter().filter(|seen| configured(seen)).collect();
    cards.extend(met);
    cards
}

fn repair(piece: &Piece, text: &str, plan: &Plan) -> Rewritten {
    match piece.format {
        Format::Ifcfg => ifcfg::repair(&piece.path, text, plan),
        Format::Keyfile => keyfile::repair(text, plan),
        Format::Netplan => netplan::repair(text, plan),
        Format::Networkd => networkd::repair(&piece.path, text, plan),
        Format::Ifupdown => Rewritten { text: text.to_owned(), ..Rewritten::default() },
        Format::Rules => persistent::repair_rules(text, plan),
        Format::Aliases => persistent::repair_aliases(text),
    }
}

#[cfg(test)]
mod testing {
    //! A guest with one card, `ens192`, that it knows by its MAC.

    use super::nic::{Plan, Seen};
    use crate::guest::facts::WantedNic;

    pub(super) const OLD: &str = "00:50:56:01:02:03";
    pub(super) const NEW: &str = "52:54:00:00:00:01";

    fn card() -> Vec<Seen> {
        vec![Seen { name: Some("ens192".to_owned()), mac: Some(OLD.to_owned()) }]
    }

    /// The machine's MAC is known.
    pub(super) fn machine_with(mac: &str) -> Plan {
        Plan::new(card(), &[WantedNic { mac: Some(mac.to_owned()), ..WantedNic::default() }])
    }

    /// It is not.
    pub(super) fn machine_without() -> Plan {
        Plan::new(card(), &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(format: Format, path: &str, text: &str) -> Piece {
        Piece { format, path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_mac_that_udev_has_met_belongs_to_the_configured_card_of_that_name() {
        let rules = "SUBSYSTEM==\"net\", ATTR{address}==\"00:0c:29:00:00:01\", NAME=\"eth0\"\n\
                     SUBSYSTEM==\"net\", ATTR{address}==\"00:0c:29:00:00:02\", NAME=\"eth1\"\n";
        let pieces = [
            piece(Format::Rules, "/etc/udev/rules.d/70-persistent-net.rules", rules),
            piece(Format::Ifupdown, "/etc/network/interfaces", "auto eth1\niface eth1 inet dhcp\n"),
        ];
        let plan = Plan::new(cards(&pieces), &[]);
        assert_eq!(plan.cards.len(), 1);
        assert_eq!(plan.cards[0].seen.mac.as_deref(), Some("00:0c:29:00:00:02"));
    }

    #[test]
    fn files_that_nobody_reads_are_left_alone() {
        for (format, name) in [
            (Format::Keyfile, ".ens192.nmconnection.swp"),
            (Format::Netplan, "50-cloud-init.yaml.bak"),
            (Format::Networkd, "10-hyper2kvm-ens192.link"),
            (Format::Networkd, "10-bond0.netdev"),
            (Format::Rules, "70-hyper2kvm-net.rules"),
            (Format::Ifcfg, "route-ens192"),
            (Format::Ifcfg, "ifcfg-lo"),
        ] {
            assert!(!is_of(format, name), "{name}");
        }
        assert!(is_of(Format::Ifcfg, "ifcfg-ens192") && is_of(Format::Keyfile, "Wired connection 1"));
    }
}
