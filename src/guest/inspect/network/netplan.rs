//! netplan's YAML.
//!
//! What is not here: merging several files into one configuration, wireless and tunnels.

use super::mac;
use crate::model::guest::GuestNic;
use crate::model::parse::{Node, Value, parse};

/// Kinds of interfaces that have addresses of a server.
const KINDS: [&str; 4] = ["ethernets", "bonds", "bridges", "vlans"];

pub(super) fn nics(text: &str) -> Vec<GuestNic> {
    // A file that netplan could not read either configures nothing.
    let Ok(tree) = parse(text.as_bytes(), "netplan") else { return Vec::new() };
    let Some(network) = tree.root.get("network") else { return Vec::new() };
    KINDS
        .iter()
        .filter_map(|kind| network.get(kind))
        .flat_map(|kind| kind.entries())
        .filter(|(key, _)| !matches!(key.name.as_str(), "version" | "renderer"))
        .map(|(key, node)| nic(&key.name, node))
        .collect()
}

fn nic(name: &str, node: &Node) -> GuestNic {
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    let texts = |node: Option<&Node>| -> Vec<String> {
        // An address may carry options: a map whose only key it is.
        let of = |item: &Node| {
            item.text().map(str::to_owned).or_else(|| item.entries().first().map(|(key, _)| key.name.clone()))
        };
        node.map(|node| node.items().iter().filter_map(of).collect()).unwrap_or_default()
    };
    let matched = node.get("match");
    let routes = node.get("routes").map_or(&[][..], Node::items);
    let default_route = routes.iter().find_map(|route| {
        let to = route.get("to").and_then(Node::text)?;
        matches!(to, "default" | "0.0.0.0/0" | "::/0").then(|| text(route.get("via")))?
    });
    GuestNic {
        name: text(node.get("set-name"))
            .or_else(|| text(matched.and_then(|of| of.get("name"))))
            .unwrap_or_else(|| name.to_owned()),
        mac: text(matched.and_then(|of| of.get("macaddress")))
            .or_else(|| text(node.get("macaddress")))
            .as_deref()
            .and_then(mac),
        dhcp: node.get("dhcp4").is_some_and(is_yes),
        addresses: texts(node.get("addresses")),
        gateway: text(node.get("gateway4")).or(default_route).or_else(|| text(node.get("gateway6"))),
        dns: texts(node.get("nameservers").and_then(|of| of.get("addresses"))),
        configured_by: "netplan".to_owned(),
        file: String::new(),
    }
}

fn is_yes(node: &Node) -> bool {
    match &node.value {
        Value::Bool(yes) => *yes,
        Value::Text(text) => matches!(text.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "y"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_addresses_are_read_in_both_forms_of_the_gateway() {
        let read = nics(
            "# For more information, see netplan(5).\nnetwork:\n  version: 2\n  renderer: networkd\n  ethernets:\n    ens192:\n      addresses: [192.0.2.14/24]\n\
             \x20     gateway4: 192.0.2.1\n      nameservers:\n        addresses: [192.0.2.53]\n",
        );
        assert_eq!(read[0].addresses, ["192.0.2.14/24"]);
        assert_eq!(read[0].gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(read[0].dns, ["192.0.2.53"]);
        let routes = nics(
            "network:\n  ethernets:\n    lan:\n      match: {macaddress: \"00:50:56:aa:bb:04\"}\n      set-name: lan0\n      addresses:\n\
             \x20       - 192.0.2.14/24\n        - 192.0.2.15/24: {lifetime: 0}\n      routes:\n        - to: default\n          via: 192.0.2.1\n",
        );
        assert_eq!((routes[0].name.as_str(), routes[0].mac.as_deref()), ("lan0", Some("00:50:56:aa:bb:04")));
        assert_eq!(routes[0].addresses, ["192.0.2.14/24", "192.0.2.15/24"]);
        assert_eq!(routes[0].gateway.as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn cloud_init_s_file_with_dhcp_is_read() {
        let read =
            nics("network:\n    ethernets:\n        ens192:\n            dhcp4: true\n    version: 2\n");
        assert_eq!((read[0].name.as_str(), read[0].dhcp), ("ens192", true));
        assert!(nics("network:\n  ethernets:\n    e: {dhcp4: yes}\n")[0].dhcp);
    }

    #[test]
    fn what_is_no_netplan_names_no_interface() {
        for text in ["", "network", "network: 1", "network:\n  ethernets: [1]\n", "a: [", "\u{0}"] {
            assert_eq!(nics(text), Vec::new());
        }
    }
}
