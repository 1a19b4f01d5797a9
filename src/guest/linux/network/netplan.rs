//! netplan: `/etc/netplan/*.yaml`. Read as YAML, changed line by line, so that comments and order stay.
//!
//! `macaddress` in a `match` is what a card is known by; outside of one it is what a card is given, and stays. `set-name` needs its
//! `match`, so a match is never taken away: it becomes one by name. What comes out is read again, and what would not be YAML of the same
//! cards is not written. What is not here: what netplan makes of it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Plan;
use super::nic::{DRIVER, FOREIGN_DRIVERS, Seen, is_plain, mac, named_in};
use super::pinned::{MacLine, mac_line};
use crate::guest::linux::text::{Rewritten, short, split_end};

/// Any card, of which there is one.
const ANY: &str = "e*";

pub(super) fn devices(text: &str, kind: &str) -> Map<String, Value> {
    let tree: Value = serde_yaml::from_str(text).unwrap_or_default();
    match tree.get("network").and_then(|network| network.get(kind)) {
        Some(Value::Object(devices)) => devices.clone(),
        _ => Map::new(),
    }
}

/// Cards that a file speaks of.
pub(super) fn seen(text: &str) -> Vec<Seen> {
    let mut found = Vec::new();
    for (id, device) in devices(text, "ethernets") {
        let matched = device.get("match");
        let word = |key: &str| matched.and_then(|matched| matched.get(key)).and_then(Value::as_str);
        let given = device.get("set-name").and_then(Value::as_str);
        let name = match (given, matched) {
            (Some(name), _) => Some(name),
            (None, Some(_)) => word("name"),
            (None, None) => Some(id.as_str()),
        };
        let mac = word("macaddress").and_then(mac);
        // A pattern, or a name of the administrator's own, is a card where its MAC is known.
        let name = name.filter(|name| is_plain(name) && (mac.is_some() || !named_in([*name]).is_empty()));
        if name.is_some() || mac.is_some() {
            found.push(Seen { name: name.map(str::to_owned), mac });
        }
    }
    for (kind, key) in [("bonds", "interfaces"), ("bridges", "interfaces"), ("vlans", "link")] {
        for device in devices(text, kind).values() {
            let words = match device.get(key) {
                Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
                Some(Value::String(word)) => vec![word.as_str()],
                _ => Vec::new(),
            };
            // These are ids, which need not be names.
            let ids: BTreeSet<String> = devices(text, "ethernets").keys().cloned().collect();
            found.extend(named_in(words.into_iter().filter(|word| !ids.contains(*word))));
        }
    }
    found
}

/// Has it know the card by the MAC that it will have.
pub(super) fn repair(text: &str, plan: &Plan) -> Rewritten {
    let mut result = Rewritten::default();
    let mut new = String::with_capacity(text.len() + 64);
    // Keys of the lines above, by their indentation.
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        let trimmed = body.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            new.push_str(line);
            continue;
        }
        let indent = body.len() - trimmed.len();
        above.retain(|(of, _)| *of < indent);
        let within = above.last().is_some_and(|(_, key)| key == "match");
        let flow = body.find("match:").filter(|at| body[*at..].contains('{'));
        if within || flow.is_some() {
            let start = if within { indent } else { flow.unwrap_or(0) };
            let (head, tail) = body.split_at(start);
            let tail = mac_repaired(tail, plan, &mut result);
            let tail = driver_repaired(&tail, &mut result);
            new.push_str(&format!("{head}{tail}{end}"));
        } else {
            new.push_str(line);
        }
        if let Some((key, _)) = trimmed.split_once(':') {
            above.push((indent, key.trim_matches(['"', '\'', ' ']).to_owned()));
        }
    }
    let valid = |text: &str| serde_yaml::from_str::<Value>(text).is_ok();
    if new != text && valid(text) && !valid(&new) {
        return Rewritten {
            text: text.to_owned(),
            lost: vec!["the MAC in `match`".to_owned()],
            ..Rewritten::default()
        };
    }
    result.text = new;
    result
}

/// Where the value of a key begins and ends, and where the key does; of flow and block style.
fn scalar(text: &str, key: &str) -> Option<(usize, usize, usize)> {
    let at = text.find(key).filter(|at| !text[..*at].contains('#'))?;
    let after = at + key.len();
    let start = after + text[after..].find(|c: char| c != ' ')?;
    let rest = &text[start..];
    let quoted = rest.chars().next().filter(|c| ['"', '\''].contains(c));
    let length = match quoted {
        Some(quote) => rest[1..].find(quote)? + 2,
        None => rest.find([',', '}', ' ', '#']).unwrap_or(rest.len()),
    };
    Some((at, start, start + length))
}

fn mac_repaired(text: &str, plan: &Plan, result: &mut Rewritten) -> String {
    let Some((key, start, end)) = scalar(text, "macaddress:") else { return text.to_owned() };
    let old = &text[start..end];
    match mac(old).map(|mac| mac_line(plan, &mac)) {
        Some(MacLine::New(mac)) => {
            result.changed(format!("the MAC is {mac}"));
            format!("{}\"{mac}\"{}", &text[..start], &text[end..])
        }
        Some(MacLine::ByName(name)) => {
            result.changed(format!("the old machine's MAC {} is gone", short(old)));
            format!("{}name: \"{}\"{}", &text[..key], name.unwrap_or(ANY), &text[end..])
        }
        Some(MacLine::Keep) | None => text.to_owned(),
    }
}

fn driver_repaired(text: &str, result: &mut Rewritten) -> String {
    let Some((_, start, end)) = scalar(text, "driver:") else { return text.to_owned() };
    let foreign = FOREIGN_DRIVERS.contains(&text[start..end].trim_matches(['"', '\'']));
    if !foreign {
        return text.to_owned();
    }
    result.changed(format!("the driver is {DRIVER}"));
    format!("{}{DRIVER}{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NEW, OLD, machine_with, machine_without};
    use super::*;

    const INSTALLER: &str = "# This is the network config written by 'subiquity'\nnetwork:\n  ethernets:\n    ens192:\n      \
        addresses:\n      - 192.0.2.10/24\n      nameservers:\n        addresses: [192.0.2.1]\n        search: []\n  version: 2\n";
    const CLOUD_INIT: &str = "network:\n    version: 2\n    ethernets:\n        ens192:\n            dhcp4: true  # as ever\n            \
        match:\n                # the card\n                macaddress: 00:50:56:01:02:03\n            \
        macaddress: 00:50:56:01:02:03\n            set-name: ens192\n";
    const FLOW: &str = "network: \n  version: 2\n  ethernets:\n    lan: {match: {macaddress: '00:50:56:01:02:03'}, set-name: ens192, dhcp4: true}\n";

    #[test]
    fn the_name_and_the_mac_are_seen() {
        assert_eq!(seen(INSTALLER), [Seen::named("ens192")]);
        let both = [Seen { name: Some("ens192".into()), mac: Some(OLD.into()) }];
        assert_eq!(seen(CLOUD_INIT), both);
        assert_eq!(seen(FLOW), both);
        assert_eq!(seen("network:\n  ethernets:\n    all: {match: {name: 'en*'}, dhcp4: true}\n"), []);
        let bond = "network:\n  ethernets:\n    ens192: {}\n    ens224: {}\n  bonds:\n    bond0: {interfaces: [ens192, ens224]}\n";
        assert_eq!(seen(bond), [Seen::named("ens192"), Seen::named("ens224")]);
        assert_eq!(seen("not: [yaml"), []);
    }

    #[test]
    fn the_mac_of_a_match_becomes_the_new_one_and_the_one_that_is_given_stays() {
        let plan = machine_with(NEW);
        let new = repair(CLOUD_INIT, &plan).text;
        assert_eq!(
            new,
            CLOUD_INIT.replace(
                "                macaddress: 00:50:56:01:02:03",
                "                macaddress: \"52:54:00:00:00:01\""
            )
        );
        assert_eq!(repair(&new, &plan).text, new);
        assert_eq!(repair(FLOW, &plan).text, FLOW.replace("'00:50:56:01:02:03'", "\"52:54:00:00:00:01\""));
        assert_eq!(repair(INSTALLER, &plan).text, INSTALLER);
    }

    #[test]
    fn a_match_that_set_name_needs_becomes_one_by_name() {
        let plan = machine_without();
        let new = repair(CLOUD_INIT, &plan).text;
        assert_eq!(
            new,
            CLOUD_INIT
                .replace("                macaddress: 00:50:56:01:02:03", "                name: \"ens192\"")
        );
        let flow = repair(FLOW, &plan).text;
        assert_eq!(flow, FLOW.replace("macaddress: '00:50:56:01:02:03'", "name: \"ens192\""));
        assert_eq!(seen(&flow), [Seen::named("ens192")]);
    }

    #[test]
    fn the_driver_of_the_old_hardware_becomes_virtios() {
        let text = "network:\n  ethernets:\n    all:\n      match:\n        driver: vmxnet3 # VMware\n      dhcp4: true\n";
        assert_eq!(repair(text, &machine_without()).text, text.replace("vmxnet3", "virtio_net"));
    }

    #[test]
    fn what_would_not_be_yaml_is_not_written() {
        let text = "network:\n  ethernets:\n    a:\n      match:\n        macaddress: 00:50:56:01:02:03\n        name: ens192\n";
        let result = repair(text, &machine_without());
        assert_eq!((result.text.as_str(), result.lost.len()), (text, 1));
    }
}
