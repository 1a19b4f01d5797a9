//! Connections of NetworkManager: its key files.
//!
//! What is not here: wireless, VPN and mobile connections, which no server's NIC has.

use super::{ini, mac};
use crate::model::guest::GuestNic;

pub(super) fn nics(text: &str) -> Vec<GuestNic> {
    let values = ini(text);
    let value = |section: &str, key: &str| {
        values.iter().find(|(of, name, _)| *of == section && *name == key).map(|(_, _, value)| *value)
    };
    let of_ethernet = |key: &str| value("ethernet", key).or_else(|| value("802-3-ethernet", key));
    let kind = value("connection", "type").unwrap_or_default();
    let of_wire = ["ethernet", "802-3-ethernet", "bond", "bridge", "vlan", "team", "infiniband"];
    if !of_wire.contains(&kind) {
        return Vec::new();
    }
    let mut nic = GuestNic {
        name: value("connection", "interface-name").unwrap_or_default().to_owned(),
        mac: of_ethernet("mac-address").and_then(mac),
        configured_by: "networkmanager".to_owned(),
        ..GuestNic::default()
    };
    for family in ["ipv4", "ipv6"] {
        nic.dhcp |= matches!(value(family, "method"), Some("auto" | "dhcp")) && family == "ipv4";
        for (_, key, entry) in values.iter().filter(|(of, ..)| *of == family) {
            let is_address =
                key.strip_prefix("address").is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
                    || *key == "addresses";
            if is_address {
                // `192.0.2.10/24,192.0.2.1`: the address and, in the older form, its gateway.
                let mut parts = entry.split([',', ';']).map(str::trim).filter(|part| !part.is_empty());
                nic.addresses.extend(parts.next().map(str::to_owned));
                let gateway = parts.next().filter(|gateway| !gateway.contains('/')).map(str::to_owned);
                nic.gateway = nic.gateway.take().or(gateway);
            }
        }
        nic.gateway = nic.gateway.take().or_else(|| value(family, "gateway").map(str::to_owned));
        let servers = value(family, "dns").unwrap_or_default();
        nic.dns.extend(
            servers.split([';', ',']).map(str::trim).filter(|server| !server.is_empty()).map(str::to_owned),
        );
    }
    vec![nic]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_connection_is_read() {
        let nics = nics(
            "[connection]\nid=ens192\nuuid=0f0e\ntype=ethernet\ninterface-name=ens192\n\n[ethernet]\nmac-address=00:50:56:AA:BB:03\n\n\
             [ipv4]\nmethod=manual\naddress1=192.0.2.13/24,192.0.2.1\ndns=192.0.2.53;192.0.2.54;\n\n[ipv6]\nmethod=ignore\n",
        );
        let nic = &nics[0];
        assert_eq!((nic.name.as_str(), nic.dhcp), ("ens192", false));
        assert_eq!(nic.mac.as_deref(), Some("00:50:56:aa:bb:03"));
        assert_eq!(nic.addresses, ["192.0.2.13/24"]);
        assert_eq!(nic.gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(nic.dns, ["192.0.2.53", "192.0.2.54"]);
    }

    #[test]
    fn the_form_of_recent_versions_and_dhcp_are_read() {
        let read = nics(
            "[connection]\ntype=ethernet\ninterface-name=eth0\n[ipv4]\naddress1=192.0.2.10/24\naddress2=192.0.2.11/24\ngateway=192.0.2.1\nmethod=manual\n",
        );
        assert_eq!(read[0].addresses, ["192.0.2.10/24", "192.0.2.11/24"]);
        assert_eq!(read[0].gateway.as_deref(), Some("192.0.2.1"));
        let any = nics("[connection]\nid=Wired\ntype=802-3-ethernet\n[ipv4]\nmethod=auto\n");
        assert_eq!((any[0].name.as_str(), any[0].dhcp), ("", true), "of any card");
        assert_eq!(nics("[connection]\ntype=wifi\n"), Vec::new());
    }
}
