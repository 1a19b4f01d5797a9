//! Network cards as libvirt is told them, in the guest's order.
//!
//! What is not here: what a card may receive and send in a second ([`limits`](super::super::limits)), and which network stands for which.

use super::super::limits::bandwidth;
use crate::model::element::Element;
use crate::model::machine::{Machine, MachineNic, NicLink};
use crate::model::manifest::NicModel;

pub(super) fn nics(machine: &Machine) -> Vec<Element> {
    machine.nics.iter().map(|nic| element(machine, nic)).collect()
}

/// The model of a virtio device whose guest may know only the older kind; none where the newest will do.
///
/// A slot of PCI Express offers nothing but virtio 1.0; on machines without, every device speaks both.
pub(super) fn virtio_model(machine: &Machine) -> Option<&'static str> {
    (machine.is_virtio_old && machine.is_pcie()).then_some("virtio-transitional")
}

fn element(machine: &Machine, nic: &MachineNic) -> Element {
    let (kind, source) = match &nic.link {
        NicLink::Network(name) => ("network", Element::new("source").with("network", name)),
        NicLink::Bridge(name) | NicLink::OpenVswitch(name) => {
            ("bridge", Element::new("source").with("bridge", name))
        }
    };
    let is_switch = matches!(nic.link, NicLink::OpenVswitch(_));
    let model = match machine.model_of(nic) {
        NicModel::Virtio => virtio_model(machine).unwrap_or("virtio"),
        NicModel::E1000e => "e1000e",
        NicModel::E1000 => "e1000",
        NicModel::Rtl8139 => "rtl8139",
        NicModel::Vmxnet3 => "vmxnet3",
    };
    Element::new("interface")
        .with("type", kind)
        .children(nic.mac.iter().map(|mac| Element::new("mac").with("address", mac)))
        .child(source)
        .children(is_switch.then(|| Element::new("virtualport").with("type", "openvswitch")))
        .children(nic.vlan.map(|tag| Element::new("vlan").child(Element::new("tag").with("id", tag))))
        .children(bandwidth(&nic.limits))
        .child(Element::new("model").with("type", model))
        .children(nic.is_unplugged.then(|| Element::new("link").with("state", "down")))
}
