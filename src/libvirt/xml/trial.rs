//! The domain of a machine as it is tried: what [`super::domain_xml`] writes, with all that leads out of the test replaced.
//!
//! ```text
//!   name, UUID      of the test's own        cards           plugged into nothing, cable out
//!   disks           overlays on a socket     serial console  two pipes of the test's
//!   variables       a copy of the test's     agent           a socket of the test's
//!   screen          reached by nobody        a crash         is kept, to be seen
//! ```
//!
//! Everything else stays as the domain to come has it: that is what is tried. Pure, like the rest of the writer. What is not here: what the
//! paths lead to.

use std::path::Path;

use super::domain;
use crate::model::element::Element;
use crate::model::machine::{DriverStage, Firmware, Machine, Virtualization};
use crate::model::plan::SourceFormat;

/// What a test has in place of what it leaves out.
#[derive(Debug, Clone, Copy)]
pub struct TrialBench<'a> {
    /// The domain's name.
    pub name: &'a str,
    /// Where its disks are served, …
    pub disks: &'a Path,
    /// … and by which name each, in the machine's order.
    pub disk_names: &'a [String],
    /// Two pipes, to whose path `.in` and `.out` are added.
    pub serial: &'a Path,
    /// Where somebody listens for the guest's agent.
    pub agent: &'a Path,
    /// Where the firmware's variables go.
    pub variables: &'a Path,
    /// What runs it.
    pub virtualization: Virtualization,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u32,
    /// Whether it has a screen.
    pub display: bool,
}

/// The domain to be tried.
#[must_use]
pub fn trial_xml(machine: &Machine, bench: &TrialBench<'_>) -> String {
    let mut tried = machine.clone();
    bench.name.clone_into(&mut tried.name);
    // By the UUID libvirt finds what belongs to a machine: with the real one this would be the real one's TPM.
    tried.uuid = None;
    tried.provenance = None;
    (tried.memory_mib, tried.vcpus) = (bench.memory_mib, bench.vcpus);
    tried.virtualization = bench.virtualization;
    for disk in &mut tried.disks {
        disk.format = SourceFormat::Raw;
        disk.volume = None;
    }
    if let DriverStage::Bootstrap { cd, disk } = &mut tried.stage {
        // Files, whose owner libvirt would change.
        (*cd, *disk) = (None, None);
    }
    let mut names = bench.disk_names.iter();
    domain(&tried)
        .each_child(|child| {
            Some(match child.name() {
                "os" => os(child, tried.starts_with(), bench),
                "on_crash" => Element::text("on_crash", "preserve"),
                "devices" => child.each_child(|device| changed(device, bench, &mut names)),
                _ => child,
            })
        })
        .to_string()
}

fn os(os: Element, firmware: Firmware, bench: &TrialBench<'_>) -> Element {
    match firmware {
        // What SeaBIOS and boot loaders show is said on the serial console, too.
        Firmware::Bios => os.child(Element::new("bios").with("useserial", "yes")),
        Firmware::Uefi => {
            let mut template = None;
            let os = os.each_child(|child| {
                let is_nvram = child.name() == "nvram";
                if is_nvram {
                    template = child.attribute("template").map(str::to_owned);
                }
                (!is_nvram).then_some(child)
            });
            let own = Element::text("nvram", bench.variables.display());
            os.child(match template {
                Some(template) => own.with("template", template),
                None => own,
            })
        }
    }
}

fn changed<'n>(
    device: Element,
    bench: &TrialBench<'_>,
    names: &mut impl Iterator<Item = &'n String>,
) -> Option<Element> {
    match device.name() {
        "disk" => Some(disk(device, bench, names.next()?)),
        "interface" => Some(card(device)),
        "serial" => Some(with_source(
            device.without("type").with("type", "pipe"),
            Element::new("source").with("path", bench.serial.display()),
        )),
        // libvirt makes it of the serial port.
        "console" => None,
        "channel" => Some(with_source(
            device,
            Element::new("source").with("mode", "connect").with("path", bench.agent.display()),
        )),
        // Whoever may connect to a port of this host could type into the guest.
        "graphics" => None,
        "video" => Some(if bench.display {
            device
        } else {
            Element::new("video").child(Element::new("model").with("type", "none"))
        }),
        _ => Some(device),
    }
}

fn with_source(device: Element, source: Element) -> Element {
    device.each_child(|child| (child.name() != "source").then_some(child)).child(source)
}

fn disk(disk: Element, bench: &TrialBench<'_>, name: &str) -> Element {
    let host = Element::new("host").with("transport", "unix").with("socket", bench.disks.display());
    let source = Element::new("source").with("protocol", "nbd").with("name", name).child(host);
    let disk = disk.without("type").with("type", "network").each_child(|child| match child.name() {
        // How this host reads and caches the image, and how much of it in a second, is not what is tried.
        "driver" => Some(child.without("cache").without("io")),
        "iotune" => None,
        _ => Some(child),
    });
    with_source(disk, source)
}

/// A card with a cable that is not plugged in. Without a boot ROM: nothing is to be found there.
fn card(card: Element) -> Element {
    card.without("type")
        .with("type", "user")
        .each_child(|child| matches!(child.name(), "mac" | "model").then_some(child))
        .child(Element::new("link").with("state", "down"))
        .child(Element::new("rom").with("enabled", "no"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::machine::{DiskVolume, FirmwareFiles, MachineDisk, MachineNic, NicLink};
    use crate::model::manifest::DiskCache;

    fn machine() -> Machine {
        let mut machine = Machine::new("web");
        machine.uuid = Some("564d1c2a-0000-1111-2222-333344445555".to_owned());
        machine.disks = vec![
            MachineDisk {
                cache: Some(DiskCache::None),
                boot_order: Some(1),
                ..MachineDisk::new("root", "/srv/web.qcow2", SourceFormat::Qcow2)
            },
            MachineDisk {
                volume: Some(DiskVolume { pool: "vms".to_owned(), name: "data".to_owned() }),
                ..MachineDisk::new("data", "/srv/data.qcow2", SourceFormat::Qcow2)
            },
        ];
        machine.nics = vec![MachineNic {
            mac: Some("00:50:56:aa:bb:cc".to_owned()),
            vlan: Some(12),
            ..MachineNic::new(NicLink::OpenVswitch("br0".to_owned()))
        }];
        machine.tpm = true;
        machine
    }

    fn tried(machine: &Machine, display: bool) -> String {
        let bench = TrialBench {
            name: "h2k-test-web-1",
            disks: Path::new("/run/t/disks"),
            disk_names: &["disk0".to_owned(), "disk1".to_owned()],
            serial: Path::new("/run/t/serial"),
            agent: Path::new("/run/t/agent"),
            variables: Path::new("/run/t/variables.fd"),
            virtualization: Virtualization::Emulated,
            memory_mib: 512,
            vcpus: 1,
            display,
        };
        trial_xml(machine, &bench)
    }

    #[test]
    fn nothing_of_a_trial_leads_to_what_the_real_machine_has() {
        let mut machine = machine();
        machine.stage =
            DriverStage::Bootstrap { cd: Some("/srv/virtio.iso".into()), disk: Some("/srv/small".into()) };
        for firmware in [Firmware::Bios, Firmware::Uefi] {
            machine.firmware = Some(firmware);
            let xml = tried(&machine, true);
            let real = [
                "564d1c2a",
                ">web<",
                "/srv/",
                "vms",
                "br0",
                "vlan",
                "openvswitch",
                "vnc",
                "pty",
                "127.0.0.1",
            ];
            assert!(real.iter().all(|real| !xml.contains(real)), "{xml}");
        }
    }

    #[test]
    fn what_is_tried_is_said_as_it_will_be() {
        let xml = tried(&machine(), true);
        for part in [
            "<domain type='qemu'>",
            "<name>h2k-test-web-1</name>",
            "<memory unit='MiB'>512</memory>",
            "<source protocol='nbd' name='disk0'>",
            "<source protocol='nbd' name='disk1'>",
            "<target dev='vdb' bus='virtio'/>",
            "<boot order='1'/>",
            "<mac address='00:50:56:aa:bb:cc'/>",
            "<link state='down'/>",
            "<bios useserial='yes'/>",
            "<source path='/run/t/serial'/>",
            "<source mode='connect' path='/run/t/agent'/>",
            "<backend type='emulator' version='2.0'/>",
            "<on_crash>preserve</on_crash>",
        ] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
        assert!(!xml.contains("cache=") && !xml.contains("io=") && xml.contains("discard='unmap'"), "{xml}");
        assert!(tried(&machine(), false).contains("<model type='none'/>"));
    }

    #[test]
    fn variables_are_the_tests_own_however_the_firmware_was_named() {
        let mut machine = Machine { firmware: Some(Firmware::Uefi), ..machine() };
        assert!(tried(&machine, true).contains("<nvram>/run/t/variables.fd</nvram>"));
        machine.firmware_files =
            Some(FirmwareFiles { code: "/fw/CODE.fd".into(), variables: "/fw/VARS.fd".into() });
        let xml = tried(&machine, true);
        assert!(xml.contains("<nvram template='/fw/VARS.fd'>/run/t/variables.fd</nvram>"), "{xml}");
    }
}
