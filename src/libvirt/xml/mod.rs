//! The machine as libvirt is told it: `domain.xml`.
//!
//! Pure: the same facts give the same text, and no libvirt is needed to write it. It holds what
//! the guest can see (firmware, disks, network cards, clock, identity) and what people need to get at it
//! (serial console, guest agent, screen); addresses of PCI devices are left to libvirt. Nothing in it is newer than libvirt 8.0. What is not
//! here: defining anything, and whether the target host has what the text asks for.

mod devices;
mod disks;
mod nics;
mod processor;
mod trial;

use super::provenance;
use crate::model::element::Element;
use crate::model::machine::{Firmware, Machine, Virtualization};

pub use disks::serial as disk_serial;
pub use trial::{TrialBench, trial_xml};

/// The port by which the guest agent is found inside the guest.
pub const AGENT_PORT: &str = "org.qemu.guest_agent.0";
/// The longest name, in bytes: libvirt makes files of it, and appends to it (`_VARS.fd`, `.save`).
pub const NAME_BYTES: usize = 200;
/// libvirt makes a socket for the agent in a directory with so many characters of the name, …
const NAME_IN_PATH: usize = 20;
/// … and so many bytes of them are what the path of a socket has room for, with a domain's number of six digits.
const BYTES_IN_PATH: usize = 33;
/// Where tools around libvirt look for what runs on a machine.
const LIBOSINFO: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";

/// The domain of a machine.
#[must_use]
pub fn domain_xml(machine: &Machine) -> String {
    domain(machine).to_string()
}

fn domain(machine: &Machine) -> Element {
    Element::new("domain")
        .with("type", if machine.virtualization == Virtualization::Kvm { "kvm" } else { "qemu" })
        .child(Element::text("name", domain_name(&machine.name)))
        .children(machine.uuid.iter().map(|uuid| Element::text("uuid", uuid)))
        .children(machine.generation_id.iter().map(|id| Element::text("genid", id)))
        .children(metadata(machine))
        .child(Element::text("memory", machine.memory_mib).with("unit", "MiB"))
        .child(Element::text("vcpu", machine.vcpus))
        .children(disks::has_io_thread(machine).then(|| Element::text("iothreads", 1)))
        .child(os(machine))
        .children(machine.serial.as_deref().map(sysinfo))
        .child(processor::features(machine))
        .child(processor::cpu(machine))
        .child(processor::clock(machine))
        .child(Element::text("on_poweroff", "destroy"))
        .child(Element::text("on_reboot", "restart"))
        .child(Element::text("on_crash", "restart"))
        .child(power())
        .child(devices::devices(machine))
}

/// A name that libvirt takes: one line, no slash, not too long for its files.
#[must_use]
pub fn domain_name(name: &str) -> String {
    let mut safe: String = name.chars().map(|c| if c.is_control() || c == '/' { '-' } else { c }).collect();
    while safe.len() > NAME_BYTES {
        safe.pop();
    }
    let safe = safe.trim();
    // `.` and `..` would name directories where libvirt makes files of the name.
    if safe.is_empty() || safe.chars().all(|c| c == '.') { "vm".to_owned() } else { safe.to_owned() }
}

/// Whether libvirt can make a socket for the guest agent of a domain of this name: of a long one in other letters than Latin
/// it cannot, and would not start it.
#[must_use]
pub fn has_agent_socket(name: &str) -> bool {
    domain_name(name).chars().take(NAME_IN_PATH).map(char::len_utf8).sum::<usize>() <= BYTES_IN_PATH
}

/// Which system runs on it, and who made it; nothing where nobody knows either.
fn metadata(machine: &Machine) -> Option<Element> {
    let system = machine.os_id.as_ref().map(|id| {
        Element::new("libosinfo:libosinfo")
            .with("xmlns:libosinfo", LIBOSINFO)
            .child(Element::new("libosinfo:os").with("id", id))
    });
    let made = machine.provenance.as_ref().map(provenance::element);
    let is_known = system.is_some() || made.is_some();
    is_known.then(|| Element::new("metadata").children(system).children(made))
}

fn os(machine: &Machine) -> Element {
    let uefi = machine.starts_with() == Firmware::Uefi;
    let hvm = Element::text("type", "hvm").with("arch", "x86_64").with("machine", &machine.machine_type);
    let os = match (&machine.firmware_files, uefi) {
        (_, false) => Element::new("os").child(hvm),
        (Some(files), true) => Element::new("os")
            .child(hvm)
            .child(
                Element::text("loader", files.code.display())
                    .with("readonly", "yes")
                    .with("secure", yes_no(machine.secure_boot))
                    .with("type", "pflash"),
            )
            .child(Element::new("nvram").with("template", files.variables.display())),
        (None, true) => {
            // Both said, because libvirt takes the first firmware that fits, which would be one with secure boot.
            let enabled = yes_no(machine.secure_boot);
            let feature = |name| Element::new("feature").with("enabled", enabled).with("name", name);
            Element::new("os")
                .with("firmware", "efi")
                .child(hvm)
                .child(Element::new("firmware").child(feature("secure-boot")).child(feature("enrolled-keys")))
                .children(machine.secure_boot.then(|| Element::new("loader").with("secure", "yes")))
        }
    };
    os.children(machine.serial.is_some().then(|| Element::new("smbios").with("mode", "sysinfo")))
}

fn sysinfo(serial: &str) -> Element {
    // libvirt repeats the domain's UUID here by itself.
    let entry = Element::text("entry", serial).with("name", "serial");
    Element::new("sysinfo").with("type", "smbios").child(Element::new("system").child(entry))
}

/// A server that falls asleep by itself is one that is down.
fn power() -> Element {
    let off = |name| Element::new(name).with("enabled", "no");
    Element::new("pm").child(off("suspend-to-mem")).child(off("suspend-to-disk"))
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(domain_name(&"n".repeat(300)), "n".repeat(200));
        // 67 characters of three bytes are one too many.
        assert_eq!(domain_name(&"機".repeat(67)), "機".repeat(66));
    }

    #[test]
    fn a_domain_whose_name_leaves_no_room_for_it_has_no_agent() {
        let has_channel = |name: &str| {
            let is_there = domain_xml(&Machine::new(name)).contains(AGENT_PORT);
            assert_eq!(is_there, has_agent_socket(name), "{name}");
            is_there
        };
        assert!(has_channel(&"n".repeat(300)) && has_channel(&"機".repeat(11)));
        assert!(has_channel(&format!("{}{}", "n".repeat(20), "機".repeat(20))));
        assert!(!has_channel(&"機".repeat(12)) && !has_channel("Сервер бухгалтерии первый"));
    }
}
