//! New networks: those of libvirt's own with NAT, and bridges of the host under a name of libvirt's.
//!
//! A network that is there is never changed, and one that cannot be started as asked is not left behind.

use std::net::{IpAddr, Ipv4Addr};

use virt::network::Network as Raw;

use super::subnet::Subnet;
use super::{Network, definable, find, list, read, shown};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::InterfaceName;

/// A network of libvirt's own, whose machines get out as the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatNetwork {
    /// Its name.
    pub name: String,
    /// Its addresses; the host has the first.
    pub subnet: Subnet,
    /// Which of them are handed out; none: all that guests may have.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// What its bridge is called; none: as libvirt likes.
    pub bridge: Option<InterfaceName>,
}

/// What is done when it is defined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Then {
    /// It is started.
    pub start: bool,
    /// It is started with libvirt from now on.
    pub autostart: bool,
}

/// Defines a network with NAT.
pub fn define_nat(link: &Link, network: &NatNetwork, then: Then) -> Result<Network> {
    let xml = nat_xml(network)?;
    refuse_taken(link, &network.name)?;
    for other in list(link)? {
        let overlaps = other.segments.iter().any(|segment| match segment.address {
            IpAddr::V4(address) => Subnet::around(address, segment.prefix).overlaps(network.subnet),
            IpAddr::V6(_) => false,
        });
        if overlaps {
            let cause =
                format!("{} has addresses in common with the network {}", network.subnet, shown(&other.name));
            return Err(Error::new(Kind::Exists, cause)
                .advice("take another subnet: `hyper2kvm libvirt networks` shows those that are taken"));
        }
        if network.bridge.as_ref().is_some_and(|bridge| other.bridge.as_deref() == Some(bridge.as_str())) {
            let cause = format!("its bridge belongs to the network {} already", shown(&other.name));
            return Err(Error::new(Kind::Exists, cause).advice("take another name for the bridge, or none"));
        }
    }
    define(link, &network.name, &xml, then)
}

/// Defines a network that is a bridge of the host.
pub fn define_bridge(link: &Link, name: &str, bridge: &InterfaceName, then: Then) -> Result<Network> {
    let xml = bridge_xml(name, bridge)?;
    refuse_taken(link, name)?;
    define(link, name, &xml, then)
}

/// The definition of a network with NAT.
pub fn nat_xml(network: &NatNetwork) -> Result<String> {
    let subnet = network.subnet;
    let (first, last) = network.range.unwrap_or_else(|| subnet.guests());
    if !subnet.is_for_guests(first) || !subnet.is_for_guests(last) {
        let (from, to) = subnet.guests();
        return Err(Error::new(Kind::Manifest, format!("{first}-{last} is not all for guests of {subnet}"))
            .advice("the first address of a subnet is the host's, and the last is for all")
            .allowed([format!("{from} to {to}")]));
    }
    // Without these two a guest waits for half a minute before it is heard.
    let bridge = Element::new("bridge").with("stp", "on").with("delay", 0);
    let bridge = match &network.bridge {
        Some(name) => bridge.with("name", name),
        None => bridge,
    };
    let range = Element::new("range").with("start", first).with("end", last);
    let ip = Element::new("ip")
        .with("address", subnet.host())
        .with("netmask", subnet.mask())
        .child(Element::new("dhcp").child(range));
    let xml = Element::new("network")
        .child(Element::text("name", definable(&network.name)?))
        .child(Element::new("forward").with("mode", "nat"))
        .child(bridge)
        .child(ip);
    Ok(xml.to_string())
}

/// The definition of a network that is a bridge of the host.
pub fn bridge_xml(name: &str, bridge: &InterfaceName) -> Result<String> {
    let xml = Element::new("network")
        .child(Element::text("name", definable(name)?))
        .child(Element::new("forward").with("mode", "bridge"))
        .child(Element::new("bridge").with("name", bridge));
    Ok(xml.to_string())
}

fn refuse_taken(link: &Link, name: &str) -> Result<()> {
    match find(link, name)? {
        None => Ok(()),
        Some(_) => Err(Error::new(Kind::Exists, format!("there is a network {} already", shown(name)))
            .advice("take another name, or see what it is: `hyper2kvm libvirt networks`")),
    }
}

fn define(link: &Link, name: &str, xml: &str, then: Then) -> Result<Network> {
    // Without a UUID in it, libvirt refuses a name that somebody took just now.
    let network = Raw::define_xml(link.raw(), xml)
        .map_err(|error| told(&format!("cannot define the network {}", shown(name)), &error))?;
    match settle(&network, name, then).and_then(|()| read(&network)) {
        Ok(made) => Ok(made),
        Err(error) => {
            // It is ours since a moment, and nobody asked for one that does not run.
            let _ = network.destroy();
            match network.undefine() {
                Ok(()) => Err(error),
                Err(left) => Err(error.advice(format!(
                    "it could not be removed again ({}): `hyper2kvm libvirt network undefine`",
                    left.message()
                ))),
            }
        }
    }
}

fn settle(network: &Raw, name: &str, then: Then) -> Result<()> {
    if then.autostart {
        network.set_autostart(true).map_err(|error| {
            told(&format!("cannot have the network {} started with libvirt", shown(name)), &error)
        })?;
    }
    if then.start {
        network
            .create()
            .map_err(|error| told(&format!("cannot start the network {}", shown(name)), &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    fn nat(name: &str, subnet: &str) -> NatNetwork {
        NatNetwork {
            name: name.to_owned(),
            subnet: Subnet::parse(subnet).unwrap(),
            range: None,
            bridge: None,
        }
    }

    #[test]
    fn a_network_with_nat_is_defined_started_and_its_name_and_addresses_are_taken_then() {
        let link = Link::open("test:///default", Access::Changes).unwrap();
        let name = "nat <of> 'this' \"test\" & Ä";
        let then = Then { start: true, autostart: true };
        let made = define_nat(&link, &nat(name, "10.77.0.0/16"), then).unwrap();
        assert!(made.active && made.autostart && made.name == name, "{made:?}");
        let taken = define_nat(&link, &nat(name, "10.78.0.0/16"), then).unwrap_err();
        let overlapping = define_nat(&link, &nat("nat overlapping", "10.77.3.0/24"), then).unwrap_err();
        assert_eq!((taken.kind(), overlapping.kind()), (Kind::Exists, Kind::Exists));
        assert!(overlapping.details().cause.contains("10.77.3.0/24"), "{overlapping}");
        super::super::needed(&link, name).unwrap().destroy().unwrap();
        super::super::needed(&link, name).unwrap().undefine().unwrap();
    }

    #[test]
    fn a_range_outside_of_the_subnet_is_refused_before_libvirt_is_asked() {
        let mut network = nat("x", "10.77.0.0/24");
        for (first, last) in [([10, 77, 0, 1], [10, 77, 0, 9]), ([10, 77, 0, 5], [10, 77, 1, 9])] {
            network.range = Some((first.into(), last.into()));
            assert_eq!(nat_xml(&network).unwrap_err().kind(), Kind::Manifest);
        }
    }
}
