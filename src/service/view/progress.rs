//! `progress/<batch-id>.json`: one batch as its rows and its workers have it. Pure.

use std::collections::{BTreeMap, HashMap};

use super::live::Live;
use crate::model::job::{BatchState, JobState, WaitReason};
use crate::model::progress::{BatchProgress, Counts, PROGRESS_SCHEMA, VmProgress, VmStatus};
use crate::model::window::Window;
use crate::service::queue::JobRow;

/// What was shown of a batch before, so that its percentage does not fall without an attempt begun anew.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shown {
    attempts: u32,
    percentage: f64,
}

/// The progress of a batch.
///
/// `rows` are all jobs of the run, with what workers told laid over; `updated_at` is when anything last changed.
#[must_use]
pub fn batch_progress(
    (batch_id, window): (&str, Option<&Window>),
    rows: &[JobRow],
    live: &HashMap<i64, Live>,
    shown: &mut Shown,
    updated_at: f64,
    now: f64,
) -> BatchProgress {
    let state = BatchState::of(rows.iter().map(|row| row.state));
    let mut counts = Counts::default();
    let vms: BTreeMap<String, VmProgress> = rows
        .iter()
        .map(|row| (row.vm_id.clone(), vm_progress(row, live.get(&row.job_id), now)))
        .inspect(|(_, vm)| count(&mut counts, vm.status))
        .collect();
    let started_at = rows.iter().filter_map(|row| row.started_at).reduce(f64::min);
    let completed_at = rows.iter().filter_map(|row| row.completed_at).reduce(f64::max);
    let ended = counts.completed + counts.failed + counts.skipped;
    let percentage = shown.raise(rows, weighted(rows, live));
    let waiting_reason = (state == BatchState::Waiting).then(|| main_reason(rows)).flatten();
    let goes_on = state == BatchState::Running || waiting_reason == Some(WaitReason::Window);
    BatchProgress {
        schema: PROGRESS_SCHEMA.to_owned(),
        batch_id: batch_id.to_owned(),
        total_vms: rows.len() as u64,
        state,
        waiting_reason,
        started_at,
        updated_at,
        heartbeat_at: now,
        completed_at: completed_at.filter(|_| state.is_final()),
        counts,
        completion_percentage: share(ended, rows.len() as u64),
        progress_percentage: rounded(percentage),
        estimated_time_remaining: started_at
            .filter(|_| goes_on)
            .and_then(|started| foretold(window, state, (started, now), percentage)),
        vms,
    }
}

fn vm_progress(row: &JobRow, live: Option<&Live>, now: f64) -> VmProgress {
    let is_over = row.state.is_final();
    let waits_for = row.waiting.as_ref().map(|waiting| waiting.reason);
    VmProgress {
        vm_id: row.vm_id.clone(),
        job_id: row.job_id,
        status: VmStatus::of(row.state, row.started_at.is_some()),
        state: row.state,
        waiting_reason: waits_for,
        attempt: row.attempt,
        resumed: row.resumed,
        started_at: row.started_at,
        completed_at: row.completed_at,
        duration: row.started_at.and_then(|started| Some(row.completed_at? - started)).map(|s| s.max(0.0)),
        error: row.error.as_ref().map(ToString::to_string),
        current_stage: row.current_stage.filter(|_| !is_over || row.state != JobState::Succeeded),
        stage_detail: row.stage_detail.clone(),
        stage_started_at: row.stage_started_at.map(|at| at.min(now)),
        stages_completed: row.stages_completed.clone(),
        progress_percentage: rounded(row.progress_percentage),
        disks: live.map(|live| live.disks.clone()).unwrap_or_default(),
        passes: row.warm.as_ref().map(|warm| warm.passes.clone()).unwrap_or_default(),
        next_pass_at: row.not_before.filter(|_| waits_for == Some(WaitReason::Cutover)),
    }
}

fn count(counts: &mut Counts, status: VmStatus) {
    *match status {
        VmStatus::Pending => &mut counts.pending,
        VmStatus::InProgress => &mut counts.in_progress,
        VmStatus::Completed => &mut counts.completed,
        VmStatus::Failed => &mut counts.failed,
        VmStatus::Skipped => &mut counts.skipped,
    } += 1;
}

/// Weighted by the bytes of each VM where those are known of all, else all alike.
fn weighted(rows: &[JobRow], live: &HashMap<i64, Live>) -> f64 {
    let bytes = |row: &JobRow| -> u64 {
        live.get(&row.job_id).map_or(0, |live| live.disks.values().map(|disk| disk.bytes_total).sum())
    };
    let all_known = rows.iter().all(|row| bytes(row) > 0);
    let weight = |row: &JobRow| if all_known { bytes(row) as f64 } else { 1.0 };
    let done = |row: &JobRow| if row.state.is_final() { 100.0 } else { row.progress_percentage };
    let total: f64 = rows.iter().map(weight).sum();
    if total > 0.0 { rows.iter().map(|row| weight(row) * done(row)).sum::<f64>() / total } else { 100.0 }
}

impl Shown {
    fn raise(&mut self, rows: &[JobRow], percentage: f64) -> f64 {
        let attempts = rows.iter().map(|row| row.attempt).sum();
        if attempts == self.attempts {
            self.percentage = self.percentage.max(percentage);
        } else {
            *self = Shown { attempts, percentage };
        }
        self.percentage
    }
}

/// The reason that most of the waiting jobs have.
fn main_reason(rows: &[JobRow]) -> Option<WaitReason> {
    let reasons = || rows.iter().filter_map(|row| row.waiting.as_ref().map(|waiting| waiting.reason));
    WaitReason::ALL
        .into_iter()
        .map(|reason| (reasons().filter(|other| *other == reason).count(), reason))
        .filter(|(count, _)| *count > 0)
        .max_by_key(|(count, _)| *count)
        .map(|(_, reason)| reason)
}

/// How long it will take. What is held while its window is closed moves only while that is open; of what only starts then, nothing can be
/// said while all of it waits.
fn foretold(
    window: Option<&Window>,
    state: BatchState,
    (started, now): (f64, f64),
    percentage: f64,
) -> Option<f64> {
    match window.filter(|window| window.holds_at_close()) {
        Some(window) => {
            let left = remaining(window.open_between(started, now)?, percentage)?;
            Some(((window.after_open(now, left)? - now) * 10.0).round() / 10.0)
        }
        None if state == BatchState::Running => remaining(now - started, percentage),
        None => None,
    }
}

/// By the speed so far; nothing is said in the first seconds and per cent.
fn remaining(elapsed: f64, percentage: f64) -> Option<f64> {
    (elapsed >= 1.0 && percentage >= 1.0)
        .then(|| (elapsed * (100.0 - percentage) / percentage * 10.0).round() / 10.0)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { rounded(part as f64 * 100.0 / whole as f64) }
}

fn rounded(percentage: f64) -> f64 {
    (percentage * 10.0).floor() / 10.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::acts::Acts;
    use crate::model::error::{Error, Kind};
    use crate::model::job::Stage;
    use crate::model::protocol::DiskProgress;
    use crate::service::queue::Waiting;

    /// A job as the queue would have it.
    pub(in crate::service::view) fn row(job_id: i64, state: JobState) -> JobRow {
        JobRow {
            job_id,
            batch_key: 1,
            batch_id: "fleet".to_owned(),
            vm_id: format!("vm{job_id}"),
            vm_name: format!("vm{job_id}"),
            state,
            waiting: None,
            not_before: None,
            priority: 100,
            attempt: u32::from(state != JobState::Queued),
            cut_short: false,
            failures: 0,
            first_failure_at: None,
            submitted_at: 1_737_557_990.0,
            started_at: (state != JobState::Queued).then_some(1_737_558_000.0),
            completed_at: state.is_final().then_some(1_737_558_040.0),
            owner: None,
            lease_until: None,
            need_bytes: None,
            needs_network: false,
            remote: None,
            depends_on: Vec::new(),
            refused: false,
            content_sha256: "ab".repeat(32),
            output_directory: format!("/out/fleet/vm{job_id}").into(),
            outputs: BTreeMap::new(),
            report: None,
            resumed: false,
            current_stage: None,
            stage_detail: None,
            stage_started_at: None,
            stages_completed: Vec::new(),
            progress_percentage: if state == JobState::Succeeded { 100.0 } else { 0.0 },
            error: None,
            acts: Acts::default(),
            warm: None,
        }
    }

    #[test]
    fn a_progress_file_looks_like_this() {
        let mut running = row(1, JobState::Running);
        running.current_stage = Some(Stage::Extraction);
        running.stage_detail = Some("disk 1/2".to_owned());
        running.stage_started_at = Some(1_737_558_001.0);
        running.stages_completed = vec![Stage::Load];
        running.progress_percentage = 31.04;
        let mut failed = row(3, JobState::Failed);
        failed.error = Some(Error::new(Kind::Source, "the disk is cut off"));
        let disk = DiskProgress {
            bytes_total: 2_147_483_648,
            bytes_done: 663_383_040,
            bytes_per_second: 412_000_000,
            virtual_size: 8_589_934_592,
        };
        let live = Live { disks: BTreeMap::from([("boot".to_owned(), disk)]), ..Live::default() };
        let rows = [running, row(2, JobState::Succeeded), failed, row(4, JobState::Queued)];
        let progress = batch_progress(
            ("fleet", None),
            &rows,
            &HashMap::from([(1, live)]),
            &mut Shown::default(),
            1_737_558_049.0,
            1_737_558_050.0,
        );
        insta::assert_json_snapshot!(progress);
    }

    #[test]
    fn the_percentage_of_a_batch_does_not_fall_when_its_weights_become_known() {
        let mut shown = Shown::default();
        let mut rows = [row(1, JobState::Running), row(2, JobState::Running)];
        rows[0].progress_percentage = 80.0;
        let at = |rows: &[JobRow], live: &HashMap<i64, Live>, shown: &mut Shown| {
            batch_progress(("b", None), rows, live, shown, 0.0, 0.0).progress_percentage
        };
        assert_eq!(at(&rows, &HashMap::new(), &mut shown), 40.0);
        let of = |bytes_total| Live {
            disks: BTreeMap::from([(
                "d".to_owned(),
                DiskProgress { bytes_total, ..DiskProgress::default() },
            )]),
            ..Live::default()
        };
        let live = HashMap::from([(1, of(1)), (2, of(99))]);
        assert_eq!(at(&rows, &live, &mut shown), 40.0);
        rows[0].attempt += 1;
        rows[0].progress_percentage = 0.0;
        assert_eq!(at(&rows, &live, &mut shown), 0.0, "a new attempt begins anew");
    }

    #[test]
    fn a_batch_that_only_waits_says_for_what() {
        let mut rows = [row(1, JobState::Waiting), row(2, JobState::Waiting), row(3, JobState::Waiting)];
        let reasons = [WaitReason::Retry, WaitReason::DiskSpace, WaitReason::DiskSpace];
        for (row, reason) in rows.iter_mut().zip(reasons) {
            row.waiting = Some(Waiting { reason, detail: String::new(), since: 0.0 });
        }
        let progress = batch_progress(("b", None), &rows, &HashMap::new(), &mut Shown::default(), 0.0, 0.0);
        assert_eq!(progress.state, BatchState::Waiting);
        assert_eq!(progress.waiting_reason, Some(WaitReason::DiskSpace));
    }

    #[test]
    fn a_batch_that_is_over_stands_at_a_hundred() {
        let rows = [row(1, JobState::Succeeded), row(2, JobState::Failed)];
        let progress = batch_progress(("b", None), &rows, &HashMap::new(), &mut Shown::default(), 0.0, 0.0);
        assert_eq!((progress.completion_percentage, progress.progress_percentage), (100.0, 100.0));
        assert_eq!(progress.completed_at, Some(1_737_558_040.0));
        assert_eq!(progress.estimated_time_remaining, None);
    }

    #[test]
    fn what_its_window_holds_ends_in_a_later_opening_and_the_time_in_between_is_no_work() {
        use crate::model::manifest::AtClose;

        // 1970-01-01 was a Thursday. Half of it took the hour in which the window was open.
        let window = |at_close| Window::new(None, ("Thu 01:00", "Thu 02:00"), None, Some(at_close)).unwrap();
        let mut held = row(1, JobState::Waiting);
        held.started_at = Some(3_600.0);
        held.progress_percentage = 50.0;
        let mut waits = row(2, JobState::Waiting);
        waits.started_at = None;
        waits.progress_percentage = 50.0;
        for row in [&mut held, &mut waits] {
            row.waiting = Some(Waiting { reason: WaitReason::Window, detail: String::new(), since: 7_200.0 });
        }
        let told = |window: Option<&Window>, rows: &[JobRow], now: f64| {
            batch_progress(("b", window), rows, &HashMap::new(), &mut Shown::default(), now, now)
                .estimated_time_remaining
        };
        let hold = window(AtClose::Hold);
        let week = 7.0 * 86_400.0;
        let rows = [held.clone(), waits.clone()];
        assert_eq!(told(Some(&hold), &rows, 10_800.0), Some(week + 7_200.0 - 10_800.0));
        assert_eq!(told(None, &rows, 10_800.0), None, "what waits for something else");
        assert_eq!(told(Some(&hold), &[waits], 10_800.0), None, "nothing is known of what has not begun");
        held.state = JobState::Running;
        held.waiting = None;
        held.progress_percentage = 75.0;
        let goes_on = |window| told(Some(&window), std::slice::from_ref(&held), week + 5_400.0);
        assert_eq!(goes_on(hold), Some(1_800.0));
        assert_eq!(goes_on(window(AtClose::Finish)), Some(((week + 1_800.0) / 3.0 * 10.0).round() / 10.0));
    }
}
