//! systemd-networkd: `.network` files, and `.link` files of the guest's own.
//!
//! `MACAddress` in `[Match]` is what a card is known by; in `[Link]` it is what a card is given, and stays. A `[Match]` is never left
//! empty: that would match every card.

use super::Plan;
use super::ini::{self, Line};
use super::nic::{DRIVER, FOREIGN_DRIVERS, Seen, is_plain, mac, named_in};
use super::pinned::{MacLine, mac_line};
use crate::guest::linux::text::{Rewritten, short};

const BY_MAC: [&str; 2] = ["MACAddress", "PermanentMACAddress"];
/// Any card, of which there is one.
const ANY: &str = "e*";

/// Cards that a file speaks of.
pub(super) fn seen(path: &str, text: &str) -> Vec<Seen> {
    let names = if path.ends_with(".link") {
        ini::values(text, &["Link"], "Name")
    } else {
        ini::values(text, &["Match"], "Name")
    };
    let names: Vec<&str> = names.into_iter().flat_map(str::split_whitespace).collect();
    let macs: Vec<String> = BY_MAC
        .iter()
        .flat_map(|key| ini::values(text, &["Match"], key))
        .flat_map(str::split_whitespace)
        .filter_map(mac)
        .collect();
    match (names.as_slice(), macs.as_slice()) {
        ([name], [mac]) if is_plain(name) => {
            vec![Seen { name: Some((*name).to_owned()), mac: Some(mac.clone()) }]
        }
        (names, macs) => {
            let by_mac = macs.iter().map(|mac| Seen { name: None, mac: Some(mac.clone()) });
            named_in(names.iter().copied()).into_iter().chain(by_mac).collect()
        }
    }
}

/// Has it know the card by the MAC that it will have.
pub(super) fn repair(path: &str, text: &str, plan: &Plan) -> Rewritten {
    let mut result = Rewritten::default();
    let is_link = path.ends_with(".link");
    let named = !is_link && !ini::values(text, &["Match"], "Name").is_empty();
    result.text = ini::edit(text, |section, key, value| {
        if section != "Match" {
            return Line::Keep;
        }
        if key == "Driver" && value.split_whitespace().any(|driver| FOREIGN_DRIVERS.contains(&driver)) {
            result.changed(format!("the driver is {DRIVER}"));
            return Line::Value(DRIVER.to_owned());
        }
        if !BY_MAC.contains(&key) {
            return Line::Keep;
        }
        let mut new = Vec::new();
        let mut name = None;
        for word in value.split_whitespace() {
            match mac(word).map(|mac| mac_line(plan, &mac)) {
                Some(MacLine::New(mac)) => new.push(mac),
                Some(MacLine::ByName(of_card)) => name = of_card.or(Some(ANY)),
                Some(MacLine::Keep) | None => new.push(word),
            }
        }
        if new.join(" ") == value {
            return Line::Keep;
        }
        if !new.is_empty() {
            result.changed(format!("the MAC is {}", short(&new.join(" "))));
            return Line::Value(new.join(" "));
        }
        result.changed(format!("the old machine's MAC {} is gone", short(value)));
        match name {
            _ if named => Line::Drop,
            // The file gives the name: any card, but not a VLAN or a bridge.
            _ if is_link => Line::Entry("Path=*".to_owned()),
            Some(name) => Line::Entry(format!("Name={name}")),
            None => Line::Keep,
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NEW, OLD, machine_with, machine_without};
    use super::*;

    const NETWORK: &str = "/etc/systemd/network/20-wired.network";
    const LINK: &str = "/etc/systemd/network/20-lan.link";
    const BY_MAC_ALONE: &str =
        "[Match]\nMACAddress=00:50:56:01:02:03\n\n[Network]\nAddress=192.0.2.10/24\nDHCP=no\n";

    #[test]
    fn the_name_and_the_mac_are_seen() {
        assert_eq!(seen(NETWORK, BY_MAC_ALONE), [Seen { name: None, mac: Some(OLD.into()) }]);
        assert_eq!(
            seen(NETWORK, "[Match]\nName=ens192 ens224\n"),
            [Seen::named("ens192"), Seen::named("ens224")]
        );
        assert_eq!(seen(NETWORK, "[Match]\nName=en*\n"), []);
        let link = "[Match]\nMACAddress=00:50:56:01:02:03\n[Link]\nName=lan0\nMACAddress=02:00:00:00:00:09\n";
        assert_eq!(seen(LINK, link), [Seen { name: Some("lan0".into()), mac: Some(OLD.into()) }]);
    }

    #[test]
    fn the_mac_becomes_the_new_one_and_the_address_is_not_touched() {
        let new = repair(NETWORK, BY_MAC_ALONE, &machine_with(NEW)).text;
        assert_eq!(new, BY_MAC_ALONE.replace(OLD, NEW));
        let given = "[Match]\nName=ens192\n[Link]\nMACAddress=00:50:56:01:02:03\n";
        assert_eq!(repair(NETWORK, given, &machine_with(NEW)).text, given);
    }

    #[test]
    fn a_match_is_never_left_empty() {
        let new = repair(NETWORK, BY_MAC_ALONE, &machine_without()).text;
        assert_eq!(new, BY_MAC_ALONE.replace("MACAddress=00:50:56:01:02:03", "Name=ens192"));
        let both = "[Match]\nName=ens192\nMACAddress=00:50:56:01:02:03\n";
        assert_eq!(repair(NETWORK, both, &machine_without()).text, "[Match]\nName=ens192\n");
        let link = "[Match]\nMACAddress=00:50:56:01:02:03\n[Link]\nName=ens192\n";
        assert_eq!(repair(LINK, link, &machine_without()).text, "[Match]\nPath=*\n[Link]\nName=ens192\n");
    }

    #[test]
    fn the_driver_of_the_old_hardware_becomes_virtios() {
        let new = repair(NETWORK, "[Match]\nDriver=vmxnet3\n", &machine_without()).text;
        assert_eq!(new, "[Match]\nDriver=virtio_net\n");
    }
}
