//! What the VMs of a batch are to each other: none is called like another, and each waits only for others, never in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::super::effective::Effective;
use super::Member;
use crate::model::error::{Error, Kind, Result};

/// Two VMs of one name cannot be told apart: not by their directories, nor by whoever waits for one of them.
pub(super) fn check_names(vms: &[Member]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for vm in vms {
        if !seen.insert(&vm.vm_id) {
            let (field, line, column) = &vm.place;
            return Err(Error::new(
                Kind::Manifest,
                format!("two VMs of the batch are called `{}`", vm.vm_id),
            )
            .field(field.clone())
            .at(*line, *column)
            .advice("give each an `id` of its own"));
        }
    }
    Ok(())
}

/// Each VM waits for others of this batch only, and none for itself by way of others.
pub(super) fn check_dependencies(vms: &mut [Member], off: &BTreeSet<String>) -> Result<()> {
    let known: BTreeSet<String> = vms.iter().map(|vm| vm.vm_id.clone()).collect();
    for vm in vms.iter_mut() {
        let Ok(effective) = &vm.read else { continue };
        let mut errors = Vec::new();
        for (nth, id) in effective.manifest.depends_on.iter().flatten().enumerate() {
            let id = id.as_str();
            if id != vm.vm_id && known.contains(id) {
                continue;
            }
            let cause = match off.contains(id) {
                true => format!("the VM `{id}` is switched off in this batch"),
                false => format!("there is no other VM `{id}` in this batch"),
            };
            errors.push(
                effective
                    .tree
                    .error(Kind::Manifest, &format!("depends_on[{nth}]"), cause)
                    .advice("name the id of another of its VMs"),
            );
        }
        if !errors.is_empty() {
            vm.read = Err(errors);
        }
    }
    let waits: BTreeMap<&str, (&Effective, Vec<&str>)> = vms
        .iter()
        .filter_map(|vm| {
            let effective = vm.read.as_ref().ok()?;
            let ids = effective.manifest.depends_on.iter().flatten().map(|id| id.as_str()).collect();
            Some((vm.vm_id.as_str(), (effective, ids)))
        })
        .collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in waits.keys().copied() {
        if let Some(circle) = circle(start, &waits, &mut done) {
            let effective = waits.get(circle[0]).map(|(effective, _)| *effective);
            let error =
                Error::new(Kind::Manifest, format!("these VMs wait for each other: {}", circle.join(" -> ")))
                    .advice("remove one of these dependencies");
            return Err(
                effective.map_or(error.clone(), |effective| effective.tree.located("depends_on", error))
            );
        }
    }
    Ok(())
}

/// A way from a VM back to itself, over what each waits for. Walks by hand: ten thousand VMs in a row are no deep stack.
fn circle<'v>(
    start: &'v str,
    waits: &BTreeMap<&'v str, (&Effective, Vec<&'v str>)>,
    done: &mut BTreeSet<&'v str>,
) -> Option<Vec<&'v str>> {
    let mut way: Vec<(&str, usize)> = vec![(start, 0)];
    let mut on_way = BTreeSet::from([start]);
    while let Some((here, next)) = way.last_mut() {
        let open = !done.contains(here);
        let Some(id) = waits.get(here).and_then(|(_, ids)| ids.get(*next)).copied().filter(|_| open) else {
            done.insert(here);
            on_way.remove(here);
            way.pop();
            continue;
        };
        *next += 1;
        if !on_way.insert(id)
            && let Some(at) = way.iter().position(|(known, _)| *known == id)
        {
            let mut circle: Vec<&str> = way[at..].iter().map(|(id, _)| *id).collect();
            circle.push(id);
            return Some(circle);
        }
        way.push((id, 0));
    }
    None
}
