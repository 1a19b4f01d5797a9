//! From a dropped file to plans: pure, before anything is touched.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::Settings;
use super::error::{Error, Kind, Result};
use super::plan::{Plan, Sha256Hex};

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

impl Submission {
    /// Parses and checks a file's bytes.
    pub fn read(
        bytes: &[u8],
        filename: &str,
        base_directory: &Path,
        settings: &Settings,
    ) -> Result<Submission> {
        let _ = (bytes, filename, base_directory, settings);
        Err(Error::new(Kind::Unsupported, "manifests cannot be read yet"))
    }

    /// The plans of all its VMs in a batch of this id; `vm_suffix` (`-2`) makes a rerun's results lie beside the old ones.
    pub fn plans(&self, batch_id: &str, vm_suffix: &str, settings: &Settings) -> Result<Vec<Plan>> {
        let _ = (batch_id, vm_suffix, settings);
        Err(Error::new(Kind::Unsupported, "manifests cannot be read yet"))
    }
}
