//! Snapshots of a machine: made and removed, each waited for until vSphere is done with it.
//!
//! Where files of snapshots are left that need consolidation none is made: it would hang one more on a chain that is broken already. What is not
//! here: listing them ([`super::machine`]), and who remembers which of them are ours.

use serde::Serialize;

use super::client::Client;
use super::devices::{self, Layer, VmDisk};
use super::failure;
use super::inventory::{Power, VmRef};
use super::machine::{Machine, Snapshot, machine};
use super::property::{self, Wanted};
use super::soap::{self, Call, Failure, MoRef};
use super::task;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// What a guest that could not be made to stand still is told by.
const NOT_QUIESCED: [&str; 3] =
    ["ApplicationQuiesceFault", "FilesystemQuiesceFault", "QuiesceDatastoreIOForHAFailed"];

/// Whether the guest stands still while the snapshot is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quiesce {
    /// If it can.
    #[default]
    Try,
    /// It has to.
    Yes,
    /// It need not: the snapshot is as if the power had failed.
    No,
}

/// A snapshot that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// What the server calls it.
    pub moref: String,
    /// Whether the guest stood still.
    pub quiesced: bool,
}

/// Makes a snapshot without memory. `told` hears how far that is.
pub fn create(
    client: &Client,
    vm: &VmRef,
    (name, description): (&str, &str),
    quiesce: Quiesce,
    told: &mut dyn FnMut(u8),
) -> Result<Made> {
    let what = format!("cannot make a snapshot of {} of {}", vm.moref, client.host());
    let before = machine(client, vm)?;
    may_have_another(&before, &what)?;
    // A machine that is off stands still by itself, and vSphere refuses to make it.
    let runs = before.power == Power::On;
    if quiesce != Quiesce::No && runs {
        match create_once(client, vm, (name, description), true, told) {
            Ok(moref) => return Ok(Made { moref, quiesced: true }),
            Err(Failure::Fault(fault))
                if quiesce == Quiesce::Try && NOT_QUIESCED.contains(&fault.kind.as_str()) =>
            {
                tracing::warn!(
                    vm = before.name,
                    "the guest does not stand still ({}): the snapshot is made without",
                    fault.words
                );
            }
            Err(failure) => return Err(failure::told(&what, failure)),
        }
    }
    let made = create_once(client, vm, (name, description), false, told);
    let moref = made.map_err(|failure| failure::told(&what, failure))?;
    Ok(Made { moref, quiesced: !runs })
}

fn may_have_another(machine: &Machine, what: &str) -> Result<()> {
    if machine.consolidation_needed {
        return Err(Error::new(Kind::Source, format!("{what}: its disks need consolidation"))
            .advice("consolidate them in vSphere first (Snapshots, Consolidate)"));
    }
    let cannot = |why: &str, advice: &str| {
        Err(Error::new(Kind::Unsupported, format!("{what}: {why}")).advice(advice.to_owned()))
    };
    if let Some(disk) = machine.disks.iter().find(|disk| disk.multi_writer) {
        return cannot(
            &format!("`{}` may be written by several machines, and vSphere makes none of such", disk.label),
            "shut down all of the machines, and take the disk as it is then",
        );
    }
    Ok(())
}

fn create_once(
    client: &Client,
    vm: &VmRef,
    (name, description): (&str, &str),
    quiesce: bool,
    told: &mut dyn FnMut(u8),
) -> Result<String, Failure> {
    let arguments = vec![
        Element::text("name", name),
        Element::text("description", description),
        Element::text("memory", false),
        Element::text("quiesce", quiesce),
    ];
    let task =
        client.call(&Call::changes("CreateSnapshot_Task", &vm.object(), arguments), soap::returned_object)?;
    let made = task::wait(client, &task, told)?;
    let made = made.ok_or_else(|| soap::odd(client.host(), "no snapshot where one was made"))?;
    Ok(made.value)
}

/// Removes a snapshot, with those that came after it if that is wanted. What it holds stays in the machine.
pub fn remove(client: &Client, snapshot: &str, with_children: bool, told: &mut dyn FnMut(u8)) -> Result<()> {
    let object = MoRef::new("VirtualMachineSnapshot", snapshot);
    let arguments = vec![Element::text("removeChildren", with_children), Element::text("consolidate", true)];
    let removed = client
        .call(&Call::changes("RemoveSnapshot_Task", &object, arguments), soap::returned_object)
        .and_then(|task| task::wait(client, &task, told));
    removed.map(drop).map_err(|failure| {
        failure::told(&format!("cannot remove the snapshot {snapshot} of {}", client.host()), failure)
    })
}

/// The disks of a machine as they were when a snapshot was made: each with its change id of that moment, where changes are tracked.
pub fn disks(client: &Client, snapshot: &str) -> Result<Vec<VmDisk>> {
    const HARDWARE: Wanted = Wanted { kind: "VirtualMachineSnapshot", paths: &["config.hardware"] };
    let what = format!("cannot look at the snapshot {snapshot} of {}", client.host());
    let object = MoRef::new("VirtualMachineSnapshot", snapshot);
    let mut disks = None;
    property::of_objects(client, &[object], &[HARDWARE], |found| {
        disks = found.get("config.hardware").map(devices::devices).transpose()?.map(|found| found.disks);
        Ok(())
    })
    .map_err(|failure| failure::told(&what, failure))?;
    disks.ok_or_else(|| {
        Error::new(Kind::Source, format!("{what}: nothing is told of its disks"))
            .advice("see which there are: `hyper2kvm vsphere snapshot list`")
    })
}

/// Removes every snapshot of this name from a machine, also one that another task is still making or removing.
pub fn remove_all_called(client: &Client, vm: &VmRef, name: &str, told: &mut dyn FnMut(u8)) -> Result<()> {
    let is_called = |machine: &Machine| -> Vec<String> {
        let all = flat(&machine.snapshots).into_iter().filter(|(_, one)| one.name == name);
        all.map(|(_, one)| one.moref.clone()).collect()
    };
    task::none_goes_on(client, vm)?;
    for moref in is_called(&machine(client, vm)?) {
        if let Err(error) = remove(client, &moref, false, told) {
            // Somebody else may have done it meanwhile.
            let is_there = is_called(&machine(client, vm)?).contains(&moref);
            if is_there {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// A machine as it was before its newest snapshots were made, those that are called so; none where the newest is not.
#[must_use]
pub fn without(machine: &Machine, names: &[String]) -> Option<Machine> {
    let mut before = machine.clone();
    while let Some(newest) = before.current_snapshot.clone() {
        let Some(parent) = cut(&mut before.snapshots, &newest, names) else { break };
        before.current_snapshot = parent;
        for disk in &mut before.disks {
            let Some(below) = disk.parent.take() else { continue };
            let Layer { backing, datastore, path, change_id, content_id, parent } = *below;
            *disk = VmDisk { backing, datastore, path, change_id, content_id, parent, ..disk.clone() };
        }
    }
    (before.current_snapshot != machine.current_snapshot).then_some(before)
}

/// Takes a snapshot out of a tree, if it is called so and none came after it; the one before it then.
fn cut(snapshots: &mut Vec<Snapshot>, moref: &str, names: &[String]) -> Option<Option<String>> {
    let is_it = |one: &Snapshot| one.moref == moref && one.children.is_empty() && names.contains(&one.name);
    if let Some(place) = snapshots.iter().position(is_it) {
        snapshots.remove(place);
        return Some(None);
    }
    snapshots.iter_mut().find_map(|one| {
        let parent = cut(&mut one.children, moref, names)?;
        Some(parent.or_else(|| Some(one.moref.clone())))
    })
}

/// All of a tree, each with how deep it hangs.
#[must_use]
pub fn flat(snapshots: &[Snapshot]) -> Vec<(usize, &Snapshot)> {
    let mut all = Vec::new();
    let mut left: Vec<(usize, &Snapshot)> = snapshots.iter().rev().map(|snapshot| (0, snapshot)).collect();
    while let Some((depth, snapshot)) = left.pop() {
        all.push((depth, snapshot));
        left.extend(snapshot.children.iter().rev().map(|child| (depth + 1, child)));
    }
    all
}

/// The snapshot of a machine that is meant, by its name or by what the server calls it.
pub fn find<'m>(machine: &'m Machine, wanted: &str) -> Result<&'m Snapshot> {
    let all = flat(&machine.snapshots);
    let is_meant = |snapshot: &&Snapshot| snapshot.moref == wanted || snapshot.name == wanted;
    let meant: Vec<&Snapshot> = all.iter().map(|(_, snapshot)| *snapshot).filter(is_meant).collect();
    match meant[..] {
        [one] => Ok(one),
        [] => Err(Error::new(Kind::Source, format!("{} has no snapshot `{wanted}`", machine.name))
            .advice("see which it has: `hyper2kvm vsphere snapshot list`")),
        _ => Err(Error::new(
            Kind::Source,
            format!("{} snapshots of {} are called `{wanted}`", meant.len(), machine.name),
        )
        .allowed(meant.iter().map(|snapshot| snapshot.moref.clone()))
        .advice("name one of them as the server does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, moref: &str, children: Vec<Snapshot>) -> Snapshot {
        Snapshot { name: name.to_owned(), moref: moref.to_owned(), children, ..Snapshot::default() }
    }

    #[test]
    fn a_snapshot_is_found_by_name_or_reference_and_two_of_a_name_are_told() {
        let tree = vec![
            snapshot(
                "a",
                "snapshot-1",
                vec![snapshot("b", "snapshot-2", Vec::new()), snapshot("a", "snapshot-3", Vec::new())],
            ),
            snapshot("c", "snapshot-4", Vec::new()),
        ];
        let machine = Machine { snapshots: tree, ..Machine::default() };
        let order: Vec<(usize, &str)> =
            flat(&machine.snapshots).iter().map(|(depth, one)| (*depth, one.moref.as_str())).collect();
        assert_eq!(order, [(0, "snapshot-1"), (1, "snapshot-2"), (1, "snapshot-3"), (0, "snapshot-4")]);
        assert_eq!(find(&machine, "b").unwrap().moref, "snapshot-2");
        assert_eq!(find(&machine, "snapshot-3").unwrap().name, "a");
        assert_eq!(find(&machine, "a").unwrap_err().details().place.allowed, ["snapshot-1", "snapshot-3"]);
        assert!(find(&machine, "d").is_err());
    }

    #[test]
    fn a_machine_is_what_it_was_before_the_newest_snapshots_of_a_name() {
        let layer =
            |number: u32, parent| Layer { path: format!("web-{number}.vmdk"), parent, ..Layer::default() };
        let base = Box::new(layer(0, None));
        let disk = VmDisk {
            path: "web-2.vmdk".to_owned(),
            parent: Some(Box::new(layer(1, Some(base.clone())))),
            ..VmDisk::default()
        };
        let tree = vec![snapshot("theirs", "snapshot-1", vec![snapshot("ours", "snapshot-2", Vec::new())])];
        let machine = Machine {
            disks: vec![disk],
            snapshots: tree,
            current_snapshot: Some("snapshot-2".to_owned()),
            ..Machine::default()
        };
        let before = without(&machine, &["ours".to_owned()]).unwrap();
        assert_eq!(before.snapshots, [snapshot("theirs", "snapshot-1", Vec::new())]);
        assert_eq!(before.current_snapshot.as_deref(), Some("snapshot-1"));
        assert_eq!((before.disks[0].path.as_str(), &before.disks[0].parent), ("web-1.vmdk", &Some(base)));
        // One that others came after, and such of others, are part of what it is.
        assert!(without(&machine, &["theirs".to_owned()]).is_none());
        assert!(without(&before, &["ours".to_owned()]).is_none());
        let alone = without(&machine, &["ours".to_owned(), "theirs".to_owned()]).unwrap();
        assert!(alone.snapshots.is_empty() && alone.current_snapshot.is_none());
        assert_eq!(alone.disks[0].path, "web-0.vmdk");
    }

    #[test]
    fn none_is_made_where_consolidation_is_needed() {
        let machine = Machine { consolidation_needed: true, ..Machine::default() };
        assert!(may_have_another(&machine, "cannot").unwrap_err().to_string().contains("consolidat"));
        may_have_another(&Machine::default(), "cannot").unwrap();
    }
}
