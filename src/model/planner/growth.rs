//! How far disks grow: from the manifest to the plan, and what is refused or warned of.
//!
//! Whether a disk would become smaller shows only when its source is opened, so that is refused then. What is not here: which partition,
//! volume and file system grow with it; the guest decides that.

use super::build;
use crate::model::error::{Kind, Result};
use crate::model::job::Stage;
use crate::model::manifest::values::Growth;
use crate::model::manifest::{Disk, Manifest};
use crate::model::parse::Tree;
use crate::model::plan::PlannedGrowth;
use crate::model::units::{human_size, parse_size};

/// More than any disk has: no file system here takes files of that size.
const MOST_BYTES: u64 = 1 << 50;

/// In bytes.
pub(super) fn planned(growth: &Growth) -> Option<PlannedGrowth> {
    let text = growth.as_str();
    match text.strip_prefix('+') {
        Some(by) => parse_size(by).ok().map(PlannedGrowth::By),
        None => parse_size(text).ok().map(PlannedGrowth::To),
    }
}

/// Refuses sizes that no disk has.
pub(super) fn check(tree: &Tree, disks: &[Disk]) -> Result<()> {
    for (index, growth) in growing(disks) {
        let (PlannedGrowth::By(bytes) | PlannedGrowth::To(bytes)) = growth;
        if bytes > MOST_BYTES {
            let field = format!("disks[{index}].resize");
            return Err(tree
                .error(Kind::Manifest, &field, format!("no disk is as large as {}", human_size(bytes)))
                .advice("look at the unit"));
        }
    }
    Ok(())
}

/// Says which disks grow without what is in them.
pub(super) fn warnings(tree: &Tree, manifest: &Manifest) -> Vec<String> {
    if build::is_on(tree, Stage::Fix) {
        return Vec::new();
    }
    let disks = manifest.disks.as_deref().unwrap_or_default();
    growing(disks)
        .map(|(index, _)| {
            format!(
                "disk {} grows, but not the partitions and file systems in it: the stage `fix` is off",
                disks[index].id
            )
        })
        .collect()
}

fn growing(disks: &[Disk]) -> impl Iterator<Item = (usize, PlannedGrowth)> {
    disks.iter().enumerate().filter_map(|(index, disk)| Some((index, planned(disk.resize.as_ref()?)?)))
}
