//! What the kernel says about the network at one moment: links, which of them have an address, which
//! hold a default route. Pure data with the few questions that the judge asks of it.

use std::collections::{BTreeMap, BTreeSet};

/// What sort of link this is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// `lo`.
    Loopback,
    /// A software switch: its own carrier says nothing about the uplink.
    Bridge,
    /// Several links as one (bond, team).
    Bond,
    /// The host's end of a guest's NIC.
    Tap,
    /// A tunnel device that the kernel makes by itself when a module is loaded (`sit0`, `tunl0`, …).
    Fallback,
    /// Everything else: hardware, VLANs, veth, tunnels that somebody asked for.
    Plain,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its name.
    pub(super) name: String,
    /// Alternative names (`ip link property`).
    pub(super) other_names: Vec<String>,
    /// What sort.
    pub(super) kind: LinkKind,
    /// Whether the administrator has it up.
    pub(super) enabled: bool,
    /// Whether it has carrier.
    pub(super) carrier: bool,
    /// The bridge or bond that it is a port of.
    pub(super) controller: Option<u32>,
}

impl Link {
    /// Up with carrier.
    pub(super) fn is_up(&self) -> bool {
        self.enabled && self.carrier
    }

    /// Whether it goes by this name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.other_names.iter().any(|other| other == name)
    }

    /// Why it is not up, for people.
    pub(super) fn trouble(&self) -> String {
        let Link { name, enabled, .. } = self;
        if *enabled { format!("{name} has no carrier") } else { format!("{name} is switched off") }
    }
}

/// The whole of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// By the kernel's index.
    pub(super) links: BTreeMap<u32, Link>,
    /// Indices of links with an address that reaches beyond the link.
    pub(super) addressed: BTreeSet<u32>,
    /// Indices of links through which a default route of the main table goes.
    pub(super) default_routes: BTreeSet<u32>,
}

impl Table {
    /// The link of this name.
    pub(super) fn named(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, link)| link.is_called(name)).map(|(index, link)| (*index, link))
    }

    /// The ports of a bridge or bond.
    pub(super) fn ports(&self, controller: u32) -> impl Iterator<Item = (u32, &Link)> {
        self.links
            .iter()
            .filter(move |(index, link)| link.controller == Some(controller) && **index != controller)
            .map(|(index, link)| (*index, link))
    }

    /// Whether the link is a port of a bridge.
    pub(super) fn is_bridge_port(&self, link: &Link) -> bool {
        let controller = link.controller.and_then(|index| self.links.get(&index));
        controller.is_some_and(|controller| controller.kind == LinkKind::Bridge)
    }
}
