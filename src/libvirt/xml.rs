//! The machine as libvirt is told it: `domain.xml`.
//!
//! Pure: the same facts give the same text, and no libvirt is needed to write it. It holds what
//! the guest can see (firmware, disks, network cards, clock, identity) and what people need to get at it
//! (serial console, guest agent, screen); addresses on buses are left to libvirt. What is not here: defining
//! anything, and whether the target host has what the text asks for.

use super::element::Element;
use super::limits::{bandwidth, io_limits};
use super::provenance;
use crate::model::machine::{
    CpuModel, DiskBus, Firmware, Machine, MachineDisk, MachineNic, NicLink, RtcBase, Virtualization,
};
use crate::model::manifest::NicModel;
use crate::model::plan::SourceFormat;

/// The port by which the guest agent is found inside the guest.
pub const AGENT_PORT: &str = "org.qemu.guest_agent.0";
/// libvirt refuses longer names, and file systems the files it makes of them.
const NAME_CHARACTERS: usize = 200;

/// The domain of a machine.
#[must_use]
pub fn domain_xml(machine: &Machine) -> String {
    let uefi = machine.starts_with() == Firmware::Uefi;
    let domain = Element::new("domain")
        .with("type", if machine.virtualization == Virtualization::Kvm { "kvm" } else { "qemu" })
        .child(Element::text("name", domain_name(&machine.name)))
        .children(machine.uuid.iter().map(|uuid| Element::text("uuid", uuid)))
        .children(machine.generation_id.iter().map(|id| Element::text("genid", id)))
        .children(
            machine.provenance.iter().map(|made| Element::new("metadata").child(provenance::element(made))),
        )
        .child(Element::text("memory", machine.memory_mib).with("unit", "MiB"))
        .child(Element::text("vcpu", machine.vcpus))
        .child(os(machine, uefi))
        .children(machine.serial.as_deref().map(sysinfo))
        .child(features(machine, uefi))
        .child(cpu(&machine.cpu))
        .child(clock(machine.rtc))
        .child(Element::text("on_poweroff", "destroy"))
        .child(Element::text("on_reboot", "restart"))
        .child(Element::text("on_crash", "destroy"))
        .child(devices(machine));
    domain.to_string()
}

/// A name that libvirt takes: one line, no slash.
#[must_use]
pub fn domain_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| if c.is_control() || c == '/' { '-' } else { c })
        .take(NAME_CHARACTERS)
        .collect();
    let safe = safe.trim();
    // `.` and `..` would name directories where libvirt makes files of the name.
    if safe.is_empty() || safe.chars().all(|c| c == '.') { "vm".to_owned() } else { safe.to_owned() }
}

fn os(machine: &Machine, uefi: bool) -> Element {
    let mut os = Element::new("os");
    if uefi {
        os = os.with("firmware", "efi");
    }
    os = os.child(Element::text("type", "hvm").with("arch", "x86_64").with("machine", &machine.machine_type));
    if uefi {
        // Both said, because libvirt takes the first firmware that fits, which would be one with secure boot.
        let enabled = if machine.secure_boot { "yes" } else { "no" };
        let feature = |name| Element::new("feature").with("enabled", enabled).with("name", name);
        os = os.child(Element::new("firmware").child(feature("secure-boot")).child(feature("enrolled-keys")));
        if machine.secure_boot {
            os = os.child(Element::new("loader").with("secure", "yes"));
        }
    }
    if machine.serial.is_some() {
        os = os.child(Element::new("smbios").with("mode", "sysinfo"));
    }
    os
}

fn sysinfo(serial: &str) -> Element {
    // libvirt repeats the domain's UUID here by itself.
    let entry = Element::text("entry", serial).with("name", "serial");
    Element::new("sysinfo").with("type", "smbios").child(Element::new("system").child(entry))
}

fn features(machine: &Machine, uefi: bool) -> Element {
    let features = Element::new("features").child(Element::new("acpi")).child(Element::new("apic"));
    // Without it a guest could write the variables that say which signatures count.
    let smm = uefi && machine.secure_boot;
    features.children(smm.then(|| Element::new("smm").with("state", "on")))
}

fn cpu(model: &CpuModel) -> Element {
    match model {
        CpuModel::HostModel => Element::new("cpu").with("mode", "host-model").with("check", "partial"),
        CpuModel::Named(name) => Element::new("cpu")
            .with("mode", "custom")
            .with("match", "exact")
            .child(Element::text("model", name).with("fallback", "allow")),
    }
}

fn clock(base: RtcBase) -> Element {
    let offset = match base {
        RtcBase::Utc => "utc",
        RtcBase::Localtime => "localtime",
    };
    let timer = |name, key, value| Element::new("timer").with("name", name).with(key, value);
    Element::new("clock")
        .with("offset", offset)
        .child(timer("rtc", "tickpolicy", "catchup"))
        .child(timer("pit", "tickpolicy", "delay"))
        .child(timer("hpet", "present", "no"))
}

fn devices(machine: &Machine) -> Element {
    let scsi = machine.disks.iter().any(|disk| disk.bus == DiskBus::VirtioScsi);
    Element::new("devices")
        .children(disks(&machine.disks))
        .children(scsi.then(|| Element::new("controller").with("type", "scsi").with("model", "virtio-scsi")))
        .child(Element::new("controller").with("type", "usb").with("model", "qemu-xhci"))
        .children(machine.nics.iter().map(nic))
        .child(character("serial", "pty", Element::new("target").with("type", "isa-serial").with("port", 0)))
        .child(character("console", "pty", Element::new("target").with("type", "serial").with("port", 0)))
        .child(character(
            "channel",
            "unix",
            Element::new("target").with("type", "virtio").with("name", AGENT_PORT),
        ))
        .child(Element::new("input").with("type", "tablet").with("bus", "usb"))
        .children(machine.tpm.then(tpm))
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
        .child(Element::new("memballoon").with("model", "virtio"))
        .child(
            Element::new("rng")
                .with("model", "virtio")
                .child(Element::text("backend", "/dev/urandom").with("model", "random")),
        )
}

fn disks(disks: &[MachineDisk]) -> Vec<Element> {
    let (mut virtio, mut others) = (0, 0);
    let elements = disks.iter().map(|disk| {
        let (bus, prefix, count) = match disk.bus {
            DiskBus::VirtioBlk => ("virtio", "vd", &mut virtio),
            DiskBus::VirtioScsi => ("scsi", "sd", &mut others),
            DiskBus::Sata => ("sata", "sd", &mut others),
        };
        let target = format!("{prefix}{}", letters(*count));
        *count += 1;
        let (kind, source) = match &disk.volume {
            Some(volume) => {
                ("volume", Element::new("source").with("pool", &volume.pool).with("volume", &volume.name))
            }
            None => ("file", Element::new("source").with("file", disk.path.display())),
        };
        let serial = disk.serial.as_deref().map(serial).filter(|serial| !serial.is_empty());
        Element::new("disk")
            .with("type", kind)
            .with("device", "disk")
            .child(disk_driver(disk))
            .child(source)
            .child(Element::new("target").with("dev", target).with("bus", bus))
            .children(io_limits(&disk.limits))
            .children(serial.map(|serial| Element::text("serial", serial)))
            .children(disk.boot_order.map(|order| Element::new("boot").with("order", order.max(1))))
    });
    elements.collect()
}

fn disk_driver(disk: &MachineDisk) -> Element {
    let driver = Element::new("driver").with("name", "qemu").with("type", driver(disk.format));
    let driver = match disk.cache {
        Some(cache) => driver.with("cache", cache.name()),
        None => driver,
    };
    driver.with("discard", "unmap")
}

/// `a`, `b`, … `z`, `aa`: as Linux counts disks.
fn letters(index: u32) -> String {
    let letter = char::from(b'a' + (index % 26) as u8);
    match index / 26 {
        0 => letter.to_string(),
        before => format!("{}{letter}", letters(before - 1)),
    }
}

/// What libvirt takes of a disk's serial number.
fn serial(serial: &str) -> String {
    serial
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "_.+- ".contains(*c))
        .collect::<String>()
        .trim()
        .to_owned()
}

fn driver(format: SourceFormat) -> &'static str {
    match format {
        SourceFormat::Vmdk => "vmdk",
        SourceFormat::Qcow2 => "qcow2",
        SourceFormat::Raw => "raw",
        SourceFormat::Vhd => "vpc",
        SourceFormat::Vhdx => "vhdx",
        SourceFormat::Vdi => "vdi",
    }
}

fn nic(nic: &MachineNic) -> Element {
    let (kind, source) = match &nic.link {
        NicLink::Network(name) => ("network", Element::new("source").with("network", name)),
        NicLink::Bridge(name) | NicLink::OpenVswitch(name) => {
            ("bridge", Element::new("source").with("bridge", name))
        }
    };
    let is_switch = matches!(nic.link, NicLink::OpenVswitch(_));
    Element::new("interface")
        .with("type", kind)
        .children(nic.mac.iter().map(|mac| Element::new("mac").with("address", mac)))
        .child(source)
        .children(is_switch.then(|| Element::new("virtualport").with("type", "openvswitch")))
        .children(nic.vlan.map(|tag| Element::new("vlan").child(Element::new("tag").with("id", tag))))
        .children(nic.is_unplugged.then(|| Element::new("link").with("state", "down")))
        .children(bandwidth(&nic.limits))
        .child(Element::new("model").with("type", nic_model(nic.model)))
}

fn nic_model(model: NicModel) -> &'static str {
    match model {
        NicModel::Virtio => "virtio",
        NicModel::E1000e => "e1000e",
        NicModel::E1000 => "e1000",
        NicModel::Rtl8139 => "rtl8139",
        NicModel::Vmxnet3 => "vmxnet3",
    }
}

fn character(name: &'static str, kind: &str, target: Element) -> Element {
    Element::new(name).with("type", kind).child(target)
}

fn tpm() -> Element {
    Element::new("tpm")
        .with("model", "tpm-crb")
        .child(Element::new("backend").with("type", "emulator").with("version", "2.0"))
}

#[cfg(test)]
mod tests {
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
    fn a_name_that_libvirt_would_refuse_is_made_one_that_it_takes() {
        for (given, taken) in [
            ("a/b\nc", "a-b-c"),
            ("", "vm"),
            (" .. ", "vm"),
            (" web 1 ", "web 1"),
            ("Müller & <Co>", "Müller & <Co>"),
        ] {
            assert_eq!(domain_name(given), taken);
        }
    }
}
