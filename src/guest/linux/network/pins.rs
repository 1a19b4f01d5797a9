//! The files that keep a card's name: a `.link` file for systemd's udev, and a rule for any udev.
//!
//! Both are written where both are understood. The `.link` file is where administrators look today. The rule names a card even where
//! udev had named it before, in an initial RAM disk: before version 240, systemd's udev would not name it again by a `.link` file. Pure.
//! What is not here: which card is which.

use super::nic::{Becomes, Card, Plan, is_of_hardware, is_plain};

/// Rules for all cards; before those of the distribution (80-net-…), which name only what has no name.
pub(super) const RULES: &str = "/etc/udev/rules.d/70-hyper2kvm-net.rules";
/// Where `.link` files are.
pub(super) const LINKS: &str = "/etc/systemd/network";
const OURS: &str = "10-hyper2kvm-";

/// What udev of a guest understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Udev {
    /// There is one: it reads rules.
    pub(super) rules: bool,
    /// It is systemd's, and names cards by `.link` files.
    pub(super) links: bool,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) path: String,
    pub(super) text: String,
    pub(super) detail: String,
}

/// Whether a `.link` file is one of these.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(OURS)
}

/// The files for these cards.
pub(super) fn pins(plan: &Plan, udev: Udev) -> Vec<Pin> {
    let kept: Vec<(&str, &Card)> = plan
        .cards
        .iter()
        .filter(|card| card.becomes != Becomes::Unknown)
        .filter_map(|card| card.seen.name.as_deref().map(|name| (name, card)))
        .filter(|(name, _)| is_of_hardware(name) && is_plain(name))
        .collect();
    if kept.is_empty() {
        return Vec::new();
    }
    let mut pins = Vec::new();
    if udev.links {
        for (name, card) in &kept {
            pins.push(Pin {
                path: format!("{LINKS}/{OURS}{name}.link"),
                text: link(name, &card.becomes),
                detail: format!("{} is called {name}", card_is(&card.becomes)),
            });
        }
    }
    if udev.rules {
        let names: Vec<&str> = kept.iter().map(|(name, _)| *name).collect();
        let mut text = format!("# Keeps the name{} of before the migration to KVM", plural(kept.len()));
        if udev.links {
            text.push_str(&format!("; see also {LINKS}/{OURS}*.link"));
        }
        text.push_str(".\n");
        for (name, card) in &kept {
            text.push_str(&rule(name, &card.becomes));
        }
        pins.push(Pin {
            path: RULES.to_owned(),
            text,
            detail: match names.as_slice() {
                [only] => format!("{only} keeps its name"),
                several => format!("{} keep their names", several.join(", ")),
            },
        });
    }
    pins
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn card_is(becomes: &Becomes) -> String {
    match becomes {
        Becomes::Mac(mac) => format!("the network card {mac}"),
        Becomes::Only | Becomes::Unknown => "the network card".to_owned(),
    }
}

fn link(name: &str, becomes: &Becomes) -> String {
    let card = match becomes {
        Becomes::Mac(mac) => format!("MACAddress={mac}"),
        Becomes::Only | Becomes::Unknown => "OriginalName=*".to_owned(),
    };
    // A VLAN or a bridge has its card's MAC; what it has not is a place in the machine.
    format!(
        "# Keeps the name of before the migration to KVM; see also {RULES}.\n[Match]\n{card}\nPath=*\n\n[Link]\nName={name}\n"
    )
}

fn rule(name: &str, becomes: &Becomes) -> String {
    let card = match becomes {
        Becomes::Mac(mac) => format!("ATTR{{address}}==\"{mac}\", "),
        Becomes::Only | Becomes::Unknown => String::new(),
    };
    // What has no driver of its own is a VLAN or a bridge.
    format!(
        "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", {card}ATTR{{type}}==\"1\", NAME=\"{name}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::nic::Seen;
    use super::*;
    use crate::guest::facts::WantedNic;

    const BOTH: Udev = Udev { rules: true, links: true };
    const RULES_ONLY: Udev = Udev { rules: true, links: false };

    fn wanted(mac: &str) -> WantedNic {
        WantedNic { mac: Some(mac.to_owned()), ..WantedNic::default() }
    }

    fn texts(names: &[&str], wanted: &[WantedNic], udev: Udev) -> String {
        let plan = Plan::new(names.iter().copied().map(Seen::named).collect(), wanted);
        pins(&plan, udev).iter().map(|pin| format!("== {}\n{}", pin.path, pin.text)).collect()
    }

    #[test]
    fn every_card_is_named_by_its_mac() {
        let wanted = [wanted("52:54:00:00:00:01"), wanted("52:54:00:00:00:02")];
        assert_eq!(
            texts(&["ens224", "ens192"], &wanted, BOTH),
            "== /etc/systemd/network/10-hyper2kvm-ens192.link\n\
             # Keeps the name of before the migration to KVM; see also /etc/udev/rules.d/70-hyper2kvm-net.rules.\n\
             [Match]\nMACAddress=52:54:00:00:00:01\nPath=*\n\n[Link]\nName=ens192\n\
             == /etc/systemd/network/10-hyper2kvm-ens224.link\n\
             # Keeps the name of before the migration to KVM; see also /etc/udev/rules.d/70-hyper2kvm-net.rules.\n\
             [Match]\nMACAddress=52:54:00:00:00:02\nPath=*\n\n[Link]\nName=ens224\n\
             == /etc/udev/rules.d/70-hyper2kvm-net.rules\n\
             # Keeps the names of before the migration to KVM; see also /etc/systemd/network/10-hyper2kvm-*.link.\n\
             SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:00:00:01\", ATTR{type}==\"1\", NAME=\"ens192\"\n\
             SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"52:54:00:00:00:02\", ATTR{type}==\"1\", NAME=\"ens224\"\n"
        );
    }

    #[test]
    fn the_only_card_is_named_whatever_its_mac_and_an_old_udev_gets_a_rule_alone() {
        assert_eq!(
            texts(&["ens192"], &[], RULES_ONLY),
            "== /etc/udev/rules.d/70-hyper2kvm-net.rules\n\
             # Keeps the name of before the migration to KVM.\n\
             SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{type}==\"1\", NAME=\"ens192\"\n"
        );
        assert!(texts(&["ens192"], &[], BOTH).contains("[Match]\nOriginalName=*\nPath=*\n"));
    }

    #[test]
    fn nothing_is_written_for_what_cannot_be_told_or_where_no_udev_is() {
        assert_eq!(texts(&["ens192", "ens224"], &[], BOTH), "");
        assert_eq!(texts(&[], &[], BOTH), "");
        assert_eq!(texts(&["ens192"], &[], Udev { rules: false, links: false }), "");
    }
}
