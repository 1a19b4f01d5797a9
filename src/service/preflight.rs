//! Looks at inputs without doing anything: what `validate` and `submit --check` tell.

use std::path::Path;

use crate::disk::{Control, Engine, OpenPolicy, open_source};
use crate::model::api::{InputCheck, SubmitRequest};
use crate::model::config::{Fragment, Settings, check_fragment};
use crate::model::error::{Error, Kind};
use crate::model::manifest::Profile;
use crate::model::parse;
use crate::model::plan::{OnExists, Plan};
use crate::model::planner::{BatchName, Submission};
use crate::model::schema::{SchemaKind, schema};
use crate::sys::process::Launcher;

/// Checks a submission as the service would take it.
#[must_use]
pub fn check_submission(request: &SubmitRequest, settings: &Settings) -> InputCheck {
    let base = Path::new(&request.base_directory);
    check_manifest(&request.filename, request.content.as_bytes(), &request.filename, base, settings, true)
}

/// Checks a file's bytes, whatever it is: manifest, batch, profile or configuration. `given` is what the answer
/// calls it; `deep` opens the sources of a manifest too.
#[must_use]
pub fn check_file(
    given: &str,
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    deep: bool,
) -> InputCheck {
    let path = base_directory.join(filename);
    let outcome = match kind_of(bytes, filename) {
        SchemaKind::Config => check_fragment(&Fragment { path, bytes: bytes.to_vec() }),
        SchemaKind::Profile => {
            parse::parse(bytes, filename).and_then(|tree| tree.decode::<Profile>()).map(|_| ())
        }
        _ => return check_manifest(given, bytes, filename, base_directory, settings, deep),
    };
    InputCheck::of(given, outcome.err().as_slice())
}

fn check_manifest(
    given: &str,
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    deep: bool,
) -> InputCheck {
    let plans = match plans(bytes, filename, base_directory, settings) {
        Ok(plans) => plans,
        Err(error) => return InputCheck::of(given, &[error]),
    };
    let errors = if deep { look_at_sources(&plans, settings) } else { Vec::new() };
    InputCheck {
        warnings: plans.into_iter().flat_map(|plan| plan.warnings).collect(),
        ..InputCheck::of(given, &errors)
    }
}

/// The plans that a file's bytes come to, in a batch that nothing stands in the way of.
pub fn plans(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
) -> Result<Vec<Plan>, Error> {
    let submission = Submission::read(bytes, filename, base_directory, settings)?;
    let (BatchName::Named(batch_id) | BatchName::Stem(batch_id)) = &submission.name;
    submission.plans(batch_id, "", settings)
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
    let is_setting = |key: &str| known["properties"].get(key).is_some();
    match tree.root.entries().iter().any(|(key, _)| is_setting(&key.name)) {
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
            let opened = open_source(&disk.source, disk.source_format, &policy, &engine, &Control::new());
            errors.extend(opened.err());
            let result = plan.result_path(disk);
            if plan.output.on_exists == OnExists::Refuse && result.symlink_metadata().is_ok() {
                errors.push(
                    Error::new(Kind::Exists, format!("{} is there already", result.display()))
                        .advice("move it away, or set `output.on_exists` to `suffix` or `replace`")
                        .output(&result),
                );
            }
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
            ("extends: production\npipeline: {}\n", SchemaKind::Profile),
            ("what: ever\n", SchemaKind::Manifest),
            ("{", SchemaKind::Manifest),
        ] {
            assert_eq!(kind_of(text.as_bytes(), "x.yaml"), kind, "{text}");
        }
    }
}
