//! One machine of a descriptor: its hardware, which the standard tells in items of numbered kinds, and what producers say in words of their own.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::Node;

use super::{Described, DescribedDisk, FileRef, VirtualDisk, amount, attribute, bad};
use crate::model::error::{Error, Result};
use crate::model::facts::{Controller, Facts, FoundNic, is_windows};
use crate::model::machine::Firmware;
use crate::model::vmware;

const MOST_DISKS: usize = 256;
const MOST_VCPUS: u64 = 4096;
const MOST_MEMORY_BYTES: u64 = 64 << 40;

/// What CIM calls the things that a machine is made of.
mod resource {
    pub(super) const PROCESSOR: &str = "3";
    pub(super) const MEMORY: &str = "4";
    pub(super) const IDE: &str = "5";
    pub(super) const SCSI: &str = "6";
    pub(super) const ETHERNET: &str = "10";
    pub(super) const DISK: &str = "17";
    /// What XenServer and XCP-ng call a disk.
    pub(super) const STORAGE_EXTENT: &str = "19";
    pub(super) const OTHER_STORAGE: &str = "20";
}

pub(super) fn machine(
    system: Node<'_, '_>,
    files: &BTreeMap<String, FileRef>,
    disks: &BTreeMap<String, VirtualDisk>,
    used: &mut BTreeSet<String>,
) -> Result<Described> {
    let id = attribute(system, "id").unwrap_or_default().to_owned();
    let child = |name: &str| {
        system.children().find(|node| node.tag_name().name() == name).and_then(|node| node.text())
    };
    let name = child("Name").map(str::trim).filter(|name| !name.is_empty()).unwrap_or(&id).to_owned();
    let items: Vec<Item<'_>> = system
        .descendants()
        .filter(|node| ["Item", "StorageItem", "EthernetPortItem"].contains(&node.tag_name().name()))
        .map(Item)
        .collect();
    let mut found = Facts { name, guest_os: operating_system(system), ..Facts::default() };
    let mut own_disks = Vec::new();
    for item in &items {
        match item.text("ResourceType").unwrap_or_default() {
            resource::PROCESSOR => found.vcpus = Some(processors(item)?),
            resource::MEMORY => found.memory_bytes = Some(memory(item)?),
            resource::ETHERNET => found.nics.push(nic(item)),
            resource::DISK | resource::STORAGE_EXTENT => {
                if let Some(disk) = disk(item, &items, files, disks, used)? {
                    own_disks.push(disk);
                }
            }
            _ => {
                found.tpm |=
                    item.text("ResourceSubType").is_some_and(|kind| kind.to_lowercase().contains("vtpm"));
            }
        }
    }
    if own_disks.len() > MOST_DISKS {
        return Err(bad(&format!("`{}` has more than {MOST_DISKS} disks", found.name)));
    }
    own_disks.sort_by_key(|disk: &DescribedDisk| (disk.controller, disk.bus, disk.unit));
    let hardware = hardware_version(system);
    for setting in
        system.descendants().filter(|node| ["Config", "ExtraConfig"].contains(&node.tag_name().name()))
    {
        let value = attribute(setting, "value").unwrap_or_default();
        match attribute(setting, "key").unwrap_or_default() {
            "firmware" => found.firmware = Some(if value == "efi" { Firmware::Uefi } else { Firmware::Bios }),
            "uefi.secureBoot.secureBootEnabled" | "bootOptions.efiSecureBootEnabled" => {
                found.secure_boot = value == "true";
            }
            "nvram" => {
                let file = value.strip_prefix("ovf:/file/").and_then(|id| files.get(id));
                found.nvram = file.map(|file| file.name.clone());
            }
            "uuid.bios" => {
                let is_windows = found.guest_os.as_deref().is_some_and(is_windows);
                if let Some(id) = vmware::SystemId::parse(value) {
                    (found.uuid, found.serial) = (Some(id.uuid(hardware, is_windows)), Some(id.serial()));
                }
            }
            _ => {}
        }
    }
    by_virtualbox(system, &mut found);
    by_ovirt(system, &id, &mut found);
    by_xenserver(system, &mut found);
    Ok(Described { facts: found, disks: own_disks })
}

/// `vmx-13` → 13.
fn hardware_version(system: Node<'_, '_>) -> Option<u32> {
    let kind = system.descendants().find(|node| node.tag_name().name() == "VirtualSystemType")?.text()?;
    kind.split_whitespace().find_map(|word| word.strip_prefix("vmx-")?.parse().ok())
}

/// What VirtualBox keeps of its own machine beside the standard's.
fn by_virtualbox(system: Node<'_, '_>, found: &mut Facts) {
    let Some(machine) = system.children().find(|node| node.tag_name().name() == "Machine") else { return };
    found.uuid = attribute(machine, "uuid").map(|uuid| uuid.trim_matches(['{', '}']).to_lowercase());
    for node in machine.descendants() {
        match node.tag_name().name() {
            "Firmware" => {
                let is_uefi = attribute(node, "type").is_some_and(|kind| kind.starts_with("EFI"));
                found.firmware = Some(if is_uefi { Firmware::Uefi } else { Firmware::Bios });
            }
            "TrustedPlatformModule" => {
                found.tpm |= attribute(node, "type").is_some_and(|kind| kind != "None");
            }
            _ => {}
        }
    }
}

/// What oVirt says in elements of its own.
fn by_ovirt(system: Node<'_, '_>, id: &str, found: &mut Facts) {
    let text = |name: &str| {
        system.children().find(|node| node.tag_name().name() == name).and_then(|node| node.text())
    };
    // 1: the old chipset with a BIOS; 2: q35 with a BIOS; 3: with UEFI; 4: with UEFI and secure boot.
    if let Some(kind) = text("BiosType") {
        found.firmware = Some(if matches!(kind, "3" | "4") { Firmware::Uefi } else { Firmware::Bios });
        found.secure_boot |= kind == "4";
    }
    // There the id is the machine's own.
    if system.tag_name().name() == "Content" && found.uuid.is_none() {
        found.uuid = Some(id.to_lowercase()).filter(|id| is_uuid(id));
    }
}

/// What XenServer and XCP-ng keep of their own machine: settings with a name, each of them a list (`firmware=uefi;order=dc`).
fn by_xenserver(system: Node<'_, '_>, found: &mut Facts) {
    let settings =
        system.descendants().filter(|node| node.tag_name().name() == "VirtualSystemOtherConfigurationData");
    for setting in settings {
        let list = setting.children().find(|node| node.tag_name().name() == "Value");
        let list = list.and_then(|node| node.text()).unwrap_or_default();
        let pairs = list.split(';').filter_map(|pair| pair.trim().split_once('='));
        for (key, value) in pairs {
            match (attribute(setting, "Name").unwrap_or_default(), key) {
                ("HVM_boot_params", "firmware") => {
                    found.firmware = Some(if value == "uefi" { Firmware::Uefi } else { Firmware::Bios });
                }
                ("platform", "secureboot") => found.secure_boot |= value == "true",
                ("platform", "vtpm") => found.tpm |= value == "true",
                _ => {}
            }
        }
    }
}

fn operating_system(system: Node<'_, '_>) -> Option<String> {
    let section = system.children().find(|node| {
        node.tag_name().name() == "OperatingSystemSection"
            || attribute(*node, "type").is_some_and(|kind| kind.ends_with("OperatingSystemSection_Type"))
    })?;
    let described = section.children().find(|node| node.tag_name().name() == "Description");
    let said =
        attribute(section, "osType").or_else(|| described.and_then(|node| node.text())).map(str::trim)?;
    (!said.is_empty()).then(|| said.to_owned())
}

fn processors(item: &Item<'_>) -> Result<u32> {
    let said = item.text("VirtualQuantity").unwrap_or("1");
    let count = said.parse::<u64>().ok().filter(|count| (1..=MOST_VCPUS).contains(count));
    let count = count.or_else(|| {
        // oVirt tells sockets, cores and threads apart.
        let part = |name: &str| item.text(name).map_or(Some(1), |text| text.parse::<u64>().ok());
        item.text("num_of_sockets")?;
        let product = part("num_of_sockets")?.checked_mul(part("cpu_per_socket")?)?;
        (said == "0" && (1..=MOST_VCPUS).contains(&product)).then_some(product)
    });
    count
        .and_then(|count| u32::try_from(count).ok())
        .ok_or_else(|| bad(&format!("a machine cannot have `{}` processors", said.escape_debug())))
}

fn memory(item: &Item<'_>) -> Result<u64> {
    let (said, unit) =
        (item.text("VirtualQuantity").unwrap_or("0"), item.text("AllocationUnits").unwrap_or("byte * 2^20"));
    amount(said, unit).filter(|bytes| (1..=MOST_MEMORY_BYTES).contains(bytes)).ok_or_else(|| {
        bad(&format!(
            "a machine cannot have `{}` times `{}` of memory",
            said.escape_debug(),
            unit.escape_debug()
        ))
    })
}

fn nic(item: &Item<'_>) -> FoundNic {
    let mac = item.text("Address").or_else(|| item.text("MACAddress"));
    let plain =
        |text: &str| text.chars().filter(|c| c.is_ascii_hexdigit()).collect::<String>().to_lowercase();
    let mac = mac.map(plain).filter(|digits| digits.len() == 12).map(|digits| {
        let pairs: Vec<&str> = (0..6).map(|pair| &digits[pair * 2..pair * 2 + 2]).collect();
        pairs.join(":")
    });
    let text = |name: &str| item.text(name).map(str::to_owned);
    FoundNic { mac, network: text("Connection"), model: text("ResourceSubType"), ..FoundNic::default() }
}

/// A disk; `None` for a drive without a disk of the appliance in it.
fn disk(
    item: &Item<'_>,
    items: &[Item<'_>],
    files: &BTreeMap<String, FileRef>,
    disks: &BTreeMap<String, VirtualDisk>,
    used: &mut BTreeSet<String>,
) -> Result<Option<DescribedDisk>> {
    let Some(host) = item.text("HostResource") else { return Ok(None) };
    let found = |id: &str| disks.get(id).ok_or_else(|| not_described(id));
    let (id, file, capacity, format) =
        match host.trim_start_matches("ovf:").trim_start_matches('/').split_once('/') {
            Some(("disk", id)) => {
                let disk = found(id)?;
                (id, disk.file.as_deref(), disk.capacity, disk.format)
            }
            Some(("file", id)) => (id, Some(id), 0, None),
            // oVirt: the volume's path, which is a file's name.
            _ => match disks.iter().find(|(_, disk)| disk.file.as_deref() == Some(host)) {
                Some((id, disk)) => (id.as_str(), disk.file.as_deref(), disk.capacity, disk.format),
                None => return Err(not_described(host)),
            },
        };
    if !used.insert(id.to_owned()) {
        return Err(bad(&format!("the disk `{}` is used twice", id.escape_debug())));
    }
    let listed = |file: &str| {
        files.get(file).cloned().ok_or_else(|| {
            bad(&format!(
                "the disk `{}` is in the file `{}`, which is not listed",
                id.escape_debug(),
                file.escape_debug()
            ))
        })
    };
    let file = file.map(listed).transpose()?;
    let (controller, bus) = controller(item, items);
    let unit = item.text("AddressOnParent").and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Some(DescribedDisk { file, capacity, format, controller, bus, unit }))
}

fn not_described(id: &str) -> Error {
    bad(&format!("a machine has the disk `{}`, which is not described", id.escape_debug()))
}

fn controller(item: &Item<'_>, items: &[Item<'_>]) -> (Controller, u32) {
    let Some(parent) = item.text("Parent") else { return (Controller::Other, 0) };
    let Some(at) = items.iter().position(|other| other.text("InstanceID") == Some(parent)) else {
        return (Controller::Other, 0);
    };
    let kind = items[at].controller();
    let before =
        items[..at].iter().filter(|other| other.is_controller() && other.controller() == kind).count();
    (kind, u32::try_from(before).unwrap_or(u32::MAX))
}

/// One thing that a machine is made of.
struct Item<'d>(Node<'d, 'd>);

impl<'d> Item<'d> {
    fn text(&self, name: &str) -> Option<&'d str> {
        // Older descriptors write `InstanceId`.
        let is_it = |node: &Node<'d, 'd>| node.tag_name().name().eq_ignore_ascii_case(name);
        self.0
            .children()
            .find(is_it)
            .and_then(|node| node.text())
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    fn is_controller(&self) -> bool {
        let kind = self.text("ResourceType").unwrap_or_default();
        [resource::IDE, resource::SCSI, resource::OTHER_STORAGE].contains(&kind)
    }

    fn controller(&self) -> Controller {
        let kind = self.text("ResourceSubType").unwrap_or_default().to_lowercase();
        match self.text("ResourceType").unwrap_or_default() {
            resource::IDE => Controller::Ide,
            resource::SCSI => Controller::Scsi,
            _ if kind.contains("nvme") => Controller::Nvme,
            _ if kind.contains("sata") || kind.contains("ahci") => Controller::Sata,
            _ => Controller::Other,
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}
