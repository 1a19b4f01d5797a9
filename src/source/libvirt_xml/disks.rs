//! The disks that a domain names: which they are, in which order they boot, and what they stand on.
//!
//! Only what lies in files of this host is one, or becomes one when libvirt is asked where a volume lies. What is not here: whether they are there.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::text::{bad_at, below, child, children, number, unsupported_at};
use crate::model::error::Result;
use crate::model::facts::{Controller, Facts, SourceNote};
use crate::model::manifest::DiskBus;
use crate::model::plan::SourceFormat;
use crate::model::units::safe_id;

const MOST_DISKS: usize = 256;
/// QEMU and we follow none that is longer.
const MOST_BELOW: usize = 32;

/// A disk, as the domain names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedDisk {
    /// What it is called here: its target, made safe.
    pub(super) id: String,
    pub(super) place: NamedPlace,
    pub(super) format: SourceFormat,
    /// Whether the domain names its format; else libvirt takes bytes as they are.
    pub(super) is_format_said: bool,
    /// What it stands on, as far as that is said; none: nothing is said.
    pub(super) below: Option<Vec<NamedPlace>>,
    pub(super) controller: Controller,
    /// The bus, where there is the same here.
    bus: Option<DiskBus>,
    /// Lowest boots.
    order: Option<u64>,
}

/// Where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamedPlace {
    File(String),
    Volume { pool: String, volume: String },
}

/// Its disks, the one to boot from first; what else is to be said of them goes into the facts.
pub(super) fn disks(domain: Node<'_, '_>, facts: &mut Facts) -> Result<Vec<NamedDisk>> {
    let devices = child(domain, "devices");
    let (mut disks, mut drives, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for node in devices.into_iter().flat_map(|devices| children(devices, "disk")) {
        let target = child(node, "target").and_then(|target| target.attribute("dev")).unwrap_or_default();
        match node.attribute("device").unwrap_or("disk") {
            "disk" | "lun" => {}
            drive => {
                drives.push(format!("`{}` ({})", target.escape_debug(), drive.escape_debug()));
                continue;
            }
        }
        if disks.len() == MOST_DISKS {
            return Err(bad_at(node, &format!("it has more than {MOST_DISKS} disks")));
        }
        if target.is_empty() {
            return Err(bad_at(node, "the disk has no `<target dev=…>`, by which it would be called"));
        }
        let disk = disk(node, target, domain)?;
        if !ids.insert(disk.id.clone()) {
            return Err(bad_at(node, &format!("two of its disks are called `{}`", target.escape_debug())));
        }
        notes(node, &disk.id, facts);
        disks.push(disk);
    }
    if !drives.is_empty() {
        drives.truncate(MOST_BELOW);
        facts.warnings.push(format!("drives are left out: {}", drives.join(", ")));
    }
    disks.sort_by_key(|disk| disk.order.unwrap_or(u64::MAX));
    // A machine has one bus for all its disks here: that of the one it boots from.
    facts.disk_bus = disks.first().and_then(|disk| disk.bus);
    let others = disks.iter().filter(|disk| facts.disk_bus.is_some() && disk.bus != facts.disk_bus);
    let others: Vec<&str> = others.map(|disk| disk.id.as_str()).collect();
    if !others.is_empty() {
        facts.warnings.push(format!(
            "disks that hung on another bus come to that of the first: `{}`",
            others.join("`, `")
        ));
    }
    Ok(disks)
}

fn disk(node: Node<'_, '_>, target: &str, domain: Node<'_, '_>) -> Result<NamedDisk> {
    let shown = target.escape_debug().to_string();
    let Some(source) = child(node, "source") else {
        return Err(bad_at(node, &format!("the disk `{shown}` has no `<source>`")));
    };
    if let Some(encryption) = [node, source].into_iter().find_map(|node| child(node, "encryption")) {
        return Err(unsupported_at(
            encryption,
            &format!("the disk `{shown}` is encrypted by its host, with a key that libvirt keeps"),
            "unlock it with `qemu-img convert --object secret,… --image-opts …` into a plain file and name that in a \
             manifest; `luks` is for volumes that the guest encrypts itself",
        ));
    }
    if child(source, "slices").is_some() {
        let why = format!("the disk `{shown}` is a part of a file");
        return Err(unsupported_at(source, &why, "copy that part into a file of its own with `qemu-img dd`"));
    }
    let (format, is_format_said) = format(child(node, "driver").unwrap_or(node), &shown)?;
    let place = place(node.attribute("type"), source, &shown)?;
    let bus_name = child(node, "target").and_then(|target| target.attribute("bus"));
    let (controller, bus) = bus(bus_name, node, domain);
    let order = match child(node, "boot") {
        Some(boot) => {
            let order = boot.attribute("order").and_then(number).filter(|order| *order > 0);
            Some(order.ok_or_else(|| {
                bad_at(boot, &format!("the place of `{shown}` among what boots is no number"))
            })?)
        }
        None => None,
    };
    let below = what_is_below(node, &shown)?;
    Ok(NamedDisk { id: safe_id(target), place, format, is_format_said, below, controller, bus, order })
}

fn place(kind: Option<&str>, source: Node<'_, '_>, shown: &str) -> Result<NamedPlace> {
    let named = |key: &str| {
        let value = source.attribute(key).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| bad_at(source, &format!("the disk `{shown}` has no `{key}`")))?;
        match value.chars().any(char::is_control) {
            true => Err(bad_at(
                source,
                &format!("the disk `{shown}` has characters in `{key}` that no name should have"),
            )),
            false => Ok(value.to_owned()),
        }
    };
    match kind.unwrap_or("file") {
        "file" => Ok(NamedPlace::File(named("file")?)),
        "volume" => Ok(NamedPlace::Volume { pool: named("pool")?, volume: named("volume")? }),
        "block" => Err(device(source, shown, &named("dev")?)),
        "network" => {
            let protocol = source.attribute("protocol").unwrap_or("network").escape_debug().to_string();
            Err(unsupported_at(
                source,
                &format!("the disk `{shown}` lies on a server (`{protocol}`), and only files are read"),
                "copy it into a file of this host with `qemu-img convert` while the machine is off, and name that in a \
                 manifest",
            ))
        }
        other => Err(unsupported_at(
            source,
            &format!("the disk `{shown}` is of the kind `{}`, and only files are read", other.escape_debug()),
            "copy it into a file with `qemu-img convert` while the machine is off, and name that in a manifest",
        )),
    }
}

fn device(source: Node<'_, '_>, shown: &str, path: &str) -> crate::model::error::Error {
    unsupported_at(
        source,
        &format!("the disk `{shown}` is the device {path}, and only files are read"),
        "copy it with `qemu-img convert -f raw -O qcow2 DEVICE FILE` while the machine is off, and name the file in a \
         manifest",
    )
}

/// By the names that QEMU's drivers have. Without one, libvirt lets nobody guess.
fn format(driver: Node<'_, '_>, shown: &str) -> Result<(SourceFormat, bool)> {
    let named = driver.attribute("type").filter(|_| driver.has_tag_name("driver"));
    let format = match named {
        None => return Ok((SourceFormat::Raw, false)),
        Some("raw") => SourceFormat::Raw,
        Some("qcow2") => SourceFormat::Qcow2,
        Some("vmdk") => SourceFormat::Vmdk,
        Some("vpc") => SourceFormat::Vhd,
        Some("vhdx") => SourceFormat::Vhdx,
        Some("vdi") => SourceFormat::Vdi,
        Some(other) => {
            return Err(unsupported_at(
                driver,
                &format!("the disk `{shown}` is of the format `{}`", other.escape_debug()),
                "convert it with `qemu-img convert -O qcow2` first, and name the result in a manifest",
            ));
        }
    };
    Ok((format, true))
}

fn bus(named: Option<&str>, node: Node<'_, '_>, domain: Node<'_, '_>) -> (Controller, Option<DiskBus>) {
    match named {
        Some("virtio") => (Controller::Other, Some(DiskBus::Virtio)),
        Some("sata") => (Controller::Sata, Some(DiskBus::Sata)),
        Some("ide") => (Controller::Ide, Some(DiskBus::Ide)),
        Some("scsi") => (Controller::Scsi, is_virtio_scsi(node, domain).then_some(DiskBus::Scsi)),
        Some("nvme") => (Controller::Nvme, None),
        _ => (Controller::Other, None),
    }
}

/// Whether the SCSI controller that a disk hangs on is the one that there is here.
fn is_virtio_scsi(disk: Node<'_, '_>, domain: Node<'_, '_>) -> bool {
    let index = child(disk, "address").and_then(|address| address.attribute("controller")).unwrap_or("0");
    let is_its = |node: &Node<'_, '_>| {
        node.attribute("type") == Some("scsi") && node.attribute("index").unwrap_or("0") == index
    };
    let devices = child(domain, "devices");
    let mut controllers = devices.into_iter().flat_map(|devices| children(devices, "controller"));
    let model = controllers.find(is_its).and_then(|controller| controller.attribute("model"));
    model.is_some_and(|model| model.starts_with("virtio"))
}

/// The chain of `<backingStore>`: none where nothing is said of it, empty where it is said that there is none.
fn what_is_below(disk: Node<'_, '_>, shown: &str) -> Result<Option<Vec<NamedPlace>>> {
    let Some(mut store) = child(disk, "backingStore") else { return Ok(None) };
    let mut places = Vec::new();
    // The last one is empty.
    while let Some(source) = child(store, "source") {
        if places.len() == MOST_BELOW {
            return Err(bad_at(
                store,
                &format!("the disk `{shown}` stands on more than {MOST_BELOW} others"),
            ));
        }
        places.push(place(store.attribute("type"), source, shown)?);
        let Some(next) = child(store, "backingStore") else { break };
        store = next;
    }
    Ok(Some(places))
}

/// What libvirt does with a disk that copies of it do not show.
fn notes(node: Node<'_, '_>, id: &str, facts: &mut Facts) {
    if child(node, "shareable").is_some() {
        facts.notes.push(SourceNote {
            rule: "disk.shared".to_owned(),
            about: Some(id.to_owned()),
            message: format!("the disk `{id}` may be written by several machines"),
            advice: "shut down all of them before it is copied; on this side it belongs to one machine"
                .to_owned(),
        });
    }
    if child(node, "transient").is_some() {
        facts.warnings.push(format!(
            "what was written to the disk `{id}` was thrown away whenever the machine went off; here it stays"
        ));
    }
    if child(node, "readonly").is_some() {
        facts.warnings.push(format!("the disk `{id}` could not be written there, and can be here"));
    }
    if below(node, &["mirror"]).is_some() {
        facts.warnings.push(format!("the disk `{id}` was being copied by libvirt when the XML was written"));
    }
}
