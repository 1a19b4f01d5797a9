//! A batch's file on the command line: options are laid over each of its VMs, and each becomes work of its own.
//!
//! What is not here: what a batch means (the planner's), and the order in which its VMs run (see `running`).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::ConvertArgs;
use super::inputs::{Understood, Work, name_of, of_plan, put, put_options, settings};
use crate::cli::input::Input;
use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};
use crate::model::planner::{RefusedVm, Submission};
use crate::pipeline::described;
use crate::sys::time::now_epoch;

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

/// Two VMs of one name, or with one place for their results.
pub(super) fn refuse_what_is_there_twice(works: &[Work]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for work in works {
        if let Some(other) = seen.insert(&work.order.plan.vm_id, &work.given) {
            return Err(Error::new(
                Kind::Manifest,
                format!(
                    "{} and {} are both called `{}`",
                    other.display(),
                    work.given.display(),
                    work.order.plan.vm_id
                ),
            )
            .advice("convert them one after the other, or name them in manifests"));
        }
    }
    let mut places = BTreeMap::new();
    for work in works {
        let directory = &work.order.plan.output.directory;
        let several = works.len() > 1;
        if let Some(other) = places.insert(directory, &work.order.plan.vm_id).filter(|_| several) {
            let cause = format!(
                "`{other}` and `{}` both put their result into {}",
                work.order.plan.vm_id,
                directory.display()
            );
            return Err(Error::new(Kind::Manifest, cause)
                .field("output.directory")
                .advice("give each VM a directory of its own"));
        }
    }
    Ok(())
}

/// The VMs of a batch.
pub(super) fn add(
    input: &Path,
    (file, document): (&Input, &Value),
    args: &ConvertArgs,
    base: &Path,
    all: &mut Understood,
) -> Result<()> {
    let settings = settings(base, args)?;
    let read = |bytes: &[u8]| described::submission(bytes, &file.filename, &file.base_directory, &settings);
    let merged = with_options(document.clone(), args, base)?;
    let written = read(&file.bytes);
    let mut submission = match (read(merged.to_string().as_bytes()), &written) {
        (Ok(submission), _) => submission,
        // The file as it was written knows its lines: what is wrong in it is better told from there.
        (Err(_), Err(error)) => return Err(error.clone().file_as(&file.filename, &file.given)),
        (Err(error), Ok(written)) => {
            return Err(match written.refused.first() {
                Some(vm) => vm.error.clone().file_as(&file.filename, &file.given),
                None => error.without_file(&file.filename),
            });
        }
    };
    all.refused.extend(self::refused(std::mem::take(&mut submission.refused), written.ok(), &file.filename));
    all.fail_fast |= submission.fail_fast;
    let gating = submission.window.as_ref().filter(|window| window.gates_start() || window.gates_shutdown());
    all.notes.extend(gating.map(|window| {
        let stands = window.in_words(now_epoch());
        format!("{}: its window is not waited for here: it {stands}", file.given.display())
    }));
    all.parallel_limit = [all.parallel_limit, submission.parallel_limit].into_iter().flatten().min();
    let named = args.output.is_none();
    let above = submission.output_directory.clone().unwrap_or_else(|| base.to_owned());
    let batch_id = name_of(&submission);
    let mut submission = described::selected(&submission, &settings, &Control::new())?;
    all.refused.append(&mut submission.refused);
    for plan in submission.plans(&batch_id, "", &settings)? {
        let vm_id = plan.vm_id.clone();
        match described::completed(plan, &settings, &Control::new()) {
            Ok(plan) => all.works.push(of_plan(input, plan, (&batch_id, &settings), &above, (named, true))),
            Err(error) => all.refused.push(RefusedVm { vm_id, error }),
        }
    }
    Ok(())
}
