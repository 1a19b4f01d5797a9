//! How much room a job may need and how much there is, asked of the file systems.
//!
//! Asking can hang for as long as a network file system is away, so it happens on threads that
//! nobody waits for longer than [`PROBE_LIMIT`].

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::scheduler::core::SpaceProbe;
use crate::model::plan::{Plan, Preallocation};
use crate::sys::fs;

/// Longer than this no answer is waited for; the worker will find out what is wrong.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What formats need beyond the data: tables, and clusters that are only partly used.
const OVERHEAD_PART: u64 = 50;

/// The room for a plan; `None` where it cannot be told (a source is missing, say).
#[must_use]
pub fn probe(plan: &Plan) -> Option<SpaceProbe> {
    let directory = &plan.output.directory;
    let space = fs::free_bytes(directory).ok()?;
    let path = directory.ancestors().find(|path| path.exists()).unwrap_or(directory).to_owned();
    let need = match plan.output.preallocation {
        // Only the worker can tell the virtual size; the size of the files is the best guess before that.
        Preallocation::Full | Preallocation::Falloc => sum(plan, |metadata| metadata.size())?,
        Preallocation::Off | Preallocation::Metadata => sum(plan, fs::allocated_bytes)?,
    };
    let need = need.saturating_add(need / OVERHEAD_PART);
    Some(SpaceProbe {
        file_system: space.fs_id,
        path,
        need: need.saturating_sub(already_there(directory)),
        free: space.free,
        total: space.total,
    })
}

fn sum(plan: &Plan, bytes: impl Fn(&std::fs::Metadata) -> u64) -> Option<u64> {
    plan.disks.iter().map(|disk| std::fs::metadata(&disk.source).ok().map(|m| bytes(&m))).sum()
}

/// Partial results of an earlier attempt are gone on from or removed first; either way their room is ours.
fn already_there(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
        .filter_map(|entry| entry.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| fs::allocated_bytes(&metadata))
        .sum()
}
