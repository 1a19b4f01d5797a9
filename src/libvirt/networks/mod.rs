//! The networks of a libvirt: which there are, how they are, and what is done with them.
//!
//! One file per thing that is done. What is not here: which card is plugged into what (the plan says that), and where the addresses of
//! machines are found (`addresses`).

mod defining;
mod definition;
mod missing;
mod reservations;
mod running;
mod subnet;

use virt::error::ErrorNumber;
use virt::network::Network as Raw;
use virt::sys;

use super::failure::told;
use super::link::Link;
use crate::model::error::{Error, Kind, Result};

pub use defining::{NatNetwork, Then, bridge_xml, define_bridge, define_nat, nat_xml};
pub use definition::{Forward, Network, Range, Reserved, Segment};
pub use missing::{Missing, Why, missing};
pub use reservations::{Released, Reservation, Settled, release, reserve};
pub use running::{Ended, Users, start, stop, undefine, users};
pub use subnet::{Subnet, parse_range};

pub(super) use missing::is_of_this_host;

/// libvirt makes files of a network's name, with endings of its own; file systems take 255 bytes.
const LONGEST_NAME: usize = 200;
/// Nothing that libvirt knows has a longer name; its protocol would break off.
const LONGEST_ASKED: usize = 4096;

/// All networks, by name.
pub fn list(link: &Link) -> Result<Vec<Network>> {
    let raw = link.raw().list_all_networks(0).map_err(|error| told("cannot list the networks", &error))?;
    let mut networks = Vec::with_capacity(raw.len());
    for network in raw {
        match read(&network) {
            Ok(network) => networks.push(network),
            // One that went away since it was listed is none.
            Err(_) if is_gone(&network) => {}
            Err(error) => return Err(error),
        }
    }
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(networks)
}

/// The network of this name.
pub fn find(link: &Link, name: &str) -> Result<Option<Network>> {
    raw(link, name)?.as_ref().map(read).transpose()
}

/// The network as the crate knows it.
fn raw(link: &Link, name: &str) -> Result<Option<Raw>> {
    match Raw::lookup_by_name(link.raw(), askable("network", name)?) {
        Ok(network) => Ok(Some(network)),
        Err(error) if error.code() == ErrorNumber::NoNetwork => Ok(None),
        Err(error) => Err(told(&format!("cannot look for the network {}", shown(name)), &error)),
    }
}

/// The same where it has to be there.
fn needed(link: &Link, name: &str) -> Result<Raw> {
    raw(link, name)?.ok_or_else(|| {
        Error::new(Kind::Libvirt, format!("there is no network {}", shown(name)))
            .advice("see which there are: `hyper2kvm libvirt networks`")
    })
}

fn is_gone(network: &Raw) -> bool {
    network.is_active().is_err_and(|error| error.code() == ErrorNumber::NoNetwork)
}

fn read(network: &Raw) -> Result<Network> {
    let name = network.get_name().map_err(|error| told("cannot read a network", &error))?;
    let failed = |error| told(&format!("cannot read the network {}", shown(&name)), &error);
    let xml = network.get_xml_desc(0).map_err(failed)?;
    let (uuid, active) = (network.get_uuid_string().map_err(failed)?, network.is_active().map_err(failed)?);
    let persistent = network.is_persistent().map_err(failed)?;
    // One that ends when it is stopped cannot start by itself, and some drivers refuse to be asked.
    let autostart = persistent && network.get_autostart().map_err(failed)?;
    let mut found = definition::understand(&name, &xml)?;
    (found.uuid, found.active) = (uuid, active);
    (found.persistent, found.autostart) = (persistent, autostart);
    Ok(found)
}

/// A definition, in the state that the flags name.
fn definition_of(network: &Raw, name: &str, flags: sys::virNetworkXMLFlags) -> Result<Network> {
    let xml = network
        .get_xml_desc(flags)
        .map_err(|error| told(&format!("cannot read the network {}", shown(name)), &error))?;
    definition::understand(name, &xml)
}

/// A name that libvirt can be asked for: the crate panics on a NUL.
pub(super) fn askable<'n>(what: &str, name: &'n str) -> Result<&'n str> {
    if name.contains('\0') || name.is_empty() || name.len() > LONGEST_ASKED {
        let cause = format!("{} is not the name of a {what}", shown(name));
        return Err(
            Error::new(Kind::Manifest, cause).advice(format!("give the {what}'s name as libvirt knows it"))
        );
    }
    Ok(name)
}

/// A name that a network can be given: libvirt and dnsmasq make files of it.
fn definable(name: &str) -> Result<&str> {
    let fits = (1..=LONGEST_NAME).contains(&name.len())
        && name.trim() == name
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| !c.is_control() && c != '/');
    if fits {
        return Ok(name);
    }
    Err(Error::new(Kind::Manifest, format!("{} cannot be the name of a network", shown(name)))
        .advice("libvirt makes files of it: take letters, digits, `-`, `_` and spaces within")
        .allowed([format!(
            "1 to {LONGEST_NAME} bytes without `/`, control characters, and `.` or `-` at the begin"
        )]))
}

/// A name for people, whatever is in it.
pub(super) fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let mut safe = String::new();
    for c in name.chars().take(MOST) {
        if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    if name.chars().count() > MOST { format!("`{safe}…`") } else { format!("`{safe}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    #[test]
    fn the_network_of_the_driver_that_needs_no_daemon_is_read() {
        let link = Link::open("test:///default", Access::Reads).unwrap();
        let network = find(&link, "default").unwrap().unwrap();
        assert!(network.active && network.persistent && network.bridge.is_some(), "{network:?}");
        assert!(list(&link).unwrap().contains(&network));
        assert_eq!(find(&link, "no such network").unwrap(), None);
    }

    #[test]
    fn names_that_libvirt_cannot_be_asked_for_are_refused_before_it_is() {
        let link = Link::open("test:///default", Access::Reads).unwrap();
        for name in ["", "a\0b", &"x".repeat(5000)] {
            assert_eq!(find(&link, name).unwrap_err().kind(), Kind::Manifest);
        }
        for name in ["..", "a/b", " a", "-rf", "a\nb", "", &"x".repeat(201)] {
            assert_eq!(definable(name).unwrap_err().kind(), Kind::Manifest, "{name}");
        }
        for name in ["lab", "Büro & <Co> 'x' \"y\"", &"x".repeat(64)] {
            assert!(definable(name).is_ok(), "{name}");
        }
    }
}
