//! Addresses in NetworkManager's profiles.
//!
//! Written as `addressN=address,gateway`, which every version with such files reads. What is not here: profiles in `ifcfg` files.

use std::net::IpAddr;

use super::ini::{self, Line};
use super::is_numbered;
use super::request::{Version, Wanted};
use crate::guest::linux::text::Rewritten;

/// Ways in which a family has name servers.
const WAYS_WITH_DNS: [&str; 3] = ["manual", "auto", "dhcp"];

/// The profile with these addresses.
pub(super) fn rewrite(text: &str, wanted: &Wanted, told: &mut Rewritten) -> String {
    let mut new = text.to_owned();
    for version in Version::BOTH {
        if wanted.sets(version) {
            new = with_addresses(&new, version, wanted, told);
        }
        if !wanted.dns.is_empty() {
            new = with_dns(&new, version, wanted, told);
        }
    }
    new
}

fn section(version: Version) -> &'static str {
    match version {
        Version::V4 => "ipv4",
        Version::V6 => "ipv6",
    }
}

fn with_addresses(text: &str, version: Version, wanted: &Wanted, told: &mut Rewritten) -> String {
    let section = section(version);
    let old = old_gateways(text, section);
    let gateway = wanted.gateway(version, old.iter().map(String::as_str), told);
    let is_default = |key: &str, value: &str| {
        is_numbered(key, "route")
            && ["0.0.0.0/0", "::/0"].contains(&value.split(',').next().unwrap_or_default())
    };
    let addresses = wanted.of(version).enumerate().map(|(index, address)| {
        let gateway = gateway.filter(|_| index == 0).map(|ip: IpAddr| format!(",{ip}")).unwrap_or_default();
        format!("address{}={address}{gateway}", index + 1)
    });
    let entries: Vec<String> = addresses.collect();
    let new = ini::replace(text, section, &entries, |key, value| {
        is_numbered(key, "address") || key == "addresses" || key == "gateway" || is_default(key, value)
    });
    let mut has_method = false;
    let new = ini::edit(&new, |of, key, value| match key {
        "method" if of == section => {
            has_method = true;
            if value == "manual" { Line::Keep } else { Line::Value("manual".to_owned()) }
        }
        // It would take the gateway for none.
        "never-default" if of == section && gateway.is_some() => Line::Drop,
        _ => Line::Keep,
    });
    if has_method { new } else { ini::add(&new, section, &["method=manual".to_owned()]) }
}

fn with_dns(text: &str, version: Version, wanted: &Wanted, told: &mut Rewritten) -> String {
    let section = section(version);
    let servers = wanted.dns_of(version);
    let method = ini::values(text, &[section], "method").pop().unwrap_or_default();
    if !servers.is_empty() && !WAYS_WITH_DNS.contains(&method) {
        told.lost(&format!("name servers {}, because the card has no {section}", servers.join(", ")));
        return text.to_owned();
    }
    let entry = (!servers.is_empty()).then(|| format!("dns={};", servers.join(";")));
    ini::replace(text, section, entry.as_slice(), |key, _| key == "dns")
}

/// The second part of an address, and what has a key of its own.
fn old_gateways(text: &str, section: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, body) in ini::sections(text).into_iter().filter(|(name, _)| *name == section) {
        for line in body.lines().filter_map(|line| line.split_once('=')) {
            let (key, value) = (line.0.trim(), line.1.trim());
            if is_numbered(key, "address") || key == "addresses" {
                // The oldest form: `192.0.2.10;24;192.0.2.1;`
                let parts: Vec<&str> = value.split([',', ';']).collect();
                let at = if parts.first().is_some_and(|first| first.contains('/')) { 1 } else { 2 };
                found.extend(parts.get(at).map(|gateway| (*gateway).to_owned()));
            } else if key == "gateway" {
                found.push(value.to_owned());
            }
        }
    }
    found.retain(|gateway| gateway.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()));
    found
}

#[cfg(test)]
mod tests {
    use super::super::request::testing;
    use super::*;

    fn rewritten(text: &str, words: &str) -> (String, Rewritten) {
        testing::rewritten(rewrite, text, words)
    }

    const STATIC: &str = "[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\n\n[ipv4]\n# of the old site\n\
        address1=198.51.100.7/24,198.51.100.1\naddress2=198.51.100.8/24\ndns=198.51.100.53;\ndns-search=example.org;\nmethod=manual\n\
        route1=203.0.113.0/24,198.51.100.9\n\n[ipv6]\nmethod=ignore\n";

    #[test]
    fn a_static_profile_gets_other_addresses_and_keeps_all_else() {
        let (new, told) = rewritten(STATIC, "192.0.2.10/24 via 192.0.2.1 dns 192.0.2.53 192.0.2.54");
        insta::assert_snapshot!(new, @r"
        [connection]
        id=ens192
        type=ethernet
        interface-name=ens192

        [ipv4]
        # of the old site
        address1=192.0.2.10/24,192.0.2.1
        dns=192.0.2.53;192.0.2.54;
        dns-search=example.org;
        method=manual
        route1=203.0.113.0/24,198.51.100.9

        [ipv6]
        method=ignore
        ");
        assert_eq!(told.lost, [""; 0]);
    }

    #[test]
    fn both_families_may_be_set_and_dhcp_is_off_then() {
        let text = "[connection]\ntype=ethernet\n\n[ipv4]\nmethod=auto\n\n[ipv6]\naddr-gen-mode=eui64\nmethod=auto\n";
        let words =
            "192.0.2.10/24 2001:db8::10/64 2001:db8::11/64 via 2001:db8::1 dns 192.0.2.53 2001:db8::53";
        insta::assert_snapshot!(rewritten(text, words).0, @r"
        [connection]
        type=ethernet

        [ipv4]
        method=manual
        address1=192.0.2.10/24
        dns=192.0.2.53;

        [ipv6]
        addr-gen-mode=eui64
        method=manual
        address1=2001:db8::10/64,2001:db8::1
        address2=2001:db8::11/64
        dns=2001:db8::53;
        ");
        assert!(rewritten(text, "192.0.2.10/24").0.contains("eui64\nmethod=auto\n"), "IPv6 stays as it was");
    }

    #[test]
    fn an_old_gateway_that_is_still_reached_stays_in_every_form() {
        for old in [
            "address1=192.0.2.7/24,192.0.2.1\n",
            "addresses=192.0.2.7;24;192.0.2.1;\n",
            "address1=192.0.2.7/24\ngateway=192.0.2.1\n",
        ] {
            let new = rewritten(&format!("[ipv4]\n{old}method=manual\n"), "192.0.2.10/24").0;
            assert_eq!(new, "[ipv4]\naddress1=192.0.2.10/24,192.0.2.1\nmethod=manual\n");
        }
    }

    #[test]
    fn name_servers_of_a_family_that_the_card_has_not_are_told_of() {
        let (new, told) = rewritten(STATIC, "192.0.2.10/24 dns 192.0.2.53 2001:db8::53");
        assert!(new.ends_with("[ipv6]\nmethod=ignore\n"));
        assert!(told.lost[0].contains("2001:db8::53"), "{told:?}");
    }
}
