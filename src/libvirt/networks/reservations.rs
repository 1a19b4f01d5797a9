//! Addresses that are kept for a machine: it finds them again after it has moved here.
//!
//! What is running and what is written down are seen to one after the other, so that doing it again mends what was left between the two.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use virt::network::Network as Raw;
use virt::sys;

use super::subnet::Subnet;
use super::{Network, Segment, definition_of, needed, shown};
use crate::libvirt::failure::told;
use crate::libvirt::foreign::leases;
use crate::libvirt::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Mac;

/// Wherever in the definition it belongs.
const ANYWHERE: i32 = -1;
/// What a name in DNS can have.
const LONGEST_HOST: usize = 63;

/// An address that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// For the card with this MAC address.
    pub mac: Mac,
    /// The address.
    pub address: IpAddr,
    /// The name that goes with it.
    pub host: Option<String>,
}

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// It was not there.
    Added,
    /// The card had another address, or another name.
    Moved {
        /// The address that it had.
        from: Option<IpAddr>,
    },
    /// It was there.
    Unchanged,
}

/// What became of a reservation that was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Released {
    /// It was there, with this address.
    Released {
        /// The address that may be handed out again.
        address: Option<IpAddr>,
    },
    /// There was none.
    Unchanged,
}

/// The running network, or what is written down.
#[derive(Debug, Clone, Copy)]
struct Scope {
    read: sys::virNetworkXMLFlags,
    write: sys::virNetworkUpdateFlags,
}

const WRITTEN_DOWN: Scope =
    Scope { read: sys::VIR_NETWORK_XML_INACTIVE, write: sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG };
const RUNNING: Scope = Scope { read: 0, write: sys::VIR_NETWORK_UPDATE_AFFECT_LIVE };

/// Keeps an address for a card. A card has one: what it had before is given up.
pub fn reserve(link: &Link, name: &str, reservation: &Reservation) -> Result<Settled> {
    let IpAddr::V4(address) = reservation.address else {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{} cannot be kept for a MAC address", reservation.address),
        )
        .advice("libvirt keeps IPv6 addresses for client ids only: configure it inside the guest"));
    };
    if let Some(host) = &reservation.host {
        check_host(host)?;
    }
    let network = needed(link, name)?;
    let scopes = scopes(&network, name)?;
    // All of it is looked at before any of it is changed.
    let mut changes = Vec::new();
    for scope in scopes {
        let definition = definition_of(&network, name, scope.read)?;
        changes.push((scope, change(&definition, reservation, address)?));
    }
    if changes.iter().any(|(_, settled)| *settled != Settled::Unchanged) {
        refuse_leased(&network, reservation)?;
    }
    for (scope, settled) in &changes {
        let command = match settled {
            Settled::Added => sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
            Settled::Moved { .. } => sys::VIR_NETWORK_UPDATE_COMMAND_MODIFY,
            Settled::Unchanged => continue,
        };
        update(&network, command, &host_xml(reservation), *scope).map_err(|error| {
            told(&format!("cannot keep {address} in the network {}", shown(name)), &error)
        })?;
    }
    let settled = changes.into_iter().map(|(_, settled)| settled);
    Ok(settled.fold(Settled::Unchanged, |all, one| if all == Settled::Unchanged { one } else { all }))
}

/// Gives up what is kept for a card.
pub fn release(link: &Link, name: &str, mac: &Mac) -> Result<Released> {
    let network = needed(link, name)?;
    let mut released = Released::Unchanged;
    for scope in scopes(&network, name)? {
        let definition = definition_of(&network, name, scope.read)?;
        let kept = definition.segments.iter().flat_map(|segment| &segment.reservations);
        let Some(kept) = kept.into_iter().find(|kept| kept.mac.as_deref() == Some(mac.as_str())) else {
            continue;
        };
        let host = Element::new("host").with("mac", mac).to_string();
        update(&network, sys::VIR_NETWORK_UPDATE_COMMAND_DELETE, &host, scope).map_err(|error| {
            told(&format!("cannot give up an address in the network {}", shown(name)), &error)
        })?;
        released = Released::Released { address: kept.address };
    }
    Ok(released)
}

/// Where it has to be seen to.
fn scopes(network: &Raw, name: &str) -> Result<Vec<Scope>> {
    let failed = |error| told(&format!("cannot read the network {}", shown(name)), &error);
    let mut scopes = Vec::new();
    if network.is_persistent().map_err(failed)? {
        scopes.push(WRITTEN_DOWN);
    }
    if network.is_active().map_err(failed)? {
        scopes.push(RUNNING);
    }
    Ok(scopes)
}

fn update(
    network: &Raw,
    command: sys::virNetworkUpdateCommand,
    host: &str,
    scope: Scope,
) -> Result<(), virt::error::Error> {
    network.update(command, sys::VIR_NETWORK_SECTION_IP_DHCP_HOST, ANYWHERE, host, scope.write)
}

fn host_xml(reservation: &Reservation) -> String {
    let host = Element::new("host").with("mac", &reservation.mac);
    let host = match &reservation.host {
        Some(name) => host.with("name", name),
        None => host,
    };
    host.with("ip", reservation.address).to_string()
}

/// What has to be changed in a definition for it.
fn change(network: &Network, reservation: &Reservation, address: Ipv4Addr) -> Result<Settled> {
    let segment = segment_of(network, address)?;
    let mut settled = Settled::Added;
    for kept in &segment.reservations {
        if kept.mac.as_deref() == Some(reservation.mac.as_str()) {
            let same_name = reservation.host.is_none() || reservation.host == kept.host;
            let same = same_name && kept.address == Some(reservation.address);
            settled = if same { Settled::Unchanged } else { Settled::Moved { from: kept.address } };
            continue;
        }
        let whose = kept.mac.as_deref().unwrap_or("somebody else");
        if kept.address == Some(reservation.address) {
            return Err(Error::new(Kind::Exists, format!("{address} is kept for {whose} already"))
                .advice("take another address, or give that one up: `hyper2kvm libvirt network release`"));
        }
        if let Some(host) = kept.host.as_ref().filter(|host| reservation.host.as_ref() == Some(*host)) {
            return Err(Error::new(
                Kind::Exists,
                format!("the name {} belongs to {whose} already", shown(host)),
            )
            .advice("take another name, or give that one up: `hyper2kvm libvirt network release`"));
        }
    }
    Ok(settled)
}

fn segment_of(network: &Network, address: Ipv4Addr) -> Result<&Segment> {
    let name = shown(&network.name);
    let found = network.segments.iter().find_map(|segment| match segment.address {
        IpAddr::V4(host) => {
            let subnet = Subnet::around(host, segment.prefix);
            subnet.holds(address).then_some((segment, host, subnet))
        }
        IpAddr::V6(_) => None,
    });
    let Some((segment, host, subnet)) = found else {
        let of_libvirt = network.segments.iter().any(|segment| segment.dhcp);
        return Err(if of_libvirt {
            Error::new(Kind::Manifest, format!("{address} is in no subnet of the network {name}"))
                .advice("see its subnets: `hyper2kvm libvirt networks`")
        } else {
            Error::new(Kind::Unsupported, format!("libvirt hands out no addresses in the network {name}"))
                .advice("keep the address where they are handed out: in the DHCP server of that bridge")
        });
    };
    if !segment.dhcp {
        return Err(Error::new(
            Kind::Unsupported,
            format!("no addresses are handed out in {subnet} of {name}"),
        )
        .advice("add DHCP to that subnet with `virsh net-edit`"));
    }
    if address == host || !(subnet.is_for_guests(address) || address == subnet.host()) {
        return Err(Error::new(
            Kind::Manifest,
            format!("{address} is not for guests: it is the host's, or that of all"),
        )
        .advice("take another address of that subnet"));
    }
    Ok(segment)
}

/// dnsmasq would go on giving it to who has it, and the card would get some other.
fn refuse_leased(network: &Raw, reservation: &Reservation) -> Result<()> {
    // Where there is no table of leases, nobody has one.
    let leases = leases::of_network(network, None).unwrap_or_default();
    let taken = leases.iter().find(|lease| {
        lease.address.parse() == Ok(reservation.address)
            && lease.mac.as_deref().is_some_and(|mac| !mac.eq_ignore_ascii_case(reservation.mac.as_str()))
    });
    let Some(mac) = taken.and_then(|lease| lease.mac.as_deref()) else { return Ok(()) };
    Err(Error::new(Kind::Exists, format!("{} has been leased to {mac}", reservation.address))
        .advice("take another address, or have that machine give it up and wait until its lease ends"))
}

fn check_host(host: &str) -> Result<()> {
    let fits = (1..=LONGEST_HOST).contains(&host.len())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !host.starts_with('-')
        && !host.ends_with('-');
    if fits {
        return Ok(());
    }
    Err(Error::new(Kind::Manifest, format!("{} cannot be the name of a host", shown(host)))
        .advice("take letters, digits and `-`, or leave the name out"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::networks::definition::understand;

    fn asked(mac: &str, address: &str, host: Option<&str>) -> Reservation {
        Reservation {
            mac: Mac::new(mac).unwrap(),
            address: address.parse().unwrap(),
            host: host.map(str::to_owned),
        }
    }

    #[test]
    fn what_has_to_change_is_found_and_collisions_are_told_with_their_kind() {
        let xml = "<network><name>lab</name><ip address='10.9.0.1' prefix='24'><dhcp>
<host mac='52:54:00:00:00:01' name='web' ip='10.9.0.7'/></dhcp></ip><ip address='10.8.0.1' prefix='24'/></network>";
        let lab = understand("lab", xml).unwrap();
        let told = |mac, address: &str, host| {
            let asked = asked(mac, address, host);
            change(&lab, &asked, address.parse().unwrap()).map_err(|error| error.kind())
        };
        let (web, other) = ("52:54:00:00:00:01", "52:54:00:00:00:02");
        let moved = Settled::Moved { from: Some("10.9.0.7".parse().unwrap()) };
        for (given, becomes) in [
            (told(web, "10.9.0.7", None), Ok(Settled::Unchanged)),
            (told(web, "10.9.0.7", Some("web")), Ok(Settled::Unchanged)),
            (told(web, "10.9.0.7", Some("www")), Ok(moved)),
            (told(web, "10.9.0.8", None), Ok(moved)),
            (told(other, "10.9.0.8", None), Ok(Settled::Added)),
            (told(other, "10.9.0.7", None), Err(Kind::Exists)),
            (told(other, "10.9.0.8", Some("web")), Err(Kind::Exists)),
            (told(other, "10.9.0.1", None), Err(Kind::Manifest)),
            (told(other, "10.9.0.255", None), Err(Kind::Manifest)),
            (told(other, "10.7.0.5", None), Err(Kind::Manifest)),
            (told(other, "10.8.0.5", None), Err(Kind::Unsupported)),
        ] {
            assert_eq!(given, becomes);
        }
        let bridge =
            understand("br", "<network><forward mode='bridge'/><bridge name='br0'/></network>").unwrap();
        let refused = change(&bridge, &asked(web, "10.9.0.7", None), Ipv4Addr::new(10, 9, 0, 7));
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn names_that_no_host_can_have_are_refused() {
        assert!(check_host("web-1").is_ok());
        for host in ["", "-web", "web-", "a b", "a'/><x", "a.b", "ä", "a\0", &"x".repeat(64)] {
            assert_eq!(check_host(host).unwrap_err().kind(), Kind::Manifest, "{host}");
        }
    }
}
