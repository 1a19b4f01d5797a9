//! `ifcfg-NAME`: the files of the RHEL family and, with other keys for the same, of SUSE's wicked. Assignments of a shell.
//!
//! What is not here: routes in files beside them, which name no hardware but by its name.

use super::Plan;
use super::nic::{DRIVER, FOREIGN_DRIVERS, Seen, is_plain, mac, named_in};
use super::pinned::{MacLine, mac_line};
use crate::guest::linux::text::{Rewritten, short, split_end};

/// The name in a file's name.
pub(super) fn name_of(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_prefix("ifcfg-")
}

/// The key and the value of a line, unquoted.
pub(super) fn entry(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    Some((key.trim_start_matches("export ").trim(), unquoted(value)))
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some((inner, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inner;
        }
    }
    value.split([' ', '\t', '#']).next().unwrap_or(value)
}

/// The last value of a key.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let found = text.lines().filter_map(entry).rfind(|(name, _)| *name == key)?;
    Some(found.1).filter(|value| !value.is_empty())
}

/// Cards that a file speaks of.
pub(super) fn seen(path: &str, text: &str) -> Vec<Seen> {
    let device = value(text, "DEVICE").or_else(|| name_of(path)).unwrap_or_default();
    let mut found = named_in([device]);
    if let Some(mac) = value(text, "HWADDR").and_then(mac) {
        match found.first_mut() {
            Some(card) => card.mac = Some(mac),
            // A name that the administrator chose, and the card by its MAC; or a profile without a name.
            None => {
                let name = value(text, "DEVICE").filter(|name| is_plain(name)).map(str::to_owned);
                found.push(Seen { name, mac: Some(mac) });
            }
        }
    }
    for (key, value) in text.lines().filter_map(entry) {
        let ports = ["PHYSDEV", "ETHERDEVICE", "BRIDGE_PORTS"].contains(&key)
            || key.starts_with("BONDING_SLAVE")
            || key.starts_with("TEAM_PORT_DEVICE");
        if ports {
            found.extend(named_in(value.split_whitespace()));
        }
    }
    found
}

/// Has it know the card by the MAC that it will have.
pub(super) fn repair(path: &str, text: &str, plan: &Plan) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        match entry(body) {
            Some(("HWADDR", old)) => match mac(old).map(|mac| mac_line(plan, &mac)) {
                Some(MacLine::New(mac)) => {
                    new.push_str(&format!("HWADDR={mac}{end}"));
                    result.changed(format!("the MAC is {mac}"));
                }
                Some(MacLine::ByName(name)) => {
                    // The profile stays that of this card by its name.
                    let name = name.or_else(|| name_of(path).filter(|name| !named_in([*name]).is_empty()));
                    if let (None, Some(name)) = (value(text, "DEVICE"), name) {
                        new.push_str(&format!("DEVICE={name}{end}"));
                    }
                    result.changed(format!("the old machine's MAC {} is gone", short(old)));
                }
                Some(MacLine::Keep) | None => new.push_str(line),
            },
            Some(("DRIVER", driver)) if FOREIGN_DRIVERS.contains(&driver) => {
                new.push_str(&format!("DRIVER={DRIVER}{end}"));
                result.changed(format!("the driver is {DRIVER}"));
            }
            _ => new.push_str(line),
        }
    }
    result.text = new;
    result
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NEW, OLD, machine_with, machine_without};
    use super::*;

    const FILE: &str = "/etc/sysconfig/network-scripts/ifcfg-ens192";
    const STATIC: &str = "TYPE=\"Ethernet\"\nBOOTPROTO=\"none\"\nNAME=\"ens192\"\nUUID=\"0c4c\"\nDEVICE=\"ens192\"\n\
        HWADDR=00:50:56:01:02:03\nONBOOT=\"yes\"\n# DRIVER=vmxnet3\nDRIVER=vmxnet3\nIPADDR=\"192.0.2.10\"\nPREFIX=\"24\"\n";

    #[test]
    fn the_name_and_the_mac_are_seen() {
        assert_eq!(seen(FILE, STATIC), [Seen { name: Some("ens192".into()), mac: Some(OLD.into()) }]);
        assert_eq!(seen(FILE, "ONBOOT=yes\n"), [Seen::named("ens192")]);
        assert_eq!(seen("x/ifcfg-ens192.5", "VLAN=yes\nDEVICE=ens192.5\n"), [Seen::named("ens192")]);
        assert_eq!(seen("x/ifcfg-bond0", "DEVICE=bond0\nTYPE=Bond\n"), []);
        assert_eq!(seen("x/ifcfg-lo", "DEVICE=lo\n"), []);
        let wicked =
            "BOOTPROTO='static'\nBONDING_MASTER='yes'\nBONDING_SLAVE_0='eth0'\nBONDING_SLAVE_1='eth1'\n";
        assert_eq!(seen("x/ifcfg-bond0", wicked), [Seen::named("eth0"), Seen::named("eth1")]);
    }

    #[test]
    fn the_mac_becomes_the_new_one() {
        let new = repair(FILE, STATIC, &machine_with(NEW));
        let expected = STATIC
            .replace("HWADDR=00:50:56:01:02:03", &format!("HWADDR={NEW}"))
            .replace("\nDRIVER=vmxnet3", "\nDRIVER=virtio_net");
        assert_eq!(new.text, expected);
        assert_eq!(repair(FILE, &new.text, &machine_with(NEW)).text, new.text);
    }

    #[test]
    fn a_mac_that_stays_is_not_touched() {
        let text = STATIC.replace("vmxnet3", "virtio_net");
        assert_eq!(repair(FILE, &text, &machine_with(OLD)).text, text);
    }

    #[test]
    fn a_mac_of_which_nothing_is_known_goes_and_the_name_remains() {
        let new = repair(FILE, STATIC, &machine_without());
        assert!(!new.text.contains("HWADDR") && new.text.contains("DEVICE=\"ens192\""));
        let new = repair(FILE, "HWADDR=00:50:56:01:02:03\nBOOTPROTO=dhcp\n", &machine_without());
        assert_eq!(new.text, "DEVICE=ens192\nBOOTPROTO=dhcp\n");
    }
}
