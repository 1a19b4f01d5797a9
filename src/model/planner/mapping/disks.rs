//! Where results of disks lie, and how: by the id of the disk, its role, or a pattern.
//!
//! Of each thing that can be said the first holds that is said: by the disk's id, by its role, by a pattern (the one that says most first), for
//! all disks. A key that is some disk's id means that disk alone, also where it reads like a role. What is not here: whether there is room.

use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};
use crate::model::limits::DiskLimits;
use crate::model::machine::Machine;
use crate::model::manifest::values::{PathText, Throughput};
use crate::model::manifest::{Disk, DiskPlace, DiskQos, DiskTarget, DiskType, Manifest, StorageMapping};
use crate::model::parse::Tree;
use crate::model::pattern;
use crate::model::placement::{Home, Placement};
use crate::model::plan::{OutputFormat, PlannedDisk, PlannedOutput, Preallocation};
use crate::model::planner::{build, check, output};

pub(super) const MAPPINGS: &str = "storage_mapping.disk_mappings";
const BOOT: &str = "boot";
const DATA: &str = "data";
/// File systems end at 255 bytes, and a suffix and a number of a rerun may come.
const LONGEST_STEM: usize = 200;
/// What to do about a name that is too long.
pub(in crate::model::planner) const SHORTER: &str = "give the VM a shorter `name`, or the disk a shorter id";

/// What stands in an entry, whichever form it has.
fn place(target: &DiskTarget) -> Option<&DiskPlace> {
    match target {
        DiskTarget::Place(place) => Some(place),
        DiskTarget::Directory(_) => None,
    }
}

fn directory(target: &DiskTarget) -> Option<&PathText> {
    match target {
        DiskTarget::Directory(directory) => Some(directory),
        DiskTarget::Place(place) => place.directory.as_ref(),
    }
}

/// What one disk is for: as it says, else the one that boots is for that.
fn role(disks: &[Disk], index: usize) -> &'static str {
    let boots = (0..disks.len()).min_by_key(|other| (build::boots_at(&disks[*other]), *other));
    match disks[index].disk_type {
        Some(DiskType::Boot) => BOOT,
        Some(DiskType::Data) => DATA,
        Some(DiskType::Unknown) | None if boots == Some(index) => BOOT,
        Some(DiskType::Unknown) | None => DATA,
    }
}

/// The entries that are for a disk, the strongest first.
fn entries<'m>(mapping: &'m StorageMapping, disks: &[Disk], index: usize) -> Vec<(&'m str, &'m DiskTarget)> {
    let Some(mappings) = &mapping.disk_mappings else { return Vec::new() };
    let (id, role) = (disks[index].id.as_str(), role(disks, index));
    let is_an_id = disks.iter().any(|disk| disk.id.as_str() == role);
    let by_role = (!is_an_id).then_some(role);
    let by_pattern = pattern::fitting(mappings.keys().map(String::as_str), id);
    let keys = std::iter::once(id).chain(by_role).chain(by_pattern);
    keys.filter_map(|key| mappings.get_key_value(key)).map(|(key, target)| (key.as_str(), target)).collect()
}

/// The first that is said, and by which entry; `None` where only the mapping as a whole may say it.
fn said<'m, T>(
    mapping: &'m StorageMapping,
    disks: &[Disk],
    index: usize,
    of: impl Fn(&'m DiskTarget) -> Option<T>,
) -> Option<(&'m str, T)> {
    entries(mapping, disks, index).into_iter().find_map(|(key, target)| Some((key, of(target)?)))
}

/// The format of results that no entry gives another.
pub(in crate::model::planner) fn format(manifest: &Manifest) -> OutputFormat {
    let mapped = manifest.storage_mapping.as_ref().and_then(|mapping| mapping.format_override);
    mapped.or_else(|| manifest.output.as_ref()?.format).unwrap_or_default()
}

/// The layout of results that no entry gives another.
pub(in crate::model::planner) fn preallocation(manifest: &Manifest) -> Preallocation {
    let mapped = manifest.storage_mapping.as_ref().and_then(|mapping| mapping.preallocate).map(thick);
    mapped.or_else(|| manifest.output.as_ref()?.preallocation).unwrap_or_default()
}

fn thick(all: bool) -> Preallocation {
    if all { Preallocation::Falloc } else { Preallocation::Off }
}

/// Places the results of disks, which are in any order. `vm` is the VM's id, with the number of its rerun.
pub(in crate::model::planner) fn place_all(
    manifest: &Manifest,
    output: &PlannedOutput,
    vm: &str,
    planned: &mut [PlannedDisk],
) {
    let (Some(mapping), Some(disks)) = (&manifest.storage_mapping, &manifest.disks) else { return };
    for (index, disk) in disks.iter().enumerate() {
        let Some(planned) = planned.iter_mut().find(|planned| planned.id == disk.id.as_str()) else {
            continue;
        };
        let home = said(mapping, disks, index, directory).map(|(_, path)| PathBuf::from(path.as_str()));
        planned.placement = Placement {
            // In the VM's own directory names of disks are enough.
            home: home
                .filter(|directory| *directory != output.directory)
                .map(|directory| Home { directory, stem: stem(vm, disk.id.as_str()) }),
            format: said(mapping, disks, index, |target| place(target)?.format_override)
                .map(|(_, format)| format)
                .filter(|format| *format != output.format),
            preallocation: said(mapping, disks, index, |target| place(target)?.preallocate)
                .map(|(_, all)| thick(all))
                .filter(|layout| *layout != output.preallocation),
        };
    }
}

/// The name without suffix of a result that lies where those of other VMs do.
pub(in crate::model::planner) fn stem(vm: &str, disk: &str) -> String {
    format!("{vm}-{disk}")
}

/// What is wrong with such a name that cannot be had for its length.
pub(in crate::model::planner) fn too_long(stem: &str, disk: &Disk) -> Option<String> {
    let bytes = stem.len();
    (bytes > LONGEST_STEM)
        .then(|| format!("the result of disk {} would have a name of {bytes} bytes", disk.id))
}

/// The format of one disk's result.
pub(in crate::model::planner) fn format_of(manifest: &Manifest, id: &str) -> OutputFormat {
    let own = of_one(manifest, id, |target| place(target)?.format_override);
    own.unwrap_or_else(|| format(manifest))
}

/// Whether an entry says where the result of a disk lies, or into which pool it goes.
pub(in crate::model::planner) fn is_placed(manifest: &Manifest, id: &str) -> bool {
    let is_in_a_directory = of_one(manifest, id, directory).is_some();
    is_in_a_directory || of_one(manifest, id, |target| place(target)?.pool.as_ref()).is_some()
}

/// The first that entries say of the disk with this id.
fn of_one<'m, T>(manifest: &'m Manifest, id: &str, of: impl Fn(&'m DiskTarget) -> Option<T>) -> Option<T> {
    let (mapping, disks) = (manifest.storage_mapping.as_ref()?, manifest.disks.as_deref()?);
    let index = disks.iter().position(|disk| disk.id.as_str() == id)?;
    said(mapping, disks, index, of).map(|(_, said)| said)
}

/// Gives the machine's disks what the host is to do with them.
pub(in crate::model::planner) fn apply(manifest: &Manifest, machine: &mut Machine) {
    let (Some(mapping), Some(disks)) = (&manifest.storage_mapping, &manifest.disks) else { return };
    for (index, disk) in disks.iter().enumerate() {
        let Some(found) = machine.disks.iter_mut().find(|found| found.id == disk.id.as_str()) else {
            continue;
        };
        let cache = said(mapping, disks, index, |target| place(target)?.cache).map(|(_, cache)| cache);
        found.cache = cache.or(mapping.cache);
        let qos = said(mapping, disks, index, |target| place(target)?.qos.as_ref()).map(|(_, qos)| qos);
        found.limits = qos.or(mapping.qos.as_ref()).map(limits).unwrap_or_default();
    }
}

fn limits(qos: &DiskQos) -> DiskLimits {
    let bytes = |rate: Option<Throughput>| rate.map(|rate| rate.0);
    DiskLimits {
        total_bytes_sec: bytes(qos.total_bytes_sec),
        read_bytes_sec: bytes(qos.read_bytes_sec),
        write_bytes_sec: bytes(qos.write_bytes_sec),
        total_iops_sec: qos.total_iops_sec.map(|count| count.get().unsigned_abs()),
        read_iops_sec: qos.read_iops_sec.map(|count| count.get().unsigned_abs()),
        write_iops_sec: qos.write_iops_sec.map(|count| count.get().unsigned_abs()),
    }
}

/// Refuses places that results cannot have, and entries that are for no disk.
pub(super) fn check(tree: &Tree, manifest: &Manifest, roots: &[PathBuf]) -> Result<()> {
    let Some(mapping) = &manifest.storage_mapping else { return Ok(()) };
    if let Some(qos) = &mapping.qos {
        check_qos(qos, &|cause| tree.error(Kind::Manifest, "storage_mapping.qos", cause))?;
    }
    let disks = manifest.disks.as_deref().unwrap_or_default();
    for (key, target) in mapping.disk_mappings.iter().flatten() {
        let complain = |cause: String| tree.error_at_key(Kind::Manifest, MAPPINGS, key, cause);
        if let Some(place) = place(target) {
            place.qos.as_ref().map_or(Ok(()), |qos| check_qos(qos, &complain))?;
        }
        if let Some(directory) = directory(target) {
            let field = format!("{MAPPINGS}.{key}");
            let path = Path::new(directory.as_str());
            check::check_root(tree, Kind::Output, &field, path, roots, "paths.write")?;
        }
        let many = super::is_for_many(tree, MAPPINGS, key) || super::is_asked_for(manifest);
        if !many && !is_optional(key, manifest) && !is_for_a_disk(key, manifest) {
            let there = disks.iter().enumerate();
            return Err(complain(format!("no disk of the machine has the id or the role `{key}`"))
                .allowed(there.map(|(index, disk)| format!("{} ({})", disk.id, role(disks, index))))
                .advice(
                    "name a disk, its role or a pattern, or write the entry as a map with `optional: true`",
                ));
        }
    }
    check_results(tree, manifest, mapping, disks)
}

/// Whether an entry is for a disk of this machine.
pub(super) fn is_for_a_disk(key: &str, manifest: &Manifest) -> bool {
    let (Some(mapping), Some(disks)) = (&manifest.storage_mapping, &manifest.disks) else { return false };
    (0..disks.len()).any(|index| entries(mapping, disks, index).iter().any(|(own, _)| *own == key))
}

/// Whether an entry may be for nothing.
pub(super) fn is_optional(key: &str, manifest: &Manifest) -> bool {
    let mappings = manifest.storage_mapping.as_ref().and_then(|mapping| mapping.disk_mappings.as_ref());
    let target = mappings.and_then(|mappings| mappings.get(key));
    target.and_then(place).and_then(|place| place.optional).unwrap_or(false)
}

/// The pool that a disk goes into; none where nothing says so.
pub(in crate::model::planner) fn pool<'m>(manifest: &'m Manifest, id: &str) -> Option<&'m str> {
    let own = of_one(manifest, id, |target| place(target)?.pool.as_ref());
    own.or_else(|| manifest.storage_mapping.as_ref()?.default_pool.as_ref()).map(|pool| pool.as_str())
}

/// What is wrong with the first field that names a pool, where none can be.
pub(in crate::model::planner) fn complain_of_pool(
    tree: &Tree,
    manifest: &Manifest,
    cause: &str,
) -> Option<Error> {
    let mapping = manifest.storage_mapping.as_ref()?;
    if mapping.default_pool.is_some() {
        return Some(tree.error(Kind::Manifest, "storage_mapping.default_pool", cause));
    }
    let mut entries = mapping.disk_mappings.iter().flatten();
    let (key, _) = entries.find(|(_, target)| place(target).is_some_and(|place| place.pool.is_some()))?;
    Some(tree.error_at_key(Kind::Manifest, MAPPINGS, key, cause.to_owned()))
}

/// Whether any disk may go into a pool.
pub(in crate::model::planner) fn names_a_pool(manifest: &Manifest) -> bool {
    let named = |mapping: &StorageMapping| {
        let mut entries = mapping.disk_mappings.iter().flatten();
        mapping.default_pool.is_some()
            || entries.any(|(_, target)| place(target).is_some_and(|place| place.pool.is_some()))
    };
    manifest.storage_mapping.as_ref().is_some_and(named)
}

fn check_qos(qos: &DiskQos, complain: &dyn Fn(String) -> Error) -> Result<()> {
    for (kind, total, each) in [
        (
            "bytes",
            qos.total_bytes_sec.is_some(),
            qos.read_bytes_sec.is_some() || qos.write_bytes_sec.is_some(),
        ),
        ("iops", qos.total_iops_sec.is_some(), qos.read_iops_sec.is_some() || qos.write_iops_sec.is_some()),
    ] {
        if total && each {
            let cause = format!(
                "`total_{kind}_sec` limits both ways, and `read_{kind}_sec` or `write_{kind}_sec` one"
            );
            return Err(complain(cause).advice("give the total, or each way its own"));
        }
    }
    Ok(())
}

/// The result of each disk that an entry is for can be made, under a name that can be had.
fn check_results(tree: &Tree, manifest: &Manifest, mapping: &StorageMapping, disks: &[Disk]) -> Result<()> {
    let filename = tree.layers.last().and_then(|layer| layer.file.as_deref()).unwrap_or_default();
    let vm = build::vm_id(manifest, filename);
    for (index, disk) in disks.iter().enumerate() {
        let format = said(mapping, disks, index, |target| place(target)?.format_override);
        let layout = said(mapping, disks, index, |target| place(target)?.preallocate);
        let mut wanted = output::Wanted::of(manifest);
        if let Some((entry, format)) = format {
            wanted.format = format;
            wanted.format_field = format!("{MAPPINGS}.{entry}.format_override");
        }
        if let Some((entry, all)) = layout {
            wanted.preallocation = thick(all);
            wanted.preallocation_field = format!("{MAPPINGS}.{entry}.preallocate");
        }
        if format.is_some() || layout.is_some() {
            output::check_one(tree, manifest, &wanted)?;
        }
        let Some((entry, directory)) = said(mapping, disks, index, directory) else { continue };
        let complain = |cause: String| tree.error_at_key(Kind::Manifest, MAPPINGS, entry, cause);
        let stem = stem(&vm, disk.id.as_str());
        if let Some(cause) = too_long(&stem, disk) {
            return Err(complain(cause).advice(SHORTER));
        }
        let result = Path::new(directory.as_str()).join(format!("{stem}.{}", wanted.format.name()));
        if let Some(source) = disks.iter().position(|disk| Path::new(disk.local_path.as_str()) == result) {
            return Err(complain(format!(
                "the result of disks[{index}] would take the place of the source of disks[{source}]"
            ))
            .advice("choose another directory"));
        }
    }
    Ok(())
}
