//! All that a server knows of one machine.
//!
//! What is not here: its devices ([`super::devices`]), and what of it becomes facts ([`super::facts`]).

use std::collections::{BTreeMap, HashMap};

use roxmltree::Node;
use serde::Serialize;

use super::client::Client;
use super::devices::{self, VmDisk, VmNic};
use super::failure;
use super::inventory::{Power, VmRef};
use super::property::{self, Found, Wanted};
use super::soap::{self, Failure, MoRef};
use super::tree::{self, Tree};
use crate::model::error::{Error, Kind, Result};
use crate::model::machine::Firmware;
use crate::model::vmware::name_decoded;

/// No tree of snapshots is deeper.
pub(super) const MOST_DEPTH: usize = 64;

const MACHINE: Wanted = Wanted {
    kind: "VirtualMachine",
    paths: &[
        "name",
        "parent",
        "parentVApp",
        "config",
        "runtime.powerState",
        "runtime.connectionState",
        "runtime.host",
        "runtime.consolidationNeeded",
        "capability.changeTrackingSupported",
        "summary.storage.committed",
        "snapshot",
        "guest",
        "customValue",
    ],
};

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// What people call it.
    pub name: String,
    /// Where it stands: `/DC0/vm/web/web01`.
    pub path: String,
    /// What the server calls it.
    pub moref: String,
    /// Its datacenter, as the addresses of its files have it.
    pub datacenter: Option<String>,
    /// The ESXi host that has it, as the server calls that: `host-9`.
    pub host: Option<String>,
    /// Of its BIOS.
    pub uuid: Option<String>,
    /// That vCenter gave it.
    pub instance_uuid: Option<String>,
    /// Whether it runs.
    pub power: Power,
    /// Whether the server can do anything with it: `connected`, else why not.
    pub connection: String,
    /// Whether it is only there to be copied.
    pub template: bool,
    /// Where its VMX lies: `[ds1] web/web.vmx`.
    pub vmx: String,
    /// Version of its hardware: `vmx-19`.
    pub hardware: String,
    /// `debian11_64Guest`
    pub guest_id: Option<String>,
    /// The same in words.
    pub guest: Option<String>,
    /// Processors.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mb: u64,
    /// What starts it.
    pub firmware: Option<Firmware>,
    /// Whether only signed boot loaders run.
    pub secure_boot: bool,
    /// Whether it has a TPM.
    pub tpm: bool,
    /// Whether its configuration is encrypted there.
    pub encrypted: bool,
    /// What it takes on its datastores.
    pub used_bytes: Option<u64>,
    /// Its disks, in the order in which its firmware sees them.
    pub disks: Vec<VmDisk>,
    /// Its network cards, in order.
    pub nics: Vec<VmNic>,
    /// The keys of the disks that it boots from, in order, where somebody chose.
    pub boot_disks: Vec<i32>,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot>,
    /// The one that it goes on from.
    pub current_snapshot: Option<String>,
    /// Whether files of snapshots are left that no snapshot has any more.
    pub consolidation_needed: bool,
    /// Whether changes of its disks are tracked.
    pub change_tracking: bool,
    /// Whether they can be; none: the server does not say.
    pub change_tracking_supported: Option<bool>,
    /// What its tools say.
    pub tools: Tools,
    /// Notes of people.
    pub annotation: Option<String>,
    /// Attributes that people gave it, by name.
    pub attributes: BTreeMap<String, String>,
}

/// What VMware's tools say of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tools {
    /// `guestToolsRunning`
    pub status: Option<String>,
    /// What the guest calls itself.
    pub hostname: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// A snapshot, with those that came after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// What people call it.
    pub name: String,
    /// What the server calls it.
    pub moref: String,
    /// In words.
    pub description: String,
    /// When it was made: `2026-11-20T14:03:09Z`.
    pub created: String,
    /// Whether the guest stood still.
    pub quiesced: bool,
    /// Of a machine that ran: with memory or without.
    pub power: Power,
    /// Those that came after it.
    pub children: Vec<Snapshot>,
}

/// All of a machine.
pub fn machine(client: &Client, vm: &VmRef) -> Result<Machine> {
    let what = format!("cannot look at {} of {}", vm.moref, client.host());
    let told = |failure| failure::told(&what, failure);
    let mut read = None;
    property::of_objects(client, &[vm.object()], &[MACHINE], |found| {
        read = Some(of(found, &what)?);
        Ok(())
    })
    .map_err(told)?;
    let Some(Read { mut machine, raw_name, parent, port_groups, attributes }) = read else {
        return Err(Error::new(Kind::Source, format!("{what}: nothing is told of it"))
            .advice("see which there are: `hyper2kvm vsphere list`"));
    };
    let tree = client.in_one_session(|| {
        let mut tree = Tree::default();
        property::of_all(client, &tree::WANTED, |found| {
            tree.take(found);
            Ok(())
        })?;
        Ok(tree)
    });
    let tree = tree.map_err(told)?;
    let mut names = tree.above(parent.as_ref());
    names.push(&raw_name);
    machine.path = format!("/{}", names.join("/"));
    machine.datacenter = tree.datacenter(parent.as_ref());
    let networks = port_group_names(client, &port_groups);
    for nic in &mut machine.nics {
        if let Some(name) = networks.get(&nic.key) {
            nic.network = Some(name.clone());
        }
    }
    machine.attributes = named(client, attributes).map_err(told)?;
    Ok(machine)
}

/// What is read of a machine, before it is asked what that is called.
struct Read {
    machine: Machine,
    /// As vSphere writes it.
    raw_name: String,
    parent: Option<MoRef>,
    port_groups: Vec<(i32, MoRef)>,
    /// By the numbers of their names.
    attributes: Vec<(String, String)>,
}

fn of(found: &Found<'_, '_>, what: &str) -> Result<Read> {
    let Some(config) = found.get("config") else {
        return Err(match found.refusal("config") {
            Some(fault) => failure::told(what, Failure::Fault(Box::new(fault))),
            None => Error::new(Kind::Source, format!("{what}: it has no configuration"))
                .advice("the server cannot read its VMX: see that its datastore and its host are there"),
        });
    };
    let raw_name = found.text("name").unwrap_or_default().to_owned();
    let owned = |node: Node<'_, '_>, name: &str| {
        soap::text(node, name).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let hardware = soap::child(config, "hardware");
    let devices = hardware.map(devices::devices).transpose()?.unwrap_or_default();
    let boot = soap::child(config, "bootOptions");
    let firmware = soap::text(config, "firmware").map(|name| match name {
        "efi" => Firmware::Uefi,
        _ => Firmware::Bios,
    });
    let snapshot = found.get("snapshot");
    let is_yes = |path: &str| found.text(path).is_some_and(soap::says_yes);
    let number =
        |name: &str| hardware.and_then(|hardware| soap::number::<u64>(hardware, name)).unwrap_or_default();
    let machine = Machine {
        name: name_decoded(&raw_name),
        moref: found.object.value.clone(),
        host: found.object_at("runtime.host").map(|host| host.value),
        uuid: owned(config, "uuid"),
        instance_uuid: owned(config, "instanceUuid"),
        power: Power::of(found.text("runtime.powerState")),
        connection: found.text("runtime.connectionState").unwrap_or_default().to_owned(),
        template: soap::is_true(config, "template"),
        vmx: soap::at(config, &["files", "vmPathName"])
            .and_then(|path| path.text())
            .unwrap_or_default()
            .to_owned(),
        hardware: owned(config, "version").unwrap_or_default(),
        guest_id: owned(config, "guestId"),
        guest: owned(config, "guestFullName"),
        cpus: u32::try_from(number("numCPU")).unwrap_or_default(),
        memory_mb: number("memoryMB"),
        firmware,
        secure_boot: firmware == Some(Firmware::Uefi)
            && boot.is_some_and(|boot| soap::is_true(boot, "efiSecureBootEnabled")),
        tpm: devices.tpm,
        encrypted: soap::child(config, "keyId").is_some(),
        used_bytes: found.number("summary.storage.committed"),
        disks: devices.disks,
        nics: devices.nics,
        boot_disks: boot.map(boot_disks).unwrap_or_default(),
        snapshots: snapshot.map(|node| snapshots(node, "rootSnapshotList", MOST_DEPTH)).unwrap_or_default(),
        current_snapshot: snapshot.and_then(|node| owned(node, "currentSnapshot")),
        consolidation_needed: is_yes("runtime.consolidationNeeded"),
        change_tracking: soap::is_true(config, "changeTrackingEnabled"),
        change_tracking_supported: found
            .text("capability.changeTrackingSupported")
            .filter(|text| !text.is_empty())
            .map(soap::says_yes),
        tools: found.get("guest").map(tools).unwrap_or_default(),
        annotation: owned(config, "annotation"),
        ..Machine::default()
    };
    let values =
        found.get("customValue").into_iter().flat_map(|values| values.children().filter(Node::is_element));
    let attributes =
        values.filter_map(|value| Some((owned(value, "key")?, owned(value, "value")?))).collect();
    let parent = found.object_at("parent").or_else(|| found.object_at("parentVApp"));
    Ok(Read { machine, raw_name, parent, port_groups: devices.port_groups, attributes })
}

fn boot_disks(boot: Node<'_, '_>) -> Vec<i32> {
    soap::children(boot, "bootOrder").filter_map(|entry| soap::number(entry, "deviceKey")).collect()
}

pub(super) fn snapshots(node: Node<'_, '_>, name: &str, left: usize) -> Vec<Snapshot> {
    if left == 0 {
        return Vec::new();
    }
    let text = |node: Node<'_, '_>, name: &str| soap::text(node, name).unwrap_or_default().to_owned();
    let snapshot = |node| Snapshot {
        name: name_decoded(&text(node, "name")),
        moref: text(node, "snapshot"),
        description: text(node, "description"),
        created: text(node, "createTime"),
        quiesced: soap::is_true(node, "quiesced"),
        power: Power::of(soap::text(node, "state")),
        children: snapshots(node, "childSnapshotList", left - 1),
    };
    soap::children(node, name).map(snapshot).collect()
}

fn tools(guest: Node<'_, '_>) -> Tools {
    let owned = |name: &str| soap::text(guest, name).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut addresses: Vec<String> = soap::children(guest, "net")
        .flat_map(|net| soap::children(net, "ipAddress"))
        .filter_map(|address| address.text().map(str::to_owned))
        .collect();
    if let Some(first) = owned("ipAddress").filter(|first| !addresses.contains(first)) {
        addresses.insert(0, first);
    }
    Tools { status: owned("toolsRunningStatus"), hostname: owned("hostName"), addresses }
}

/// What port groups are called, by the keys of the cards. One that is not told keeps its key: that is no reason to know nothing of the machine.
fn port_group_names(client: &Client, groups: &[(i32, MoRef)]) -> HashMap<i32, String> {
    const GROUP: Wanted = Wanted { kind: "DistributedVirtualPortgroup", paths: &["name"] };
    let mut names = HashMap::new();
    for (key, group) in groups {
        let asked = property::of_objects(client, std::slice::from_ref(group), &[GROUP], |found| {
            if let Some(name) = found.text("name") {
                names.insert(*key, name_decoded(name));
            }
            Ok(())
        });
        if let Err(failure) = asked {
            let error = failure::told("cannot ask for the name of a port group", failure);
            tracing::debug!(%error, group = group.value, "its key is shown");
        }
    }
    names
}

/// Attributes by their names.
fn named(client: &Client, attributes: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    const FIELDS: Wanted = Wanted { kind: "CustomFieldsManager", paths: &["field"] };
    let Some(manager) = client.service().custom_fields_manager.clone().filter(|_| !attributes.is_empty())
    else {
        return Ok(BTreeMap::new());
    };
    let mut names = HashMap::new();
    property::of_objects(client, &[manager], &[FIELDS], |found| {
        for field in
            found.get("field").into_iter().flat_map(|fields| fields.children().filter(Node::is_element))
        {
            if let (Some(key), Some(name)) = (soap::text(field, "key"), soap::text(field, "name")) {
                names.insert(key.to_owned(), name.to_owned());
            }
        }
        Ok(())
    })?;
    Ok(attributes.into_iter().filter_map(|(key, value)| Some((names.get(&key)?.clone(), value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(text: &str) -> roxmltree::Document<'_> {
        roxmltree::Document::parse(text).unwrap()
    }

    #[test]
    fn snapshots_are_a_tree_that_ends() {
        let document = xml(
            "<s><rootSnapshotList><snapshot type='VirtualMachineSnapshot'>snapshot-1</snapshot><name>a%2fb</name>
             <createTime>2026-11-20T14:03:09Z</createTime><state>poweredOff</state><quiesced>true</quiesced>
             <childSnapshotList><snapshot>snapshot-2</snapshot><name>later</name></childSnapshotList>
             </rootSnapshotList></s>",
        );
        let found = snapshots(document.root_element(), "rootSnapshotList", MOST_DEPTH);
        assert_eq!(
            (found[0].name.as_str(), found[0].moref.as_str(), found[0].quiesced),
            ("a/b", "snapshot-1", true)
        );
        assert_eq!(found[0].children[0].name, "later");
        let deep = format!("<s>{}{}</s>", "<c>".repeat(200), "</c>".repeat(200));
        assert!(snapshots(xml(&deep).root_element(), "c", MOST_DEPTH).len() == 1);
    }

    #[test]
    fn tools_tell_addresses_once() {
        let document = xml(
            "<g><toolsRunningStatus>guestToolsRunning</toolsRunningStatus><hostName>web</hostName><ipAddress>10.0.0.5</ipAddress>
             <net><ipAddress>10.0.0.5</ipAddress><ipAddress>fe80::1</ipAddress></net></g>",
        );
        let tools = tools(document.root_element());
        assert_eq!(tools.addresses, ["10.0.0.5", "fe80::1"]);
        assert_eq!(tools.hostname.as_deref(), Some("web"));
    }
}
