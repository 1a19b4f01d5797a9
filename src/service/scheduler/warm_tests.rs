//! Warm migrations: passes one after the other, and the last of them when it is asked for and may be.

use super::*;
use crate::model::manifest::{AtClose, Gate};
use crate::model::warm::{Cutover, Pass, PassKind, PlannedWarm, WarmJob};
use crate::model::window::Window;

/// Saturday, 28 November 2026, 12:00 UTC.
const NOON: f64 = 1_795_867_200.0;
const HOUR: f64 = 3600.0;

fn warm(id: JobId, cutover: Cutover) -> JobFacts {
    JobFacts { warm: Some(WarmJob::new(PlannedWarm { cutover, interval_s: HOUR })), ..job(id) }
}

fn pass(number: u32, started_at: f64) -> Pass {
    Pass {
        number,
        kind: if number == 1 { PassKind::Full } else { PassKind::Changes },
        started_at,
        seconds: 10.0,
        bytes: 100 * MIB / u64::from(number),
        disks: BTreeMap::new(),
        still_runs: false,
    }
}

/// Its worker has made a pass and ended.
fn passes(core: &mut Core, at: f64, number: u32) -> Vec<Action> {
    core.passed(1, pass(number, at - 10.0));
    core.worker_ended(at, 1, WorkerEnd::Finished(WorkerOutcome::Stopped));
    run(core, at)
}

fn begun(cutover: Cutover) -> Core {
    let mut core = core(2);
    load_each(&mut core, vec![warm(1, cutover)]);
    assert_eq!(started(&run(&mut core, NOON)), [(1, 1)]);
    assert!(!core.cuts_over(NOON, 1));
    core
}

#[test]
fn between_passes_a_job_waits_holds_no_slot_and_counts_no_attempt() {
    let mut core = begun(Cutover::Manual);
    assert_eq!(waits(&passes(&mut core, NOON + 10.0, 1)), [(1, WaitReason::Cutover, false)]);
    assert!(core.slots.is_empty());
    assert_eq!(core.next_deadline(), Some(NOON + 10.0 + HOUR));
    assert_eq!(started(&run(&mut core, NOON + HOUR)), []);
    assert_eq!(started(&run(&mut core, NOON + HOUR + 10.0)), [(1, 1)]);
    assert_eq!(waits(&passes(&mut core, NOON + HOUR + 20.0, 2)), [(1, WaitReason::Cutover, false)]);
}

#[test]
fn who_asks_while_it_waits_has_the_last_pass_at_once() {
    let mut core = begun(Cutover::Manual);
    passes(&mut core, NOON + 10.0, 1);
    core.ask_for_cutover(NOON + 20.0, 1);
    core.ask_for_cutover(NOON + 20.0, 1);
    assert_eq!(started(&run(&mut core, NOON + 20.0)), [(1, 1)]);
    assert!(core.cuts_over(NOON + 20.0, 1));
}

#[test]
fn who_asks_during_a_pass_does_not_disturb_it() {
    let mut core = begun(Cutover::Manual);
    core.ask_for_cutover(NOON + 1.0, 1);
    assert_eq!(run(&mut core, NOON + 1.0), []);
    assert_eq!(started(&passes(&mut core, NOON + 10.0, 1)), [(1, 1)]);
    assert!(core.cuts_over(NOON + 10.0, 1));
}

#[test]
fn what_was_asked_for_holds_after_a_failure_and_a_restart() {
    let mut core = begun(Cutover::Manual);
    core.ask_for_cutover(NOON, 1);
    let error = Error::new(Kind::Network, "it is away").transient();
    core.worker_ended(NOON, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
    assert_eq!(waits(&run(&mut core, NOON)), [(1, WaitReason::Retry, false)]);
    assert!(core.cuts_over(NOON, 1));

    let mut core = super::core(2);
    let mut kept = warm(1, Cutover::Manual);
    kept.warm.as_mut().unwrap().passed(pass(1, NOON - 10.0));
    (kept.state, kept.waiting) = (JobState::Waiting, Some(WaitReason::Cutover));
    kept.counters.retry_at = Some(NOON + HOUR);
    load_each(&mut core, vec![kept]);
    assert_eq!(started(&run(&mut core, NOON)), []);
    core.ask_for_cutover(NOON + 1.0, 1);
    assert_eq!(started(&run(&mut core, NOON + 1.0)).len(), 1);
}

#[test]
fn a_worker_that_made_no_pass_and_was_stopped_is_tried_again_like_any_other() {
    let mut core = begun(Cutover::Manual);
    core.worker_ended(NOON, 1, WorkerEnd::Finished(WorkerOutcome::Stopped));
    assert_eq!(waits(&run(&mut core, NOON)), [(1, WaitReason::Retry, false)]);
}

#[test]
fn a_pass_that_is_told_again_is_no_other_and_begins_no_attempts_anew() {
    let mut core = begun(Cutover::Manual);
    passes(&mut core, NOON + 10.0, 1);
    assert_eq!(started(&run(&mut core, NOON + 10.0 + HOUR)), [(1, 1)]);
    for failures in 1..4 {
        assert!(!core.passed(1, pass(1, NOON)), "it is known");
        let error = Error::new(Kind::Internal, "it crashed");
        core.worker_ended(NOON + HOUR, 1, WorkerEnd::Crashed(error));
        assert_eq!(core.job(1).facts.counters.failures, failures);
        run(&mut core, NOON + 2.0 * HOUR);
    }
    // One that the queue had not heard of counts.
    assert!(core.passed(1, pass(2, NOON + HOUR)));
    assert_eq!(core.job(1).facts.counters.failures, 0);
}

#[test]
fn what_a_pass_lacked_is_not_asked_for_by_those_behind_it() {
    let mut core = begun(Cutover::Manual);
    let error = Error::new(Kind::DiskSpace, "no room").space(50 * GIB, 10 * GIB);
    core.worker_ended(NOON, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
    assert_eq!(waits(&run(&mut core, NOON)), [(1, WaitReason::DiskSpace, false)]);
    assert_eq!(started(&run_with(&mut core, NOON + 10.0, |_| probe(0, 60 * GIB))).len(), 1);
    passes(&mut core, NOON + 20.0, 1);
    assert_eq!(started(&run_with(&mut core, NOON + 20.0 + HOUR, |_| probe(0, 20 * GIB))).len(), 1);
}

#[test]
fn by_itself_the_last_pass_follows_when_little_is_left() {
    let mut core = begun(Cutover::Auto { max_delta_bytes: 50 * MIB });
    assert_eq!(started(&passes(&mut core, NOON + 10.0, 1)), [(1, 1)], "what a full pass leaves is not known");
    assert!(!core.cuts_over(NOON + 10.0, 1));
    assert_eq!(started(&passes(&mut core, NOON + 20.0, 2)), [(1, 1)]);
    assert!(core.cuts_over(NOON + 20.0, 1));
}

#[test]
fn a_closed_window_holds_the_last_pass_and_no_other() {
    let window = Window::new(None, ("Sat 22:00", "Sun 05:00"), Some(&[Gate::Cutover]), Some(AtClose::Hold));
    let window = window.unwrap();
    let mut core = core(2);
    load_batch(&mut core, vec![warm(1, Cutover::Manual)], |batch| batch.window = Some(window));
    assert_eq!(started(&run(&mut core, NOON)), [(1, 1)]);
    core.ask_for_cutover(NOON, 1);
    let actions = passes(&mut core, NOON + 10.0, 1);
    assert_eq!(waits(&actions), [(1, WaitReason::Cutover, false)]);
    assert!(format!("{actions:?}").contains("its window opens Sat 2026-11-28 22:00"), "{actions:?}");
    assert_eq!(core.next_deadline(), Some(NOON + 10.0 + HOUR), "passes go on");
    let late = NOON + 9.9 * HOUR;
    assert_eq!(started(&run(&mut core, late)), [(1, 1)]);
    assert!(!core.cuts_over(late, 1));
    passes(&mut core, late + 10.0, 2);
    assert_eq!(core.next_deadline(), Some(NOON + 10.0 * HOUR), "it opens before the next pass would begin");
    assert_eq!(started(&run(&mut core, NOON + 10.0 * HOUR)), [(1, 1)]);
    assert!(core.cuts_over(NOON + 10.0 * HOUR, 1));
}
