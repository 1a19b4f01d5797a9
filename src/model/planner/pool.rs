//! `output.pool`: results that are made in a storage pool of libvirt's, and not put into it.
//!
//! Where that pool lies only libvirt knows: it is asked once, when the manifest is read, and what it says is kept beside the manifest. What is not
//! here: whether the pool is still the same when the job runs (the pre-flight asks again), and how libvirt is shown what was made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::effective::Effective;
use super::mapping::disks::{self, is_placed};
use super::{Surroundings, build, check};
use crate::model::config::Settings;
use crate::model::error::{Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::{Disk, Manifest};
use crate::model::parse::Tree;
use crate::model::placement::Home;
use crate::model::plan::PlannedDisk;

/// The field.
pub(super) const FIELD: &str = "output.pool";

/// The pool that results are made in.
pub(super) fn named(manifest: &Manifest) -> Option<&str> {
    Some(manifest.output.as_ref()?.pool.as_ref()?.as_str())
}

/// Refuses a pool where libvirt is told nothing, and a second one for the same disks.
pub(super) fn check(tree: &Tree, manifest: &Manifest) -> Result<()> {
    if named(manifest).is_none() {
        return Ok(());
    }
    if !build::is_on(tree, Stage::Libvirt) {
        let cause = "a pool is libvirt's, and libvirt is told nothing";
        return Err(tree
            .error(Kind::Manifest, FIELD, cause)
            .advice("remove it, or set `libvirt_integration.enabled: true`"));
    }
    let imported = manifest.libvirt_integration.as_ref().is_some_and(|said| said.import_to_pool.is_some());
    let mapped = manifest.storage_mapping.as_ref().is_some_and(|mapping| mapping.default_pool.is_some());
    for (field, is_said) in
        [("libvirt_integration.import_to_pool", imported), ("storage_mapping.default_pool", mapped)]
    {
        if is_said {
            let cause = "`output.pool` says already in which pool the results are made";
            return Err(tree
                .error(Kind::Manifest, field, cause)
                .advice("keep one of them: `output.pool` makes no second copy"));
        }
    }
    Ok(())
}

/// Whether the mappings leave nothing for it.
pub(super) fn is_of_no_use(manifest: &Manifest) -> bool {
    let disks = manifest.disks.as_deref().unwrap_or_default();
    let is_mapped = |disk: &Disk| is_placed(manifest, disk.id.as_str());
    named(manifest).is_some() && !disks.is_empty() && disks.iter().all(is_mapped)
}

/// Where the pool lies, of a manifest with which nothing else is wrong: a place that results may have, under names that can be had. `vm_id`: the VM's.
pub(super) fn directory(
    effective: &Effective,
    vm_id: &str,
    settings: &Settings,
    around: &mut dyn Surroundings,
) -> Result<Option<PathBuf>> {
    let Effective { tree, manifest, .. } = effective;
    let Some(name) = named(manifest).filter(|_| !is_of_no_use(manifest)) else { return Ok(None) };
    let directory = around.pool(name).map_err(|error| tree.located(FIELD, error))?;
    check::check_root(tree, Kind::Output, FIELD, &directory, &settings.paths.write, "paths.write")?;
    let complain = |cause: String| tree.error(Kind::Manifest, FIELD, cause);
    let own = manifest.output.as_ref().and_then(|output| output.directory.as_ref());
    if own.is_some_and(|own| Path::new(own.as_str()) == directory) {
        let cause = format!("the pool lies in {}, and so would the report", directory.display());
        return Err(complain(cause).advice("leave `output.directory` out, or choose another one"));
    }
    let all = manifest.disks.as_deref().unwrap_or_default();
    for disk in all.iter().filter(|disk| !is_placed(manifest, disk.id.as_str())) {
        let stem = disks::stem(vm_id, disk.id.as_str());
        if let Some(cause) = disks::too_long(&stem, disk) {
            return Err(complain(cause).advice(disks::SHORTER));
        }
        let format = disks::format_of(manifest, disk.id.as_str()).name();
        let result = directory.join(format!("{stem}.{format}"));
        if let Some(source) = all.iter().position(|disk| Path::new(disk.local_path.as_str()) == result) {
            let cause = format!(
                "the result of disk {} would take the place of the source of disks[{source}]",
                disk.id
            );
            return Err(complain(cause).advice("choose another pool, or another `name`"));
        }
    }
    Ok(Some(directory))
}

/// Gives those results their places that no mapping has placed, and tells which these are. `vm`: the VM's id, with the number of its rerun.
pub(super) fn place(
    manifest: &Manifest,
    directory: Option<&Path>,
    vm: &str,
    planned: &mut [PlannedDisk],
) -> BTreeMap<String, String> {
    let (Some(pool), Some(directory)) = (named(manifest), directory) else { return BTreeMap::new() };
    let mut made = BTreeMap::new();
    for disk in planned.iter_mut().filter(|disk| !is_placed(manifest, &disk.id)) {
        let home = Home { directory: directory.to_owned(), stem: disks::stem(vm, &disk.id) };
        disk.placement.home = Some(home);
        made.insert(disk.id.clone(), pool.to_owned());
    }
    made
}
