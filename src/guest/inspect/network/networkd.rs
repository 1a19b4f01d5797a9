//! systemd-networkd's `.network` files.
//!
//! What is not here: `.netdev` and `.link` files.

use super::{ini, mac};
use crate::model::guest::GuestNic;

pub(super) fn nics(text: &str) -> Vec<GuestNic> {
    let values = ini(text);
    let all = |sections: &[&str], key: &str| -> Vec<String> {
        values
            .iter()
            .filter(|(section, name, value)| sections.contains(section) && *name == key && !value.is_empty())
            .flat_map(|(_, _, value)| value.split_whitespace().map(str::to_owned))
            .collect()
    };
    let first = |sections: &[&str], key: &str| all(sections, key).into_iter().next();
    let dhcp = first(&["Network"], "DHCP").unwrap_or_default();
    let hardware = first(&["Match"], "MACAddress").or_else(|| first(&["Match"], "PermanentMACAddress"));
    let names = all(&["Match"], "Name");
    // Or of hardware of some kind, whatever its name.
    let of_kind = first(&["Match"], "Type").or_else(|| first(&["Match"], "Driver"));
    if names.is_empty() && hardware.is_none() && of_kind.is_none() {
        return Vec::new();
    }
    vec![GuestNic {
        name: names.join(" "),
        mac: hardware.as_deref().and_then(mac),
        dhcp: matches!(dhcp.to_ascii_lowercase().as_str(), "yes" | "true" | "1" | "on" | "both" | "ipv4"),
        addresses: all(&["Network", "Address"], "Address"),
        gateway: first(&["Network", "Route"], "Gateway"),
        dns: all(&["Network"], "DNS"),
        configured_by: "networkd".to_owned(),
        ..GuestNic::default()
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_addresses_and_dhcp_are_read() {
        let read = nics(
            "[Match]\nName=ens192\n\n[Network]\nAddress=192.0.2.12/24\nGateway=192.0.2.1\nDNS=192.0.2.53\n\n[Address]\nAddress=192.0.2.22/24\n",
        );
        assert_eq!(read[0].name, "ens192");
        assert_eq!(read[0].addresses, ["192.0.2.12/24", "192.0.2.22/24"]);
        assert_eq!(read[0].gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(read[0].dns, ["192.0.2.53"]);
        // Photon's own.
        let photon = nics("[Match]\nName=e*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\n");
        assert_eq!((photon[0].name.as_str(), photon[0].dhcp), ("e*", true));
        assert_eq!(nics("[Match]\n[Network]\nDHCP=yes\n"), Vec::new());
        assert!(nics("[Match]\nType=ether\n[Network]\nDHCP=yes\n")[0].dhcp, "of any card");
    }
}
