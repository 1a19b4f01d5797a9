//! ifupdown: `/etc/network/interfaces` and what it includes.
//!
//! It knows cards by name only (`hwaddress` is a MAC that a card is given), so there is nothing to repair once names are kept.

use super::nic::{Seen, named_in};

/// Options whose values are cards.
const PORTS: [&str; 9] = [
    "bond-slaves",
    "bond_slaves",
    "slaves",
    "bond-primary",
    "bridge_ports",
    "bridge-ports",
    "vlan-raw-device",
    "vlan_raw_device",
    "bond-ports",
];

/// Cards that a file speaks of.
pub(super) fn seen(text: &str) -> Vec<Seen> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if first == "iface" {
            found.extend(named_in(words.take(1)));
        } else if first == "auto" || first.starts_with("allow-") || PORTS.contains(&first) {
            found.extend(named_in(words));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_seen_below_bonds_bridges_and_vlans() {
        let text = "auto lo\niface lo inet loopback\n# iface ens1 inet dhcp\nauto bond0\niface bond0 inet static\n  \
            address 192.0.2.10/24\n  bond-slaves ens192 ens224\nauto br0\niface br0 inet manual\n\tbridge_ports ens256\n\
            iface ens161.100 inet dhcp\n  vlan-raw-device ens161\nallow-hotplug eth0\niface eth0 inet6 auto\n";
        let names: Vec<String> = seen(text).into_iter().filter_map(|seen| seen.name).collect();
        assert_eq!(names, ["ens192", "ens224", "ens256", "ens161", "ens161", "eth0", "eth0"]);
    }
}
