//! How a domain says that this program made it: one element below `<metadata>`.

use crate::model::element::Element;
use crate::model::provenance::{ConfiguredAddress, Provenance};

/// The namespace of our element; libvirt keeps what stands in a namespace of its own.
pub const NAMESPACE: &str = "urn:hyper2kvm:domain:1";
/// How it is abbreviated.
const PREFIX: &str = "xmlns:h2k";

/// The element that goes below `<metadata>`.
pub(super) fn element(made: &Provenance) -> Element {
    let addresses = made.addresses.iter().map(|configured| {
        let address = Element::new("h2k:address").with("value", &configured.address);
        match &configured.mac {
            Some(mac) => address.with("mac", mac),
            None => address,
        }
    });
    let element = Element::new("h2k:made")
        .with(PREFIX, NAMESPACE)
        .with("version", &made.version)
        .with("batch", &made.batch_id)
        .with("vm", &made.vm_id)
        .with("at", &made.made_at);
    let element = match &made.source {
        Some(source) => element.with("source", source),
        None => element,
    };
    element.children(addresses)
}

/// What a domain's definition says of who made it; nothing where that was not us.
#[must_use]
pub fn read(xml: &str) -> Option<Provenance> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let metadata = document.root_element().children().find(|node| node.has_tag_name("metadata"))?;
    let made = metadata.children().find(|node| node.has_tag_name((NAMESPACE, "made")))?;
    let text = |name: &str| made.attribute(name).unwrap_or_default().to_owned();
    let addresses = made.children().filter(|node| node.has_tag_name((NAMESPACE, "address")));
    Some(Provenance {
        version: text("version"),
        batch_id: text("batch"),
        vm_id: text("vm"),
        made_at: text("at"),
        source: made.attribute("source").map(str::to_owned),
        addresses: addresses
            .filter_map(|node| {
                let address = node.attribute("value")?.to_owned();
                Some(ConfiguredAddress { mac: node.attribute("mac").map(str::to_owned), address })
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_into_a_domain_is_read_back_and_what_others_wrote_is_not_ours() {
        let made = Provenance {
            version: "0.1.0".to_owned(),
            batch_id: "night & day".to_owned(),
            vm_id: "web".to_owned(),
            made_at: "2026-11-29T12:00:00Z".to_owned(),
            source: Some("<web>".to_owned()),
            addresses: vec![ConfiguredAddress { mac: None, address: "192.0.2.7".to_owned() }],
        };
        let xml = Element::new("domain").child(Element::new("metadata").child(element(&made))).to_string();
        assert_eq!(read(&xml), Some(made));
        assert_eq!(read("<domain><metadata><made xmlns='urn:other'/></metadata></domain>"), None);
        assert_eq!(read("<domain/>"), None);
    }
}
