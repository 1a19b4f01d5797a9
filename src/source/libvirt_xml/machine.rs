//! What a domain says of its machine. What is not here: its disks, and its network cards.

use roxmltree::Node;

use super::text::{amount, bad_at, below, child, children, number, text_of, unsupported_at};
use crate::model::error::Result;
use crate::model::facts::{Facts, is_windows};
use crate::model::machine::Firmware;
use crate::model::manifest::values::Uuid;

const MOST_VCPUS: u64 = 4096;
const MOST_MEMORY_BYTES: u64 = 64 << 40;
/// libosinfo's names are addresses of some dozen letters.
const MOST_OS_NAME: usize = 200;
/// What the images of UEFI are called, where an old domain names one as a ROM.
const UEFI_IMAGES: [&str; 4] = ["ovmf", "edk2", "aavmf", "uefi"];
/// What such machines are called where they have PCI and no PCI Express: by QEMU, and by RHEL 6.
const I440FX: [&str; 3] = ["pc-", "rhel5", "rhel6"];

/// What kinds of machines are not converted.
const OTHER_KINDS: &str = "name its disks in a manifest, if a KVM guest can be made of them";

/// The machine, without disks and network cards.
pub(super) fn machine(domain: Node<'_, '_>) -> Result<Facts> {
    let os = child(domain, "os");
    refuse_other_kinds(domain, os)?;
    let mut facts = Facts {
        name: child(domain, "name").and_then(text_of).unwrap_or_default().to_owned(),
        memory_bytes: memory(domain)?,
        serial: serial(domain, os),
        ..Facts::default()
    };
    facts.vcpus = vcpus(domain, &mut facts.warnings)?;
    if let Some(uuid) = child(domain, "uuid") {
        facts.uuid = Some(uuid_of(uuid)?);
    }
    firmware(os, &mut facts);
    machine_type(os, &mut facts);
    operating_system(domain, &mut facts);
    devices(domain, &mut facts);
    clock(domain, &mut facts);
    if os.and_then(|os| child(os, "kernel")).and_then(text_of).is_some() {
        facts.warnings.push(
            "the machine is started with a kernel of its host: here its disk has to have a boot loader"
                .to_owned(),
        );
    }
    if domain.attribute("id").is_some() {
        facts.warnings.push(
            "the machine ran when its XML was written: its disks have to be copied while it is off"
                .to_owned(),
        );
    }
    Ok(facts)
}

fn refuse_other_kinds(domain: Node<'_, '_>, os: Option<Node<'_, '_>>) -> Result<()> {
    let hypervisor = domain.attribute("type").unwrap_or_default();
    if ["lxc", "openvz", "vz"].contains(&hypervisor) {
        return Err(unsupported_at(domain, &format!("`{hypervisor}` runs containers"), OTHER_KINDS));
    }
    let Some(kind) = os.and_then(|os| child(os, "type")) else { return Ok(()) };
    if let Some(other) = text_of(kind).filter(|text| *text != "hvm") {
        let why = format!("`{}` is no machine that is virtualised as a whole (`hvm`)", other.escape_debug());
        return Err(unsupported_at(kind, &why, OTHER_KINDS));
    }
    match kind.attribute("arch") {
        Some("x86_64" | "i686") | None => Ok(()),
        Some(arch) => {
            let why = format!("the machine has processors of the kind `{}`", arch.escape_debug());
            Err(unsupported_at(kind, &why, "only x86 machines are converted"))
        }
    }
}

/// As many as it starts with; it may be able to get more.
fn vcpus(domain: Node<'_, '_>, warnings: &mut Vec<String>) -> Result<Option<u32>> {
    let Some(node) = child(domain, "vcpu") else { return Ok(None) };
    let count = |text: &str| {
        let count = number(text.trim()).filter(|count| (1..=MOST_VCPUS).contains(count));
        let count = count.and_then(|count| u32::try_from(count).ok());
        let shown = text.escape_debug();
        count.ok_or_else(|| bad_at(node, &format!("a machine cannot have `{shown}` processors")))
    };
    let most = count(node.text().unwrap_or_default())?;
    let Some(current) = node.attribute("current") else { return Ok(Some(most)) };
    let current = count(current)?;
    if current < most {
        warnings.push(format!(
            "the machine has {current} processors and could get {most}: it is given {current}"
        ));
    }
    Ok(Some(current))
}

fn memory(domain: Node<'_, '_>) -> Result<Option<u64>> {
    let Some(node) = child(domain, "memory") else { return Ok(None) };
    let (count, unit) = (text_of(node).unwrap_or_default(), node.attribute("unit").unwrap_or("KiB"));
    let bytes = amount(count, unit).filter(|bytes| (1..=MOST_MEMORY_BYTES).contains(bytes));
    let refused = || {
        let (count, unit) = (count.escape_debug(), unit.escape_debug());
        bad_at(node, &format!("a machine cannot have `{count}` `{unit}` of memory"))
    };
    bytes.map(Some).ok_or_else(refused)
}

/// libvirt takes one without hyphens, too.
fn uuid_of(node: Node<'_, '_>) -> Result<String> {
    let text = text_of(node).unwrap_or_default();
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let parts: Option<Vec<&str>> = parts.into_iter().map(|(from, to)| digits.get(from..to)).collect();
    let written = parts.filter(|_| digits.len() == 32).map(|parts| parts.join("-")).unwrap_or_default();
    let uuid =
        Uuid::new(&written).map_err(|_| bad_at(node, &format!("`{}` is no UUID", text.escape_debug())))?;
    Ok(uuid.as_str().to_owned())
}

/// The serial number that the guest reads: only there if the domain has SMBIOS say what stands below `sysinfo`.
fn serial(domain: Node<'_, '_>, os: Option<Node<'_, '_>>) -> Option<String> {
    let smbios = os.and_then(|os| child(os, "smbios")).and_then(|smbios| smbios.attribute("mode"));
    let system = below(domain, &["sysinfo", "system"]).filter(|_| smbios == Some("sysinfo"))?;
    let entry = children(system, "entry").find(|entry| entry.attribute("name") == Some("serial"))?;
    text_of(entry).map(str::to_owned)
}

fn firmware(os: Option<Node<'_, '_>>, facts: &mut Facts) {
    let loader = os.and_then(|os| child(os, "loader"));
    let image = loader.and_then(text_of).unwrap_or_default().to_ascii_lowercase();
    let is_uefi = match os.and_then(|os| os.attribute("firmware")) {
        Some(named) => named == "efi",
        None => {
            loader.is_some_and(|loader| loader.attribute("type") == Some("pflash"))
                || UEFI_IMAGES.iter().any(|word| image.contains(word))
        }
    };
    facts.firmware = Some(if is_uefi { Firmware::Uefi } else { Firmware::Bios });
    let features = os.and_then(|os| child(os, "firmware"));
    let mut features = features.into_iter().flat_map(|features| children(features, "feature"));
    let asked = features.find(|feature| feature.attribute("name") == Some("secure-boot"));
    let is_secure = match asked {
        Some(feature) => feature.attribute("enabled") == Some("yes"),
        None => loader.is_some_and(|loader| loader.attribute("secure") == Some("yes")),
    };
    facts.secure_boot = is_uefi && is_secure;
    facts.nvram = os.and_then(|os| child(os, "nvram")).and_then(text_of).map(str::to_owned);
}

/// Which family: what its version is called is the other host's own.
fn machine_type(os: Option<Node<'_, '_>>, facts: &mut Facts) {
    let named = os.and_then(|os| child(os, "type")).and_then(|kind| kind.attribute("machine"));
    let Some(named) = named.filter(|named| !named.is_empty()) else { return };
    facts.machine = match named {
        named if named.contains("q35") => Some("q35".to_owned()),
        named if named == "pc" || I440FX.iter().any(|prefix| named.starts_with(prefix)) => {
            Some("pc".to_owned())
        }
        other => {
            facts.warnings.push(format!("the machine type `{}` is not kept", other.escape_debug()));
            None
        }
    };
}

/// What libosinfo calls the guest: `http://redhat.com/rhel/9.0`.
fn operating_system(domain: Node<'_, '_>, facts: &mut Facts) {
    let is_name = |node: &Node<'_, '_>| {
        node.tag_name().name() == "os"
            && node.tag_name().namespace().is_some_and(|space| space.contains("libosinfo.org"))
    };
    let name = child(domain, "metadata")
        .and_then(|metadata| metadata.descendants().find(is_name))
        .and_then(|os| os.attribute("id"))
        .filter(|id| id.len() <= MOST_OS_NAME && !id.chars().any(char::is_control));
    let Some(id) = name else { return };
    facts.guest_os = Some(id.to_owned());
    let parts: Vec<&str> = id.split('/').filter(|part| !part.is_empty()).collect();
    if let [.., system, version] = parts[..]
        && parts.len() >= 4
    {
        let known = version.starts_with(|c: char| c.is_ascii_digit());
        facts.os_version =
            Some(if known { format!("{system}{version}") } else { format!("{system}-{version}") });
    }
}

/// What else it has, as far as a person should know what becomes of it.
fn devices(domain: Node<'_, '_>, facts: &mut Facts) {
    let Some(devices) = child(domain, "devices") else { return };
    if child(devices, "tpm").is_some() {
        facts.tpm = true;
        facts.warnings.push(
            "what its TPM holds stays behind: have the keys at hand that were bound to it (BitLocker, LUKS)"
                .to_owned(),
        );
    }
    for (name, what) in [
        ("hostdev", "devices of the host that the machine was given are left out"),
        ("filesystem", "directories of the host that the machine shared are left out"),
        ("shmem", "memory that the machine shared with others is left out"),
    ] {
        if child(devices, name).is_some() {
            facts.warnings.push(what.to_owned());
        }
    }
}

/// What its clock counts is decided by what runs on it: told where that is another.
fn clock(domain: Node<'_, '_>, facts: &mut Facts) {
    let Some(offset) = child(domain, "clock").and_then(|clock| clock.attribute("offset")) else { return };
    let here = match facts.guest_os.as_deref().is_some_and(is_windows) {
        true => "localtime",
        false => "utc",
    };
    if offset != here {
        facts.warnings.push(format!(
            "its clock counted `{}`, and counts `{here}` here: see whether the guest's time is right",
            offset.escape_debug()
        ));
    }
}
