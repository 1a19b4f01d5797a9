//! The network cards of a domain. What is not here: what they are plugged into on this side.

use roxmltree::Node;

use super::text::{bad_at, child, children, number};
use crate::model::error::Result;
use crate::model::facts::{Facts, FoundNic};
use crate::model::manifest::NicModel;
use crate::model::manifest::values::Mac;

const MOST_NICS: usize = 256;
const VLANS: std::ops::RangeInclusive<u64> = 1..=4094;

/// Puts its cards into the facts.
pub(super) fn cards(domain: Node<'_, '_>, facts: &mut Facts) -> Result<()> {
    let Some(devices) = child(domain, "devices") else { return Ok(()) };
    let mut models = Vec::new();
    for (number, node) in children(devices, "interface").enumerate() {
        if number == MOST_NICS {
            return Err(bad_at(node, &format!("it has more than {MOST_NICS} network cards")));
        }
        let (nic, model) = card(number, node, &mut facts.warnings);
        facts.nics.push(nic);
        models.push(model);
    }
    // The first card's model is the machine's; who wants another says so in a mapping, or of one card.
    facts.nic_model = models.first().copied().flatten();
    for (nic, model) in facts.nics.iter_mut().zip(models) {
        nic.own_model = model.filter(|_| model != facts.nic_model);
    }
    Ok(())
}

fn card(number: usize, node: Node<'_, '_>, warnings: &mut Vec<String>) -> (FoundNic, Option<NicModel>) {
    let attribute = |name: &str, key: &str| child(node, name).and_then(|child| child.attribute(key));
    let address = attribute("mac", "address");
    let mac = address.and_then(|address| Mac::new(address).ok());
    if let (Some(address), None) = (address, &mac) {
        let address = address.escape_debug();
        warnings.push(format!(
            "network card {number} has the address `{address}`, which no card has: it gets another"
        ));
    }
    // What it was plugged into there: by that name a mapping knows it.
    let network = ["network", "bridge", "dev"].into_iter().find_map(|key| attribute("source", key));
    if attribute("link", "state") == Some("down") {
        warnings.push(format!("network card {number} was unplugged there, and is plugged in here"));
    }
    let model = attribute("model", "type");
    let nic = FoundNic {
        mac: mac.map(|mac| mac.as_str().to_owned()),
        network: network.map(str::to_owned),
        model: model.map(str::to_owned),
        own_model: None,
        vlan: vlan(number, node, warnings),
    };
    (nic, model.and_then(same_here))
}

fn same_here(model: &str) -> Option<NicModel> {
    match model {
        "virtio" | "virtio-transitional" | "virtio-non-transitional" => Some(NicModel::Virtio),
        "e1000e" => Some(NicModel::E1000e),
        "e1000" => Some(NicModel::E1000),
        "rtl8139" => Some(NicModel::Rtl8139),
        "vmxnet3" => Some(NicModel::Vmxnet3),
        _ => None,
    }
}

/// The one VLAN that its frames are tagged with.
fn vlan(number_of_card: usize, node: Node<'_, '_>, warnings: &mut Vec<String>) -> Option<u16> {
    let tags: Vec<Node<'_, '_>> = children(child(node, "vlan")?, "tag").collect();
    let tag = match tags.as_slice() {
        [tag] => tag.attribute("id").and_then(number).filter(|id| VLANS.contains(id)),
        _ => None,
    };
    if tag.is_none() {
        warnings.push(format!(
            "network card {number_of_card} has several VLANs, or none that there is: none is kept"
        ));
    }
    tag.and_then(|id| u16::try_from(id).ok())
}
