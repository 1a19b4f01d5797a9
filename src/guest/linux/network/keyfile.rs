//! NetworkManager's profiles: `/etc/NetworkManager/system-connections/*`.
//!
//! `cloned-mac-address` is a MAC that the card is given, not one that it is known by: it stays. What is not here: profiles in `ifcfg` files.

use super::Plan;
use super::ini::{self, Line};
use super::nic::{DRIVER, FOREIGN_DRIVERS, Seen, is_plain, mac, named_in};
use super::pinned::{MacLine, mac_line};
use crate::guest::linux::text::{Rewritten, short};

const ETHERNET: [&str; 2] = ["ethernet", "802-3-ethernet"];

/// Cards that a profile speaks of.
pub(super) fn seen(text: &str) -> Vec<Seen> {
    let name = ini::values(text, &["connection"], "interface-name").pop().unwrap_or_default();
    let mut found = named_in([name]);
    if let Some(mac) = ini::values(text, &ETHERNET, "mac-address").pop().and_then(mac) {
        match found.first_mut() {
            Some(card) => card.mac = Some(mac),
            None => {
                let name = Some(name).filter(|name| is_plain(name)).map(str::to_owned);
                found.push(Seen { name, mac: Some(mac) });
            }
        }
    }
    for (section, key) in [("vlan", "parent"), ("match", "interface-name"), ("macvlan", "parent")] {
        for value in ini::values(text, &[section], key) {
            found.extend(named_in(value.split([';', ',', ' '])));
        }
    }
    found
}

/// Has it know the card by the MAC that it will have.
pub(super) fn repair(text: &str, plan: &Plan) -> Rewritten {
    let mut result = Rewritten::default();
    let named = !ini::values(text, &["connection"], "interface-name").is_empty();
    let mut name_needed = None;
    let new = ini::edit(text, |section, key, value| {
        if ETHERNET.contains(&section) && key == "mac-address" {
            match mac(value).map(|mac| mac_line(plan, &mac)) {
                Some(MacLine::New(mac)) => {
                    result.changed(format!("the MAC is {mac}"));
                    return Line::Value(mac.to_ascii_uppercase());
                }
                Some(MacLine::ByName(name)) => {
                    result.changed(format!("the old machine's MAC {} is gone", short(value)));
                    name_needed = name;
                    return Line::Drop;
                }
                Some(MacLine::Keep) | None => {}
            }
        }
        if section == "match" && key == "driver" && names_foreign(value) {
            result.changed(format!("the driver is {DRIVER}"));
            return Line::Value(format!("{DRIVER};"));
        }
        Line::Keep
    });
    result.text = match name_needed {
        Some(name) if !named => ini::add(&new, "connection", &[format!("interface-name={name}")]),
        _ => new,
    };
    result
}

fn names_foreign(value: &str) -> bool {
    value.split([';', ',', ' ']).any(|driver| FOREIGN_DRIVERS.contains(&driver))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NEW, OLD, machine_with, machine_without};
    use super::*;

    const PROFILE: &str = "[connection]\nid=Wired connection 1\nuuid=7c25\ntype=ethernet\n\n[ethernet]\n\
        cloned-mac-address=00:50:56:01:02:03\nmac-address=00:50:56:01:02:03\n\n[match]\ndriver=vmxnet3;\n\n\
        [ipv4]\naddress1=192.0.2.10/24,192.0.2.1\nmethod=manual\n";

    #[test]
    fn the_name_and_the_mac_are_seen() {
        assert_eq!(seen(PROFILE), [Seen { name: None, mac: Some(OLD.into()) }]);
        assert_eq!(seen("[connection]\ninterface-name=ens192\n"), [Seen::named("ens192")]);
        assert_eq!(
            seen("[connection]\ninterface-name=bond0\n[vlan]\nparent=ens224\n"),
            [Seen::named("ens224")]
        );
    }

    #[test]
    fn the_mac_that_it_is_known_by_becomes_the_new_one_and_the_one_it_is_given_stays() {
        let new = repair(PROFILE, &machine_with(NEW)).text;
        assert_eq!(
            new,
            PROFILE
                .replace("\nmac-address=00:50:56:01:02:03", "\nmac-address=52:54:00:00:00:01")
                .replace("driver=vmxnet3;", "driver=virtio_net;")
        );
        assert_eq!(repair(&new, &machine_with(NEW)).text, new);
    }

    #[test]
    fn a_mac_of_which_nothing_is_known_gives_way_to_the_name() {
        let new = repair(PROFILE, &machine_without()).text;
        assert!(
            new.starts_with(
                "[connection]\nid=Wired connection 1\nuuid=7c25\ntype=ethernet\ninterface-name=ens192\n\n"
            ),
            "{new}"
        );
        assert!(!new.contains("\nmac-address") && new.contains("\ncloned-mac-address"));
        assert_eq!(repair(&new, &machine_without()).text, new);
    }
}
