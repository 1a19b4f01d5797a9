//! Looks at inputs without doing anything: what `validate` and `submit --check` tell.

use std::path::Path;

use crate::disk::Control;
use crate::model::api::{InputCheck, SubmitRequest};
use crate::model::config::{Fragment, Settings, check_fragment, names_what_comes_later};
use crate::model::error::Error;
use crate::model::parse;
use crate::model::plan::{Plan, Preflight};
use crate::model::planner::{BatchName, Submission};
use crate::model::protocol::{RemoteLimits, WorkLimits};
use crate::model::schema::{SchemaKind, schema};
use crate::model::validation::{Finding, Findings, Severity, Validation, Weights};
use crate::pipeline::described;
use crate::pipeline::hooks;
use crate::pipeline::preflight::{Look, rehearse};
use crate::service::scheduler::Policy;
use crate::source;
use crate::sys::fs::free_bytes;
use crate::sys::process::Launcher;
use crate::sys::time::now_epoch;

/// How far a look at an input goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only what it says.
    Text,
    /// The pre-flight of its jobs, too.
    Preflight(Look),
}

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
    // The service answers at once, and whoever may ask it must not have it start appliances.
    check_manifest(document, settings, Depth::Preflight(Look::AtDisks), &Control::new(), &mut |_| {})
}

/// Checks a file, whatever it is: manifest, batch, profile or configuration; `beginning` hears what takes long.
#[must_use]
pub fn check_file(
    document: Document<'_>,
    settings: &Settings,
    depth: Depth,
    control: &Control,
    beginning: &mut dyn FnMut(&str),
) -> InputCheck {
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
        _ => return check_manifest(document, settings, depth, control, beginning),
    };
    InputCheck::of(given, &errors)
}

fn check_manifest(
    document: Document<'_>,
    settings: &Settings,
    depth: Depth,
    control: &Control,
    beginning: &mut dyn FnMut(&str),
) -> InputCheck {
    let Document { given, bytes, filename, base_directory } = document;
    let submission = described::submission(bytes, filename, base_directory, settings);
    let is_whole = submission.as_ref().is_ok_and(|submission| submission.refused.is_empty());
    let window = submission.as_ref().ok().and_then(|submission| submission.window.clone());
    let window = window.map(|window| window.in_words(now_epoch()));
    let plans = match submission.and_then(|submission| plans(&submission, settings)) {
        Ok(plans) if is_whole => plans,
        // The others of a batch would run; what is wrong with one is told all the same.
        outcome => {
            let mut all = described::complaints(bytes, filename, base_directory, settings);
            all.extend(outcome.err().filter(|_| all.is_empty()));
            let validation = (depth != Depth::Text).then(|| refused(&all));
            return InputCheck { validation, ..InputCheck::of(given, &all) };
        }
    };
    let Depth::Preflight(look) = depth else {
        let warnings = plans.into_iter().flat_map(|plan| plan.warnings).collect();
        return InputCheck { warnings, window, ..InputCheck::of(given, &[]) };
    };
    let several = plans.len() > 1;
    let (mut errors, mut results, mut level) = (Vec::new(), Vec::<Finding>::new(), Preflight::Full);
    for plan in plans {
        level = plan.preflight;
        // The service answers at once: it waits for no server.
        let plan = match look {
            Look::IntoGuests => described::completed(plan, settings, control),
            Look::AtDisks => Ok(plan),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let plan = &plan;
        let launcher = Launcher::this_program();
        let findings = rehearse(plan, &limits(plan, settings), &launcher, look, control, beginning);
        let failing = findings.found().iter().filter(|raised| raised.finding.severity.fails());
        errors.extend(failing.map(|raised| raised.error.clone()));
        results.extend(findings.told().cloned().map(|mut finding| {
            if several {
                let about = finding.about.map(|about| format!(": {about}")).unwrap_or_default();
                finding.about = Some(format!("{}{about}", plan.vm_id));
            }
            finding
        }));
    }
    let is_warning = |finding: &&Finding| finding.severity == Severity::Warning;
    let warnings = results.iter().filter(is_warning).map(|finding| finding.message.clone()).collect();
    let validation = Some(Validation::of(level, results));
    InputCheck { warnings, validation, window, ..InputCheck::of(given, &errors) }
}

/// What the pre-flight says of a manifest that is none.
fn refused(errors: &[Error]) -> Validation {
    let mut findings = Findings::new(Weights::new());
    for error in errors {
        let place = &error.details().place;
        let is_mac = place
            .field
            .as_deref()
            .is_some_and(|field| field.starts_with("nics[") && field.ends_with("].mac"));
        let rule = if is_mac { "network.mac" } else { "manifest.invalid" };
        findings.error(rule, None, error.clone());
    }
    Validation::of(Preflight::Full, findings.told().cloned().collect())
}

/// What would bind a worker of the service, as things are now.
fn limits(plan: &Plan, settings: &Settings) -> WorkLimits {
    let total = free_bytes(&plan.output.directory).map_or(0, |space| space.total);
    WorkLimits {
        read_roots: settings.paths.read.clone(),
        write_roots: settings.paths.write.clone(),
        disk_reserve_bytes: Policy::of(settings).reserve(total),
        hook_roots: settings.hooks.allowed_dirs.clone(),
        preflight: settings.preflight.clone(),
        remote: RemoteLimits::of(settings),
        ..WorkLimits::unbound(settings.work_dir.clone(), settings.stall_timeout_s)
    }
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
