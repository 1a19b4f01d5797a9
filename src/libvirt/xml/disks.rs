//! Disks as libvirt is told them, in the guest's order, and the controllers that they hang on.
//!
//! Where each hangs is [`Slots`]'s word. What is not here: what a disk may read and write in a second ([`limits`](super::super::limits)).

use std::path::Path;

use super::super::limits::io_limits;
use super::nics::virtio_model;
use crate::model::element::Element;
use crate::model::fitting::{Slot, Slots};
use crate::model::machine::{DiskBus, DriverStage, Machine, MachineDisk};
use crate::model::manifest::DiskCache;
use crate::model::plan::SourceFormat;

/// What QEMU takes of a disk's serial number, by bus.
const SCSI_SERIAL: usize = 36;
const SERIAL: usize = 20;

/// The disks, and what a Windows without drivers is given beside them.
pub(super) fn disks(machine: &Machine) -> Vec<Element> {
    let mut places = Places::default();
    let mut elements: Vec<Element> = machine.disks.iter().map(|disk| places.disk(machine, disk)).collect();
    if let DriverStage::Bootstrap { cd, disk } = &machine.stage {
        elements.extend(cd.iter().map(|path| places.cd(machine, path)));
        elements.extend(disk.iter().map(|path| places.virtio(path)));
    }
    elements
}

/// Controllers that have to be said, because libvirt's own would be others.
pub(super) fn controllers(machine: &Machine) -> Vec<Element> {
    let mut slots = Slots::default();
    for disk in &machine.disks {
        slots.next_on(machine.bus_of(disk));
    }
    let thread = has_io_thread(machine).then(|| Element::new("driver").with("iothread", 1));
    let controller = |index| {
        Element::new("controller")
            .with("type", "scsi")
            .with("index", index)
            .with("model", virtio_model(machine).unwrap_or("virtio-scsi"))
            .children(thread.clone())
    };
    (0..slots.scsi_controllers()).map(controller).collect()
}

/// Whether disks have a thread of their own: with one processor it would only take its turn.
pub(super) fn has_io_thread(machine: &Machine) -> bool {
    let is_virtio = |disk| matches!(machine.bus_of(disk), DiskBus::VirtioBlk | DiskBus::VirtioScsi);
    machine.vcpus > 1 && machine.disks.iter().any(is_virtio)
}

/// What QEMU takes of a disk's serial number on this bus.
#[must_use]
pub fn serial(serial: &str, bus: DiskBus) -> String {
    let most = if bus == DiskBus::VirtioScsi { SCSI_SERIAL } else { SERIAL };
    let known: String =
        serial.chars().filter(|c| c.is_ascii_alphanumeric() || "_.+- ".contains(*c)).collect();
    known.trim().chars().take(most).collect::<String>().trim_end().to_owned()
}

/// Places that are taken, and names.
#[derive(Default)]
struct Places {
    slots: Slots,
    virtio: usize,
    scsi_or_sata: usize,
    ide: usize,
}

impl Places {
    fn disk(&mut self, machine: &Machine, disk: &MachineDisk) -> Element {
        let slot = self.slots.next_on(machine.bus_of(disk));
        let (kind, source) = match &disk.volume {
            Some(volume) => {
                ("volume", Element::new("source").with("pool", &volume.pool).with("volume", &volume.name))
            }
            None => ("file", file(&disk.path)),
        };
        let serial = disk.serial.as_deref().map(|text| serial(text, slot.bus));
        let serial = serial.filter(|serial| !serial.is_empty());
        let is_own_device = slot.bus == DiskBus::VirtioBlk;
        let element = Element::new("disk").with("type", kind).with("device", "disk");
        let element = match virtio_model(machine).filter(|_| is_own_device) {
            Some(model) => element.with("model", model),
            None => element,
        };
        element
            .child(driver(disk, slot.bus, is_own_device && has_io_thread(machine)))
            .child(source)
            .child(self.target(slot))
            .children(io_limits(&disk.limits))
            .children(serial.map(|serial| Element::text("serial", serial)))
            .children(disk.boot_order.map(|order| Element::new("boot").with("order", order.max(1))))
            .children(address(slot))
    }

    fn cd(&mut self, machine: &Machine, path: &Path) -> Element {
        let slot = self.slots.next_on(machine.known_bus());
        Element::new("disk")
            .with("type", "file")
            .with("device", "cdrom")
            .child(Element::new("driver").with("name", "qemu").with("type", "raw"))
            .child(file(path))
            .child(self.target(slot))
            .child(Element::new("readonly"))
            .children(address(slot))
    }

    fn virtio(&mut self, path: &Path) -> Element {
        let slot = self.slots.next_on(DiskBus::VirtioBlk);
        Element::new("disk")
            .with("type", "file")
            .with("device", "disk")
            .child(Element::new("driver").with("name", "qemu").with("type", "raw"))
            .child(file(path))
            .child(self.target(slot))
    }

    fn target(&mut self, slot: Slot) -> Element {
        let (bus, prefix, count) = match slot.bus {
            DiskBus::VirtioBlk => ("virtio", "vd", &mut self.virtio),
            DiskBus::VirtioScsi => ("scsi", "sd", &mut self.scsi_or_sata),
            DiskBus::Sata => ("sata", "sd", &mut self.scsi_or_sata),
            DiskBus::Ide => ("ide", "hd", &mut self.ide),
        };
        let name = format!("{prefix}{}", letters(*count));
        *count += 1;
        Element::new("target").with("dev", name).with("bus", bus)
    }
}

/// Said, because libvirt would make it of the name, which counts the disks of several buses.
fn address(slot: Slot) -> Option<Element> {
    let Slot { controller, port, .. } = slot;
    let (channel, target, unit) = match slot.bus {
        DiskBus::VirtioBlk => return None,
        DiskBus::VirtioScsi => (0, port, 0),
        DiskBus::Sata => (0, 0, port),
        DiskBus::Ide => (port / 2, 0, port % 2),
    };
    let address = Element::new("address")
        .with("type", "drive")
        .with("controller", controller)
        .with("bus", channel)
        .with("target", target)
        .with("unit", unit);
    Some(address)
}

fn file(path: &Path) -> Element {
    Element::new("source").with("file", path.display())
}

fn driver(disk: &MachineDisk, bus: DiskBus, has_thread: bool) -> Element {
    let driver = Element::new("driver").with("name", "qemu").with("type", format(disk.format));
    let driver = match disk.cache {
        Some(cache) => driver.with("cache", cache.name()),
        None => driver,
    };
    // The kernel's own way needs a file that goes past its cache.
    let driver = match disk.cache {
        Some(DiskCache::None | DiskCache::Directsync) => driver.with("io", "native"),
        _ => driver,
    };
    let driver = driver.with("discard", "unmap");
    let driver = match bus {
        // A guest on these is mostly one that cannot tell what it no longer needs: zeroes do.
        DiskBus::Sata | DiskBus::Ide => driver.with("detect_zeroes", "unmap"),
        DiskBus::VirtioBlk | DiskBus::VirtioScsi => driver,
    };
    if has_thread { driver.with("iothread", 1) } else { driver }
}

/// `a`, `b`, … `z`, `aa`: as Linux counts disks.
fn letters(index: usize) -> String {
    let letter = char::from(b'a' + (index % 26) as u8);
    match index / 26 {
        0 => letter.to_string(),
        before => format!("{}{letter}", letters(before - 1)),
    }
}

fn format(format: SourceFormat) -> &'static str {
    match format {
        SourceFormat::Vmdk => "vmdk",
        SourceFormat::Qcow2 => "qcow2",
        SourceFormat::Raw => "raw",
        SourceFormat::Vhd => "vpc",
        SourceFormat::Vhdx => "vhdx",
        SourceFormat::Vdi => "vdi",
    }
}

#[cfg(test)]
mod tests {
    use super::super::domain_xml;
    use super::*;

    #[test]
    fn disks_are_counted_as_linux_counts_them() {
        assert_eq!([0, 1, 25, 26, 27, 701, 702].map(letters), ["a", "b", "z", "aa", "ab", "zz", "aaa"]);
    }

    #[test]
    fn each_bus_has_names_of_its_own() {
        let disk = |bus| MachineDisk { bus, ..MachineDisk::new("d", "/d", SourceFormat::Raw) };
        let mut machine = Machine::new("web");
        machine.disks =
            [DiskBus::Sata, DiskBus::VirtioBlk, DiskBus::VirtioScsi, DiskBus::VirtioBlk].map(disk).to_vec();
        let xml = domain_xml(&machine);
        for target in ["dev='sda' bus='sata'", "dev='vda'", "dev='sdb' bus='scsi'", "dev='vdb'"] {
            assert!(xml.contains(target), "{xml}");
        }
    }

    #[test]
    fn a_serial_number_is_cut_to_what_the_bus_takes() {
        let long = "6000C29-0123456789-0123456789-0123456789";
        assert_eq!(serial(long, DiskBus::VirtioBlk), "6000C29-0123456789-0");
        assert_eq!(serial(long, DiskBus::VirtioScsi).len(), 36);
        assert_eq!(serial(" a,b'\n<c> ", DiskBus::Sata), "abc");
        assert_eq!(serial("0123456789012345678 0", DiskBus::Ide), "0123456789012345678");
        assert_eq!(serial("é\0", DiskBus::Ide), "");
    }
}
