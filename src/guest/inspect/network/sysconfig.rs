//! `ifcfg-*`: of Red Hat's network scripts, and of SUSE's wicked, which share little but the name.
//!
//! What is not here: rules, aliases' own files beyond their addresses.

use super::{Source, mac, with_prefix};
use crate::guest::inspect::words::assigned;
use crate::model::guest::GuestNic;

const MOST_NUMBERED: usize = 16;

/// `/etc/sysconfig/network-scripts/ifcfg-NAME`
pub(super) fn red_hat(file: &str, text: &str) -> Vec<GuestNic> {
    let value = |key: &str| assigned(text, key);
    let name = value("DEVICE").unwrap_or_else(|| match value("HWADDR") {
        // The name of the file is a name for people where the card is told by its address.
        Some(_) => String::new(),
        None => file.trim_start_matches("ifcfg-").to_owned(),
    });
    if file == "ifcfg-lo" {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for number in std::iter::once(String::new()).chain((0..MOST_NUMBERED).map(|number| number.to_string())) {
        if let Some(address) = value(&format!("IPADDR{number}")) {
            let mask = value(&format!("PREFIX{number}")).or_else(|| value(&format!("NETMASK{number}")));
            addresses.push(with_prefix(&address, mask.as_deref()));
        }
    }
    addresses.extend(value("IPV6ADDR"));
    let further = value("IPV6ADDR_SECONDARIES").unwrap_or_default();
    addresses.extend(further.split_whitespace().map(str::to_owned));
    let gateway = ["GATEWAY", "GATEWAY0", "IPV6_DEFAULTGW"].iter().find_map(|key| value(key));
    vec![GuestNic {
        name,
        mac: value("HWADDR").as_deref().and_then(mac),
        dhcp: value("BOOTPROTO")
            .is_some_and(|way| matches!(way.to_ascii_lowercase().as_str(), "dhcp" | "bootp")),
        addresses,
        gateway,
        dns: (1..4).filter_map(|number| value(&format!("DNS{number}"))).collect(),
        configured_by: "ifcfg".to_owned(),
        ..GuestNic::default()
    }]
}

/// `/etc/sysconfig/network/ifcfg-NAME`; routes and name servers stand in files of their own.
pub(super) fn suse(file: &str, text: &str, sources: &[Source]) -> Vec<GuestNic> {
    let name = file.trim_start_matches("ifcfg-");
    let of = |key: &str| assigned(text, key);
    let mut addresses = Vec::new();
    for line in text.lines() {
        let Some((key, _)) = line.trim().split_once('=') else { continue };
        if let Some(suffix) = key.strip_prefix("IPADDR")
            && let Some(address) = of(key)
        {
            let mask = of(&format!("PREFIXLEN{suffix}")).or_else(|| of(&format!("NETMASK{suffix}")));
            addresses.push(with_prefix(&address, mask.as_deref()));
        }
    }
    let other =
        |path: &str| sources.iter().find(|source| source.path == path).map_or("", |source| &source.text);
    let own = format!("/etc/sysconfig/network/ifroute-{name}");
    let gateway = default_route(other(&own), name)
        .or_else(|| default_route(other("/etc/sysconfig/network/routes"), name));
    let servers =
        assigned(other("/etc/sysconfig/network/config"), "NETCONFIG_DNS_STATIC_SERVERS").unwrap_or_default();
    vec![GuestNic {
        name: name.to_owned(),
        mac: of("LLADDR").or_else(|| of("HWADDR")).as_deref().and_then(mac),
        dhcp: of("BOOTPROTO").is_some_and(|way| way.to_ascii_lowercase().starts_with("dhcp")),
        gateway: gateway.filter(|_| !addresses.is_empty()),
        dns: if addresses.is_empty() {
            Vec::new()
        } else {
            servers.split_whitespace().map(str::to_owned).collect()
        },
        addresses,
        configured_by: "wicked".to_owned(),
        ..GuestNic::default()
    }]
}

/// `default 192.0.2.1 - -`, or with the interface at the end.
fn default_route(routes: &str, name: &str) -> Option<String> {
    routes.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["default", gateway, _, device, ..] if *device != "-" && *device != name => {
                let _ = gateway;
                None
            }
            ["default", gateway, ..] => Some((*gateway).to_owned()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn red_hat_s_files_are_read() {
        let read = red_hat(
            "ifcfg-ens192",
            "TYPE=\"Ethernet\"\nBOOTPROTO=\"none\"\nNAME=\"ens192\"\nDEVICE=\"ens192\"\nONBOOT=\"yes\"\nIPADDR=\"192.0.2.10\"\nPREFIX=\"24\"\n\
             GATEWAY=\"192.0.2.1\"\nDNS1=\"192.0.2.53\"\nHWADDR=00:50:56:AA:BB:01\nIPADDR1=192.0.2.11\nNETMASK1=255.255.255.128\n",
        );
        let nic = &read[0];
        assert_eq!(nic.addresses, ["192.0.2.10/24", "192.0.2.11/25"]);
        assert_eq!(nic.gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(nic.mac.as_deref(), Some("00:50:56:aa:bb:01"));
        assert_eq!(nic.dns, ["192.0.2.53"]);
        let six = red_hat(
            "ifcfg-eth0",
            "IPV6ADDR=2001:db8::10/64\nIPV6ADDR_SECONDARIES=\"2001:db8::11/64 2001:db8::12/64\"\n",
        );
        assert_eq!(six[0].addresses, ["2001:db8::10/64", "2001:db8::11/64", "2001:db8::12/64"]);
        let dhcp = red_hat("ifcfg-eth0", "ONBOOT=yes\nBOOTPROTO=dhcp\n");
        assert_eq!((dhcp[0].name.as_str(), dhcp[0].dhcp), ("eth0", true));
        assert_eq!(red_hat("ifcfg-lo", "DEVICE=lo\n"), Vec::new());
    }

    #[test]
    fn suse_s_routes_and_name_servers_stand_in_other_files() {
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let sources = [
            source("/etc/sysconfig/network/routes", "default 192.0.2.9 - eth7\ndefault 192.0.2.1 - -\n"),
            source(
                "/etc/sysconfig/network/config",
                "NETCONFIG_DNS_STATIC_SERVERS=\"192.0.2.53 192.0.2.54\"\n",
            ),
        ];
        let read = suse(
            "ifcfg-eth0",
            "IPADDR='192.0.2.10/24'\nBOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR_1=192.0.2.11\nPREFIXLEN_1=24\n",
            &sources,
        );
        assert_eq!(read[0].addresses, ["192.0.2.10/24", "192.0.2.11/24"]);
        assert_eq!(read[0].gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(read[0].dns, ["192.0.2.53", "192.0.2.54"]);
        let dhcp = suse("ifcfg-eth1", "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n", &sources);
        assert_eq!((dhcp[0].dhcp, dhcp[0].gateway.as_deref()), (true, None));
    }
}
