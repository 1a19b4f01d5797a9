//! What a machine's definition says of its network cards, and of the addresses that were configured inside.

use roxmltree::{Document, Node};

use crate::libvirt::provenance;
use crate::model::provenance::ConfiguredAddress;

/// What is known of a machine before anybody is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its cards.
    pub(super) cards: Vec<Card>,
    /// The addresses that were configured inside.
    pub(super) configured: Vec<ConfiguredAddress>,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Card {
    /// Its MAC address, in lower case.
    pub(super) mac: String,
    /// The host's end of it, while the machine runs.
    pub(super) device: Option<String>,
    /// The network of libvirt's that it is plugged into.
    pub(super) network: Option<String>,
    /// The bridge that it is plugged into.
    pub(super) bridge: Option<String>,
}

impl Facts {
    /// Reads a definition; one that is not understood has no cards.
    pub(super) fn read(xml: &str) -> Facts {
        let cards = match Document::parse(xml) {
            Ok(document) => {
                let devices = document.root_element().children().filter(|node| node.has_tag_name("devices"));
                let interfaces = devices.flat_map(|node| node.children());
                interfaces.filter(|node| node.has_tag_name("interface")).filter_map(card).collect()
            }
            Err(_) => Vec::new(),
        };
        let configured = provenance::read(xml).map(|made| made.addresses).unwrap_or_default();
        Facts { cards, configured }
    }

    /// The card with this MAC address.
    pub(super) fn card(&self, mac: &str) -> Option<&Card> {
        self.cards.iter().find(|card| card.mac.eq_ignore_ascii_case(mac))
    }
}

fn card(interface: Node<'_, '_>) -> Option<Card> {
    let attribute = |tag: &str, name: &str| {
        let child = interface.children().find(|node| node.has_tag_name(tag))?;
        child.attribute(name).map(str::to_owned)
    };
    Some(Card {
        mac: attribute("mac", "address")?.to_lowercase(),
        device: attribute("target", "dev"),
        network: attribute("source", "network"),
        bridge: attribute("source", "bridge"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_with_what_they_are_plugged_into() {
        let xml = "<domain><devices><interface type='network'><mac address='52:54:00:AA:00:01'/>
<source network='default' bridge='virbr0'/><target dev='vnet3'/></interface><interface type='user'/></devices></domain>";
        let facts = Facts::read(xml);
        assert_eq!(facts.cards.len(), 1);
        let card = facts.card("52:54:00:aa:00:01").unwrap();
        assert_eq!((card.device.as_deref(), card.bridge.as_deref()), (Some("vnet3"), Some("virbr0")));
        assert_eq!(Facts::read("no xml"), Facts::default());
    }
}
