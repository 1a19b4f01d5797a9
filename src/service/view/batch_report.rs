//! What became of each VM of an ended batch, for its report. Pure. What is not here: the sums over them, and the pages
//! ([`crate::report`]).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::model::api::JobEvent;
use crate::model::job::JobState;
use crate::model::report::{Failure, Notice, Span, VmResult};
use crate::report::duration;
use crate::service::queue::{JobRow, Phase};
use crate::sys::time::rfc3339_utc;

/// A job that changed more often is shown from then on.
const MOST_SPANS: usize = 1_000;

/// What the jobs of a batch have been through, by job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// What they have been in.
    pub phases: BTreeMap<i64, Vec<Phase>>,
    /// What their workers warned of.
    pub warnings: BTreeMap<i64, Vec<JobEvent>>,
}

/// The VMs of a batch; `reports` are their `report.json`, by job.
#[must_use]
pub fn vm_results(
    manifest: &str,
    rows: &[JobRow],
    history: &History,
    mut reports: BTreeMap<i64, serde_json::Value>,
) -> Vec<VmResult> {
    let result = |row: &JobRow| {
        let success = matches!(row.state, JobState::Succeeded | JobState::Skipped);
        let error = row.error.as_ref().filter(|_| !success);
        let phases = history.phases.get(&row.job_id).map(Vec::as_slice).unwrap_or_default();
        let report = reports.remove(&row.job_id);
        VmResult {
            vm_id: row.vm_id.clone(),
            manifest: Some(manifest.to_owned()),
            success,
            state: row.state,
            job_id: Some(row.job_id),
            attempts: row.attempt,
            duration_seconds: duration(row.started_at, row.completed_at),
            started_at: row.started_at,
            completed_at: row.completed_at,
            timestamp: row.completed_at.map(rfc3339_utc),
            error: error.map(ToString::to_string),
            failure: error.map(Failure::of),
            outputs: row.outputs.clone(),
            warnings: report.as_ref().and_then(told).unwrap_or_else(|| warnings(row, history, phases)),
            timeline: timeline(row, phases),
            pipeline_report: report,
        }
    };
    rows.iter().map(result).collect()
}

/// The warnings of a report.
fn told(report: &serde_json::Value) -> Option<Vec<Notice>> {
    Vec::deserialize(report.get("warnings")?).ok()
}

/// What was said while it worked, for one that has no report.
fn warnings(row: &JobRow, history: &History, phases: &[Phase]) -> Vec<Notice> {
    let mut notices: Vec<Notice> = Vec::new();
    for event in history.warnings.get(&row.job_id).into_iter().flatten() {
        // The next attempt finds the same.
        if notices.iter().all(|notice| notice.message != event.message) {
            let phase = phases.iter().rfind(|phase| phase.at <= event.at);
            let stage = phase.and_then(|phase| phase.stage).map_or("plan", |stage| stage.name());
            notices.push(Notice {
                stage: stage.to_owned(),
                message: event.message.clone(),
                timestamp: rfc3339_utc(event.at),
            });
        }
    }
    notices
}

/// Each phase until the next one, from the acceptance on or from the last retry by the operator.
fn timeline(row: &JobRow, phases: &[Phase]) -> Vec<Span> {
    let is_retry = |pair: &[Phase]| pair[0].state.is_final() && !pair[1].state.is_final();
    let since = phases.windows(2).rposition(is_retry).map_or(0, |ended| ended + 1);
    let accepted = Phase {
        at: row.submitted_at,
        attempt: 0,
        state: JobState::Queued,
        waiting_reason: None,
        stage: None,
    };
    let told = (since == 0).then_some(&accepted).into_iter().chain(&phases[since..]);
    let told: Vec<&Phase> = told.collect();
    let mut spans: Vec<Span> = Vec::new();
    for pair in told.windows(2) {
        let (phase, next) = (pair[0], pair[1]);
        if next.at <= phase.at {
            continue;
        }
        spans.push(Span {
            state: phase.state,
            waiting_reason: phase.waiting_reason,
            stage: phase.stage.filter(|_| phase.state != JobState::Queued),
            attempt: phase.attempt,
            started_at: phase.at,
            ended_at: next.at,
        });
    }
    let surplus = spans.len().saturating_sub(MOST_SPANS);
    spans.split_off(surplus)
}

#[cfg(test)]
mod tests {
    use super::super::progress::tests::row;
    use super::*;
    use crate::model::error::{Error, Kind};
    use crate::model::job::{Stage, WaitReason};
    use crate::model::report::BatchReport;
    use crate::report::{batch_report, batch_summary};

    fn phase(at: f64, state: JobState, stage: Option<Stage>) -> Phase {
        let waiting_reason = (state == JobState::Waiting).then_some(WaitReason::DiskSpace);
        Phase { at: 1_737_558_000.0 + at, attempt: 1, state, waiting_reason, stage }
    }

    fn report() -> BatchReport {
        let mut failed = row(2, JobState::Failed);
        failed.error =
            Some(Error::new(Kind::Source, "the disk is cut off").stage(Stage::Load).advice("copy it again"));
        let mut slow = row(4, JobState::Succeeded);
        slow.completed_at = Some(1_737_558_100.5);
        slow.outputs = BTreeMap::from([("/out/fleet/vm4/boot.qcow2".into(), Some("ab".repeat(32)))]);
        let mut skipped = row(3, JobState::Skipped);
        skipped.started_at = None;
        let rows = [row(1, JobState::Succeeded), failed, skipped, slow];
        let phases = vec![
            phase(0.0, JobState::Running, None),
            phase(0.5, JobState::Running, Some(Stage::Load)),
            phase(1.0, JobState::Running, Some(Stage::Extraction)),
            phase(30.0, JobState::Waiting, Some(Stage::Extraction)),
            phase(90.0, JobState::Running, Some(Stage::Extraction)),
            phase(100.5, JobState::Succeeded, None),
        ];
        let warning = serde_json::json!({"stage": "fix", "message": "no agent", "timestamp": "2025-01-22T15:00:30.000Z"});
        let reports = BTreeMap::from([(1, serde_json::json!({"version": "1.0", "warnings": [warning]}))]);
        let warned = |at: f64| JobEvent {
            at: 1_737_558_000.0 + at,
            attempt: 1,
            message: "the disk is slow".to_owned(),
        };
        let history = History {
            phases: BTreeMap::from([
                (2, vec![phase(0.5, JobState::Running, Some(Stage::Load))]),
                (4, phases),
            ]),
            warnings: BTreeMap::from([(2, vec![warned(1.0), warned(9.0)])]),
        };
        let results = vm_results("fleet.yaml", &rows, &history, reports);
        batch_report("fleet", Some("fleet.yaml"), results, 1_737_558_101.0)
    }

    #[test]
    fn a_batch_report_looks_like_this() {
        insta::assert_json_snapshot!(report());
    }

    #[test]
    fn a_summary_looks_like_this() {
        insta::assert_snapshot!(batch_summary(&report()));
    }

    #[test]
    fn the_timeline_of_a_retried_job_begins_with_the_retry() {
        let phases = [
            phase(0.0, JobState::Running, None),
            phase(5.0, JobState::Failed, None),
            phase(500.0, JobState::Queued, None),
            phase(501.0, JobState::Running, None),
            phase(502.0, JobState::Succeeded, Some(Stage::Convert)),
            phase(502.0, JobState::Succeeded, None),
        ];
        let spans = timeline(&row(1, JobState::Succeeded), &phases);
        let seen: Vec<_> = spans.iter().map(|span| (span.state, span.ended_at - span.started_at)).collect();
        assert_eq!(seen, [(JobState::Queued, 1.0), (JobState::Running, 1.0)]);
        assert_eq!(timeline(&row(1, JobState::Queued), &[]), []);
    }
}
