//! What a network's definition says, as far as anybody asks.

use std::net::IpAddr;

use roxmltree::{Document, Node};
use serde::Serialize;

use super::shown;
use crate::model::error::{Error, Kind, Result};

/// A network of libvirt's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether machines can be plugged in now.
    pub active: bool,
    /// Whether it is still there when it was stopped.
    pub persistent: bool,
    /// Whether it is started with libvirt.
    pub autostart: bool,
    /// How its machines get out.
    pub forward: Forward,
    /// The host's bridge.
    pub bridge: Option<String>,
    /// What libvirt does about addresses in it; nothing where somebody else does.
    pub segments: Vec<Segment>,
}

/// How machines get out of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// They do not.
    Isolated,
    /// As the host, with its address.
    Nat,
    /// Routed, with libvirt's rules.
    Route,
    /// Routed, without any rules.
    Open,
    /// The network is a bridge of the host, or a device that is shared like one.
    Bridge,
    /// Each machine has a device of the host's.
    Device,
    /// In a way that this version does not know.
    Other,
}

impl Forward {
    /// The name that is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Forward::Isolated => "isolated",
            Forward::Nat => "nat",
            Forward::Route => "route",
            Forward::Open => "open",
            Forward::Bridge => "bridge",
            Forward::Device => "device",
            Forward::Other => "other",
        }
    }

    fn of(mode: &str) -> Forward {
        match mode {
            "nat" => Forward::Nat,
            "route" => Forward::Route,
            "open" => Forward::Open,
            "bridge" | "private" | "vepa" => Forward::Bridge,
            "passthrough" | "hostdev" => Forward::Device,
            _ => Forward::Other,
        }
    }
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// The host's address in it.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// Whether addresses are handed out.
    pub dhcp: bool,
    /// Which are handed out to anybody.
    pub ranges: Vec<Range>,
    /// Which are kept for whom.
    pub reservations: Vec<Reserved>,
}

/// Addresses in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

/// An address that is kept for somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reserved {
    /// For the card with this MAC address.
    pub mac: Option<String>,
    /// The address.
    pub address: Option<IpAddr>,
    /// The name that goes with it.
    pub host: Option<String>,
}

/// Reads a definition; what libvirt alone knows (the UUID, how it is) is left open.
pub(super) fn understand(name: &str, xml: &str) -> Result<Network> {
    let bad = |why: String| {
        Error::new(
            Kind::Libvirt,
            format!("the definition of the network {} is not understood: {why}", shown(name)),
        )
        .advice("see it with `virsh net-dumpxml`")
    };
    let document = Document::parse(xml).map_err(|error| bad(error.to_string()))?;
    let root = document.root_element();
    if !root.has_tag_name("network") {
        return Err(bad("it is no network".to_owned()));
    }
    let child = |tag: &str| root.children().find(|node| node.has_tag_name(tag));
    let forward = child("forward").map_or(Forward::Isolated, |node| {
        // libvirt's own default where no mode is given.
        Forward::of(node.attribute("mode").unwrap_or("nat"))
    });
    let segments = root.children().filter(|node| node.has_tag_name("ip")).filter_map(segment);
    Ok(Network {
        name: name.to_owned(),
        uuid: String::new(),
        active: false,
        persistent: false,
        autostart: false,
        forward,
        bridge: child("bridge").and_then(|node| node.attribute("name")).map(str::to_owned),
        segments: segments.collect(),
    })
}

fn segment(node: Node<'_, '_>) -> Option<Segment> {
    let address: IpAddr = node.attribute("address")?.parse().ok()?;
    let dhcp = node.children().find(|child| child.has_tag_name("dhcp"));
    let within = |tag: &'static str| {
        dhcp.into_iter().flat_map(|dhcp| dhcp.children()).filter(move |node| node.has_tag_name(tag))
    };
    let range = |node: Node<'_, '_>| {
        let end = |name| node.attribute(name).and_then(|text| text.parse().ok());
        Some(Range { first: end("start")?, last: end("end")? })
    };
    Some(Segment {
        address,
        prefix: prefix(node, address)?,
        dhcp: dhcp.is_some(),
        ranges: within("range").filter_map(range).collect(),
        reservations: within("host").map(reserved).collect(),
    })
}

/// libvirt takes either form, and means a class of old where there is none.
fn prefix(node: Node<'_, '_>, address: IpAddr) -> Option<u8> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let given = match (node.attribute("prefix"), node.attribute("netmask"), address) {
        (Some(prefix), ..) => prefix.parse().ok()?,
        (None, Some(mask), _) => mask.parse::<std::net::Ipv4Addr>().ok()?.to_bits().leading_ones() as u8,
        (None, None, IpAddr::V4(address)) => match address.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            192.. => 24,
        },
        (None, None, IpAddr::V6(_)) => 64,
    };
    Some(given).filter(|given| *given <= longest)
}

fn reserved(node: Node<'_, '_>) -> Reserved {
    Reserved {
        mac: node.attribute("mac").map(str::to_lowercase),
        address: node.attribute("ip").and_then(|text| text.parse().ok()),
        host: node.attribute("name").map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_tells_how_machines_get_out_and_who_has_which_address() {
        let xml = "<network><name>x</name><forward><nat/></forward><bridge name='virbr9'/>
<ip address='10.9.0.1' netmask='255.255.0.0'><dhcp><range start='10.9.0.2' end='10.9.0.9'/>
<host mac='52:54:00:AA:00:01' name='web' ip='10.9.0.7'/></dhcp></ip><ip family='ipv6' address='fd00::1' prefix='64'/></network>";
        let network = understand("x", xml).unwrap();
        assert_eq!((network.forward, network.bridge.as_deref()), (Forward::Nat, Some("virbr9")));
        assert_eq!((network.segments[0].prefix, network.segments[1].prefix), (16, 64));
        assert!(network.segments[0].dhcp && !network.segments[1].dhcp);
        let kept = &network.segments[0].reservations[0];
        assert_eq!(kept.mac.as_deref(), Some("52:54:00:aa:00:01"));
        assert_eq!(kept.address, Some("10.9.0.7".parse().unwrap()));
    }

    #[test]
    fn what_others_wrote_strangely_is_told_or_left_out_and_never_guessed() {
        assert!(understand("x", "<domain/>").is_err());
        assert!(understand("x", "no xml").is_err());
        let odd = "<network><forward mode='teleport'/><ip address='10.0.0.1' prefix='99'/><ip address='x'/></network>";
        let network = understand("x", odd).unwrap();
        assert_eq!((network.forward, network.segments.len()), (Forward::Other, 0));
        assert_eq!(understand("x", "<network/>").unwrap().forward, Forward::Isolated);
    }
}
