//! What a machine is to be plugged into and is not there: to be told before any byte is copied.

use std::path::Path;

use serde::Serialize;

use super::{Forward, find};
use crate::libvirt::link::Link;
use crate::model::error::Result;
use crate::model::machine::NicLink;
use crate::sys::host::{has_interface, is_bridge};

/// Something that a card cannot be plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why not.
    pub why: Why,
}

/// Why a card cannot be plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// libvirt has no such network.
    NoNetwork,
    /// The network is there and not active.
    Inactive,
    /// The host has no such bridge.
    NoBridge,
    /// The host has a device of that name which is no bridge.
    NotABridge,
    /// The network stands on a bridge that the host has not.
    WithoutItsBridge {
        /// That bridge.
        bridge: String,
    },
}

impl Missing {
    /// In words, and what to do.
    #[must_use]
    pub fn told(&self) -> (String, String) {
        let name = super::shown(&self.name);
        match &self.why {
            Why::NoNetwork => (
                format!("libvirt has no network {name}"),
                "define it (`hyper2kvm libvirt network define-nat`), or map the card to one that is there"
                    .to_owned(),
            ),
            Why::Inactive => (
                format!("the network {name} is not active"),
                "start it: `hyper2kvm libvirt network start`".to_owned(),
            ),
            Why::NoBridge => (
                format!("the host has no bridge {name}"),
                "make the bridge, or map the card to one that is there".to_owned(),
            ),
            Why::NotABridge => (
                format!("{name} is a device of the host, and no bridge"),
                "name a bridge: machines cannot be plugged into other devices".to_owned(),
            ),
            Why::WithoutItsBridge { bridge } => (
                format!(
                    "the network {name} stands on the bridge {}, which the host has not",
                    super::shown(bridge)
                ),
                "make the bridge, or map the card to another network".to_owned(),
            ),
        }
    }
}

/// Which of these are not there, each once. The host's bridges are looked at where libvirt is on this host.
pub fn missing(link: &Link, links: &[NicLink]) -> Result<Vec<Missing>> {
    let of_this_host = is_of_this_host(link);
    let mut missing: Vec<Missing> = Vec::new();
    for link_of_card in links {
        let (name, why) = match link_of_card {
            NicLink::Network(name) => (name, network_is_missing(link, name, of_this_host)?),
            NicLink::Bridge(name) if of_this_host => (name, bridge_is_missing(name)),
            // A switch's own device is of another kind.
            NicLink::OpenVswitch(name) if of_this_host => {
                (name, (!has_interface(name)).then_some(Why::NoBridge))
            }
            NicLink::Bridge(_) | NicLink::OpenVswitch(_) => continue,
        };
        let told = why.map(|why| Missing { name: name.clone(), why });
        missing.extend(told.filter(|told| !missing.contains(told)));
    }
    Ok(missing)
}

fn network_is_missing(link: &Link, name: &str, of_this_host: bool) -> Result<Option<Why>> {
    let Some(network) = find(link, name)? else { return Ok(Some(Why::NoNetwork)) };
    if !network.active {
        return Ok(Some(Why::Inactive));
    }
    // The bridges of libvirt's own networks come and go with them.
    let bridge = network.bridge.filter(|_| network.forward == Forward::Bridge && of_this_host);
    Ok(bridge.filter(|bridge| !has_interface(bridge)).map(|bridge| Why::WithoutItsBridge { bridge }))
}

fn bridge_is_missing(name: &str) -> Option<Why> {
    if !has_interface(name) {
        return Some(Why::NoBridge);
    }
    (!is_bridge(name)).then_some(Why::NotABridge)
}

/// Whether the machines of this libvirt are plugged into bridges of this host.
pub(in crate::libvirt) fn is_of_this_host(link: &Link) -> bool {
    link.raw().get_uri().is_ok_and(|uri| is_local(&uri)) && Path::new("/sys/class/net").is_dir()
}

/// `qemu:///system` is, and so is what reaches it through a socket; `qemu+ssh://host/system` is not, and `test:///` has no host.
fn is_local(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, "unix"));
    driver == "qemu" && transport == "unix" && rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    #[test]
    fn only_what_is_served_by_this_host_has_its_bridges() {
        assert!(is_local("qemu:///system") && is_local("qemu+unix:///session?socket=/x"));
        for uri in [
            "qemu+ssh://host/system",
            "qemu://host/system",
            "qemu+tls:///system",
            "test:///default",
            "qemu",
            "",
        ] {
            assert!(!is_local(uri), "{uri}");
        }
    }

    #[test]
    fn a_network_that_is_not_there_is_told_once_and_one_that_is_active_is_not() {
        let link = Link::open("test:///default", Access::Reads).unwrap();
        let network = |name: &str| NicLink::Network(name.to_owned());
        let links =
            [network("default"), network("no such"), network("no such"), NicLink::Bridge("br-x".to_owned())];
        let told = missing(&link, &links).unwrap();
        assert_eq!(told, [Missing { name: "no such".to_owned(), why: Why::NoNetwork }]);
        assert!(told[0].told().0.contains("no such"));
    }
}
