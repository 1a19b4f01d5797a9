//! How much room a job may need and how much there is, asked of the file systems.
//!
//! Asking can hang for as long as a network file system is away, so it happens on threads that
//! nobody waits for longer than [`PROBE_LIMIT`].

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::scheduler::core::SpaceProbe;
use crate::disk::estimate_virtual_size;
use crate::model::plan::{Plan, PlannedDisk, SourceFormat};
use crate::pipeline::publish;
use crate::source;
use crate::sys::fs;

/// Longer than this no answer is waited for; the worker will find out what is wrong.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What formats need beyond the data: tables, and clusters that are only partly used.
const OVERHEAD_PART: u64 = 50;

/// More than any disk has (VMDK and VHDX end at 64 TiB); a header that says more is not believed.
const MAX_DISK_BYTES: u64 = 1 << 50;

/// A VMDK that is no larger than this holds no data but names the files that do.
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;

/// The room for a plan, on each file system that its results go to; `None` where it cannot be told (a source is missing, say).
#[must_use]
pub fn probe(plan: &Plan) -> Option<SpaceProbe> {
    let own = &plan.output.directory;
    let here = plan.disks.iter().filter(|disk| disk.elsewhere().is_none());
    let need = needed(plan, here)?.saturating_add(plan.room_for_fixes());
    let mut probe = share(own, need.saturating_sub(already_there(own)))?;
    // Of what was begun elsewhere only the journal knows the names.
    let begun = publish::partials(plan);
    for directory in plan.directories_elsewhere() {
        let there = plan.disks.iter().filter(|disk| disk.elsewhere() == Some(directory));
        let begun = begun.iter().filter(|path| path.parent() == Some(directory));
        let begun: u64 =
            begun.filter_map(|path| path.symlink_metadata().ok()).map(|m| fs::allocated_bytes(&m)).sum();
        probe.add(share(directory, needed(plan, there)?.saturating_sub(begun))?);
    }
    Some(probe)
}

/// What has to be read of a plan's sources; `None` where it cannot be told.
#[must_use]
pub fn source_bytes(plan: &Plan) -> Option<u64> {
    let mut disks = plan.disks.iter().filter(|_| !plan.is_to_be_described());
    if plan.remote.is_some() {
        return disks.try_fold(0, |sum: u64, disk| Some(sum.saturating_add(disk.bytes?)));
    }
    disks.try_fold(0, |sum: u64, disk| Some(sum.saturating_add(files(disk, fs::allocated_bytes)?)))
}

fn share(directory: &Path, need: u64) -> Option<SpaceProbe> {
    let space = fs::free_bytes(directory).ok()?;
    let path = directory.ancestors().find(|path| path.exists()).unwrap_or(directory).to_owned();
    let (file_system, free, total) = (space.fs_id, space.free, space.total);
    Some(SpaceProbe { file_system, path, need, free, total, beside: Vec::new() })
}

/// What results of these disks take.
fn needed<'p>(plan: &Plan, mut disks: impl Iterator<Item = &'p PlannedDisk>) -> Option<u64> {
    let bytes = |disk: &PlannedDisk| match plan.preallocation_of(disk).lays_out() {
        true if plan.remote.is_some() => disk.bytes,
        // How much of it is data only its server knows: whoever reads it measures that.
        false if plan.remote.is_some() => Some(0),
        true => laid_out(disk),
        false => files(disk, fs::allocated_bytes),
    };
    let need = disks.try_fold(0, |sum: u64, disk| Some(sum.saturating_add(bytes(disk)?)))?;
    Some(need.saturating_add(need / OVERHEAD_PART))
}

/// All that the guest sees. Where no header tells that, the size of the files, until a worker has looked.
fn laid_out(disk: &PlannedDisk) -> Option<u64> {
    let told = match disk.packing {
        // Its header is packed too, and what was declared is what it may be.
        Some(_) => disk.bytes,
        None => {
            source::place_of(disk).and_then(|place| estimate_virtual_size(place, disk.source_format)).ok()
        }
    };
    // What is broken or lies is the worker's to refuse; here it must not hold the job back for ever.
    let bytes = told.filter(|bytes| *bytes <= MAX_DISK_BYTES).or_else(|| files(disk, Metadata::size))?;
    let grown = disk.resize.and_then(|growth| growth.applied_to(bytes));
    Some(grown.unwrap_or(bytes))
}

fn files(disk: &PlannedDisk, bytes: impl Fn(&Metadata) -> u64) -> Option<u64> {
    let named = std::fs::metadata(&disk.source).ok()?;
    if disk.member.is_some() {
        return stored(disk, bytes);
    }
    let beside: u64 = match disk.source_format {
        SourceFormat::Vmdk if named.size() <= MAX_DESCRIPTOR_BYTES => {
            extents(&disk.source).iter().map(&bytes).sum()
        }
        _ => 0,
    };
    Some(bytes(&named).saturating_add(beside))
}

/// The same of a member: of each of its pieces, what of the file it may be.
fn stored(disk: &PlannedDisk, bytes: impl Fn(&Metadata) -> u64) -> Option<u64> {
    let pieces = source::stored_place(&disk.source, disk.member.as_deref()).ok()?.pieces();
    pieces.iter().try_fold(0_u64, |sum, piece| {
        let all = bytes(&std::fs::metadata(&piece.path).ok()?);
        Some(sum.saturating_add(piece.part.as_ref().map_or(all, |part| part.bytes.min(all))))
    })
}

/// The files that a small VMDK is likely to describe: `web-flat.vmdk`, `web-s001.vmdk` beside `web.vmdk`.
///
/// Told by their names: what a descriptor says is the worker's to read. A file too many reserves too much until the job ends.
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
    use crate::model::placement::Placement;
    use crate::model::plan::PlannedGrowth;

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

    #[test]
    fn what_is_laid_out_is_as_large_as_its_header_says_if_any_disk_can_be_that_large() {
        const FILE: usize = 1000;
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("web.qcow2");
        let disk = |source_format| PlannedDisk {
            member: None,
            id: "root".to_owned(),
            source: source.clone(),
            source_format,
            checksum: None,
            packing: None,
            piece_checksums: Vec::new(),
            bytes: None,
            backing_chain: false,
            allowed_paths: Vec::new(),
            boot_order_hint: 0,
            resize: None,
            placement: Placement::default(),
        };
        let write = |magic: &[u8], size: u64| {
            let mut bytes = vec![0; FILE];
            bytes[..8].copy_from_slice(magic);
            bytes[24..32].copy_from_slice(&size.to_be_bytes());
            std::fs::write(&source, bytes).unwrap();
        };
        let qcow2 = b"QFI\xfb\0\0\0\x03";
        write(qcow2, 3 << 40);
        assert_eq!(laid_out(&disk(SourceFormat::Qcow2)), Some(3 << 40));
        let growing = PlannedDisk { resize: Some(PlannedGrowth::By(1 << 40)), ..disk(SourceFormat::Qcow2) };
        assert_eq!(laid_out(&growing), Some(4 << 40), "what it grows by is laid out, too");
        assert_eq!(laid_out(&disk(SourceFormat::Raw)), Some(FILE as u64), "raw is what it is said to be");
        assert_eq!(laid_out(&disk(SourceFormat::Vhdx)), Some(FILE as u64), "it is none");
        write(qcow2, u64::MAX);
        assert_eq!(laid_out(&disk(SourceFormat::Qcow2)), Some(FILE as u64), "no disk is that large");
        write(b"no magic", 3 << 40);
        assert_eq!(laid_out(&disk(SourceFormat::Qcow2)), Some(FILE as u64), "it has no header");
        std::fs::remove_file(&source).unwrap();
        assert_eq!(laid_out(&disk(SourceFormat::Qcow2)), None);
    }
}
