//! An entry of a batch that stands for VMs of a server, and the VMs that it turns out to stand for.
//!
//! Each of them is what the entry says, of one machine by the server's own name for it; from then on it is a VM like one that somebody has written
//! down. What "the same content" means for it does not depend on how it was selected. What is not here: which machines are meant
//! ([`crate::model::selection`]), and which of them the batch has already.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::effective::Effective;
use super::{RefusedVm, Submission, VmSubmission, hex};
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::Manifest;
use crate::model::parse::{Node, Tree};
use crate::model::plan::{Plan, Sha256Hex};
use crate::model::remote::{Asked, Draft};
use crate::model::selection::{SelectedVm, Selecting, ids};

/// What "the same content" means for a VM; of one that stands for others it is kept for these.
pub(super) fn content(effective: &mut Effective) -> Sha256Hex {
    let content = hex(&Sha256::digest(effective.content().to_string()));
    let Some(selecting) = &mut effective.selecting else { return content };
    selecting.content = content;
    let said = serde_json::to_string(selecting).unwrap_or_default();
    hex(&Sha256::digest(said))
}

/// The VMs that a plan stands for, as a submission of their own to the same batch.
pub fn expand(plan: &Plan, selected: &[SelectedVm]) -> Result<Submission> {
    let missing = || Error::internal("a plan without its draft stands for nothing");
    let draft: &Draft =
        plan.remote.as_ref().and_then(|remote| remote.draft.as_deref()).ok_or_else(missing)?;
    let entry = draft.submission.vms.first().ok_or_else(missing)?;
    let selecting = entry.asked.as_ref().and_then(|asked| asked.selecting.as_deref()).ok_or_else(missing)?;
    let mut submission = draft.submission.clone_without_vms();
    let mut seen = BTreeSet::new();
    for (vm_id, machine) in ids(selected).into_iter().zip(selected) {
        if !seen.insert(vm_id.clone()) {
            return Err(Error::new(Kind::Source, format!("two of its machines would be called `{vm_id}`"))
                .field(selecting.entry.clone())
                .advice("rename one of them, or exclude it"));
        }
        let vm = member(entry, selecting, vm_id, machine);
        match check(&vm) {
            Ok(()) => submission.vms.push(vm),
            Err(error) => {
                let error = error.field(selecting.entry.clone());
                submission.refused.push(RefusedVm { vm_id: vm.vm_id, error });
            }
        }
    }
    Ok(submission)
}

fn member(entry: &VmSubmission, selecting: &Selecting, vm_id: String, machine: &SelectedVm) -> VmSubmission {
    let mut manifest = entry.manifest.clone();
    if let Some(vsphere) = manifest.pointer_mut("/source/vsphere").and_then(Value::as_object_mut) {
        vsphere.insert("moref".to_owned(), json!(machine.moref));
    }
    if let Some(manifest) = manifest.as_object_mut() {
        manifest.insert("name".to_owned(), json!(machine.name));
    }
    VmSubmission {
        vm_id,
        content_sha256: hex(&Sha256::digest(format!("{}\0{}", selecting.content, machine.moref))),
        manifest,
        asked: Some(Asked { selecting: None, ..entry.asked.clone().unwrap_or_default() }),
        ..entry.clone()
    }
}

/// A server may call its machines what no manifest could.
fn check(vm: &VmSubmission) -> Result<()> {
    let tree = Tree::of(Node::from_json(&vm.manifest), "effective manifest");
    tree.decode::<Manifest>().map(drop)
}

#[cfg(test)]
#[path = "selected_tests.rs"]
mod tests;
