//! What configures which card: every piece of configuration that could hold addresses, and those of them that are meant by one card.
//!
//! A card that is a port of a bond or a bridge has no address of its own, so its master's configuration is meant, as an administrator
//! would say "the address of this machine". Pure. What is not here: what becomes of it.

use serde_json::Value;

use super::request::Wanted;
use super::{Doc, ifcfg, ini};
use crate::guest::linux::network::Format;
use crate::guest::linux::network::ifcfg::name_of;
use crate::guest::linux::network::netplan::devices;
use crate::guest::linux::network::nic::{Seen, mac};
use crate::guest::linux::text::short;
use crate::model::error::Result;

/// More interfaces than any machine has; a hostile guest could configure a million.
const MOST_UNITS: usize = 1024;
/// More ports than any bridge has.
const MOST_PORTS: usize = 256;
/// Bridges on bonds on cards; a hostile guest could make a circle.
const MOST_LEVELS: usize = 4;
const WICKED: &str = "/etc/sysconfig/network/";
const PORTS: [&str; 6] =
    ["bond-slaves", "bond_slaves", "slaves", "bond-ports", "bridge_ports", "bridge-ports"];
const ETHERNET: [&str; 2] = ["ethernet", "802-3-ethernet"];
/// Names of cards as they are, to be held against patterns.
const SAMPLES: [&str; 3] = ["ens3", "enp1s0", "eth0"];

/// Who configures a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    Netplan,
    Suse,
    RedHat,
    Ifupdown,
    Networkd,
    Keyfile,
}

/// What configures one interface, or several alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) system: System,
    pub(super) path: String,
    /// netplan's kind of interface.
    pub(super) kind: &'static str,
    /// What the system calls it: netplan's id, ifupdown's name; for people of others.
    pub(super) id: String,
    /// Names of interfaces, or patterns.
    called: Vec<String>,
    /// Other words by which masters and ports are named: ids, UUIDs.
    aliases: Vec<String>,
    mac: Option<String>,
    masters: Vec<String>,
    ports: Vec<String>,
}

impl Unit {
    fn new(system: System, path: &str, id: &str) -> Unit {
        Unit {
            system,
            path: path.to_owned(),
            kind: "",
            id: id.to_owned(),
            called: vec![id.to_owned()],
            aliases: Vec::new(),
            mac: None,
            masters: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// Whether it may be meant for more than one card.
    fn is_shared(&self) -> bool {
        self.mac.is_none()
            && (self.called.len() > 1 || self.called.iter().any(|name| name.contains(['*', '?', '['])))
    }

    fn is_of(&self, card: &Seen) -> bool {
        let named = card.name.as_ref().is_some_and(|name| self.called.contains(name));
        (self.mac.is_some() && self.mac == card.mac) || (named && !self.is_shared())
    }

    fn may_be_of(&self, card: &Seen) -> bool {
        let names: Vec<&str> = card.name.as_deref().map_or(SAMPLES.to_vec(), |name| vec![name]);
        self.is_shared() && names.iter().any(|name| self.called.iter().any(|pattern| fits(pattern, name)))
    }

    fn words(&self) -> impl Iterator<Item = &String> {
        self.called.iter().chain(&self.aliases)
    }
}

/// What one card's addresses go into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// These, all of them.
    Units(Vec<Unit>),
    /// Nothing is there yet; what others share with it is this system's.
    New(Option<System>),
}

/// Finds it. `alone`: the machine has no other card.
pub(super) fn place(units: &[Unit], card: &Seen, wanted: &Wanted, alone: bool) -> Result<Place> {
    let mut found: Vec<&Unit> = units.iter().filter(|unit| unit.is_of(card)).collect();
    let shared = || units.iter().filter(|unit| unit.may_be_of(card));
    if found.is_empty() && alone {
        found = shared().collect();
    }
    let mut words: Vec<&String> =
        card.name.iter().chain(found.iter().flat_map(|unit| unit.words())).collect();
    for _ in 0..MOST_LEVELS {
        let is_master = |unit: &&Unit| {
            unit.ports.iter().any(|port| words.contains(&port))
                || found.iter().any(|port| unit.words().any(|word| port.masters.contains(word)))
        };
        let masters: Vec<&Unit> = units.iter().filter(is_master).collect();
        if masters.is_empty() {
            break;
        }
        words = masters.iter().flat_map(|unit| unit.words()).collect();
        found = masters;
    }
    if let Some(master) = found.iter().flat_map(|unit| &unit.masters).next() {
        let cause = format!("its card belongs to {}, which has no configuration of its own", short(master));
        return Err(wanted
            .refused(cause, "give that one a configuration in the source machine, or remove the addresses"));
    }
    if found.is_empty() {
        return Ok(Place::New(shared().next().map(|unit| unit.system)));
    }
    Ok(Place::Units(found.into_iter().cloned().collect()))
}

/// All of a guest.
pub(super) fn units<'a>(docs: impl Iterator<Item = (&'a String, &'a Doc)>) -> Vec<Unit> {
    let mut found = Vec::new();
    for (path, doc) in docs {
        let (Some(format), Some(text)) = (doc.format, doc.now.as_deref()) else { continue };
        match format {
            Format::Ifcfg if path.starts_with(WICKED) => found.extend(suse(path, text)),
            Format::Ifcfg => found.extend(red_hat(path, text)),
            Format::Keyfile => found.extend(keyfile(path, text)),
            Format::Netplan => found.extend(netplan(path, text)),
            Format::Networkd if path.ends_with(".network") => found.extend(networkd(path, text)),
            Format::Ifupdown => found.extend(ifupdown(path, text)),
            Format::Networkd | Format::Rules | Format::Aliases => {}
        }
    }
    found.truncate(MOST_UNITS);
    for unit in &mut found {
        unit.ports.truncate(MOST_PORTS);
    }
    found
}

fn words(texts: &[&str]) -> Vec<String> {
    texts
        .iter()
        .flat_map(|text| text.split([' ', '\t', ';', ',']))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn ifupdown(path: &str, text: &str) -> Vec<Unit> {
    let mut found: Vec<Unit> = Vec::new();
    let mut current = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["iface", name, ..] => {
                let name = name.split(':').next().unwrap_or(name);
                current = found.iter().position(|unit| unit.id == name);
                if current.is_none() && name != "lo" && found.len() < MOST_UNITS {
                    found.push(Unit::new(System::Ifupdown, path, name));
                    current = Some(found.len() - 1);
                }
            }
            [key, rest @ ..] => {
                let Some(unit) = current.and_then(|at: usize| found.get_mut(at)) else { continue };
                if PORTS.contains(key) {
                    unit.ports.extend(rest.iter().map(|port| (*port).to_owned()));
                } else if ["bond-master", "bond_master"].contains(key) {
                    unit.masters.extend(rest.iter().map(|master| (*master).to_owned()));
                }
            }
            [] => {}
        }
    }
    found
}

fn red_hat(path: &str, text: &str) -> Option<Unit> {
    let value = |key: &str| ifcfg::value(text, key);
    let hardware = value("HWADDR").and_then(mac);
    let name = value("DEVICE").or_else(|| name_of(path).filter(|_| hardware.is_none()));
    // A file of a further address has no life of its own.
    if name_of(path)?.contains(':') {
        return None;
    }
    let mut unit = Unit::new(System::RedHat, path, name.or_else(|| name_of(path))?);
    unit.called = name.map(str::to_owned).into_iter().collect();
    unit.aliases = words(&[value("UUID").unwrap_or_default()]);
    unit.mac = hardware;
    let masters = ["MASTER", "BRIDGE", "TEAM_MASTER", "MASTER_UUID", "BRIDGE_UUID", "TEAM_MASTER_UUID"];
    let named = masters.iter().find_map(|key| value(key));
    unit.masters = named.map(str::to_owned).into_iter().collect();
    Some(unit)
}

fn suse(path: &str, text: &str) -> Option<Unit> {
    let mut unit = Unit::new(System::Suse, path, name_of(path)?);
    for (key, value) in text.lines().filter_map(ifcfg::entry) {
        if key.starts_with("BONDING_SLAVE") || key == "BRIDGE_PORTS" || key.starts_with("TEAM_PORT_DEVICE") {
            unit.ports.extend(words(&[value]));
        }
    }
    Some(unit)
}

fn keyfile(path: &str, text: &str) -> Option<Unit> {
    let value =
        |section: &str, key: &str| ini::values(text, &[section], key).pop().filter(|value| !value.is_empty());
    let kind = value("connection", "type").unwrap_or_default();
    let is_ethernet = ETHERNET.contains(&kind);
    if !is_ethernet && !["bond", "bridge", "team", "vlan"].contains(&kind) {
        return None;
    }
    let id = value("connection", "id").or_else(|| path.rsplit('/').next())?;
    let mut unit = Unit::new(System::Keyfile, path, id);
    unit.aliases = words(&[value("connection", "uuid").unwrap_or_default()]);
    unit.mac = ETHERNET
        .iter()
        .find_map(|section| value(section, "mac-address"))
        .and_then(mac)
        .filter(|_| is_ethernet);
    unit.called = match (value("connection", "interface-name"), value("match", "interface-name")) {
        (Some(name), _) => vec![name.to_owned()],
        (None, Some(patterns)) => words(&[patterns]),
        (None, None) if is_ethernet && unit.mac.is_none() => vec!["*".to_owned()],
        (None, None) => Vec::new(),
    };
    let master = value("connection", "controller").or_else(|| value("connection", "master"));
    unit.masters = master.map(str::to_owned).into_iter().collect();
    Some(unit)
}

fn netplan(path: &str, text: &str) -> Vec<Unit> {
    let mut found = Vec::new();
    for kind in ["ethernets", "bonds", "bridges", "vlans"] {
        for (id, device) in devices(text, kind) {
            let word = |value: Option<&Value>, key: &str| -> Option<String> {
                value?.get(key)?.as_str().map(str::to_owned)
            };
            let matched = device.get("match");
            let mut unit = Unit::new(System::Netplan, path, &id);
            unit.kind = kind;
            unit.mac = word(matched, "macaddress").as_deref().and_then(mac);
            unit.called = match (word(Some(&device), "set-name"), matched) {
                (Some(name), _) => vec![name],
                (None, None) => vec![id.clone()],
                (None, Some(_)) => match word(matched, "name") {
                    None if unit.mac.is_none() => vec!["*".to_owned()],
                    name => name.into_iter().collect(),
                },
            };
            unit.aliases = vec![id];
            let ports = device.get("interfaces").and_then(Value::as_array).into_iter().flatten();
            unit.ports = ports.filter_map(Value::as_str).map(str::to_owned).collect();
            found.push(unit);
        }
    }
    found
}

fn networkd(path: &str, text: &str) -> Option<Unit> {
    let all = |key: &str| ini::values(text, &["Match"], key);
    let mut unit = Unit::new(System::Networkd, path, path.rsplit('/').next()?);
    let macs: Vec<String> =
        words(&all("MACAddress")).into_iter().chain(words(&all("PermanentMACAddress"))).collect();
    unit.called = words(&all("Name"));
    unit.mac = macs.first().filter(|_| macs.len() == 1).and_then(|text| mac(text));
    if unit.called.is_empty() && macs.is_empty() {
        // Of hardware of some kind, whatever its name.
        if all("Type").is_empty() && all("Driver").is_empty() {
            return None;
        }
        unit.called.push("*".to_owned());
    }
    if let [name] = unit.called.as_slice() {
        unit.id.clone_from(name);
    }
    unit.masters =
        words(&["Bond", "Bridge"].map(|key| ini::values(text, &["Network"], key).pop().unwrap_or_default()));
    Some(unit)
}

/// Whether a name fits a pattern of a shell, as far as names of interfaces need it.
fn fits(pattern: &str, name: &str) -> bool {
    if let Some(not) = pattern.strip_prefix('!') {
        return !fits(not, name);
    }
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((behind, taken)) = star else { return false };
                star = Some((behind, taken + 1));
                (p, n) = (behind, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::super::request::testing::wanted;
    use super::*;

    fn found(files: &[(Format, &str, &str)], card: &Seen, alone: bool) -> Result<Place> {
        let docs: Vec<(String, Doc)> = files
            .iter()
            .map(|(format, path, text)| {
                ((*path).to_owned(), Doc::read(Some(*format), Some((*text).to_owned())))
            })
            .collect();
        let units = units(docs.iter().map(|(path, doc)| (path, doc)));
        place(&units, card, &wanted("192.0.2.10/24"), alone)
    }

    fn ids(place: Result<Place>) -> Vec<String> {
        match place.unwrap() {
            Place::Units(units) => {
                units.into_iter().map(|unit| format!("{:?} {}", unit.system, unit.id)).collect()
            }
            Place::New(shared) => vec![format!("new {shared:?}")],
        }
    }

    const INTERFACES: &str = "/etc/network/interfaces";

    #[test]
    fn a_card_is_found_by_its_name_or_its_mac_in_every_system() {
        let card = Seen { name: Some("ens192".into()), mac: Some("52:54:00:00:00:01".into()) };
        let files = [
            (
                Format::Ifupdown,
                INTERFACES,
                "iface lo inet loopback\niface ens192 inet dhcp\niface ens192:1 inet static\n",
            ),
            (Format::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-lan", "HWADDR=52:54:00:00:00:01\n"),
            (Format::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-ens192:1", "DEVICE=ens192:1\n"),
            (Format::Ifcfg, "/etc/sysconfig/network/ifcfg-ens192", "BOOTPROTO=dhcp\n"),
            (
                Format::Keyfile,
                "/k/wired",
                "[connection]\nid=Wired\ntype=ethernet\n[ethernet]\nmac-address=52:54:00:00:00:01\n",
            ),
            (
                Format::Netplan,
                "/n.yaml",
                "network: {ethernets: {lan: {match: {name: x}, set-name: ens192}, other: {}}}\n",
            ),
            (Format::Networkd, "/a.network", "[Match]\nName=ens192\n"),
            (Format::Networkd, "/b.network", "[Match]\nName=ens224\n"),
        ];
        assert_eq!(
            ids(found(&files, &card, false)),
            [
                "Ifupdown ens192",
                "RedHat lan",
                "Suse ens192",
                "Keyfile Wired",
                "Netplan lan",
                "Networkd ens192"
            ]
        );
    }

    #[test]
    fn the_addresses_of_a_port_are_its_masters_through_several_levels() {
        let card = Seen::named("ens192");
        let ifupdown = "iface bond0 inet manual\n bond-slaves ens192 ens224\niface br0 inet static\n bridge_ports bond0\n address 192.0.2.7/24\n";
        assert_eq!(ids(found(&[(Format::Ifupdown, INTERFACES, ifupdown)], &card, false)), ["Ifupdown br0"]);
        let networkd = [
            (Format::Networkd, "/p.network", "[Match]\nName=ens192\n[Network]\nBond=bond0\n"),
            (Format::Networkd, "/b.network", "[Match]\nName=bond0\n[Network]\nDHCP=yes\n"),
        ];
        assert_eq!(ids(found(&networkd, &card, false)), ["Networkd bond0"]);
        let netplan =
            "network: {ethernets: {a: {match: {name: ens192}}}, bridges: {br0: {interfaces: [a]}}}\n";
        assert_eq!(ids(found(&[(Format::Netplan, "/n.yaml", netplan)], &card, false)), ["Netplan br0"]);
        let keyfiles = [
            (
                Format::Keyfile,
                "/p",
                "[connection]\nid=p\ntype=ethernet\ninterface-name=ens192\nmaster=12-34\n",
            ),
            (Format::Keyfile, "/b", "[connection]\nid=b\nuuid=12-34\ntype=bond\ninterface-name=bond0\n"),
        ];
        assert_eq!(ids(found(&keyfiles, &card, false)), ["Keyfile b"]);
        let ifcfg = [
            (Format::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-ens192", "MASTER=bond0\nSLAVE=yes\n"),
            (Format::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-bond0", "DEVICE=bond0\n"),
        ];
        assert_eq!(ids(found(&ifcfg, &card, false)), ["RedHat bond0"]);
        let wicked = [
            (Format::Ifcfg, "/etc/sysconfig/network/ifcfg-ens192", "BOOTPROTO=none\n"),
            (Format::Ifcfg, "/etc/sysconfig/network/ifcfg-br0", "BRIDGE_PORTS='ens192'\n"),
        ];
        assert_eq!(ids(found(&wicked, &card, false)), ["Suse br0"]);
    }

    #[test]
    fn a_master_without_configuration_is_refused_with_its_name_and_a_circle_ends() {
        let card = Seen::named("ens192");
        let port = [(Format::Networkd, "/p.network", "[Match]\nName=ens192\n[Network]\nBond=bond0\n")];
        let error = found(&port, &card, true).unwrap_err();
        assert!(error.to_string().contains("bond0"), "{error}");
        let circle = "iface a inet manual\n bridge_ports b ens192\niface b inet manual\n bridge_ports a\n";
        assert!(found(&[(Format::Ifupdown, INTERFACES, circle)], &card, false).is_ok());
    }

    #[test]
    fn what_holds_for_every_card_is_that_of_the_only_one() {
        let files = [(Format::Networkd, "/w.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n")];
        let nobody = Seen::default();
        assert_eq!(ids(found(&files, &nobody, true)), ["Networkd en*"]);
        assert_eq!(ids(found(&files, &Seen::named("ens224"), false)), ["new Some(Networkd)"]);
        assert_eq!(ids(found(&files, &Seen::named("eth0"), true)), ["new None"]);
        let any = [(Format::Keyfile, "/k", "[connection]\nid=any\ntype=ethernet\n")];
        assert_eq!(ids(found(&any, &nobody, true)), ["Keyfile any"]);
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, name) in
            [("en*", "ens3"), ("*", "eth0"), ("e?h0", "eth0"), ("e*0", "enp1s0"), ("!lo", "eth0"), ("a", "a")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("en*", "eth0"), ("eth?", "eth10"), ("e*1", "eth0"), ("!e*", "eth0"), ("", "a")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
