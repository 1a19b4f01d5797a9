//! Addresses in systemd-networkd's `.network` files.
//!
//! A default route in a section of its own keeps its metric and its table, and gets the new gateway. What is not here: which file is
//! whose, and router advertisements, which are not DHCP's.

use std::net::IpAddr;

use super::ini::{self, Line};
use super::request::{Version, Wanted};
use crate::guest::linux::text::Rewritten;
use crate::model::address::CardAddress;

const DEFAULTS: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The file with these addresses.
pub(super) fn rewrite(text: &str, wanted: &Wanted, told: &mut Rewritten) -> String {
    let mut old: Vec<&str> = ini::values(text, &["Network"], "Gateway");
    for (_, body) in ini::sections(text).into_iter().filter(|(name, body)| is_default(name, body)) {
        old.extend(ini::values(body, &["Route"], "Gateway"));
    }
    let mut gateways: Vec<IpAddr> =
        wanted.versions().filter_map(|version| wanted.gateway(version, old.iter().copied(), told)).collect();
    let mut addresses = wanted.addresses().to_vec();
    let text = without_sections(text, wanted, &mut addresses, &mut gateways);
    let entries = |key: &str, values: Vec<String>| -> Vec<String> {
        values.into_iter().map(|value| format!("{key}={value}")).collect()
    };
    let addresses = entries("Address", addresses.iter().map(ToString::to_string).collect());
    let gateways = entries("Gateway", gateways.iter().map(ToString::to_string).collect());
    let old = |of: &'static str| move |key: &str, value: &str| key == of && wanted.replaces(value);
    let mut new = ini::replace(&text, "Network", &addresses, old("Address"));
    new = ini::replace(&new, "Network", &gateways, old("Gateway"));
    if !wanted.dns.is_empty() {
        let dns = entries("DNS", wanted.dns.iter().map(ToString::to_string).collect());
        new = ini::replace(&new, "Network", &dns, |key, _| key == "DNS");
    }
    ini::edit(&new, |section, key, value| match dhcp(value, wanted) {
        Some(less) if section == "Network" && key == "DHCP" => Line::Value(less.to_owned()),
        _ => Line::Keep,
    })
}

/// Sections that hold what is wanted stay, or get the new gateway; what they hold is not said a second time. Others go.
fn without_sections(
    text: &str,
    wanted: &Wanted,
    addresses: &mut Vec<CardAddress>,
    gateways: &mut Vec<IpAddr>,
) -> String {
    let mut new = String::with_capacity(text.len());
    for (name, body) in ini::sections(text) {
        let value = |key: &str| ini::values(body, &[name], key).pop().unwrap_or_default();
        if name == "Address" && wanted.replaces(value("Address")) {
            let address = value("Address").parse::<CardAddress>();
            let kept = addresses.iter().position(|wanted| address == Ok(*wanted));
            if let Some(at) = kept {
                addresses.remove(at);
                new.push_str(body);
            }
        } else if is_default(name, body) && wanted.replaces(value("Gateway")) {
            let version = value("Gateway").parse().map(Version::of);
            if let Some(at) = gateways.iter().position(|ip| version == Ok(Version::of(*ip))) {
                let gateway = gateways.remove(at).to_string();
                new.push_str(&ini::edit(body, |_, key, value| match key {
                    "Gateway" if value != gateway => Line::Value(gateway.clone()),
                    _ => Line::Keep,
                }));
            }
        } else {
            new.push_str(body);
        }
    }
    new
}

/// Whether a section is a route to everywhere.
fn is_default(name: &str, body: &str) -> bool {
    let to = ini::values(body, &["Route"], "Destination").pop();
    name == "Route" && to.is_none_or(|to| to.is_empty() || DEFAULTS.contains(&to))
}

/// What DHCP is still to be asked for; `None` where nothing changes.
fn dhcp(value: &str, wanted: &Wanted) -> Option<&'static str> {
    let (four, six) = match value.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" | "on" | "both" => (true, true),
        "ipv4" | "v4" => (true, false),
        "ipv6" | "v6" => (false, true),
        _ => (false, false),
    };
    let left = (four && !wanted.sets(Version::V4), six && !wanted.sets(Version::V6));
    let word = match left {
        (true, true) => "yes",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (false, false) => "no",
    };
    ((four, six) != left).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::super::request::testing;
    use super::*;

    fn rewritten(text: &str, words: &str) -> String {
        testing::rewritten(rewrite, text, words).0
    }

    #[test]
    fn a_static_card_gets_other_addresses_and_keeps_all_else() {
        let text = "# the server's card\n[Match]\nName=ens192\n\n[Network]\n# of the old site\nAddress=198.51.100.7/24\n\
            Gateway=198.51.100.1\nDNS=198.51.100.53\nVLAN=ens192.5\nAddress=2001:db8:1::7/64\n\n[Route]\nDestination=203.0.113.0/24\n\
            Gateway=198.51.100.9\n";
        insta::assert_snapshot!(rewritten(text, "192.0.2.10/24 192.0.2.11/24 via 192.0.2.1 dns 192.0.2.53 2001:db8::53"), @r"
        # the server's card
        [Match]
        Name=ens192

        [Network]
        # of the old site
        Address=192.0.2.10/24
        Address=192.0.2.11/24
        Gateway=192.0.2.1
        DNS=192.0.2.53
        DNS=2001:db8::53
        VLAN=ens192.5
        Address=2001:db8:1::7/64

        [Route]
        Destination=203.0.113.0/24
        Gateway=198.51.100.9
        ");
    }

    #[test]
    fn dhcp_is_off_for_the_families_that_are_set() {
        let text = "[Match]\nName=en*\n[Network]\nDHCP=yes\n";
        assert_eq!(
            rewritten(text, "192.0.2.10/24"),
            "[Match]\nName=en*\n[Network]\nDHCP=ipv6\nAddress=192.0.2.10/24\n"
        );
        assert!(rewritten(text, "192.0.2.10/24 2001:db8::10/64").contains("DHCP=no\n"));
        assert!(rewritten(text, "2001:db8::10/64 via fe80::1").contains("DHCP=ipv4\n"));
    }

    #[test]
    fn sections_of_addresses_and_routes_go_or_say_the_new() {
        let text = "[Match]\nName=a\n\n[Network]\nIPForward=no\n\n[Address]\nAddress=198.51.100.7/24\n\n[Address]\n\
            Address=192.0.2.10/24\nLabel=web\n\n[Route]\nGateway=198.51.100.1\nMetric=50\n";
        insta::assert_snapshot!(rewritten(text, "192.0.2.10/24 via 192.0.2.1"), @r"
        [Match]
        Name=a

        [Network]
        IPForward=no

        [Address]
        Address=192.0.2.10/24
        Label=web

        [Route]
        Gateway=192.0.2.1
        Metric=50
        ");
        let without_gateway = rewritten(text, "203.0.113.10/24");
        assert!(!without_gateway.contains("[Route]"), "{without_gateway}");
    }
}
