//! The test machine as QEMU is told it: the domain to come, on overlays, without any way out.
//!
//! Pure, and read together with [`crate::libvirt::xml`]: the same buses in the same order, so that the guest finds its
//! devices where it will find them later. What differs is deliberate: disks are overlays that have no name and
//! vanish with QEMU, and every network card is plugged into a hub of its own in which nothing else is. What
//! is not here: starting it, and what becomes of it.

use super::firmware::UefiFirmware;
use super::serial::SERIAL;
use super::tpm;
use crate::libvirt::xml::{AGENT_PORT, disk_serial};
use crate::model::fitting::Slots;
use crate::model::machine::{DiskBus, Machine, RtcBase};
use crate::model::manifest::NicModel;

/// Sockets and files in the test's directory, in which QEMU works.
pub(super) const CONTROL_SOCKET: &str = "control.sock";
pub(super) const AGENT_SOCKET: &str = "agent.sock";
/// The firmware's variables of this test.
pub(super) const VARIABLES: &str = "variables.fd";
/// Holds the number of the serial port on which SeaBIOS repeats what it and boot loaders write on the screen.
pub(super) const BIOS_CONSOLE: &str = "bios-console";
/// The content of that file: I/O port 0x3f8.
pub(super) const BIOS_CONSOLE_PORT: [u8; 2] = 0x3f8_u16.to_le_bytes();
/// QEMU's name of the port that the guest agent opens.
pub(super) const AGENT_ID: &str = "agent";

/// What the machine's facts leave open.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    /// `kvm` or `tcg`.
    pub(super) accel: &'a str,
    /// None: SeaBIOS.
    pub(super) uefi: Option<&'a UefiFirmware>,
    /// How QEMU opens each disk, in the machine's order.
    pub(super) disks: &'a [String],
    pub(super) memory_mib: u64,
    pub(super) vcpus: u32,
    pub(super) display: bool,
}

/// QEMU's arguments.
pub(super) fn arguments(machine: &Machine, bench: &Bench<'_>) -> Vec<String> {
    let mut line = Arguments {
        words: Vec::new(),
        pcie: machine.is_pcie(),
        virtio_is_old: machine.is_virtio_old,
        ports: 0,
    };
    // It waits for us, and at its end too; nothing of this host's configuration or defaults gets in.
    line.words("-nodefaults -no-user-config -display none -S -no-shutdown -boot strict=on");
    let smm = if bench.uefi.is_some_and(|uefi| uefi.needs_smm) { ",smm=on" } else { "" };
    line.pair("-machine", format!("{}{smm}", value(&machine.machine_type)));
    line.pair("-accel", bench.accel);
    line.pair("-cpu", if bench.accel == "kvm" { "host" } else { "max" });
    line.pair("-m", bench.memory_mib.to_string());
    line.pair("-smp", bench.vcpus.to_string());
    if let Some(uuid) = &machine.uuid {
        line.pair("-uuid", uuid);
    }
    if let Some(serial) = &machine.serial {
        line.pair("-smbios", format!("type=1,serial={}", value(serial)));
    }
    line.pair("-rtc", if machine.rtc == RtcBase::Utc { "base=utc" } else { "base=localtime" });
    line.firmware(bench.uefi);
    for (number, nic) in machine.nics.iter().enumerate() {
        line.nic(number, machine.model_of(nic), nic.mac.as_deref());
    }
    line.consoles();
    line.disks(machine, bench.disks);
    let port = line.virtio_port();
    line.pair("-object", "rng-builtin,id=rng");
    line.pair("-device", format!("virtio-rng-pci,rng=rng{port}"));
    if bench.display {
        line.pair("-device", "VGA,id=screen");
    }
    if machine.tpm {
        line.pair("-chardev", format!("socket,id=tpm,path={}", tpm::SOCKET));
        line.pair("-tpmdev", "emulator,id=tpm,chardev=tpm");
        line.pair("-device", format!("{},tpmdev=tpm", if machine.has_crb() { "tpm-crb" } else { "tpm-tis" }));
    }
    line.words
}

struct Arguments {
    words: Vec<String>,
    pcie: bool,
    virtio_is_old: bool,
    ports: usize,
}

impl Arguments {
    fn words(&mut self, words: &str) {
        self.words.extend(words.split(' ').map(str::to_owned));
    }

    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.words.push(option.to_owned());
        self.words.push(value.into());
    }

    /// A port of its own for the next device, as libvirt gives it; on machines without PCI Express, none.
    fn port(&mut self) -> String {
        if !self.pcie {
            return String::new();
        }
        let number = self.ports;
        self.ports += 1;
        self.pair("-device", format!("pcie-root-port,id=port{number},chassis={}", number + 1));
        format!(",bus=port{number}")
    }

    /// The same for a device of virtio. One beside all ports speaks the older virtio, too, which in a port it does not.
    fn virtio_port(&mut self) -> String {
        if self.virtio_is_old { String::new() } else { self.port() }
    }

    fn firmware(&mut self, uefi: Option<&UefiFirmware>) {
        let Some(uefi) = uefi else {
            self.pair("-fw_cfg", format!("name=etc/sercon-port,file={BIOS_CONSOLE}"));
            return;
        };
        let code = value(&uefi.code.display().to_string());
        let format = value(&uefi.format);
        self.pair("-drive", format!("if=pflash,unit=0,format={format},readonly=on,file={code}"));
        self.pair("-drive", format!("if=pflash,unit=1,format={format},file={VARIABLES}"));
        if uefi.needs_smm {
            self.pair("-global", "driver=cfi.pflash01,property=secure,value=on");
            self.pair("-global", "ICH9-LPC.disable_s3=1");
        }
    }

    /// A hub has as many ports as are plugged into it: this one has the guest's, and nobody else's.
    fn nic(&mut self, number: usize, model: NicModel, mac: Option<&str>) {
        let bus = match model {
            // Conventional devices do not belong into a PCI Express port.
            NicModel::E1000 | NicModel::Rtl8139 => String::new(),
            NicModel::Virtio => self.virtio_port(),
            NicModel::E1000e | NicModel::Vmxnet3 => self.port(),
        };
        let model = match model {
            NicModel::Virtio => "virtio-net-pci",
            NicModel::E1000e => "e1000e",
            NicModel::E1000 => "e1000",
            NicModel::Rtl8139 => "rtl8139",
            NicModel::Vmxnet3 => "vmxnet3",
        };
        let mac = mac.map(|mac| format!(",mac={}", value(mac))).unwrap_or_default();
        self.pair("-netdev", format!("hubport,id=net{number},hubid={number}"));
        // Without a boot ROM: nothing is to be found there.
        self.pair("-device", format!("{model},netdev=net{number}{mac},romfile={bus}"));
    }

    fn consoles(&mut self) {
        let socket = |id: &str, path: &str| format!("socket,id={id},path={path},server=on,wait=off");
        self.pair("-chardev", socket("control", CONTROL_SOCKET));
        self.pair("-mon", "chardev=control,mode=control");
        self.pair("-chardev", format!("pipe,id=console,path={SERIAL}"));
        self.pair("-device", "isa-serial,chardev=console");
        let port = self.virtio_port();
        self.pair("-device", format!("virtio-serial-pci,id=channels{port}"));
        self.pair("-chardev", socket("agent", AGENT_SOCKET));
        self.pair(
            "-device",
            format!("virtserialport,bus=channels.0,chardev=agent,id={AGENT_ID},name={AGENT_PORT}"),
        );
    }

    fn disks(&mut self, machine: &Machine, nodes: &[String]) {
        let mut slots = Slots::default();
        for (number, (disk, node)) in machine.disks.iter().zip(nodes).enumerate() {
            // Changes go into an overlay that QEMU makes in TMPDIR and removes the name of at once.
            self.pair("-drive", format!("if=none,id=disk{number},snapshot=on,file={}", value(node)));
            let slot = slots.next_on(machine.bus_of(disk));
            let (controller, place) = (slot.controller, slot.port);
            let device = match slot.bus {
                DiskBus::VirtioBlk => {
                    let port = self.virtio_port();
                    format!("virtio-blk-pci,drive=disk{number}{port}")
                }
                DiskBus::VirtioScsi => {
                    if place == 0 {
                        let port = self.virtio_port();
                        self.pair("-device", format!("virtio-scsi-pci,id=scsi{controller}{port}"));
                    }
                    format!("scsi-hd,bus=scsi{controller}.0,scsi-id={place},drive=disk{number}")
                }
                DiskBus::Sata => {
                    // The first controller is part of q35.
                    let own = controller == 0 && self.pcie;
                    if place == 0 && !own {
                        self.pair("-device", format!("ich9-ahci,id=sata{controller}"));
                    }
                    let bus = if own { "ide".to_owned() } else { format!("sata{controller}") };
                    format!("ide-hd,bus={bus}.{place},drive=disk{number}")
                }
                DiskBus::Ide => {
                    format!("ide-hd,bus=ide.{},unit={},drive=disk{number}", place / 2, place % 2)
                }
            };
            let serial = disk.serial.as_deref().map(|serial| disk_serial(serial, slot.bus));
            let serial = serial.filter(|serial| !serial.is_empty()).map(|serial| format!(",serial={serial}"));
            let order = disk.boot_order.map(|order| format!(",bootindex={}", order.max(1)));
            self.pair(
                "-device",
                format!("{device}{}{}", serial.unwrap_or_default(), order.unwrap_or_default()),
            );
        }
    }
}

/// A value within an option: commas are doubled, and a line break would end nothing but looks like it.
fn value(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::machine::{MachineDisk, MachineNic, NicLink};
    use crate::model::plan::SourceFormat;
    use std::path::PathBuf;

    fn bench<'a>(disks: &'a [String], uefi: Option<&'a UefiFirmware>) -> Bench<'a> {
        Bench { accel: "tcg", uefi, disks, memory_mib: 512, vcpus: 1, display: true }
    }

    fn nic(model: NicModel) -> MachineNic {
        MachineNic {
            mac: Some("00:50:56:aa:bb:cc".to_owned()),
            model,
            ..MachineNic::new(NicLink::Bridge("br0".to_owned()))
        }
    }

    fn disk(bus: DiskBus) -> MachineDisk {
        MachineDisk {
            bus,
            serial: Some("a,b\n".to_owned()),
            boot_order: Some(1),
            ..MachineDisk::new("d", "/d", SourceFormat::Raw)
        }
    }

    fn after<'a>(words: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = words.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn every_network_card_is_alone_in_a_hub_and_nothing_else_is_a_network() {
        let mut machine = Machine::new("web");
        machine.nics = vec![nic(NicModel::Virtio), nic(NicModel::E1000), nic(NicModel::Virtio)];
        let words = arguments(&machine, &bench(&[], None));
        let backends = after(&words, "-netdev");
        assert_eq!(backends, [0, 1, 2].map(|n| format!("hubport,id=net{n},hubid={n}")));
        let ways_out = ["br0", "tap", "user,", "type=user", "passt", "vhost", "bridge", "l2tp", "id=net,"];
        assert!(words.iter().all(|word| !ways_out.iter().any(|way| word.contains(way))), "{words:?}");
        assert!(!words.iter().any(|word| word == "-nic" || word == "-net"), "{words:?}");
        let cards = words.iter().filter(|word| word.contains("mac=00:50:56:aa:bb:cc,romfile="));
        assert_eq!(cards.count(), 3);
    }

    #[test]
    fn the_first_card_and_disk_are_where_libvirt_puts_them() {
        let mut machine = Machine::new("web");
        machine.nics = vec![nic(NicModel::Virtio)];
        machine.disks = vec![disk(DiskBus::VirtioBlk)];
        let words = arguments(&machine, &bench(&["json:{}".to_owned()], None));
        let devices = after(&words, "-device");
        assert_eq!(devices[0], "pcie-root-port,id=port0,chassis=1");
        assert!(devices[1].starts_with("virtio-net-pci,") && devices[1].ends_with(",bus=port0"));
        let disk = devices.iter().find(|device| device.starts_with("virtio-blk-pci,")).unwrap();
        assert_eq!(*disk, "virtio-blk-pci,drive=disk0,bus=port2,serial=ab,bootindex=1");
    }

    #[test]
    fn every_disk_is_an_overlay_whatever_it_hangs_on() {
        let mut machine = Machine::new("web");
        let buses = [DiskBus::VirtioScsi, DiskBus::VirtioScsi].into_iter().chain([DiskBus::Sata; 7]);
        machine.disks = buses.map(disk).collect();
        let nodes: Vec<String> = (0..9).map(|n| format!("json:{{\"file\":\"{n}\",\"x\":1}}")).collect();
        let words = arguments(&machine, &bench(&nodes, None));
        let drives = after(&words, "-drive");
        assert_eq!(drives.len(), 9);
        assert!(drives.iter().all(|drive| drive.contains(",snapshot=on,") && drive.contains("\",,\"x\"")));
        let devices = after(&words, "-device").join(" ");
        for part in ["scsi-id=1,", "bus=ide.5,", "ich9-ahci,id=sata1", "bus=sata1.0,"] {
            assert!(devices.contains(part), "{devices}");
        }
        assert_eq!(devices.matches("virtio-scsi-pci").count(), 1);
    }

    #[test]
    fn an_old_guest_finds_its_disks_and_cards_where_it_can_drive_them() {
        let mut machine = Machine { is_virtio_old: true, ..Machine::new("web") };
        machine.nics = vec![nic(NicModel::Virtio)];
        machine.disks = vec![disk(DiskBus::VirtioBlk)];
        machine.tpm = true;
        let node = ["json:{}".to_owned()];
        let devices = after(&arguments(&machine, &bench(&node, None)), "-device").join(" ");
        assert!(!devices.contains("bus=port") && devices.contains("tpm-tis"), "{devices}");
        machine.machine_type = "pc".to_owned();
        machine.disks = vec![disk(DiskBus::Ide); 5];
        let nodes = vec!["json:{}".to_owned(); 5];
        let devices = after(&arguments(&machine, &bench(&nodes, None)), "-device").join(" ");
        for part in ["bus=ide.0,unit=0,", "bus=ide.1,unit=1,", "ich9-ahci,id=sata0", "bus=sata0.0,"] {
            assert!(devices.contains(part), "{devices}");
        }
    }

    #[test]
    fn secure_boot_protects_the_variables_from_the_guest() {
        let uefi = UefiFirmware {
            code: PathBuf::from("/fw,x/CODE.fd"),
            variables: PathBuf::from("/fw/VARS.fd"),
            format: "raw".to_owned(),
            needs_smm: true,
        };
        let words = arguments(&Machine::new("web"), &bench(&[], Some(&uefi)));
        assert_eq!(after(&words, "-machine"), ["q35,smm=on"]);
        assert_eq!(after(&words, "-drive")[0], "if=pflash,unit=0,format=raw,readonly=on,file=/fw,,x/CODE.fd");
        assert!(after(&words, "-global")[0].contains("property=secure"));
    }
}
