//! `/etc/network/interfaces` of Debian and Alpine.
//!
//! What is not here: hooks and options that do not name an address.

use super::{mac, with_prefix};
use crate::model::guest::GuestNic;

pub(super) fn nics(text: &str) -> Vec<GuestNic> {
    let mut nics: Vec<GuestNic> = Vec::new();
    let mut current: Option<usize> = None;
    let (mut address, mut netmask): (Option<String>, Option<String>) = (None, None);
    let joined = text.replace("\\\n", " ");
    let mut lines = joined.lines().chain(["mapping end"]);
    while let Some(line) = lines.next().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let begins = matches!(word, "iface" | "mapping" | "auto" | "source" | "source-directory" | "rename")
            || word.starts_with("allow-")
            || word == "no-auto-down";
        if begins {
            if let (Some(at), Some(address)) = (current, address.take()) {
                nics[at].addresses.push(with_prefix(&address, netmask.as_deref()));
            }
            (current, netmask) = (None, None);
        }
        match (word, rest.as_slice()) {
            ("iface", [name, family @ ..]) => {
                // `ens192:1` is a second address of ens192.
                let name = name.split(':').next().unwrap_or(name);
                let at = nics.iter().position(|nic| nic.name == name).unwrap_or_else(|| {
                    nics.push(GuestNic {
                        name: name.to_owned(),
                        configured_by: "ifupdown".to_owned(),
                        ..GuestNic::default()
                    });
                    nics.len() - 1
                });
                nics[at].dhcp |= matches!(family, [_, "dhcp", ..]);
                current = Some(at);
            }
            (_, [value, more @ ..]) => {
                let Some(nic) = current.and_then(|at| nics.get_mut(at)) else { continue };
                match word {
                    "address" => {
                        if let Some(before) = address.replace((*value).to_owned()) {
                            nic.addresses.push(with_prefix(&before, netmask.as_deref()));
                        }
                    }
                    "netmask" => netmask = Some((*value).to_owned()),
                    "gateway" => nic.gateway = nic.gateway.take().or_else(|| Some((*value).to_owned())),
                    "dns-nameservers" | "dns-nameserver" => {
                        nic.dns.push((*value).to_owned());
                        nic.dns.extend(more.iter().map(|server| (*server).to_owned()));
                    }
                    "hwaddress" => nic.mac = mac(more.first().unwrap_or(value)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    nics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_address_of_debian_is_read() {
        let nics = nics(
            "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n\n# primary\nallow-hotplug ens192\niface ens192 inet static\n\
             \taddress 192.0.2.11/24\n\tgateway 192.0.2.1\n\t# dns-* are of resolvconf\n\tdns-nameservers 192.0.2.53 192.0.2.54\n\
             iface ens192 inet6 static\n\taddress 2001:db8::11\n\tnetmask 64\n\tgateway 2001:db8::1\n",
        );
        let nic = &nics[1];
        assert_eq!((nic.name.as_str(), nic.dhcp), ("ens192", false));
        assert_eq!(nic.addresses, ["192.0.2.11/24", "2001:db8::11/64"]);
        assert_eq!(nic.gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(nic.dns, ["192.0.2.53", "192.0.2.54"]);
    }

    #[test]
    fn the_old_form_with_a_mask_and_aliases_is_read() {
        let nics = nics(
            "auto eth0 eth0:1\niface eth0 inet static\n  address 192.0.2.10\n  netmask 255.255.255.0\n  hwaddress ether 00:50:56:AA:BB:01\n\
             iface eth0:1 inet static\n  address 192.0.2.20\n  netmask 255.255.255.0\nauto eth1\niface eth1 inet dhcp\n",
        );
        assert_eq!(nics.len(), 2);
        assert_eq!(nics[0].addresses, ["192.0.2.10/24", "192.0.2.20/24"]);
        assert_eq!(nics[0].mac.as_deref(), Some("00:50:56:aa:bb:01"));
        assert!(nics[1].dhcp);
    }

    #[test]
    fn what_makes_no_sense_names_no_interface() {
        assert_eq!(nics("iface\naddress 192.0.2.1\n\\\n\\"), Vec::new());
    }
}
