//! `.hyper2kvm-checkpoint-<batch-id>.json`: which VMs of a batch are done, for people and other machines. Pure.
//!
//! This host goes on from its queue and its journals; the file says the same to whoever has only
//! the output directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::job::JobState;
use crate::service::queue::JobRow;
use crate::sys::time::rfc3339_utc;

/// The file's name.
#[must_use]
pub fn checkpoint_name(batch_id: &str) -> String {
    format!(".hyper2kvm-checkpoint-{batch_id}.json")
}

/// The batch whose file has this name.
#[must_use]
pub fn batch_of_checkpoint(name: &str) -> Option<&str> {
    name.strip_prefix(".hyper2kvm-checkpoint-")?.strip_suffix(".json")
}

/// In the checkpoint's metadata: what tells the host that wrote it from others, …
pub const HOST: &str = "host";
/// … and what people call it.
pub const HOST_NAME: &str = "host_name";

/// A VM that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailedEntry {
    /// Which.
    pub vm_id: String,
    /// Why.
    pub error: String,
}

/// A VM and what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmEntry {
    /// What it is in.
    pub state: JobState,
    /// SHA-256 of its effective manifest.
    pub manifest_sha256: String,
    /// Its result files and their SHA-256.
    pub outputs: BTreeMap<PathBuf, Option<String>>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchCheckpoint {
    /// The batch.
    pub batch_id: String,
    /// Epoch seconds.
    pub timestamp: f64,
    /// The same, RFC 3339 UTC.
    pub timestamp_iso: String,
    /// VMs that succeeded or were skipped.
    pub completed_vms: Vec<String>,
    /// VMs that failed or were cancelled.
    pub failed_vms: Vec<FailedEntry>,
    /// VMs.
    pub total_vms: u64,
    /// VMs that have ended.
    pub resume_from: u64,
    /// Which host wrote it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// By VM id.
    pub vms: BTreeMap<String, VmEntry>,
}

/// The checkpoint of a batch on a host (what tells it from others, and what people call it).
#[must_use]
pub fn batch_checkpoint(
    batch_id: &str,
    rows: &[JobRow],
    (host, host_name): (&str, &str),
    now: f64,
) -> BatchCheckpoint {
    let in_states =
        |states: &[JobState]| rows.iter().filter(|row| states.contains(&row.state)).collect::<Vec<_>>();
    let good = in_states(&[JobState::Succeeded, JobState::Skipped]);
    let bad = in_states(&[JobState::Failed, JobState::Cancelled]);
    BatchCheckpoint {
        batch_id: batch_id.to_owned(),
        timestamp: now,
        timestamp_iso: rfc3339_utc(now),
        resume_from: (good.len() + bad.len()) as u64,
        completed_vms: good.iter().map(|row| row.vm_id.clone()).collect(),
        failed_vms: bad
            .iter()
            .map(|row| FailedEntry {
                vm_id: row.vm_id.clone(),
                error: row.error.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
            .collect(),
        total_vms: rows.len() as u64,
        metadata: [(HOST, host), (HOST_NAME, host_name)]
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into_iter()
            .collect(),
        vms: rows
            .iter()
            .map(|row| {
                let entry = VmEntry {
                    state: row.state,
                    manifest_sha256: row.content_sha256.clone(),
                    outputs: row.outputs.clone(),
                };
                (row.vm_id.clone(), entry)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::tests::row;
    use super::*;

    #[test]
    fn a_checkpoint_looks_like_this() {
        let mut done = row(1, JobState::Succeeded);
        done.outputs.insert("/out/fleet/vm1/boot.qcow2".into(), Some("cd".repeat(32)));
        let rows = [done, row(2, JobState::Failed), row(3, JobState::Running)];
        insta::assert_json_snapshot!(batch_checkpoint("fleet", &rows, ("4be1", "node-a"), 1_737_558_050.0));
    }
}
