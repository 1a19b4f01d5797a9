//! When a worker leaves its source as it was: what belongs to the work goes with it, unless a next attempt goes on from it.
//!
//! What is not here: undoing ([`crate::pipeline::remote::acts`]).

use super::Job;
use crate::model::error::{Error, Kind, Result};
use crate::model::protocol::WorkerEvent;
use crate::model::remote::SNAPSHOT_RULE;
use crate::pipeline::checkpoint::Digests;
use crate::pipeline::hooks;
use crate::pipeline::publish::{self, Progress};
use crate::pipeline::report::Written;

/// The job of a conversion without a service.
const ONE_SHOT: i64 = 0;

impl Job<'_> {
    /// What earlier attempts did at the source, perhaps of another host, has to be known to whoever undoes it after this one.
    pub(super) fn tell_acts(&mut self) {
        if !self.checkpoint.acts.is_empty() {
            self.meter.tell(WorkerEvent::Acts { acts: self.checkpoint.acts.clone() });
        }
    }

    /// The result is complete, and its source is needed no more. The report that is about to be published says what was undone.
    pub(super) fn leave_a_success(&mut self) -> Result<()> {
        if self.checkpoint.acts.is_empty() {
            return Ok(());
        }
        self.leave_source(true);
        let acts = self.checkpoint.acts.clone();
        let Some(intent) = &mut self.checkpoint.intent else { return Ok(()) };
        // What is said to be complete stays as it was said.
        let is_said = publish::progress(self.place.dirs(), intent)? != Progress::Unfinished;
        if is_said || matches!(intent.digests, Digests::Made { .. }) {
            return Ok(());
        }
        let Some(report) = intent.outcome.content.as_mut().filter(|report| report.acts != acts) else {
            return Ok(());
        };
        report.acts = acts;
        let Written { report, pages } = Written::of(report)?;
        if let Some((_, text)) = &mut intent.report {
            *text = report;
        }
        for ((_, text), page) in intent.pages.iter_mut().zip(pages) {
            *text = page;
        }
        self.save()
    }

    /// The work was stopped, or is given away: whoever goes on, goes on from what is there. Outside a service nobody comes after this process.
    pub(super) fn leave_for_now(&mut self) {
        if self.order.job_id == ONE_SHOT {
            self.leave_source(false);
        }
    }

    /// The work failed: at the end all of it. Where somebody has to make room first, or it was the snapshot that could not stay, nobody knows when it goes
    /// on, and nothing may stand at a machine that runs.
    pub(super) fn leave_a_failure(&mut self, error: &Error) {
        let is_snapshots = error.details().rule.as_deref() == Some(SNAPSHOT_RULE);
        let wants_room = error.kind() == Kind::DiskSpace && self.order.job_id != ONE_SHOT;
        match hooks::is_the_end(error, self.order.limits.gives_up) {
            true if !wants_room => self.leave_source(false),
            _ if wants_room || is_snapshots => self.leave_source_meanwhile(),
            _ => self.leave_for_now(),
        }
    }
}
