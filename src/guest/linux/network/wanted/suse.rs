//! Addresses in `ifcfg-NAME` of SUSE, which wicked reads, and the default routes in files beside it.
//!
//! Both families stand in the same keys, numbered in any way. What is not here: name servers, which hold for the whole guest.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::ifcfg::{entry, value};
use super::request::{Version, Wanted};
use super::resolv::placed;
use crate::guest::linux::text::Rewritten;

const OF_ADDRESSES: [&str; 7] =
    ["IPADDR", "PREFIXLEN", "NETMASK", "NETWORK", "BROADCAST", "REMOTE_IPADDR", "LABEL"];

/// The file with these addresses.
pub(super) fn rewrite(text: &str, wanted: &Wanted) -> String {
    // What is behind `IPADDR` in the keys of addresses that go, and of those that stay.
    let numbers = |gone: bool| -> BTreeSet<&str> {
        let entries = text.lines().filter_map(entry);
        let found = entries.filter_map(|(key, value)| Some((key.strip_prefix("IPADDR")?, value)));
        found
            .filter(|(_, value)| (value.is_empty() || wanted.replaces(value)) == gone)
            .map(|(number, _)| number)
            .collect()
    };
    let (gone, kept) = (numbers(true), numbers(false));
    let free = std::iter::once(String::new()).chain((1..).map(|number| format!("_{number}")));
    let mut free = free.filter(|number| !kept.contains(number.as_str()));
    let mut lines = String::new();
    for address in wanted.addresses() {
        let number = free.next().unwrap_or_default();
        lines.push_str(&format!("IPADDR{number}='{address}'\n"));
    }
    let is_old = |line: &str| {
        entry(line).is_some_and(|(key, _)| {
            OF_ADDRESSES.iter().any(|word| key.strip_prefix(word).is_some_and(|number| gone.contains(number)))
        })
    };
    let new = placed(text, &lines, is_old);
    let way = value(&new, "BOOTPROTO").unwrap_or_default().to_ascii_lowercase();
    let less = match way.as_str() {
        "dhcp4" | "dhcp+autoip" | "dhcp4+autoip" if !wanted.sets(Version::V4) => return new,
        "dhcp6" if !wanted.sets(Version::V6) => return new,
        // Asked for both, one stays.
        "dhcp" if !wanted.sets(Version::V4) => "dhcp4",
        "static" => return new,
        _ => "static",
    };
    placed(&new, &format!("BOOTPROTO='{less}'\n"), |line| {
        entry(line).is_some_and(|(key, _)| key == "BOOTPROTO")
    })
}

/// The default routes of a card: in its own file, or in the one of all cards if they stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// `ifroute-NAME`
    pub(super) own: String,
    /// `routes`
    pub(super) all: String,
}

/// The routes with the new gateways.
pub(super) fn rewrite_routes(routes: &Routes, name: &str, wanted: &Wanted, told: &mut Rewritten) -> Routes {
    let mut new = routes.clone();
    for version in wanted.versions() {
        let of_card = |line: &str| route(line).is_some_and(|route| route.is_of(name, version));
        let old: Vec<&str> = [&routes.own, &routes.all]
            .into_iter()
            .flat_map(|text| text.lines())
            .filter(|line| of_card(line))
            .collect();
        let gateways: Vec<String> =
            old.iter().filter_map(|line| route(line)).map(|route| route.gateway.to_string()).collect();
        let gateway = wanted.gateway(version, gateways.iter().map(String::as_str), told);
        if gateways.len() == 1 && gateway.map(|ip| ip.to_string()) == gateways.first().cloned() {
            continue;
        }
        let word = if version == Version::V4 { "default" } else { "::/0" };
        let line = |device: &str| gateway.map(|ip| format!("{word} {ip} - {device}\n")).unwrap_or_default();
        let in_all =
            new.all.lines().find(|line| of_card(line)).and_then(route).map(|route| route.device.to_owned());
        match in_all {
            Some(device) => {
                new.all = placed(&new.all, &line(&device), of_card);
                new.own = placed(&new.own, "", of_card);
            }
            None => new.own = placed(&new.own, &line(name), of_card),
        }
    }
    new
}

/// A default route.
struct Route<'a> {
    gateway: IpAddr,
    version: Version,
    /// `-`: of any card.
    device: &'a str,
}

impl Route<'_> {
    fn is_of(&self, name: &str, version: Version) -> bool {
        self.version == version && (self.device == "-" || self.device == name)
    }
}

fn route(line: &str) -> Option<Route<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [to, gateway, rest @ ..] = words.as_slice() else { return None };
    let gateway: IpAddr = gateway.parse().ok()?;
    let is_default = ["default", "0.0.0.0/0", "::/0"].contains(to);
    let device = rest.get(1).copied().unwrap_or("-");
    is_default.then_some(Route { gateway, version: Version::of(gateway), device })
}

#[cfg(test)]
mod tests {
    use super::super::request::testing::{self, wanted};
    use super::*;

    fn rewritten(text: &str, words: &str) -> String {
        testing::rewritten(|text, wanted, _| rewrite(text, wanted), text, words).0
    }

    fn routed(own: &str, all: &str, words: &str) -> Routes {
        let wanted = wanted(words);
        let routes = Routes { own: own.to_owned(), all: all.to_owned() };
        let new = rewrite_routes(&routes, "eth0", &wanted, &mut Rewritten::default());
        let again = rewrite_routes(&new, "eth0", &wanted, &mut Rewritten::default());
        assert_eq!(again, new, "a second time changes nothing");
        new
    }

    #[test]
    fn addresses_of_the_families_given_are_replaced_whatever_their_numbers() {
        let text = "BOOTPROTO='static'\nIPADDR='198.51.100.7/24'\nIPADDR_web='198.51.100.8'\nPREFIXLEN_web='24'\nLABEL_web='web'\n\
            IPADDR_1='2001:db8:1::7/64'\nSTARTMODE='auto'\n";
        assert_eq!(
            rewritten(text, "192.0.2.10/24 192.0.2.11/24"),
            "BOOTPROTO='static'\nIPADDR='192.0.2.10/24'\nIPADDR_2='192.0.2.11/24'\nIPADDR_1='2001:db8:1::7/64'\nSTARTMODE='auto'\n"
        );
    }

    #[test]
    fn dhcp_is_off() {
        let text = "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n";
        assert_eq!(
            rewritten(text, "192.0.2.10/24"),
            "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='192.0.2.10/24'\n"
        );
        assert!(rewritten(text, "2001:db8::10/64").starts_with("BOOTPROTO='dhcp4'\n"));
        assert!(rewritten("BOOTPROTO='dhcp6'\n", "192.0.2.10/24").starts_with("BOOTPROTO='dhcp6'\n"));
    }

    #[test]
    fn a_default_route_is_changed_where_it_stands_and_others_stay() {
        let all = "default 198.51.100.1 - -\n203.0.113.0/24 198.51.100.9 - -\ndefault 198.51.100.9 - eth7\n";
        let new = routed("", all, "192.0.2.10/24 via 192.0.2.1");
        assert_eq!(new, Routes { own: String::new(), all: all.replace("198.51.100.1 ", "192.0.2.1 ") });
        let own = routed("", "", "192.0.2.10/24 2001:db8::10/64 via 2001:db8::1");
        assert_eq!(own.own, "::/0 2001:db8::1 - eth0\n");
        let gone = routed("default 198.51.100.1 - eth0\n", "", "192.0.2.10/24");
        assert_eq!(gone, Routes::default());
        let stays = routed("default 192.0.2.1 - -\n", "", "192.0.2.10/24");
        assert_eq!(stays.own, "default 192.0.2.1 - -\n");
    }
}
