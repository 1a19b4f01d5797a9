//! Addresses in `ifcfg-NAME` of the RHEL family.
//!
//! What is not here: SUSE's files of the same name (see [`super::suse`]), and routes in files beside them.

use super::is_numbered;
use super::request::{Version, Wanted};
use super::resolv::placed;
pub(super) use crate::guest::linux::network::ifcfg::{entry, value};
use crate::guest::linux::text::Rewritten;

/// Keys that, with a number behind them or none, say what an IPv4 address is.
const FOUR: [&str; 6] = ["IPADDR", "PREFIX", "NETMASK", "NETWORK", "BROADCAST", "GATEWAY"];
const SIX: [&str; 3] = ["IPV6ADDR", "IPV6ADDR_SECONDARIES", "IPV6_DEFAULTGW"];

/// The file with these addresses.
pub(super) fn rewrite(text: &str, wanted: &Wanted, told: &mut Rewritten) -> String {
    let mut new = text.to_owned();
    if wanted.sets(Version::V4) {
        new = with_four(&new, wanted, told);
    }
    if wanted.sets(Version::V6) {
        new = with_six(&new, wanted, told);
    }
    if !wanted.dns.is_empty() {
        let servers = wanted.dns.iter().enumerate();
        let lines: String = servers.map(|(index, ip)| format!("DNS{}={ip}\n", index + 1)).collect();
        new = placed(&new, &lines, of_key(|key| is_numbered(key, "DNS")));
        // It would keep them out of resolv.conf.
        new = placed(&new, "", |line| matches!(entry(line), Some(("PEERDNS", "no"))));
    }
    new
}

fn with_four(text: &str, wanted: &Wanted, told: &mut Rewritten) -> String {
    // Systems that wrote netmasks may be too old for prefix lengths.
    let entries = || text.lines().filter_map(entry);
    let masked = entries().any(|(key, _)| is_numbered(key, "NETMASK"));
    let old = entries().filter(|(key, _)| is_numbered(key, "GATEWAY")).map(|(_, value)| value);
    let gateway = wanted.gateway(Version::V4, old, told);
    let mut lines = String::new();
    for (index, address) in wanted.of(Version::V4).enumerate() {
        let number = if index == 0 { String::new() } else { index.to_string() };
        lines.push_str(&format!("IPADDR{number}={}\n", address.ip));
        match address.netmask().filter(|_| masked) {
            Some(mask) => lines.push_str(&format!("NETMASK{number}={mask}\n")),
            None => lines.push_str(&format!("PREFIX{number}={}\n", address.prefix)),
        }
    }
    if let Some(gateway) = gateway {
        lines.push_str(&format!("GATEWAY={gateway}\n"));
    }
    let mut new = placed(text, &lines, of_key(|key| FOUR.iter().any(|word| is_numbered(key, word))));
    if gateway.is_some() {
        new = placed(&new, "", |line| matches!(entry(line), Some(("DEFROUTE", "no"))));
    }
    set(&new, "BOOTPROTO", &["none", "static"])
}

fn with_six(text: &str, wanted: &Wanted, told: &mut Rewritten) -> String {
    let old = value(text, "IPV6_DEFAULTGW").map(|gateway| gateway.split('%').next().unwrap_or(gateway));
    let gateway = wanted.gateway(Version::V6, old, told);
    let all: Vec<String> = wanted.of(Version::V6).map(ToString::to_string).collect();
    let mut lines = String::new();
    if let [first, further @ ..] = all.as_slice() {
        lines.push_str(&format!("IPV6ADDR={first}\n"));
        if !further.is_empty() {
            lines.push_str(&format!("IPV6ADDR_SECONDARIES=\"{}\"\n", further.join(" ")));
        }
    }
    if let Some(gateway) = gateway {
        lines.push_str(&format!("IPV6_DEFAULTGW={gateway}\n"));
    }
    let mut new = placed(text, &lines, of_key(|key| SIX.contains(&key)));
    if gateway.is_some() {
        new = placed(&new, "", |line| matches!(entry(line), Some(("IPV6_DEFROUTE", "no"))));
    }
    new = placed(&new, "", of_key(|key| key == "DHCPV6C"));
    new = set(&new, "IPV6INIT", &["yes"]);
    set(&new, "IPV6_AUTOCONF", &["no"])
}

/// The text with the first of these values, where it does not have one of them yet.
fn set(text: &str, key: &str, values: &[&str]) -> String {
    let good = value(text, key).is_some_and(|is| values.contains(&is));
    match values.first() {
        Some(first) if !good => placed(text, &format!("{key}={first}\n"), of_key(|of| of == key)),
        _ => text.to_owned(),
    }
}

fn of_key(is_old: impl Fn(&str) -> bool) -> impl Fn(&str) -> bool {
    move |line| entry(line).is_some_and(|(key, _)| is_old(key))
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
        let text = "# by anaconda\nTYPE=\"Ethernet\"\nBOOTPROTO=\"none\"\nDEVICE=\"ens192\"\nIPADDR=\"198.51.100.7\"\nPREFIX=\"24\"\n\
            GATEWAY=\"198.51.100.1\"\nDNS1=\"198.51.100.53\"\nDOMAIN=example.org\nIPADDR1=198.51.100.8\nPREFIX1=24\nDEFROUTE=no\n";
        insta::assert_snapshot!(rewritten(text, "192.0.2.10/24 192.0.2.11/25 via 192.0.2.1 dns 192.0.2.53 192.0.2.54"), @r#"
        # by anaconda
        TYPE="Ethernet"
        BOOTPROTO="none"
        DEVICE="ens192"
        IPADDR=192.0.2.10
        PREFIX=24
        IPADDR1=192.0.2.11
        PREFIX1=25
        GATEWAY=192.0.2.1
        DNS1=192.0.2.53
        DNS2=192.0.2.54
        DOMAIN=example.org
        "#);
    }

    #[test]
    fn dhcp_becomes_static_in_both_families() {
        let text = "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\nIPV6INIT=yes\nIPV6_AUTOCONF=yes\nDHCPV6C=yes\n";
        insta::assert_snapshot!(rewritten(text, "192.0.2.10/24 2001:db8::10/64 2001:db8::11/64 via 2001:db8::1"), @r#"
        DEVICE=eth0
        BOOTPROTO=none
        ONBOOT=yes
        IPV6INIT=yes
        IPV6_AUTOCONF=no
        IPADDR=192.0.2.10
        PREFIX=24
        IPV6ADDR=2001:db8::10/64
        IPV6ADDR_SECONDARIES="2001:db8::11/64"
        IPV6_DEFAULTGW=2001:db8::1
        "#);
        assert!(rewritten(text, "2001:db8::10/64").contains("BOOTPROTO=dhcp\n"), "IPv4 stays as it was");
    }

    #[test]
    fn a_file_with_a_netmask_keeps_that_form() {
        let text =
            "DEVICE=eth0\nBOOTPROTO=static\nIPADDR=192.0.2.7\nNETMASK=255.255.255.0\nGATEWAY=192.0.2.1\n";
        assert_eq!(rewritten(text, "192.0.2.10/24"), text.replace("192.0.2.7", "192.0.2.10"));
    }
}
