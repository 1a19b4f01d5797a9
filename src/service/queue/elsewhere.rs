//! What another host has begun or done of a submission, where its results would go.
//!
//! Nothing is looked at here: what has to be known is asked back, as in [`super::accept`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::error::Result;
use crate::model::plan::Plan;
use crate::model::planner::VmSubmission;
use crate::service::admission::Known;
use crate::service::view::checkpoint::checkpoint_name;

/// What somebody who waits for the answer wants of the output directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whether work that another host has begun there is gone on with.
    pub takeover: bool,
}

/// Who has made a VM's result already.
pub(super) enum Done {
    /// A job of this queue.
    Job(i64),
    /// Another host: these files.
    Elsewhere(BTreeMap<PathBuf, Option<String>>),
}

impl Claim {
    /// Who has made a VM already, if it was another host; an error where another host is at it. What is not known goes to `asked`.
    pub(super) fn made_elsewhere(
        self,
        batch_id: &str,
        vm: &VmSubmission,
        plan: &Plan,
        known: &Known,
        asked: &mut BTreeSet<PathBuf>,
    ) -> Result<Option<Done>> {
        let results = plan.output.directory.as_path();
        // The batch's directory lies above those of its VMs, where they have not got others.
        let name = results.file_name().unwrap_or_default().to_string_lossy();
        let above = results.parent().filter(|_| name.starts_with(&vm.vm_id));
        let mut found = None;
        for directory in above.into_iter().chain([results]) {
            let Some(place) = known.place(directory) else {
                asked.insert(directory.join(checkpoint_name(batch_id)));
                continue;
            };
            if let Some(refusal) = place.refusal() {
                return Err(refusal.clone());
            }
            let made = place.made(&vm.content_sha256, plan);
            found = found.or(made.filter(|_| self.takeover));
        }
        let Some(outputs) = found else { return Ok(None) };
        asked.extend(outputs.keys().filter(|path| known.is_there(path).is_none()).cloned());
        let is_there = |path: &PathBuf| known.is_there(path) == Some(true);
        Ok(outputs.keys().all(is_there).then(|| Done::Elsewhere(outputs.clone())))
    }
}
