//! Addresses in netplan's files: changed line by line, then read as YAML and compared with what was there.
//!
//! What comes out has to say what is wanted of this card, and of all else what it said before; otherwise nothing is written. A default
//! route stays in the form in which the file has it (`gateway4`, or among `routes`). What is not here: merging of several files.

use serde_json::{Map, Value};

use super::request::{Version, Wanted};
use super::yaml::{Lines, flow};
use crate::guest::linux::text::Rewritten;

/// What is set anew; all else of a card has to stay.
const OURS: [&str; 6] = ["addresses", "gateway4", "gateway6", "routes", "dhcp4", "dhcp6"];
/// Of more, none keeps its lines: a hostile file could have a million.
const MOST_ROUTES: usize = 256;
/// Why a file is left alone.
const UNCLEAR: &str = "a netplan file is written in a way that cannot be changed safely";

/// The file with these addresses; only the card's main file has them, others lose what they say of the same families.
pub(super) fn rewrite(
    text: &str,
    kind: &str,
    id: &str,
    wanted: &Wanted,
    main: bool,
    told: &mut Rewritten,
) -> Result<String, &'static str> {
    let old = parsed(text).ok_or(UNCLEAR)?;
    let card = card(&old, kind, id).ok_or(UNCLEAR)?;
    let target = target(&card, wanted, main, told);
    if target == card {
        return Ok(text.to_owned());
    }
    let mut lines = Lines::of(text).ok_or(UNCLEAR)?;
    let at = open(&mut lines, &["network", kind, id]).ok_or(UNCLEAR)?;
    apply(&mut lines, at, &card, &target).ok_or(UNCLEAR)?;
    let new = lines.text();
    let mut expected = old.clone();
    if let Some(place) =
        expected.pointer_mut("/network").and_then(|network| network.get_mut(kind)?.get_mut(id))
    {
        *place = Value::Object(target);
    }
    // Word for word the same meaning, or it is not written.
    if parsed(&new).as_ref().map(settled) == Some(settled(&expected)) { Ok(new) } else { Err(UNCLEAR) }
}

fn parsed(text: &str) -> Option<Value> {
    serde_yaml::from_str(text).ok()
}

/// Without what means nothing: cards that say nothing may be null or an empty map.
fn settled(tree: &Value) -> Value {
    match tree {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), settled(value))).collect(),
        Value::Array(items) => Value::Array(items.iter().map(settled).collect()),
        Value::Null => Value::Object(Map::new()),
        other => other.clone(),
    }
}

fn card(tree: &Value, kind: &str, id: &str) -> Option<Map<String, Value>> {
    match tree.get("network")?.get(kind)?.get(id)? {
        Value::Object(card) => Some(card.clone()),
        Value::Null => Some(Map::new()),
        _ => None,
    }
}

/// The card as it is to be.
fn target(
    card: &Map<String, Value>,
    wanted: &Wanted,
    main: bool,
    told: &mut Rewritten,
) -> Map<String, Value> {
    let mut new = card.clone();
    let mut addresses: Vec<Value> = if main {
        wanted.addresses().iter().map(|address| Value::from(address.to_string())).collect()
    } else {
        Vec::new()
    };
    addresses.extend(list(card, "addresses").filter(|item| !wanted.replaces(&address_of(item))).cloned());
    put(&mut new, "addresses", addresses);
    for version in wanted.versions() {
        let (gateway_key, dhcp_key) = keys(version);
        let mut routes: Vec<Value> = list(card, "routes").cloned().collect();
        let old = card.get(gateway_key).and_then(Value::as_str).map(str::to_owned);
        let of_routes = routes.iter().filter(|route| is_default(route, version)).map(via);
        let old: Vec<String> = old.into_iter().chain(of_routes).collect();
        let gateway = wanted.gateway(version, old.iter().map(String::as_str), told).filter(|_| main);
        let gateway = gateway.map(|ip| ip.to_string());
        match (&gateway, new.get_mut(gateway_key)) {
            (Some(ip), Some(place)) => *place = Value::from(ip.as_str()),
            (None, Some(_)) => {
                new.shift_remove(gateway_key);
            }
            (_, None) => {}
        }
        let mut missing = gateway.filter(|_| !new.contains_key(gateway_key));
        routes = list(&new, "routes").cloned().collect();
        routes.retain_mut(|route| {
            if !is_default(route, version) {
                return true;
            }
            let Some(ip) = missing.take() else { return false };
            route["via"] = Value::from(ip);
            true
        });
        routes.extend(missing.map(|ip| serde_json::json!({"to": everywhere(version), "via": ip})));
        put(&mut new, "routes", routes);
        if let Some(dhcp) = new.get_mut(dhcp_key).filter(|dhcp| !is_no(dhcp)) {
            *dhcp = Value::Bool(false);
        }
    }
    if !wanted.dns.is_empty() {
        let mut servers = match new.get("nameservers") {
            Some(Value::Object(servers)) => servers.clone(),
            _ => Map::new(),
        };
        let dns =
            if main { wanted.dns.iter().map(|ip| Value::from(ip.to_string())).collect() } else { Vec::new() };
        put(&mut servers, "addresses", dns);
        if servers.is_empty() {
            new.shift_remove("nameservers");
        } else {
            new.insert("nameservers".to_owned(), Value::Object(servers));
        }
    }
    new
}

fn keys(version: Version) -> (&'static str, &'static str) {
    match version {
        Version::V4 => ("gateway4", "dhcp4"),
        Version::V6 => ("gateway6", "dhcp6"),
    }
}

/// As versions before 0.103 understand it, too.
fn everywhere(version: Version) -> &'static str {
    match version {
        Version::V4 => "0.0.0.0/0",
        Version::V6 => "::/0",
    }
}

fn put(map: &mut Map<String, Value>, key: &str, items: Vec<Value>) {
    if items.is_empty() && list(map, key).next().is_none() {
        return;
    }
    if items.is_empty() {
        map.shift_remove(key);
    } else {
        map.insert(key.to_owned(), Value::Array(items));
    }
}

fn list<'a>(map: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    map.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// An address may carry options: a map whose only key it is.
fn address_of(item: &Value) -> String {
    let key = || item.as_object().and_then(|map| map.keys().next()).cloned();
    item.as_str().map(str::to_owned).or_else(key).unwrap_or_default()
}

fn via(route: &Value) -> String {
    route.get("via").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn is_default(route: &Value, version: Version) -> bool {
    let own_table = route.get("table").is_some();
    match route.get("to").and_then(Value::as_str) {
        _ if own_table => false,
        Some("default") => via(route).parse().is_ok_and(|ip| Version::of(ip) == version),
        to => to == Some(everywhere(version)),
    }
}

fn is_no(value: &Value) -> bool {
    matches!(value, Value::Bool(false))
        || value
            .as_str()
            .is_some_and(|word| ["no", "off", "false", "n"].contains(&word.to_ascii_lowercase().as_str()))
}

/// The line of the last of these keys, with all maps on the way in lines of their own.
fn open(lines: &mut Lines, path: &[&str]) -> Option<usize> {
    let mut within = lines.whole();
    let mut at = None;
    for key in path {
        let found = lines.child(&within, key)?;
        if !lines.open(found) {
            return None;
        }
        within = lines.value_of(found);
        at = Some(found);
    }
    at
}

/// Changes the lines of the card at this line from what it is to what it is to be.
fn apply(lines: &mut Lines, at: usize, old: &Map<String, Value>, new: &Map<String, Value>) -> Option<()> {
    for key in OURS {
        let (before, after) = (old.get(key), new.get(key));
        match (before, after) {
            _ if before == after => {}
            (Some(Value::Array(before)), Some(Value::Array(after))) if key == "routes" => {
                apply_routes(lines, at, before, after)?;
            }
            (_, Some(Value::Array(items))) => lines.set_list(at, key, &written(items)),
            (_, Some(value)) => lines.set_word(at, key, &flow(value)),
            (_, None) => lines.remove(at, key),
        }
    }
    if old.get("nameservers") != new.get("nameservers") {
        match new.get("nameservers") {
            None => lines.remove(at, "nameservers"),
            Some(servers) => {
                let place = lines.child_or_new(at, "nameservers");
                if !lines.open(place) {
                    return None;
                }
                match servers.get("addresses").and_then(Value::as_array) {
                    Some(list) => lines.set_list(place, "addresses", &written(list)),
                    None => lines.remove(place, "addresses"),
                }
            }
        }
    }
    Some(())
}

/// Routes that stay keep their lines.
fn apply_routes(lines: &mut Lines, card: usize, before: &[Value], after: &[Value]) -> Option<()> {
    let at = lines.child(&lines.value_of(card), "routes")?;
    let items = lines.items(at);
    if items.len() != before.len() || before.len() > MOST_ROUTES {
        lines.set_list(card, "routes", &written(after));
        return Some(());
    }
    let same = |a: &Value, b: &Value| {
        let bare = |route: &Value| {
            let mut route = route.as_object().cloned().unwrap_or_default();
            route.shift_remove("via");
            route
        };
        bare(a) == bare(b)
    };
    let mut left: Vec<&Value> = after.iter().collect();
    // From the end, so that what was not looked at yet stays where it is.
    for (item, route) in items.iter().zip(before).rev() {
        let exact = left.iter().position(|new| *new == route);
        match exact.or_else(|| left.iter().position(|new| same(new, route) && is_any_default(route))) {
            Some(found) => {
                let new = left.remove(found);
                if new != route && !lines.set_in_item(item, "via", &flow(&Value::from(via(new)))) {
                    lines.set_list(card, "routes", &written(after));
                    return Some(());
                }
            }
            None => lines.cut(item.clone()),
        }
    }
    if !left.is_empty() {
        lines.set_list(card, "routes", &written(after));
    }
    Some(())
}

fn is_any_default(route: &Value) -> bool {
    Version::BOTH.into_iter().any(|version| is_default(route, version))
}

fn written(items: &[Value]) -> Vec<String> {
    items.iter().map(flow).collect()
}

#[cfg(test)]
mod tests {
    use super::super::request::testing::wanted;
    use super::*;

    fn rewritten(text: &str, words: &str) -> String {
        let wanted = wanted(words);
        let new = rewrite(text, "ethernets", "ens192", &wanted, true, &mut Rewritten::default()).unwrap();
        let again = rewrite(&new, "ethernets", "ens192", &wanted, true, &mut Rewritten::default()).unwrap();
        assert_eq!(again, new, "a second time changes nothing");
        new
    }

    const INSTALLER: &str = "# by the installer\nnetwork:\n  version: 2\n  renderer: networkd\n  ethernets:\n    ens192:\n      \
        addresses: [198.51.100.7/24]\n      gateway4: 198.51.100.1 # the router\n      nameservers:\n        addresses: [198.51.100.53]\n        \
        search: [example.org]\n    ens224:\n      dhcp4: true\n";

    #[test]
    fn a_static_card_gets_other_addresses_and_keeps_all_else() {
        insta::assert_snapshot!(rewritten(INSTALLER, "192.0.2.10/24 2001:db8::10/64 via 192.0.2.1 dns 192.0.2.53"), @r#"
        # by the installer
        network:
          version: 2
          renderer: networkd
          ethernets:
            ens192:
              addresses:
              - 192.0.2.10/24
              - "2001:db8::10/64"
              gateway4: 192.0.2.1 # the router
              nameservers:
                addresses:
                - 192.0.2.53
                search: [example.org]
            ens224:
              dhcp4: true
        "#);
    }

    #[test]
    fn dhcp_becomes_static_in_every_style() {
        let block = "network:\n    version: 2\n    ethernets:\n        ens192:\n            dhcp4: true  # as ever\n            match:\n                \
            macaddress: 52:54:00:00:00:01\n            set-name: ens192\n";
        insta::assert_snapshot!(rewritten(block, "192.0.2.10/24 via 192.0.2.1 dns 192.0.2.53"), @r"
        network:
            version: 2
            ethernets:
                ens192:
                    dhcp4: false # as ever
                    match:
                        macaddress: 52:54:00:00:00:01
                    set-name: ens192
                    addresses:
                    - 192.0.2.10/24
                    routes:
                    - {to: 0.0.0.0/0, via: 192.0.2.1}
                    nameservers:
                      addresses:
                      - 192.0.2.53
        ");
        let flow =
            "network: {version: 2, ethernets: {ens192: {dhcp4: true, mtu: 9000}, ens224: {dhcp4: true}}}\n";
        insta::assert_snapshot!(rewritten(flow, "192.0.2.10/24"), @r"
        network:
          version: 2
          ethernets:
            ens192:
              dhcp4: false
              mtu: 9000
              addresses:
              - 192.0.2.10/24
            ens224: {dhcp4: true}
        ");
        let empty = "network:\n  ethernets:\n    ens192: {}\n";
        assert_eq!(
            rewritten(empty, "192.0.2.10/24"),
            "network:\n  ethernets:\n    ens192:\n      addresses:\n      - 192.0.2.10/24\n"
        );
    }

    #[test]
    fn the_default_route_among_others_is_changed_where_it_stands() {
        let text = "network:\n  ethernets:\n    ens192:\n      addresses:\n      - 198.51.100.7/24\n      - \"2001:db8:1::7/64\"\n      routes:\n      \
            # to the other site\n      - to: 203.0.113.0/24\n        via: 198.51.100.9\n      - to: default\n        via: 198.51.100.1 # router\n        metric: 50\n";
        let new = rewritten(text, "192.0.2.10/24 via 192.0.2.1");
        assert_eq!(
            new,
            text.replace("198.51.100.7/24", "192.0.2.10/24")
                .replace("via: 198.51.100.1 #", "via: 192.0.2.1 #")
        );
        let without = rewritten(text, "192.0.2.10/24");
        assert!(!without.contains("default") && without.contains("via: 198.51.100.9\n"), "{without}");
    }

    #[test]
    fn a_second_file_loses_what_it_said_of_the_family() {
        let wanted = wanted("192.0.2.10/24 via 192.0.2.1 dns 192.0.2.53");
        let left =
            rewrite(INSTALLER, "ethernets", "ens192", &wanted, false, &mut Rewritten::default()).unwrap();
        for gone in ["198.51.100.7", "gateway4", "198.51.100.53"] {
            assert!(!left.contains(gone), "{left}");
        }
        assert!(left.contains("search: [example.org]"), "{left}");
    }

    #[test]
    fn what_cannot_be_changed_safely_is_left_alone() {
        let wanted = wanted("192.0.2.10/24");
        for text in [
            "network:\n  ethernets:\n    ens192: &a\n      dhcp4: true\n    ens224: *a\n",
            "network:\n  ethernets:\n    ens192: {dhcp4: true,\n      mtu: 9000}\n",
            "network: [\n",
            "",
        ] {
            let result = rewrite(text, "ethernets", "ens192", &wanted, true, &mut Rewritten::default());
            assert_eq!(result, Err(UNCLEAR), "{text}");
        }
    }
}
