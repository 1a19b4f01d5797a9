//! What an account may do with a machine, and what of it is missing for what is to be done.
//!
//! What is not here: doing it.

use serde::Serialize;

use super::client::Client;
use super::failure;
use super::inventory::VmRef;
use super::property::{self, Wanted};
use super::soap::{self, Call, Failure, MoRef};
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// What a privilege is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To see the machine at all.
    Look,
    /// To read its disks where they lie.
    Read,
    /// To have its host send its disks.
    Export,
    /// To make snapshots and remove them.
    Snapshot,
    /// To have changes tracked.
    Tracking,
    /// To shut it down, and to start it again.
    Power,
    /// To change it when it has moved elsewhere.
    GiveWay,
}

impl Purpose {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Look => "look at it",
            Purpose::Read => "read its disks",
            Purpose::Export => "export it",
            Purpose::Snapshot => "make and remove snapshots",
            Purpose::Tracking => "track changes",
            Purpose::Power => "shut it down and start it",
            Purpose::GiveWay => "change it when it has moved",
        }
    }
}

/// A privilege on a machine.
const ON_MACHINE: [(&str, Purpose); 7] = [
    ("System.View", Purpose::Look),
    ("System.Read", Purpose::Look),
    ("VApp.Export", Purpose::Export),
    ("VirtualMachine.Provisioning.GetVmFiles", Purpose::Export),
    ("VirtualMachine.State.CreateSnapshot", Purpose::Snapshot),
    ("VirtualMachine.State.RemoveSnapshot", Purpose::Snapshot),
    ("VirtualMachine.Config.ChangeTracking", Purpose::Tracking),
];
/// Where it is to be shut down (`power: shutdown`).
const FOR_POWER: [(&str, Purpose); 2] = [
    ("VirtualMachine.Interact.PowerOff", Purpose::Power),
    ("VirtualMachine.Interact.PowerOn", Purpose::Power),
];
/// Where it is to be changed afterwards (`after`).
const FOR_AFTER: [(&str, Purpose); 4] = [
    ("VirtualMachine.Config.EditDevice", Purpose::GiveWay),
    ("VirtualMachine.Interact.DeviceConnection", Purpose::GiveWay),
    ("VirtualMachine.Config.Annotation", Purpose::GiveWay),
    ("VirtualMachine.Config.Rename", Purpose::GiveWay),
];
/// And there, on its host.
const ON_HOST: [(&str, Purpose); 1] = [("Host.Config.AutoStart", Purpose::GiveWay)];
/// And on each of its datastores.
const ON_DATASTORE: [(&str, Purpose); 2] =
    [("Datastore.Browse", Purpose::Read), ("Datastore.FileManagement", Purpose::Read)];

/// Whether a privilege is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// `Datastore.Browse`
    pub privilege: String,
    /// What it is needed for.
    pub purpose: Purpose,
    /// On what: `VirtualMachine vm-42`.
    pub on: String,
    /// Whether the account has it.
    pub granted: bool,
}

/// What is to be done with a machine besides reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Further {
    /// It is to be shut down.
    pub power: bool,
    /// It is to be changed when it has moved.
    pub after: bool,
}

/// Looks which privileges the account has; without a machine, on the whole inventory.
pub fn check(client: &Client, vm: Option<&VmRef>, further: Further) -> Result<Vec<Checked>> {
    let what = format!("cannot ask {} for privileges", client.host());
    let told = |failure| failure::told(&what, failure);
    let manager = client.service().authorization_manager.clone();
    let manager = manager.zip(client.session_key()).ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{what}: it does not tell them"))
            .advice("try what is to be done")
    })?;
    let root = client.service().root_folder.clone();
    let (machine, stores) = match vm {
        Some(vm) => (vm.object(), datastores(client, vm).map_err(told)?),
        None => (root.clone(), vec![root.clone()]),
    };
    let power = if further.power { &FOR_POWER[..] } else { &[] };
    let after = if further.after { &FOR_AFTER[..] } else { &[] };
    let wanted = [&ON_MACHINE[..], power, after].concat();
    let mut checked = has(client, &manager, &[machine], &wanted).map_err(told)?;
    if further.after {
        let host = vm.map(|vm| host(client, vm)).transpose().map_err(told)?.flatten().unwrap_or(root);
        checked.extend(has(client, &manager, &[host], &ON_HOST).map_err(told)?);
    }
    checked.extend(has(client, &manager, &stores, &ON_DATASTORE).map_err(told)?);
    Ok(checked)
}

/// On which it is.
pub(super) fn host(client: &Client, vm: &VmRef) -> Result<Option<MoRef>, Failure> {
    const HOST: Wanted = Wanted { kind: "VirtualMachine", paths: &["runtime.host"] };
    let mut host = None;
    property::of_objects(client, &[vm.object()], &[HOST], |found| {
        host = found.object_at("runtime.host");
        Ok(())
    })?;
    Ok(host)
}

fn datastores(client: &Client, vm: &VmRef) -> Result<Vec<MoRef>, Failure> {
    const STORES: Wanted = Wanted { kind: "VirtualMachine", paths: &["datastore"] };
    let mut stores = Vec::new();
    property::of_objects(client, &[vm.object()], &[STORES], |found| {
        let all = found.get("datastore").into_iter();
        stores.extend(all.flat_map(|all| soap::children(all, "ManagedObjectReference")).map(soap::moref));
        Ok(())
    })?;
    Ok(stores)
}

fn has(
    client: &Client,
    (manager, session): &(MoRef, String),
    objects: &[MoRef],
    wanted: &[(&str, Purpose)],
) -> Result<Vec<Checked>, Failure> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = (objects.iter().map(|object| object.element("entity")))
        .chain([Element::text("sessionId", session)])
        .chain(wanted.iter().map(|(privilege, _)| Element::text("privId", privilege)))
        .collect();
    client.call(&Call::reads("HasPrivilegeOnEntities", manager, arguments), |answer| {
        Ok(checked(answer, objects, wanted))
    })
}

/// What an answer says of each object and privilege. One that it says nothing of is not there.
fn checked(answer: roxmltree::Node<'_, '_>, objects: &[MoRef], wanted: &[(&str, Purpose)]) -> Vec<Checked> {
    let is_granted = |object: &MoRef, privilege: &str| {
        let told = soap::children(answer, "returnval")
            .find(|entity| soap::child(*entity, "entity").map(soap::moref).as_ref() == Some(object));
        let availability = told.into_iter().flat_map(|entity| soap::children(entity, "privAvailability"));
        let mut of_it = availability.filter(|one| soap::text(*one, "privId") == Some(privilege));
        of_it.next().is_some_and(|one| soap::is_true(one, "isGranted"))
    };
    let one = |object: &MoRef, (privilege, purpose): &(&str, Purpose)| Checked {
        privilege: (*privilege).to_owned(),
        purpose: *purpose,
        on: format!("{} {}", object.kind, object.value),
        granted: is_granted(object, privilege),
    };
    objects.iter().flat_map(|object| wanted.iter().map(move |wanted| one(object, wanted))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privilege_is_missing_unless_it_is_said_to_be_there() {
        let text = "<r><returnval><entity type='Datastore'>ds-1</entity>
            <privAvailability><privId>Datastore.Browse</privId><isGranted>true</isGranted></privAvailability>
            <privAvailability><privId>Datastore.FileManagement</privId><isGranted>false</isGranted></privAvailability>
            </returnval></r>";
        let document = roxmltree::Document::parse(text).unwrap();
        let stores = [MoRef::new("Datastore", "ds-1"), MoRef::new("Datastore", "ds-2")];
        let all = checked(document.root_element(), &stores, &ON_DATASTORE);
        let granted: Vec<bool> = all.iter().map(|one| one.granted).collect();
        assert_eq!(granted, [true, false, false, false]);
        assert_eq!(all[2].on, "Datastore ds-2");
    }
}
