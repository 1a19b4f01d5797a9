//! All that is plugged into a machine: disks and cards, and what people need to get at it.
//!
//! What is not here: addresses of PCI devices, which libvirt gives.

use super::nics::virtio_model;
use super::{AGENT_PORT, disks, has_agent_socket, nics};
use crate::model::element::Element;
use crate::model::libosinfo;
use crate::model::machine::Machine;

pub(super) fn devices(machine: &Machine) -> Element {
    let virtio = virtio_model(machine).unwrap_or("virtio");
    Element::new("devices")
        .children(disks::disks(machine))
        .children(disks::controllers(machine))
        .child(Element::new("controller").with("type", "usb").with("index", 0).with("model", usb(machine)))
        .children(virtio_model(machine).map(|model| {
            Element::new("controller").with("type", "virtio-serial").with("index", 0).with("model", model)
        }))
        .children(nics::nics(machine))
        .child(character("serial", "pty", Element::new("target").with("type", "isa-serial").with("port", 0)))
        .child(character("console", "pty", Element::new("target").with("type", "serial").with("port", 0)))
        .children(has_agent_socket(&machine.name).then(agent))
        .child(Element::new("input").with("type", "tablet").with("bus", "usb"))
        .children(machine.tpm.then(|| tpm(machine)))
        .child(
            Element::new("graphics")
                .with("type", "vnc")
                .with("port", -1)
                .with("autoport", "yes")
                .child(Element::new("listen").with("type", "address").with("address", "127.0.0.1")),
        )
        .child(
            // The one that every guest and both firmwares can drive.
            Element::new("video").child(Element::new("model").with("type", "vga")),
        )
        .child(Element::new("memballoon").with("model", virtio))
        .child(
            Element::new("rng")
                .with("model", virtio)
                .child(Element::text("backend", "/dev/urandom").with("model", "random")),
        )
        // A Windows tells of its crash before it has written its dump, and would be cut short.
        .children((!machine.is_windows()).then(|| Element::new("panic").with("model", "isa")))
}

/// The controller that the guest has a driver for: without one the pointer does not move.
fn usb(machine: &Machine) -> &'static str {
    match (machine.is_pcie(), machine.os_id.as_deref().is_some_and(libosinfo::is_before_usb_3)) {
        (false, _) => "piix3-uhci",
        (true, true) => "ich9-ehci1",
        (true, false) => "qemu-xhci",
    }
}

fn character(name: &'static str, kind: &str, target: Element) -> Element {
    Element::new(name).with("type", kind).child(target)
}

fn agent() -> Element {
    character("channel", "unix", Element::new("target").with("type", "virtio").with("name", AGENT_PORT))
}

fn tpm(machine: &Machine) -> Element {
    Element::new("tpm")
        .with("model", if machine.has_crb() { "tpm-crb" } else { "tpm-tis" })
        .child(Element::new("backend").with("type", "emulator").with("version", "2.0"))
}
