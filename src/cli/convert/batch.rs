//! A batch's file on the command line: options are laid over each of its VMs, and each becomes work of its own.
//!
//! What is not here: what a batch means (the planner's), and the order in which its VMs run (see `running`).

use std::path::Path;

use serde_json::{Value, json};

use super::ConvertArgs;
use super::inputs::{put, put_options};
use crate::model::error::{Error, Kind, Result};
use crate::model::planner::{RefusedVm, Submission};

/// Whether a document is a batch's.
pub(super) fn is_batch(document: &Value) -> bool {
    document.get("batch_version").is_some()
}

/// A batch's document with the options put over every VM. `base`: where results go that nobody else has a place for.
pub(super) fn with_options(mut document: Value, args: &ConvertArgs, base: &Path) -> Result<Value> {
    if !args.resize.is_empty() {
        return Err(Error::new(Kind::Manifest, "`--resize` is about the disks of one machine")
            .advice("write `resize` to the disk in the VM's manifest, or in the batch's `overrides`"));
    }
    if args.continue_on_error || args.fail_fast {
        put(&mut document, &["batch_metadata", "continue_on_error"], json!(!args.fail_fast));
    }
    for entry in document["vms"].as_array_mut().into_iter().flatten().filter(|entry| entry.is_object()) {
        let mut overrides = entry.get("overrides").filter(|there| !there.is_null()).cloned();
        let given = overrides.get_or_insert_with(|| json!({}));
        put_options(given, args);
        if args.backing_chain {
            let disks = entry.pointer_mut("/manifest/disks").and_then(Value::as_array_mut);
            disks.into_iter().flatten().for_each(|disk| put(disk, &["backing_chain"], json!(true)));
        }
        if given.as_object().is_some_and(|given| !given.is_empty()) {
            put(entry, &["overrides"], given.clone());
        }
    }
    let named = document.pointer("/shared_config/output_directory").is_some_and(|named| !named.is_null());
    if args.output.is_some() || !named {
        put(&mut document, &["shared_config", "output_directory"], json!(base));
    }
    Ok(document)
}

/// Those that cannot run, told from the file as it was written where that knows it: the other one has no lines.
pub(super) fn refused(merged: Vec<RefusedVm>, written: Option<Submission>, filename: &str) -> Vec<RefusedVm> {
    let known = written.map(|submission| submission.refused).unwrap_or_default();
    merged
        .into_iter()
        .map(|vm| match known.iter().find(|other| other.vm_id == vm.vm_id) {
            Some(known) => known.clone(),
            None => RefusedVm { error: vm.error.without_file(filename), ..vm },
        })
        .collect()
}
