//! The devices of a machine, as its configuration tells them: disks with what lies below them, network cards, a TPM.
//!
//! What is not here: the rest of the configuration ([`super::machine`]), and what any of it is on this side ([`super::facts`]).

use std::collections::HashMap;

use roxmltree::Node;
use serde::Serialize;

use super::inventory::datastore_of;
use super::soap::{self, MoRef};
use crate::model::error::Result;
use crate::model::facts::Controller;

/// No chain of snapshots is longer.
const MOST_LAYERS: usize = 64;
/// No machine has more disks.
const MOST_DISKS: usize = 1024;

/// What a disk's data lies in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BackingKind {
    /// A file of the disk's own size, allocated or not.
    Flat,
    /// A file that grows, of a snapshot on VMFS 6 or of a linked clone.
    Sesparse,
    /// A file that grows, of the older kind.
    Sparse,
    /// A LUN, mapped.
    Rdm,
    /// A device of the host.
    Raw,
    /// Something else.
    #[default]
    Other,
}

impl BackingKind {
    fn of(kind: &str) -> BackingKind {
        match kind {
            "VirtualDiskFlatVer2BackingInfo" | "VirtualDiskFlatVer1BackingInfo" => BackingKind::Flat,
            "VirtualDiskSeSparseBackingInfo" => BackingKind::Sesparse,
            "VirtualDiskSparseVer2BackingInfo" | "VirtualDiskSparseVer1BackingInfo" => BackingKind::Sparse,
            "VirtualDiskRawDiskMappingVer1BackingInfo" => BackingKind::Rdm,
            "VirtualDiskRawDiskVer2BackingInfo" | "VirtualDiskPartitionedRawDiskVer2BackingInfo" => {
                BackingKind::Raw
            }
            _ => BackingKind::Other,
        }
    }

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BackingKind::Flat => "flat",
            BackingKind::Sesparse => "sesparse",
            BackingKind::Sparse => "sparse",
            BackingKind::Rdm => "rdm",
            BackingKind::Raw => "raw device",
            BackingKind::Other => "other",
        }
    }
}

/// What lies below a disk with snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// What its data lies in.
    pub backing: BackingKind,
    /// On which datastore.
    pub datastore: String,
    /// `[ds1] web/web-000001.vmdk`
    pub path: String,
    /// What tells this content from that before or after.
    pub change_id: Option<String>,
    /// The same, for content alone.
    pub content_id: Option<String>,
    /// What lies below this.
    pub parent: Option<Box<Layer>>,
}

/// A disk of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VmDisk {
    /// By which the server knows it within its machine.
    pub key: i32,
    /// `Hard disk 1`
    pub label: String,
    /// What it hangs on.
    pub controller: Controller,
    /// The type of that: `ParaVirtualSCSIController`.
    pub controller_type: String,
    /// Which controller of its kind.
    pub bus: u32,
    /// Where on it.
    pub unit: u32,
    /// What the guest sees.
    pub capacity_bytes: u64,
    /// What its data lies in.
    pub backing: BackingKind,
    /// On which datastore.
    pub datastore: String,
    /// `[ds1] web/web.vmdk`
    pub path: String,
    /// Whether only what was written takes room there; none: it is not said.
    pub thin: Option<bool>,
    /// `persistent`, `independent_persistent` and so on.
    pub disk_mode: String,
    /// Whether snapshots leave it out.
    pub independent: bool,
    /// Whether several machines may write it.
    pub multi_writer: bool,
    /// Whether it is encrypted there.
    pub encrypted: bool,
    /// Its own id.
    pub uuid: Option<String>,
    /// What tells its content from that before or after.
    pub content_id: Option<String>,
    /// The same, where changes are tracked.
    pub change_id: Option<String>,
    /// What lies below it, if it has snapshots or is a linked clone.
    pub parent: Option<Box<Layer>>,
}

impl VmDisk {
    /// How many files are read to know its content.
    #[must_use]
    pub fn layers(&self) -> usize {
        1 + std::iter::successors(self.parent.as_deref(), |layer| layer.parent.as_deref()).count()
    }
}

/// A network card of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VmNic {
    /// By which the server knows it within its machine.
    pub key: i32,
    /// `Network adapter 1`
    pub label: String,
    /// `VirtualVmxnet3`
    pub model: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// The network that it is plugged into.
    pub network: Option<String>,
    /// Whether its cable is in.
    pub connected: bool,
    /// Whether it is as soon as the machine starts.
    pub starts_connected: bool,
}

/// The devices that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Devices {
    /// In the order in which firmware looks for one to boot from.
    pub(super) disks: Vec<VmDisk>,
    pub(super) nics: Vec<VmNic>,
    /// The distributed port groups of cards, whose names are still to be asked for, by the key of the card.
    pub(super) port_groups: Vec<(i32, MoRef)>,
    pub(super) tpm: bool,
}

struct Bus {
    controller: Controller,
    kind: String,
    number: u32,
    is_shared: bool,
}

/// What `config.hardware` holds.
pub(super) fn devices(hardware: Node<'_, '_>) -> Result<Devices> {
    let mut found = Devices::default();
    let of_type = |node: &Node<'_, '_>| soap::type_of(*node).unwrap_or_default().to_owned();
    let all: Vec<(String, Node<'_, '_>)> =
        soap::children(hardware, "device").map(|node| (of_type(&node), node)).collect();
    let buses: HashMap<i32, Bus> = all.iter().filter_map(|(kind, node)| bus(kind, *node)).collect();
    for (kind, node) in &all {
        match kind.as_str() {
            "VirtualDisk" => {
                found.disks.push(disk(*node, &buses)?);
                if found.disks.len() > MOST_DISKS {
                    return Err(soap::odd(
                        "the server",
                        &format!("a machine of more than {MOST_DISKS} disks"),
                    ));
                }
            }
            "VirtualTPM" => found.tpm = true,
            kind if is_card(kind, *node) => card(kind, *node, &mut found),
            _ => {}
        }
    }
    found.disks.sort_by_key(|disk| (disk.controller, disk.bus, disk.unit));
    Ok(found)
}

fn bus(kind: &str, node: Node<'_, '_>) -> Option<(i32, Bus)> {
    let controller = match kind {
        "VirtualIDEController" => Controller::Ide,
        "VirtualNVMEController" => Controller::Nvme,
        "VirtualAHCIController" | "VirtualSATAController" => Controller::Sata,
        kind if kind.contains("SCSI") || kind.contains("Lsi") || kind.contains("BusLogic") => {
            Controller::Scsi
        }
        _ => return None,
    };
    let is_shared = soap::text(node, "sharedBus").is_some_and(|how| !how.is_empty() && how != "noSharing");
    let bus = Bus {
        controller,
        kind: kind.to_owned(),
        number: soap::number(node, "busNumber").unwrap_or(0),
        is_shared,
    };
    Some((soap::number(node, "key")?, bus))
}

fn disk(node: Node<'_, '_>, buses: &HashMap<i32, Bus>) -> Result<VmDisk> {
    let owned = |node: Node<'_, '_>, name: &str| {
        soap::text(node, name).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let bus = soap::number(node, "controllerKey").and_then(|key: i32| buses.get(&key));
    let in_kib = || soap::number::<u64>(node, "capacityInKB").and_then(|kib| kib.checked_mul(1024));
    let mut found = VmDisk {
        key: soap::number(node, "key").unwrap_or_default(),
        label: soap::at(node, &["deviceInfo", "label"])
            .and_then(|label| label.text())
            .unwrap_or_default()
            .to_owned(),
        controller: bus.map(|bus| bus.controller).unwrap_or_default(),
        controller_type: bus.map(|bus| bus.kind.clone()).unwrap_or_default(),
        bus: bus.map(|bus| bus.number).unwrap_or_default(),
        unit: soap::number(node, "unitNumber").unwrap_or_default(),
        capacity_bytes: soap::number(node, "capacityInBytes").or_else(in_kib).unwrap_or_default(),
        multi_writer: bus.is_some_and(|bus| bus.is_shared),
        ..VmDisk::default()
    };
    let Some(backing) = soap::child(node, "backing") else { return Ok(found) };
    let own = layer(backing, "", MOST_LAYERS)?;
    found.backing = own.backing;
    found.datastore = own.datastore;
    found.path = own.path;
    found.change_id = own.change_id;
    found.content_id = own.content_id;
    found.parent = own.parent;
    found.thin = soap::text(backing, "thinProvisioned").map(soap::says_yes);
    found.disk_mode = owned(backing, "diskMode").unwrap_or_default();
    found.independent = found.disk_mode.starts_with("independent");
    found.multi_writer |= soap::text(backing, "sharing") == Some("sharingMultiWriter");
    found.encrypted = soap::child(backing, "keyId").is_some();
    found.uuid = owned(backing, "uuid");
    Ok(found)
}

/// A file, with what lies below it. That is of its own type, unless it says another.
fn layer(node: Node<'_, '_>, above: &str, left: usize) -> Result<Layer> {
    if left == 0 {
        return Err(soap::odd("the server", &format!("a disk of more than {MOST_LAYERS} layers")));
    }
    let owned = |name: &str| soap::text(node, name).filter(|text| !text.is_empty()).map(str::to_owned);
    let path = owned("fileName").unwrap_or_default();
    let kind = soap::type_of(node).unwrap_or(above);
    let parent = soap::child(node, "parent").map(|parent| layer(parent, kind, left - 1)).transpose()?;
    Ok(Layer {
        backing: BackingKind::of(kind),
        datastore: datastore_of(&path).unwrap_or_default().to_owned(),
        path,
        change_id: owned("changeId"),
        content_id: owned("contentId"),
        parent: parent.map(Box::new),
    })
}

/// Cards are many types; all of them have an address.
fn is_card(kind: &str, node: Node<'_, '_>) -> bool {
    const CARDS: [&str; 7] = [
        "VirtualVmxnet3",
        "VirtualVmxnet3Vrdma",
        "VirtualVmxnet2",
        "VirtualVmxnet",
        "VirtualE1000",
        "VirtualE1000e",
        "VirtualPCNet32",
    ];
    CARDS.contains(&kind) || soap::child(node, "macAddress").is_some()
}

fn card(kind: &str, node: Node<'_, '_>, found: &mut Devices) {
    let key = soap::number(node, "key").unwrap_or_default();
    let plug = soap::child(node, "connectable");
    let says = |name: &str| plug.is_some_and(|plug| soap::is_true(plug, name));
    let backing = soap::child(node, "backing");
    let group = backing.and_then(|backing| soap::at(backing, &["port", "portgroupKey"]));
    let network = backing.and_then(|backing| {
        soap::text(backing, "deviceName").or_else(|| soap::text(backing, "opaqueNetworkId"))
    });
    if let Some(group) = group.and_then(|group| group.text()) {
        found.port_groups.push((key, MoRef::new("DistributedVirtualPortgroup", group)));
    }
    found.nics.push(VmNic {
        key,
        label: soap::at(node, &["deviceInfo", "label"])
            .and_then(|label| label.text())
            .unwrap_or_default()
            .to_owned(),
        model: kind.to_owned(),
        mac: soap::text(node, "macAddress").filter(|mac| !mac.is_empty()).map(str::to_owned),
        // A port group's key until its name is known.
        network: network
            .or(group.and_then(|group| group.text()))
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        connected: says("connected"),
        starts_connected: says("startConnected"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(devices_xml: &str) -> Result<Devices> {
        let text = format!(
            r#"<hardware xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{devices_xml}</hardware>"#
        );
        devices(roxmltree::Document::parse(&text).unwrap().root_element())
    }

    const CONTROLLERS: &str = r#"
        <device xsi:type="ParaVirtualSCSIController"><key>1000</key><busNumber>0</busNumber><sharedBus>noSharing</sharedBus></device>
        <device xsi:type="VirtualLsiLogicSASController"><key>1001</key><busNumber>1</busNumber><sharedBus>physicalSharing</sharedBus></device>
        <device xsi:type="VirtualAHCIController"><key>15000</key><busNumber>0</busNumber></device>
        <device xsi:type="VirtualTPM"><key>11000</key></device>"#;

    #[test]
    fn disks_are_told_with_their_controllers_in_the_order_of_firmware_and_with_what_lies_below() {
        let found = read(&format!(
            r#"{CONTROLLERS}
            <device xsi:type="VirtualDisk"><key>2001</key><deviceInfo><label>Hard disk 2</label></deviceInfo>
              <backing xsi:type="VirtualDiskRawDiskMappingVer1BackingInfo"><fileName>[ds1] web/rdm.vmdk</fileName>
                <diskMode>independent_persistent</diskMode></backing>
              <controllerKey>1001</controllerKey><unitNumber>2</unitNumber><capacityInKB>1024</capacityInKB></device>
            <device xsi:type="VirtualDisk"><key>16000</key><backing xsi:type="VirtualDiskFlatVer2BackingInfo">
                <fileName>[ds1] web/s.vmdk</fileName><sharing>sharingMultiWriter</sharing></backing>
              <controllerKey>15000</controllerKey><unitNumber>0</unitNumber><capacityInBytes>512</capacityInBytes></device>
            <device xsi:type="VirtualDisk"><key>2000</key><backing xsi:type="vim25:VirtualDiskSeSparseBackingInfo">
                <fileName>[ds 2] web/web-000001.vmdk</fileName><diskMode>persistent</diskMode><uuid>6000C29a</uuid>
                <changeId>52 d1/7</changeId><contentId>fffe</contentId>
                <parent xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>[ds1] web/web.vmdk</fileName></parent></backing>
              <controllerKey>1000</controllerKey><unitNumber>0</unitNumber><capacityInKB>1</capacityInKB>
              <capacityInBytes>8589934592</capacityInBytes></device>"#
        ))
        .unwrap();
        assert!(found.tpm);
        let [system, rdm, sata] = &found.disks[..] else { panic!("{found:?}") };
        assert_eq!((system.key, system.controller, system.capacity_bytes), (2000, Controller::Scsi, 8 << 30));
        assert_eq!(
            (system.backing, system.datastore.as_str(), system.layers()),
            (BackingKind::Sesparse, "ds 2", 2)
        );
        assert_eq!(system.parent.as_ref().unwrap().path, "[ds1] web/web.vmdk");
        assert_eq!((system.change_id.as_deref(), system.thin), (Some("52 d1/7"), None));
        assert_eq!((rdm.backing, rdm.independent, rdm.multi_writer), (BackingKind::Rdm, true, true));
        assert_eq!((rdm.bus, rdm.unit, rdm.capacity_bytes), (1, 2, 1 << 20));
        assert_eq!((sata.controller, sata.multi_writer, sata.independent), (Controller::Sata, true, false));
    }

    #[test]
    fn cards_tell_their_network_or_the_port_group_that_it_is() {
        let found = read(
            r#"<device xsi:type="VirtualVmxnet3"><key>4000</key><backing xsi:type="VirtualEthernetCardNetworkBackingInfo">
                <deviceName>VM Network</deviceName></backing><connectable><startConnected>true</startConnected>
                <connected>false</connected></connectable><macAddress>00:50:56:aa:bb:01</macAddress></device>
            <device xsi:type="VirtualSriovEthernetCard"><key>4001</key>
                <backing xsi:type="VirtualEthernetCardDistributedVirtualPortBackingInfo"><port><switchUuid>50</switchUuid>
                <portgroupKey>dvportgroup-12</portgroupKey></port></backing><macAddress>00:50:56:aa:bb:02</macAddress></device>"#,
        )
        .unwrap();
        assert_eq!(found.nics[0].network.as_deref(), Some("VM Network"));
        assert!(found.nics[0].starts_connected && !found.nics[0].connected);
        assert_eq!(found.nics[1].network.as_deref(), Some("dvportgroup-12"));
        assert_eq!(found.port_groups, [(4001, MoRef::new("DistributedVirtualPortgroup", "dvportgroup-12"))]);
    }

    #[test]
    fn a_chain_without_end_is_refused() {
        let open = "<parent><fileName>[a] b.vmdk</fileName>".repeat(MOST_LAYERS);
        let close = "</parent>".repeat(MOST_LAYERS);
        let disk = format!(r#"<device xsi:type="VirtualDisk"><backing>{open}{close}</backing></device>"#);
        assert!(read(&disk).unwrap_err().to_string().contains("layers"));
    }
}
