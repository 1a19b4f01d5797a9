//! Machines of all kinds: what the writer of domains is reviewed by, and what a real libvirt is given.
//!
//! Each is as it would come out of a plan and of what was found in its guest.

use std::path::PathBuf;

use hyper2kvm::model::guest::{GuestIdentity, GuestKernel, GuestType};
use hyper2kvm::model::limits::{DiskLimits, FlowLimit};
use hyper2kvm::model::machine::{
    CpuModel, DiskBus, DiskVolume, DriverStage, Firmware, FirmwareFiles, Machine, MachineDisk, MachineNic,
    NicLink, Virtualization,
};
use hyper2kvm::model::manifest::{DiskCache, Manifest, NicModel};
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::model::provenance::{ConfiguredAddress, Provenance};

/// All of them, by the names of their reviewed texts.
pub fn all() -> Vec<(&'static str, Machine)> {
    let mut all = plain();
    all.extend(windows());
    all.extend(old());
    all.extend(disks());
    all.extend(around());
    all
}

/// A machine of two disks that a manifest describes.
pub fn machine(name: &str, manifest: &str) -> Machine {
    of_disks(name, manifest, &["boot", "data"])
}

fn of_disks(name: &str, manifest: &str, ids: &[&str]) -> Machine {
    let manifest: Manifest = serde_yaml::from_str(manifest).unwrap();
    let image = |id: &&str| {
        ((*id).to_owned(), PathBuf::from(format!("/srv/out/{name}/{id}.qcow2")), SourceFormat::Qcow2)
    };
    Machine::of_manifest(name, &manifest, ids.iter().map(image))
}

fn linux(id: &str, version: &str, kernel: &str) -> GuestIdentity {
    let kernel = GuestKernel { version: kernel.to_owned(), default: true, ..GuestKernel::default() };
    GuestIdentity {
        kind: GuestType::Linux,
        os_id: Some(id.to_owned()),
        os_version: Some(version.to_owned()),
        kernels: vec![kernel],
        ..GuestIdentity::default()
    }
}

fn of_windows(version: &str, name: &str) -> GuestIdentity {
    GuestIdentity {
        kind: GuestType::Windows,
        os_version: Some(version.to_owned()),
        os_pretty: Some(name.to_owned()),
        ..GuestIdentity::default()
    }
}

fn debian() -> GuestIdentity {
    linux("debian", "12", "6.1.0-56-amd64")
}

/// Machines of today.
fn plain() -> Vec<(&'static str, Machine)> {
    let mut uefi = machine("app", "{vm: {firmware: uefi, cpu: 4}, nics: [{mac: '00:50:56:aa:bb:01'}]}")
        .fit_for(&debian());
    uefi.provenance = Some(Provenance {
        version: "0.1.0".to_owned(),
        batch_id: "night".to_owned(),
        vm_id: "app".to_owned(),
        made_at: "2026-11-29T12:00:00Z".to_owned(),
        source: Some("4212-88".to_owned()),
        addresses: vec![ConfiguredAddress {
            mac: Some("00:50:56:aa:bb:01".to_owned()),
            address: "192.0.2.7".to_owned(),
        }],
    });
    let by_files = Machine {
        firmware_files: Some(FirmwareFiles {
            code: PathBuf::from("/usr/share/OVMF/OVMF_CODE_4M.ms.fd"),
            variables: PathBuf::from("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
        }),
        ..machine("fw", "vm: {firmware: uefi, secureboot: true}")
    };
    vec![
        ("bare", Machine::new("bare")),
        ("bios", machine("web", "nics: [{mac: '00:50:56:aa:bb:cc'}, {bridge: br0, model: e1000e}]")),
        ("uefi", uefi),
        ("uefi-by-files", by_files),
        (
            "secure-boot-linux",
            machine("signed", "vm: {firmware: uefi, secureboot: true, tpm: true}").fit_for(&linux(
                "rhel",
                "9.4",
                "5.14.0-427.13.1.el9_4.x86_64",
            )),
        ),
        (
            // A guest that was not repaired.
            "emulated",
            machine("old", "nics: [{mac: '00:50:56:aa:bb:cc'}]").found(Some(Firmware::Uefi)).emulated(),
        ),
        (
            "without-kvm",
            Machine { virtualization: Virtualization::Emulated, ..machine("slow", "vm: {cpu: 1}") }
                .fit_for(&debian()),
        ),
        (
            "named-processor",
            Machine { cpu: CpuModel::Named("Skylake-Server".to_owned()), ..machine("fleet", "vm: {cpu: 8}") },
        ),
    ]
}

fn windows() -> Vec<(&'static str, Machine)> {
    let mut eleven = machine(
        "desk",
        "vm: {cpu: 4, mem_mb: 6144, firmware: uefi, secureboot: true, tpm: true, disk_bus: scsi, os_hint: windows,
              uuid: 564d1c2a-0000-1111-2222-333344445555, serial: 'VMware-56 4d 1c 2a'}",
    );
    eleven.disks[0].serial = Some("6000c29a8b".to_owned());
    let eleven = eleven.fit_for(&of_windows("10.0.22631", "Windows 11 Pro"));
    let server =
        machine("files", "{vm: {cpu: 4, mem_gb: 8, firmware: uefi}, nics: [{mac: '00:50:56:aa:bb:02'}]}")
            .fit_for(&of_windows("10.0.20348", "Windows Server 2022 Standard"));
    let bootstrap = DriverStage::Bootstrap {
        cd: Some(PathBuf::from("/usr/share/virtio-win/virtio-win.iso")),
        disk: Some(PathBuf::from("/srv/out/files/probe.raw")),
    };
    vec![
        ("secure-boot", eleven),
        ("windows-final", server.clone()),
        ("windows-bootstrap", Machine { stage: bootstrap, ..server }),
        (
            "windows-7",
            machine("lab", "vm: {cpu: 2, disk_bus: sata}")
                .fit_for(&of_windows("6.1.7601", "Windows 7 Professional")),
        ),
    ]
}

/// Guests that are older than what machines are made of today.
fn old() -> Vec<(&'static str, Machine)> {
    let rhel_5 = || linux("rhel", "5.11", "2.6.18-398.el5");
    let nic = "nics: [{mac: '00:50:56:aa:bb:03'}]";
    let five = of_disks("five", nic, &["boot", "b", "c", "d", "e"]);
    let mut six = machine("six", "{vm: {tpm: true, disk_bus: scsi}, nics: [{mac: '00:50:56:aa:bb:04'}]}");
    six.disks[1].bus = DiskBus::VirtioBlk;
    vec![
        ("rhel-5", machine("rhel5", nic).fit_for(&rhel_5())),
        ("rhel-5-unrepaired", five.fit_for(&rhel_5()).emulated()),
        ("rhel-6", six.fit_for(&linux("rhel", "6.10", "2.6.32-754.el6.x86_64"))),
        (
            "windows-2003",
            machine("nt", nic).fit_for(&of_windows("5.2.3790", "Windows Server 2003 R2")).emulated(),
        ),
        ("said-pc", machine("pc", "vm: {machine: pc, tpm: true, disk_bus: ide}").fit_for(&debian())),
        ("ide-on-q35", machine("ide", "vm: {machine: q35, disk_bus: ide}").fit_for(&debian())),
    ]
}

fn many(name: &str, bus: DiskBus, count: usize) -> Machine {
    let mut machine = Machine::new(name);
    machine.disks = (1..=count)
        .map(|number| MachineDisk {
            bus,
            boot_order: u32::try_from(number).ok(),
            ..MachineDisk::new(
                format!("disk-{number}"),
                format!("/srv/out/{name}/disk-{number}.qcow2"),
                SourceFormat::Qcow2,
            )
        })
        .collect();
    machine
}

fn disks() -> Vec<(&'static str, Machine)> {
    let mut each_bus = many("buses", DiskBus::VirtioBlk, 6);
    for (disk, bus) in each_bus.disks.iter_mut().zip([
        DiskBus::Sata,
        DiskBus::VirtioBlk,
        DiskBus::VirtioScsi,
        DiskBus::Sata,
        DiskBus::VirtioScsi,
        DiskBus::Ide,
    ]) {
        disk.bus = bus;
        disk.boot_order = None;
        disk.serial = Some("6000C29a-8b10-11d2-2ab3-0123456789abcdef0123".to_owned());
    }
    let mut formats = many("formats", DiskBus::VirtioBlk, 5);
    for (disk, format) in formats.disks.iter_mut().zip([
        SourceFormat::Raw,
        SourceFormat::Qcow2,
        SourceFormat::Vmdk,
        SourceFormat::Vhd,
        SourceFormat::Vdi,
    ]) {
        disk.format = format;
    }
    for (disk, cache) in formats.disks.iter_mut().zip([
        DiskCache::None,
        DiskCache::Directsync,
        DiskCache::Writeback,
        DiskCache::Writethrough,
        DiskCache::Unsafe,
    ]) {
        disk.cache = Some(cache);
    }
    vec![
        ("disks-1", many("one", DiskBus::VirtioBlk, 1)),
        ("disks-7-sata", many("seven", DiskBus::Sata, 7)),
        ("disks-20-scsi", many("twenty", DiskBus::VirtioScsi, 20)),
        ("disks-30", many("thirty", DiskBus::VirtioBlk, 30)),
        ("disks-of-each-bus", each_bus),
        ("disks-of-each-format", formats),
    ]
}

/// Networks, limits, names, and what libvirt's stage adds.
fn around() -> Vec<(&'static str, Machine)> {
    let mut nics = machine("router", "{}");
    let network = || NicLink::Network("default".to_owned());
    nics.nics = [NicModel::Virtio, NicModel::E1000e, NicModel::E1000, NicModel::Rtl8139, NicModel::Vmxnet3]
        .map(|model| MachineNic { model, ..MachineNic::new(network()) })
        .to_vec();
    nics.nics[4].is_unplugged = true;
    let mut clone = machine("web-copy", "nics: [{mac: '52:54:00:aa:bb:01'}, {mac: '52:54:00:aa:bb:02'}]");
    clone.generation_id = Some("43dc0cf8-809b-4adb-9bea-a9abb5f3d90e".to_owned());
    for nic in &mut clone.nics {
        nic.is_unplugged = true;
    }
    let mut pool = machine("pooled", "{}").fit_for(&debian());
    for disk in &mut pool.disks {
        let name = format!("pooled {}.qcow2", disk.id);
        disk.volume = Some(DiskVolume { pool: "vms & \"others\"".to_owned(), name });
    }
    let mut named = machine("n", "{}");
    named.name = "Zürich \"Büro\" <1> & 'co' 機".to_owned();
    named.serial = Some("<&'\">".to_owned());
    named.disks[0].path = PathBuf::from("/srv/out/it's <here> & \"there\"/bücher.qcow2");
    let long = Machine { name: "n".repeat(64), ..machine("n", "{}") };
    vec![
        ("nics", nics),
        ("clone", clone),
        ("volumes", pool),
        ("name-hostile", named),
        ("name-64", long),
        ("mapped", mapped()),
    ]
}

/// All that mappings can give.
pub fn mapped() -> Machine {
    let mut machine = machine("mapped", "nics: [{mac: '00:50:56:aa:bb:01'}, {bridge: br0}, {}, {}]");
    let flow = |average, peak, burst| FlowLimit { average, peak, burst };
    machine.nics[0].link = NicLink::OpenVswitch("ovs-dmz".to_owned());
    machine.nics[0].vlan = Some(120);
    machine.nics[0].limits.inbound = Some(flow(50 << 20, None, None));
    machine.nics[0].limits.outbound = Some(flow(1, Some(40_000_000), Some(8 << 20)));
    machine.nics[2].link = NicLink::Network("lan".to_owned());
    machine.nics[2].limits.outbound = Some(flow(1 << 40, Some(1 << 40), Some(1 << 40)));
    machine.nics[3].link = NicLink::OpenVswitch("ovs0".to_owned());
    machine.disks[0].cache = Some(DiskCache::None);
    machine.disks[0].limits = DiskLimits {
        read_bytes_sec: Some(100 << 20),
        write_bytes_sec: Some(50 << 20),
        total_iops_sec: Some(500),
        ..DiskLimits::default()
    };
    machine.disks[1].format = SourceFormat::Raw;
    machine.disks[1].path = PathBuf::from("/srv/slow/mapped-data.raw");
    machine.disks[1].limits = DiskLimits {
        total_bytes_sec: Some(1 << 40),
        read_iops_sec: Some(1),
        write_iops_sec: Some(1_000_000_000),
        ..DiskLimits::default()
    };
    machine
}
