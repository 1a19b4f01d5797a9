//! The test machine as QEMU is told it: the domain to come, on overlays, without any way out.
//!
//! Pure, and read together with [`crate::libvirt::xml`]: the same buses in the same order, so that the guest finds its
//! devices where it will find them later. What differs is deliberate: disks are overlays that have no name and
//! vanish with QEMU, and every network card is plugged into a hub of its own in which nothing else is. What
//! is not here: starting it, and what becomes of it.

use super::firmware::UefiFirmware;
use super::serial::SERIAL;
use super::tpm;
use crate::libvirt::xml::AGENT_PORT;
use crate::model::machine::{DiskBus, Machine, MachineDisk, MachineNic, RtcBase};
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
/// SATA disks of one controller.
const SATA_PORTS: usize = 6;

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
    let mut line = Arguments { words: Vec::new(), pcie: machine.machine_type.contains("q35"), ports: 0 };
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
        line.nic(number, nic);
    }
    line.consoles();
    line.disks(&machine.disks, bench.disks);
    let port = line.port();
    line.pair("-object", "rng-builtin,id=rng");
    line.pair("-device", format!("virtio-rng-pci,rng=rng{port}"));
    if bench.display {
        line.pair("-device", "VGA,id=screen");
    }
    if machine.tpm {
        line.pair("-chardev", format!("socket,id=tpm,path={}", tpm::SOCKET));
        line.pair("-tpmdev", "emulator,id=tpm,chardev=tpm");
        line.pair("-device", "tpm-crb,tpmdev=tpm");
    }
    line.words
}

struct Arguments {
    words: Vec<String>,
    pcie: bool,
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
    fn nic(&mut self, number: usize, nic: &MachineNic) {
        let bus = match nic.model {
            // Conventional devices do not belong into a PCI Express port.
            NicModel::E1000 | NicModel::Rtl8139 => String::new(),
            NicModel::Virtio | NicModel::E1000e | NicModel::Vmxnet3 => self.port(),
        };
        let model = match nic.model {
            NicModel::Virtio => "virtio-net-pci",
            NicModel::E1000e => "e1000e",
            NicModel::E1000 => "e1000",
            NicModel::Rtl8139 => "rtl8139",
            NicModel::Vmxnet3 => "vmxnet3",
        };
        let mac = nic.mac.as_deref().map(|mac| format!(",mac={}", value(mac))).unwrap_or_default();
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
        let port = self.port();
        self.pair("-device", format!("virtio-serial-pci,id=channels{port}"));
        self.pair("-chardev", socket("agent", AGENT_SOCKET));
        self.pair(
            "-device",
            format!("virtserialport,bus=channels.0,chardev=agent,id={AGENT_ID},name={AGENT_PORT}"),
        );
    }

    fn disks(&mut self, disks: &[MachineDisk], nodes: &[String]) {
        let (mut scsi, mut sata) = (0, 0);
        for (number, (disk, node)) in disks.iter().zip(nodes).enumerate() {
            // Changes go into an overlay that QEMU makes in TMPDIR and removes the name of at once.
            self.pair("-drive", format!("if=none,id=disk{number},snapshot=on,file={}", value(node)));
            let device = match disk.bus {
                DiskBus::VirtioBlk => {
                    let port = self.port();
                    format!("virtio-blk-pci,drive=disk{number}{port}")
                }
                DiskBus::VirtioScsi => {
                    if scsi == 0 {
                        let port = self.port();
                        self.pair("-device", format!("virtio-scsi-pci,id=scsi{port}"));
                    }
                    scsi += 1;
                    format!("scsi-hd,bus=scsi.0,scsi-id={},drive=disk{number}", scsi - 1)
                }
                DiskBus::Sata => {
                    let (controller, port) = (sata / SATA_PORTS, sata % SATA_PORTS);
                    sata += 1;
                    // The first controller is part of q35.
                    let own = controller == 0 && self.pcie;
                    if port == 0 && !own {
                        self.pair("-device", format!("ich9-ahci,id=sata{controller}"));
                    }
                    let bus = if own { "ide".to_owned() } else { format!("sata{controller}") };
                    format!("ide-hd,bus={bus}.{port},drive=disk{number}")
                }
            };
            let serial = disk.serial.as_deref().map(|serial| format!(",serial={}", value(serial)));
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
    use crate::model::machine::NicLink;
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
        assert_eq!(*disk, "virtio-blk-pci,drive=disk0,bus=port2,serial=a,,b,bootindex=1");
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
