//! How much room a job may need and how much there is, asked of the file systems.
//!
//! Asking can hang for as long as a network file system is away, so it happens on threads that
//! nobody waits for longer than [`PROBE_LIMIT`].

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::scheduler::core::SpaceProbe;
use crate::model::plan::{Plan, Preallocation, SourceFormat};
use crate::sys::fs;

/// Longer than this no answer is waited for; the worker will find out what is wrong.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What formats need beyond the data: tables, and clusters that are only partly used.
const OVERHEAD_PART: u64 = 50;

/// A VMDK that is no larger than this holds no data but names the files that do.
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;

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
    let need = need.saturating_add(need / OVERHEAD_PART).saturating_add(plan.room_for_fixes());
    Some(SpaceProbe {
        file_system: space.fs_id,
        path,
        need: need.saturating_sub(already_there(directory)),
        free: space.free,
        total: space.total,
    })
}

fn sum(plan: &Plan, bytes: impl Fn(&Metadata) -> u64) -> Option<u64> {
    plan.disks
        .iter()
        .map(|disk| {
            let named = std::fs::metadata(&disk.source).ok()?;
            let beside: u64 = match disk.source_format {
                SourceFormat::Vmdk if named.size() <= MAX_DESCRIPTOR_BYTES => {
                    extents(&disk.source).iter().map(&bytes).sum()
                }
                _ => 0,
            };
            Some(bytes(&named).saturating_add(beside))
        })
        .sum()
}

/// The files that a small VMDK is likely to describe: `web-flat.vmdk`, `web-s001.vmdk` beside `web.vmdk`.
///
/// Told by their names: the service opens no disk. A file too many reserves too much until the job ends.
fn extents(descriptor: &Path) -> Vec<Metadata> {
    let (Some(directory), Some(stem)) = (descriptor.parent(), descriptor.file_stem()) else {
        return Vec::new();
    };
    let prefix = format!("{}-", stem.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && name.to_ascii_lowercase().ends_with(".vmdk")
        })
        .filter_map(|entry| entry.metadata().ok())
        .filter(Metadata::is_file)
        .collect()
}

/// Partial results of an earlier attempt are gone on from or removed first; either way their room is ours.
fn already_there(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
        .filter_map(|entry| entry.metadata().ok())
        .filter(Metadata::is_file)
        .map(|metadata| fs::allocated_bytes(&metadata))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_small_vmdk_describes_is_found_beside_it_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("web.vmdk", 500),
            ("web-flat.vmdk", 7_000),
            ("web-s001.VMDK", 3_000),
            ("webserver-flat.vmdk", 90_000),
            ("web-flat.txt", 90_000),
        ] {
            std::fs::write(dir.path().join(name), vec![0; bytes]).unwrap();
        }
        let found: u64 = extents(&dir.path().join("web.vmdk")).iter().map(MetadataExt::size).sum();
        assert_eq!(found, 10_000);
    }
}
