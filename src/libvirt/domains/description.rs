//! What a machine's definition says, as far as something here depends on it.
//!
//! What is not here: asking for a definition, and all of it that only libvirt has to understand.

use std::path::PathBuf;

use roxmltree::{Document, Node};
use serde::Serialize;

use crate::libvirt::provenance;
use crate::model::error::{Error, Kind, Result};
use crate::model::provenance::Provenance;

/// A definition of hundreds of disks has less.
const MOST_BYTES: usize = 16 << 20;

/// A disk as it is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// What it is called in there: `vda`.
    pub target: String,
    /// What it hangs on: `virtio`.
    pub bus: Option<String>,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// How it is read: `qcow2`.
    pub format: Option<String>,
    /// Whether the machine may not write it.
    pub readonly: bool,
    /// Where its bytes lie; nothing where no medium is in.
    #[serde(flatten)]
    pub source: Option<Source>,
}

/// Where the bytes of a disk lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In this file or on this device.
    Path(PathBuf),
    /// In a volume of a storage pool.
    Volume {
        /// The pool.
        pool: String,
        /// The volume in it.
        volume: String,
    },
    /// At a server, by this protocol.
    Network(String),
}

impl Disk {
    /// Whether the machine changes it: what a snapshot has to keep.
    pub(in crate::libvirt) fn is_written(&self) -> bool {
        self.device == "disk" && !self.readonly && self.source.is_some()
    }

    /// Its file or device, if it has one.
    pub(in crate::libvirt) fn path(&self) -> Option<&PathBuf> {
        match &self.source {
            Some(Source::Path(path)) => Some(path),
            _ => None,
        }
    }
}

/// What a definition says.
#[derive(Debug, Clone, Default)]
pub(in crate::libvirt) struct Description {
    pub(in crate::libvirt) name: String,
    pub(in crate::libvirt) uuid: Option<String>,
    pub(in crate::libvirt) provenance: Option<Provenance>,
    pub(in crate::libvirt) macs: Vec<String>,
    pub(in crate::libvirt) disks: Vec<Disk>,
    /// Where the firmware keeps its variables.
    pub(in crate::libvirt) nvram: Option<PathBuf>,
    /// Whether its firmware lies in flash memory: UEFI.
    pub(in crate::libvirt) is_uefi: bool,
}

impl Description {
    pub(in crate::libvirt) fn read(xml: &str) -> Result<Description> {
        let document = parse(xml)?;
        Description::of(document.root_element())
            .map(|read| Description { provenance: provenance::read(xml), ..read })
    }

    /// That of the `<domain>` in here: a snapshot holds one, too.
    pub(in crate::libvirt) fn of(domain: Node<'_, '_>) -> Result<Description> {
        if !domain.has_tag_name("domain") {
            let found = domain.tag_name().name();
            return Err(Error::new(Kind::Manifest, format!("this describes no machine, but a `{found}`"))
                .advice("give a `<domain>` as libvirt writes it"));
        }
        let text = |name: &str| child(domain, name).and_then(|node| node.text()).map(str::trim);
        let name = text("name").filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::new(Kind::Manifest, "the machine that is described has no name").advice("add a `<name>`")
        })?;
        let mut read = Description {
            name: name.to_owned(),
            uuid: text("uuid").map(str::to_owned),
            ..Description::default()
        };
        if let Some(os) = child(domain, "os") {
            read.read_firmware(os);
        }
        for device in child(domain, "devices").iter().flat_map(Node::children) {
            match device.tag_name().name() {
                "disk" => read.disks.extend(disk(device)),
                "interface" => {
                    let mac = child(device, "mac").and_then(|mac| mac.attribute("address"));
                    read.macs.extend(mac.map(str::to_ascii_lowercase));
                }
                _ => {}
            }
        }
        Ok(read)
    }

    fn read_firmware(&mut self, os: Node<'_, '_>) {
        let nvram = child(os, "nvram");
        let below =
            nvram.and_then(|nvram| child(nvram, "source")).and_then(|source| source.attribute("file"));
        let path = below.or_else(|| nvram.and_then(|nvram| nvram.text()).map(str::trim));
        self.nvram = path.filter(|path| path.starts_with('/')).map(PathBuf::from);
        let is_flash = child(os, "loader").and_then(|loader| loader.attribute("type")) == Some("pflash");
        self.is_uefi = is_flash || nvram.is_some() || os.attribute("firmware") == Some("efi");
    }

    pub(in crate::libvirt) fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

/// The text as a tree; a document type, which could make much out of little, is refused.
pub(in crate::libvirt) fn parse(xml: &str) -> Result<Document<'_>> {
    if xml.len() > MOST_BYTES {
        let limit = MOST_BYTES >> 20;
        return Err(Error::new(Kind::Manifest, format!("the XML has more than {limit} MiB"))
            .advice("give the definition of one machine"));
    }
    if xml.contains('\0') {
        return Err(Error::new(Kind::Manifest, "the XML holds a NUL").advice("write it as UTF-8"));
    }
    Document::parse(xml).map_err(|error| {
        let place = error.pos();
        Error::new(Kind::Manifest, format!("this is no XML that is taken: {error}"))
            .at(place.row, place.col)
            .advice("write it as `virsh dumpxml` does: well-formed, without a document type")
    })
}

/// The first child of this name.
pub(in crate::libvirt) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn disk(node: Node<'_, '_>) -> Option<Disk> {
    let target = child(node, "target")?;
    Some(Disk {
        target: target.attribute("dev")?.to_owned(),
        bus: target.attribute("bus").map(str::to_owned),
        device: node.attribute("device").unwrap_or("disk").to_owned(),
        format: child(node, "driver").and_then(|driver| driver.attribute("type")).map(str::to_owned),
        readonly: child(node, "readonly").is_some(),
        source: child(node, "source").and_then(source),
    })
}

fn source(node: Node<'_, '_>) -> Option<Source> {
    let given = |name| node.attribute(name).map(str::to_owned);
    match (given("file").or_else(|| given("dev")), given("pool"), given("volume")) {
        (Some(path), ..) => Some(Source::Path(PathBuf::from(path))),
        (None, Some(pool), Some(volume)) => Some(Source::Volume { pool, volume }),
        _ => given("protocol").map(Source::Network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_cards_and_firmware_are_read_out_of_a_definition() {
        let xml = "<domain><name> web </name><uuid>u</uuid><os firmware='efi'><nvram type='file'><source file='/n.fd'/></nvram></os>\
            <devices><disk type='file'><driver type='raw'/><source file='/a b'/><target dev='vda' bus='virtio'/></disk>\
            <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb'/><readonly/></disk>\
            <disk device='cdrom'><target dev='sda' bus='sata'/></disk>\
            <interface type='user'><mac address='52:54:00:AB:00:01'/></interface></devices></domain>";
        let read = Description::read(xml).unwrap();
        assert_eq!((read.name.as_str(), read.is_uefi), ("web", true));
        assert_eq!(read.nvram, Some(PathBuf::from("/n.fd")));
        assert_eq!(read.macs, ["52:54:00:ab:00:01"]);
        assert_eq!(read.disk("vda").unwrap().path(), Some(&PathBuf::from("/a b")));
        assert_eq!(read.disks.iter().map(Disk::is_written).collect::<Vec<_>>(), [true, false, false]);
        let json = serde_json::to_value(&read.disks[1]).unwrap();
        assert_eq!(json["volume"], serde_json::json!({"pool": "p", "volume": "v"}));
    }

    #[test]
    fn what_describes_no_machine_is_refused_with_its_place() {
        let bomb = "<!DOCTYPE d [<!ENTITY a 'aaaa'>]><domain><name>&a;</name></domain>";
        for bad in
            ["", "<domain>", "<network><name>x</name></network>", "<domain/>", "<domain>\0</domain>", bomb]
        {
            assert_eq!(Description::read(bad).unwrap_err().kind(), Kind::Manifest, "{bad}");
        }
        let error = Description::read("<domain>\n<name>x</nome></domain>").unwrap_err();
        assert_eq!(error.details().place.line, Some(2));
    }
}
