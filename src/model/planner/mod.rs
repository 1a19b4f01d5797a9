//! From a dropped file to plans: pure, before anything is touched.
//!
//! ```text
//! bytes ─ parse ─▶ tree ─ decode ─▶ as written ─ effective ─▶ merged with profile and defaults
//!                                                    │
//!                            check: secrets, features of other versions, contradictions, paths
//!                                                    │
//!                                              Submission ─ plans ─▶ one Plan per VM
//! ```
//!
//! Everything that can be refused is refused by [`Submission::read`], where line and column are still
//! known; [`Submission::plans`] only spells out what follows from it once the batch has its id.

mod build;
mod check;
mod effective;
mod growth;
mod guest;
mod hooks;
mod nics;
mod origin;
mod setup;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::Settings;
use super::error::{Error, Kind, Result};
use super::facts::SourceNote;
use super::manifest::{BatchManifest, Manifest};
use super::parse::{self, Node, Tree};
use super::plan::{Plan, Sha256Hex};
use super::setup::Setup;
use super::units::safe_id;
use effective::Effective;
pub use origin::{Look, Origin, nowhere};

/// Which VMs of a batch that ran before run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rerun {
    /// Failed, cancelled and new ones; one that succeeded but whose manifest changed is refused.
    #[default]
    Failed,
    /// Those, and ones that succeeded but whose manifest changed.
    Changed,
    /// All.
    All,
}

/// What the batch is to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchName {
    /// The manifest names it.
    Named(String),
    /// A single-VM manifest: the file's stem, made safe.
    Stem(String),
}

/// One VM of a submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSubmission {
    /// Its id in the batch.
    pub vm_id: String,
    /// What "the same content" means for it.
    pub content_sha256: Sha256Hex,
    /// The effective manifest (base, profile, manifest merged), canonical JSON, secrets redacted.
    pub manifest: serde_json::Value,
    /// What is set up in the guest: told from the manifest before it was redacted; of passwords only the hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
    /// What a person should know of its source, if that was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The same of what the pre-flight has rules for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<SourceNote>,
}

/// A dropped or submitted file, parsed and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The file's name.
    pub filename: String,
    /// What relative paths count from (absolute).
    pub base_directory: PathBuf,
    /// The batch's name.
    pub name: BatchName,
    /// Over all VMs.
    pub content_sha256: Sha256Hex,
    /// What a second run does.
    pub rerun: Rerun,
    /// Its VMs.
    pub vms: Vec<VmSubmission>,
}

/// One value of a VM's effective manifest and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OriginOf {
    /// Path of the field, as `pipeline.fix.enabled`.
    pub field: String,
    /// Its value (secrets redacted).
    pub value: serde_json::Value,
    /// `default`, `profile production`, `profile_overrides, line 4`, `manifest, line 12`.
    pub origin: String,
}

/// A VM's effective manifest, value by value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmOrigins {
    /// Its id in the batch.
    pub vm_id: String,
    /// Its values.
    pub values: Vec<OriginOf>,
}

impl Submission {
    /// Parses and checks a file's bytes, where nothing else may be looked at: a manifest that names no disks is refused.
    pub fn read(
        bytes: &[u8],
        filename: &str,
        base_directory: &Path,
        settings: &Settings,
    ) -> Result<Submission> {
        Submission::read_with(bytes, filename, base_directory, settings, &mut nowhere)
    }

    /// The same; what a source says of its machine is looked up by `look`.
    pub fn read_with(
        bytes: &[u8],
        filename: &str,
        base_directory: &Path,
        settings: &Settings,
        look: &mut Look<'_>,
    ) -> Result<Submission> {
        let mut effective = read_effective(bytes, filename, base_directory, settings, look)?;
        setup::seal(&mut effective)?;
        let vm_id = build::vm_id(&effective.manifest, filename);
        let content_sha256 = hex(&Sha256::digest(effective.content().to_string()));
        let (warnings, notes) =
            effective.facts.take().map_or_else(Default::default, |facts| (facts.warnings, facts.notes));
        let vm = VmSubmission {
            vm_id,
            content_sha256: content_sha256.clone(),
            manifest: effective.redacted().canonical(),
            setup: setup::wanted(&effective.tree, &effective.manifest)?,
            warnings,
            notes,
        };
        Ok(Submission {
            filename: filename.to_owned(),
            base_directory: base_directory.to_owned(),
            name: BatchName::Stem(safe_id(&stem(filename))),
            content_sha256: hex(&Sha256::digest(content_sha256)),
            rerun: effective.manifest.rerun.unwrap_or_default(),
            vms: vec![vm],
        })
    }

    /// One submission of the machines of several that came in one file; one at least.
    pub fn together(all: Vec<Submission>) -> Result<Submission> {
        let mut all = all.into_iter();
        let mut together = all.next().ok_or_else(|| Error::internal("there is nothing to submit"))?;
        for one in all {
            for vm in one.vms {
                if together.vms.iter().any(|known| known.vm_id == vm.vm_id) {
                    return Err(Error::new(
                        Kind::Manifest,
                        format!("two of its machines would be called `{}`", vm.vm_id),
                    )
                    .advice("drop a manifest for each, with a `name` of its own"));
                }
                together.vms.push(vm);
            }
        }
        if together.vms.len() > 1 {
            let mut hash = Sha256::new();
            together.vms.iter().for_each(|vm| hash.update(&vm.content_sha256));
            together.content_sha256 = hex(&hash.finalize());
        }
        Ok(together)
    }

    /// The same after files that it names were moved (old path to new). What the same content means does not change with it.
    #[must_use]
    pub fn following(&self, moved: &BTreeMap<PathBuf, PathBuf>) -> Submission {
        let mut followed = self.clone();
        for vm in &mut followed.vms {
            follow(&mut vm.manifest, moved);
        }
        followed
    }

    /// The plans of all its VMs in a batch of this id; `vm_suffix` (`-2`) makes a rerun's results lie beside the old ones.
    pub fn plans(&self, batch_id: &str, vm_suffix: &str, settings: &Settings) -> Result<Vec<Plan>> {
        self.vms
            .iter()
            .map(|vm| {
                let tree = Tree::of(Node::from_json(&vm.manifest), "effective manifest");
                let manifest: Manifest = tree.decode()?;
                build::plan(self, vm, &manifest, &tree, batch_id, vm_suffix, settings)
            })
            .collect()
    }
}

/// Replaces every text that is one of these paths.
fn follow(value: &mut serde_json::Value, moved: &BTreeMap<PathBuf, PathBuf>) {
    use serde_json::Value;
    match value {
        Value::String(text) => {
            if let Some(to) = moved.get(Path::new(text)) {
                *text = to.to_string_lossy().into_owned();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| follow(item, moved)),
        Value::Object(fields) => fields.values_mut().for_each(|field| follow(field, moved)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Where each value of a file's effective manifests comes from.
pub fn origins(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    look: &mut Look<'_>,
) -> Result<Vec<VmOrigins>> {
    let effective = read_effective(bytes, filename, base_directory, settings, look)?;
    let vm_id = build::vm_id(&effective.manifest, filename);
    Ok(vec![VmOrigins { vm_id, values: effective.origins() }])
}

/// All that is wrong with a file's bytes: what [`Submission::read`] tells the first of.
#[must_use]
pub fn complaints(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    look: &mut Look<'_>,
) -> Vec<Error> {
    let tree = match parse::parse(bytes, filename) {
        Ok(tree) => tree,
        Err(error) => return vec![error],
    };
    let written = match refuse_batch(&tree) {
        Err(_) if tree.root.get("batch_version").is_some() => tree.complaints::<BatchManifest>(),
        Err(error) => return vec![error],
        Ok(()) => tree.complaints::<Manifest>(),
    };
    if !written.is_empty() {
        return written;
    }
    match refuse_batch(&tree).and_then(|()| Effective::of(tree, base_directory, settings, look)) {
        Ok(effective) => check::complaints(&effective, settings),
        Err(error) => vec![error],
    }
}

fn read_effective(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    look: &mut Look<'_>,
) -> Result<Effective> {
    let tree = parse::parse(bytes, filename)?;
    refuse_batch(&tree)?;
    let effective = Effective::of(tree, base_directory, settings, look)?;
    match check::complaints(&effective, settings).into_iter().next() {
        Some(error) => Err(error),
        None => Ok(effective),
    }
}

/// A batch manifest is read to its end, so that what is wrong with it is said first.
fn refuse_batch(tree: &Tree) -> Result<()> {
    if tree.root.get("batch_version").is_some() {
        let batch = tree.decode::<BatchManifest>()?;
        check::check_batch(tree, &batch)?;
        return Err(tree
            .error(Kind::Unsupported, "batch_version", "this version of hyper2kvm has no batch manifests")
            .advice("drop one manifest per VM"));
    }
    if tree.root.get("manifest_version").is_none() && tree.root.get("vms").is_some() {
        return Err(tree
            .error(Kind::Manifest, "batch_version", "`batch_version` is required where there are `vms`")
            .advice("add `batch_version: \"1.0\"`"));
    }
    Ok(())
}

/// A file's name without its last suffix.
fn stem(filename: &str) -> String {
    let path = Path::new(filename);
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
