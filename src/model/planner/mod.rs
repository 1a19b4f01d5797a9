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

mod around;
mod batch;
mod build;
mod check;
mod effective;
mod esxi;
mod firmware;
mod growth;
mod guest;
mod handover;
mod hooks;
mod mapping;
mod nics;
mod origin;
mod output;
mod pool;
mod power;
mod profiles;
mod remote;
mod selected;
mod setup;
mod snapshots;
mod warm;
mod written;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::Settings;
use super::error::{Error, Kind, Result};
use super::facts::SourceNote;
use super::job::Stage;
use super::manifest::values::Secret;
use super::manifest::{BatchManifest, Manifest};
use super::parse::{self, Node, Tree};
use super::plan::{Plan, Sha256Hex};
use super::remote::Asked;
use super::setup::Setup;
use super::units::safe_id;
use super::window::Window;
pub use around::{Nowhere, Surroundings};
pub use batch::manifests_named;
use batch::{Batch, Given, Member};
use effective::Effective;
pub use effective::origin_words;
pub use origin::Origin;
pub use power::in_words as done_to_its_source;
pub use profiles::{
    NoFiles, ProfileFile, ProfileFiles, ProfileLevel, ResolvedProfile, complaints as profile_complaints,
    resolve as resolve_profile,
};
pub use remote::describe;
pub use selected::expand;
use written::{Written, follow};

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
    /// The file that its manifest is in, if a batch names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_path: Option<PathBuf>,
    /// What it says itself of being run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun: Option<Rerun>,
    /// Which stages its profile switches on or off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profile_says: BTreeMap<Stage, bool>,
    /// Where the storage pool lies that its results are made in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_directory: Option<PathBuf>,
    /// What is asked for it elsewhere, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// The password for that, where the manifest holds it: stored with nothing, kept apart by whoever accepts it.
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// A VM of a batch that cannot run as it is written. The others do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusedVm {
    /// Its id in the batch.
    pub vm_id: String,
    /// What is wrong with it first.
    pub error: Error,
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
    /// Those that cannot run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedVm>,
    /// How many of them run at a time, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_limit: Option<u32>,
    /// Whether none begins any more once one has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fail_fast: bool,
    /// Where each has a directory of its own, if that is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_directory: Option<PathBuf>,
    /// When it may work, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Box<Window>>,
}

/// How many VMs of a batch run at a time if it does not say so.
const PARALLEL_LIMIT: u32 = 4;

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
        Submission::read_with(bytes, filename, base_directory, settings, &mut Nowhere)
    }

    /// The same; what the file names is looked at through `around`.
    pub fn read_with(
        bytes: &[u8],
        filename: &str,
        base_directory: &Path,
        settings: &Settings,
        around: &mut dyn Surroundings,
    ) -> Result<Submission> {
        let tree = parse::parse(bytes, filename)?;
        let given = Given { filename, base: base_directory, settings };
        if is_batch(&tree)? {
            return Submission::of_batch(batch::read(tree, &given, around)?, &given);
        }
        let effective = read_single(tree, &given, around)?;
        let rerun = effective.manifest.rerun.unwrap_or_default();
        let vm = vm_submission(build::vm_id(&effective.manifest, filename), effective, None)?;
        Ok(Submission {
            content_sha256: hex(&Sha256::digest(&vm.content_sha256)),
            rerun,
            vms: vec![vm],
            ..Submission::empty(&given)
        })
    }

    fn empty(given: &Given<'_>) -> Submission {
        Submission {
            filename: given.filename.to_owned(),
            base_directory: given.base.to_owned(),
            name: BatchName::Stem(safe_id(&stem(given.filename))),
            content_sha256: String::new(),
            rerun: Rerun::default(),
            vms: Vec::new(),
            refused: Vec::new(),
            parallel_limit: None,
            fail_fast: false,
            output_directory: None,
            window: None,
        }
    }

    fn of_batch(batch: Batch, given: &Given<'_>) -> Result<Submission> {
        let mut submission = Submission {
            rerun: batch.rerun,
            parallel_limit: Some(batch.parallel_limit.unwrap_or(PARALLEL_LIMIT)),
            fail_fast: batch.continue_on_error == Some(false),
            output_directory: batch.output_directory,
            window: batch.window.map(Box::new),
            ..Submission::empty(given)
        };
        if let Some(id) = batch.id {
            submission.name = BatchName::Named(id);
        }
        let mut hash = Sha256::new();
        for Member { vm_id, manifest_path, read, .. } in batch.vms {
            let made = read
                .map_err(|errors| errors.into_iter().next())
                .and_then(|effective| vm_submission(vm_id.clone(), effective, manifest_path).map_err(Some));
            match made {
                Ok(vm) => {
                    hash.update(format!("{vm_id}\0{}\0", vm.content_sha256));
                    submission.vms.push(vm);
                }
                Err(error) => {
                    let error = error.unwrap_or_else(|| Error::internal("a VM was refused without a word"));
                    hash.update(format!("{vm_id}\0{error}\0"));
                    submission.refused.push(RefusedVm { vm_id, error });
                }
            }
        }
        hash.update(
            submission
                .output_directory
                .iter()
                .flat_map(|path| path.as_os_str().as_encoded_bytes())
                .copied()
                .collect::<Vec<u8>>(),
        );
        submission.content_sha256 = hex(&hash.finalize());
        // With nothing that may run there is nothing to accept: the first complaint stands for all.
        match submission.refused.first() {
            Some(first) if submission.vms.is_empty() || submission.fail_fast => Err(first.error.clone()),
            _ => Ok(submission),
        }
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

    /// The same batch with none of its VMs.
    #[must_use]
    pub fn clone_without_vms(&self) -> Submission {
        let Submission {
            filename,
            base_directory,
            name,
            content_sha256,
            rerun,
            parallel_limit,
            fail_fast,
            output_directory,
            window,
            ..
        } = self;
        Submission {
            filename: filename.clone(),
            base_directory: base_directory.clone(),
            name: name.clone(),
            content_sha256: content_sha256.clone(),
            rerun: *rerun,
            vms: Vec::new(),
            refused: Vec::new(),
            parallel_limit: *parallel_limit,
            fail_fast: *fail_fast,
            output_directory: output_directory.clone(),
            window: window.clone(),
        }
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
        let plan = |vm: &VmSubmission| {
            let tree = Tree::of(Node::from_json(&vm.manifest), "effective manifest");
            let manifest: Manifest = tree.decode()?;
            build::plan(self, vm, &manifest, &tree, batch_id, vm_suffix, settings)
        };
        let plans = self.vms.iter().map(plan).collect::<Result<Vec<Plan>>>()?;
        mapping::check_together(&plans)?;
        Ok(plans)
    }
}

/// Where each value of a file's effective manifests comes from.
pub fn origins(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    around: &mut dyn Surroundings,
) -> Result<Vec<VmOrigins>> {
    let tree = parse::parse(bytes, filename)?;
    let given = Given { filename, base: base_directory, settings };
    if !is_batch(&tree)? {
        let effective = read_single(tree, &given, around)?;
        let vm_id = build::vm_id(&effective.manifest, filename);
        return Ok(vec![VmOrigins { vm_id, values: effective.origins() }]);
    }
    let vms = batch::read(tree, &given, around)?.vms;
    let told = |vm: Member| Some(VmOrigins { vm_id: vm.vm_id, values: vm.read.ok()?.origins() });
    Ok(vms.into_iter().filter_map(told).collect())
}

/// All that is wrong with a file's bytes: what [`Submission::read`] tells the first of, and of a batch also what is wrong with
/// each of its VMs.
#[must_use]
pub fn complaints(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    around: &mut dyn Surroundings,
) -> Vec<Error> {
    let tree = match parse::parse(bytes, filename) {
        Ok(tree) => tree,
        Err(error) => return vec![error],
    };
    let given = Given { filename, base: base_directory, settings };
    match is_batch(&tree) {
        Err(error) => vec![error],
        Ok(true) => {
            let written = tree.complaints::<BatchManifest>();
            if !written.is_empty() {
                return written;
            }
            match batch::read(tree, &given, around) {
                Ok(batch) => batch.vms.into_iter().filter_map(|vm| vm.read.err()).flatten().collect(),
                Err(error) => vec![error],
            }
        }
        Ok(false) => {
            let written = tree.complaints::<Manifest>();
            if !written.is_empty() {
                return written;
            }
            match Effective::of(&Written::alone(tree, base_directory), settings, around) {
                Ok(mut effective) => check::settle(&mut effective, None, &given, around),
                Err(error) => vec![error],
            }
        }
    }
}

fn read_single(tree: Tree, given: &Given<'_>, around: &mut dyn Surroundings) -> Result<Effective> {
    let mut effective = Effective::of(&Written::alone(tree, given.base), given.settings, around)?;
    match check::settle(&mut effective, None, given, around).into_iter().next() {
        Some(error) => Err(error),
        None => Ok(effective),
    }
}

/// What is kept of a VM that was read and checked.
fn vm_submission(
    vm_id: String,
    mut effective: Effective,
    manifest_path: Option<PathBuf>,
) -> Result<VmSubmission> {
    setup::seal(&mut effective)?;
    let (warnings, notes) =
        effective.facts.take().map_or_else(Default::default, |facts| (facts.warnings, facts.notes));
    let content_sha256 = selected::content(&mut effective);
    Ok(VmSubmission {
        vm_id,
        content_sha256,
        manifest: effective.redacted().canonical(),
        setup: setup::wanted(&effective.tree, &effective.manifest)?,
        rerun: effective.manifest.rerun,
        profile_says: effective.profile.switches(),
        pool_directory: effective.pool_directory.take(),
        asked: remote::to_be_asked(&effective),
        password: remote::password(&effective)?,
        warnings,
        notes,
        manifest_path,
    })
}

/// Whether a file is a batch; one that is neither that nor a manifest is told apart by what it has.
fn is_batch(tree: &Tree) -> Result<bool> {
    if tree.root.get("batch_version").is_some() {
        return Ok(true);
    }
    if tree.root.get("manifest_version").is_none() && tree.root.get("vms").is_some() {
        return Err(tree
            .error(Kind::Manifest, "batch_version", "`batch_version` is required where there are `vms`")
            .advice("add `batch_version: \"1.0\"`"));
    }
    Ok(false)
}

/// A file's name without its last suffix.
fn stem(filename: &str) -> String {
    let path = Path::new(filename);
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
