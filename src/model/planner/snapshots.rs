//! Snapshots of a VM elsewhere: what a manifest says of them, and what holds where it does not.
//!
//! What is not here: making them.

use super::remote;
use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::Percent;
use crate::model::manifest::{Manifest, SnapshotQuiesce, VsphereMode, VsphereSource};
use crate::model::parse::Tree;
use crate::model::remote::PlannedSnapshot;

/// How they are made; none where the VM is off.
pub(super) fn planned(vsphere: &VsphereSource) -> Option<PlannedSnapshot> {
    if vsphere.mode.unwrap_or(VsphereMode::Cold) == VsphereMode::Cold {
        return None;
    }
    // What counts of a warm migration is what is on its disks when it is off.
    let usual = match vsphere.mode {
        Some(VsphereMode::Warm) => PlannedSnapshot { quiesce: SnapshotQuiesce::No, ..PlannedSnapshot::USUAL },
        _ => PlannedSnapshot::USUAL,
    };
    let said = vsphere.snapshot.as_ref();
    Some(PlannedSnapshot {
        quiesce: said.and_then(|said| said.quiesce).unwrap_or(usual.quiesce),
        min_free: said.and_then(|said| hundredths(said.min_free.as_ref())).unwrap_or(usual.min_free),
        abort_free: said.and_then(|said| hundredths(said.abort_free.as_ref())).unwrap_or(usual.abort_free),
        max_age_s: said.and_then(|said| said.max_age_s).map_or(usual.max_age_s, |seconds| seconds.0),
    })
}

fn hundredths(percent: Option<&Percent>) -> Option<u8> {
    percent?.as_str().strip_suffix('%')?.parse().ok()
}

/// What a person should know of the result.
pub(super) fn warning(manifest: &Manifest) -> Option<String> {
    let is_clone = remote::asked_for(manifest)?.mode == Some(VsphereMode::Clone);
    (is_clone && manifest.allow_live_clone != Some(true)).then(|| {
        "the VM may run on: its copy has no link at its cards and is not started (`allow_live_clone: true` says that both may run)".to_owned()
    })
}

/// What is said of them has to make sense.
pub(super) fn check(tree: &Tree, vsphere: &VsphereSource) -> Result<()> {
    let wrong = |key: &str, cause: &str, advice: &str| -> Error {
        let field = format!("source.vsphere.snapshot{key}");
        tree.error(Kind::Manifest, &field, cause.to_owned()).advice(advice.to_owned())
    };
    let says_something = tree
        .node("source.vsphere.snapshot")
        .is_some_and(|node| node.says_something() && vsphere.snapshot.is_some());
    let Some(planned) = planned(vsphere) else {
        return match says_something {
            false => Ok(()),
            true => Err(wrong(
                "",
                "no snapshot is made of a VM that is off",
                "remove it, or say `mode: clone` or `mode: warm`",
            )),
        };
    };
    if planned.abort_free > planned.min_free {
        let cause = format!("it is more than `min_free` ({} %)", planned.min_free);
        return Err(wrong(
            ".abort_free",
            &cause,
            "give less: a copy that has begun would be given up at once",
        ));
    }
    Ok(())
}
