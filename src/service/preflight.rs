//! Looks at inputs without doing anything: what `validate` and `submit --check` tell.

use std::path::Path;

use crate::disk::{Control, Engine, OpenPolicy, open_source};
use crate::model::api::{InputCheck, SubmitRequest};
use crate::model::config::{Fragment, Settings, check_fragment, names_what_comes_later};
use crate::model::error::Error;
use crate::model::parse;
use crate::model::plan::Plan;
use crate::model::planner::{BatchName, Submission};
use crate::model::schema::{SchemaKind, schema};
use crate::pipeline::hooks;
use crate::pipeline::publish::Names;

use crate::source;
use crate::sys::dir::Dir;
use crate::sys::process::Launcher;
use crate::sys::time::now_epoch;

/// A file that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// What the answer calls it.
    pub given: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
    /// Its name without directories.
    pub filename: &'a str,
    /// What relative paths in it count from (absolute).
    pub base_directory: &'a Path,
}

/// Checks a submission as the service would take it.
#[must_use]
pub fn check_submission(request: &SubmitRequest, settings: &Settings) -> InputCheck {
    let document = Document {
        given: &request.filename,
        bytes: request.content.as_bytes(),
        filename: &request.filename,
        base_directory: Path::new(&request.base_directory),
    };
    check_manifest(document, settings, true)
}

/// Checks a file, whatever it is: manifest, batch, profile or configuration. `deep` opens the sources of a
/// manifest too.
#[must_use]
pub fn check_file(document: Document<'_>, settings: &Settings, deep: bool) -> InputCheck {
    let Document { given, bytes, filename, base_directory } = document;
    let kind = match base_directory == settings.profiles_dir {
        true => SchemaKind::Profile,
        false => kind_of(bytes, filename),
    };
    let errors = match kind {
        SchemaKind::Config => {
            check_fragment(&Fragment { path: base_directory.join(filename), bytes: bytes.to_vec() })
        }
        SchemaKind::Profile => source::profiles::complaints(&base_directory.join(filename), bytes, settings),
        _ => return check_manifest(document, settings, deep),
    };
    InputCheck::of(given, &errors)
}

fn check_manifest(document: Document<'_>, settings: &Settings, deep: bool) -> InputCheck {
    let Document { given, bytes, filename, base_directory } = document;
    let submission = source::submission(bytes, filename, base_directory, settings);
    let is_whole = submission.as_ref().is_ok_and(|submission| submission.refused.is_empty());
    let window = submission.as_ref().ok().and_then(|submission| submission.window.clone());
    let plans = match submission.and_then(|submission| plans(&submission, settings)) {
        Ok(plans) if is_whole => plans,
        // The others of a batch would run; what is wrong is told all the same.
        Ok(_) => {
            return InputCheck::of(given, &source::complaints(bytes, filename, base_directory, settings));
        }
        Err(first) => {
            let all = source::complaints(bytes, filename, base_directory, settings);
            return InputCheck::of(given, if all.is_empty() { std::slice::from_ref(&first) } else { &all });
        }
    };
    let errors = if deep { look_at_sources(&plans, settings) } else { Vec::new() };
    let mut checked = InputCheck::of(given, &errors);
    checked.warnings.extend(plans.into_iter().flat_map(|plan| plan.warnings));
    checked.window = window.map(|window| window.in_words(now_epoch()));
    checked
}

/// The plans that a submission comes to, in a batch that nothing stands in the way of.
pub fn plans(submission: &Submission, settings: &Settings) -> Result<Vec<Plan>, Error> {
    let (BatchName::Named(batch_id) | BatchName::Stem(batch_id)) = &submission.name;
    let plans = submission.plans(batch_id, "", settings)?;
    plans.iter().try_for_each(|plan| hooks::check(plan, &settings.hooks.allowed_dirs))?;
    Ok(plans)
}

/// What a file is meant to be, by the keys at its top. What cannot be told is taken as a manifest, whose
/// errors say the rest.
fn kind_of(bytes: &[u8], filename: &str) -> SchemaKind {
    let Ok(tree) = parse::parse(bytes, filename) else { return SchemaKind::Manifest };
    let says = |key: &str| tree.root.get(key).is_some();
    if says("manifest_version") || says("batch_version") || says("disks") || says("source") || says("vms") {
        return SchemaKind::Manifest;
    }
    if says("extends") || says("description") {
        return SchemaKind::Profile;
    }
    let known = schema(SchemaKind::Config);
    // `hooks` is a manifest's word too; what stands in it differs.
    let is_setting = |key: &str| key != "hooks" && known["properties"].get(key).is_some();
    let has_setting = tree.root.entries().iter().any(|(key, _)| is_setting(&key.name))
        || tree.node("hooks.allowed_dirs").is_some();
    match has_setting || names_what_comes_later(&tree) {
        true => SchemaKind::Config,
        false => SchemaKind::Manifest,
    }
}

/// Opens every source as a worker would, and looks whether the results' names are free.
fn look_at_sources(plans: &[Plan], settings: &Settings) -> Vec<Error> {
    let engine = match Engine::find(Launcher::this_program()) {
        Ok(engine) => engine,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for plan in plans {
        for disk in &plan.disks {
            let policy = OpenPolicy {
                backing_chain: disk.backing_chain,
                allowed_paths: &disk.allowed_paths,
                read_roots: &settings.paths.read,
            };
            let opened = source::place_of(disk)
                .and_then(|place| open_source(place, disk.source_format, &policy, &engine, &Control::new()));
            errors.extend(opened.err());
        }
        // A directory that is not there, or not to be used, holds no result; the latter the worker tells.
        if let Ok(directory) = Dir::open(&plan.output.directory) {
            errors.extend(Names::choose_in(plan, &directory).err());
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_keys_say() {
        for (text, kind) in [
            ("manifest_version: \"1.0\"\n", SchemaKind::Manifest),
            ("batch_version: \"1.0\"\nvms: []\n", SchemaKind::Manifest),
            ("max_concurrent_jobs: 2\n", SchemaKind::Config),
            ("libvirt: {uri: qemu:///system}\n", SchemaKind::Config),
            ("hooks: {allowed_dirs: [/etc/hooks]}\n", SchemaKind::Config),
            ("hooks: {pre_fix: []}\n", SchemaKind::Manifest),
            ("watch_dir: /srv/drops\n", SchemaKind::Config),
            ("extends: production\npipeline: {}\n", SchemaKind::Profile),
            ("what: ever\n", SchemaKind::Manifest),
            ("{", SchemaKind::Manifest),
        ] {
            assert_eq!(kind_of(text.as_bytes(), "x.yaml"), kind, "{text}");
        }
    }
}
