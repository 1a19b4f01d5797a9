//! What the scheduler decides, as tables of facts in and actions out. No IO, no clock.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::policy::{CANCEL_PATIENCE_S, HANDOVER_PATIENCE_S};
use super::*;
use crate::model::config::{OnNetworkTimeout, PauseScope, Settings};
use crate::model::error::{Error, Kind};
use crate::model::job::Stage;
use crate::model::protocol::{Published, WorkerCommand};

#[path = "libvirt_tests.rs"]
mod libvirt;
#[path = "logins_tests.rs"]
mod logins;
#[path = "pause_tests.rs"]
mod pause;
#[path = "servers_tests.rs"]
mod servers;
#[path = "space_tests.rs"]
mod space;
#[path = "warm_tests.rs"]
mod warm;
#[path = "windows_tests.rs"]
mod windows;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn policy(slots: usize) -> Policy {
    let mut policy = Policy::of(&Settings::defaults(Path::new("/s"), 2));
    policy.slots = slots;
    policy.disk_reserve_bytes = Some(0);
    policy
}

pub(in crate::service::scheduler) fn core(slots: usize) -> Core {
    Core::new(policy(slots), || 0.5)
}

pub(in crate::service::scheduler) fn job(id: JobId) -> JobFacts {
    JobFacts {
        id,
        batch: id,
        vm: format!("vm{id}"),
        state: JobState::Queued,
        waiting: None,
        waiting_detail: String::new(),
        waiting_since: None,
        priority: 100,
        needs_network: false,
        remote: None,
        is_shut_down: false,
        warm: None,
        depends_on: Vec::new(),
        counters: Counters::default(),
    }
}

fn batch(key: BatchKey, jobs: &[JobFacts]) -> BatchFacts {
    let members: BTreeMap<_, _> = jobs.iter().map(|job| (job.vm.clone(), job.state)).collect();
    BatchFacts { key, parallel_limit: None, continue_on_error: true, window: None, members }
}

pub(in crate::service::scheduler) fn load_each(core: &mut Core, jobs: Vec<JobFacts>) {
    for job in jobs {
        core.load(0.0, batch(job.id, std::slice::from_ref(&job)), vec![job]);
    }
}

fn load_batch(core: &mut Core, mut jobs: Vec<JobFacts>, change: impl FnOnce(&mut BatchFacts)) {
    jobs.iter_mut().for_each(|job| job.batch = 1);
    let mut facts = batch(1, &jobs);
    change(&mut facts);
    core.load(0.0, facts, jobs);
}

fn probe(need: u64, free: u64) -> Option<SpaceProbe> {
    let (path, total) = ("/out".into(), 100 * GIB);
    Some(SpaceProbe { file_system: 1, path, need, free, total, beside: Vec::new() })
}

/// Answers every probe with plenty of room; returns what else there was to do.
fn run(core: &mut Core, now: f64) -> Vec<Action> {
    run_with(core, now, |_| probe(GIB, 90 * GIB))
}

fn run_with(core: &mut Core, now: f64, mut room: impl FnMut(JobId) -> Option<SpaceProbe>) -> Vec<Action> {
    let mut all = Vec::new();
    loop {
        let actions = core.actions(now);
        if actions.is_empty() {
            return all;
        }
        for action in actions {
            match action {
                Action::Probe { job } => core.probed(now, job, room(job)),
                other => all.push(other),
            }
        }
    }
}

fn started(actions: &[Action]) -> Vec<(JobId, u32)> {
    let of = |action: &Action| match action {
        Action::Start { job, counters, .. } => Some((*job, counters.attempt)),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn waits(actions: &[Action]) -> Vec<(JobId, WaitReason, bool)> {
    let of = |action: &Action| match action {
        Action::Wait { job, reason, suspend, .. } => Some((*job, *reason, *suspend)),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn down() -> Network {
    Network::Down { why: "eth0 has no carrier".to_owned() }
}

fn success() -> WorkerEnd {
    WorkerEnd::Finished(WorkerOutcome::Succeeded(Published::default()))
}

fn crash() -> WorkerEnd {
    WorkerEnd::Crashed(Error::internal("it crashed"))
}

fn failure(kind: Kind) -> WorkerEnd {
    WorkerEnd::Finished(WorkerOutcome::Failed { error: Error::new(kind, "no") })
}

#[test]
fn jobs_are_claimed_by_priority_then_age_and_only_as_many_as_there_are_slots() {
    let mut core = core(2);
    let urgent = JobFacts { priority: 1, ..job(3) };
    load_each(&mut core, vec![job(1), job(2), urgent]);
    assert_eq!(started(&run(&mut core, 0.0)), [(3, 1), (1, 1)]);
    core.worker_ended(1.0, 1, success());
    let actions = run(&mut core, 1.0);
    assert_eq!(started(&actions), [(2, 1)]);
    assert!(actions.contains(&Action::BatchEnded { batch: 1 }));
}

#[test]
fn a_changed_priority_counts_at_the_next_claim() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1), job(2), job(3)]);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1)]);
    core.set_priority(3, 5);
    core.worker_ended(1.0, 1, success());
    assert_eq!(started(&run(&mut core, 1.0)), [(3, 1)]);
}

#[test]
fn a_batch_never_runs_more_than_its_limit_and_others_use_the_slots() {
    let mut core = core(3);
    load_batch(&mut core, vec![job(11), job(12), job(13)], |batch| batch.parallel_limit = Some(1));
    load_each(&mut core, vec![job(20), job(21)]);
    assert_eq!(started(&run(&mut core, 0.0)), [(11, 1), (20, 1), (21, 1)]);
    core.worker_ended(1.0, 20, success());
    assert_eq!(started(&run(&mut core, 1.0)), []);
    core.worker_ended(2.0, 11, success());
    assert_eq!(started(&run(&mut core, 2.0)), [(12, 1)]);
}

#[test]
fn a_dependency_is_waited_for_and_its_failure_passed_on() {
    let after = |id, on: &str| JobFacts { depends_on: vec![on.to_owned()], ..job(id) };
    let mut core = core(4);
    load_batch(&mut core, vec![after(10, "vm11"), job(11), after(12, "vm10")], |_| ());
    let actions = run(&mut core, 0.0);
    assert_eq!(started(&actions), [(11, 1)]);
    assert_eq!(waits(&actions), [(10, WaitReason::Dependency, false), (12, WaitReason::Dependency, false)]);
    core.worker_ended(1.0, 11, success());
    assert_eq!(started(&run(&mut core, 1.0)), [(10, 1)]);
    core.worker_ended(2.0, 10, failure(Kind::Source));
    let actions = run(&mut core, 2.0);
    assert!(matches!(actions[0], Action::Fail { job: 10, .. }));
    assert!(matches!(&actions[1], Action::Fail { job: 12, error, .. } if error.kind() == Kind::Cancelled));
    assert_eq!(actions[2], Action::BatchEnded { batch: 1 });
}

#[test]
fn without_continue_on_error_what_has_not_started_is_cancelled_and_what_runs_ends() {
    let mut core = core(2);
    load_batch(&mut core, vec![job(1), job(2), job(3)], |batch| batch.continue_on_error = false);
    run(&mut core, 0.0);
    core.worker_ended(1.0, 1, failure(Kind::Conversion));
    let actions = run(&mut core, 1.0);
    assert!(matches!(actions[0], Action::Fail { job: 1, .. }));
    assert!(matches!(actions[1], Action::Cancel { job: 3, error: Some(_), .. }));
    assert_eq!(actions.len(), 2, "{actions:?}");
    core.worker_ended(2.0, 2, success());
    assert!(run(&mut core, 2.0).contains(&Action::BatchEnded { batch: 1 }));
}

#[test]
fn a_job_of_a_dead_daemon_is_queued_again_in_the_same_attempt() {
    let mut core = core(1);
    let counters = Counters { attempt: 3, ..Counters::default() };
    load_each(&mut core, vec![JobFacts { state: JobState::Running, counters, ..job(1) }]);
    let actions = run(&mut core, 0.0);
    assert!(matches!(actions[0], Action::Requeue { job: 1, .. }));
    assert_eq!(started(&actions), [(1, 3)]);
}

#[test]
fn an_attempt_that_was_cut_short_keeps_its_number_and_one_that_failed_does_not() {
    let mut core = core(1);
    let counters = Counters { attempt: 2, cut_short: true, ..Counters::default() };
    load_each(&mut core, vec![JobFacts { counters, ..job(1) }]);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 2)]);
    core.worker_ended(1.0, 1, failure(Kind::DiskSpace));
    let actions = run_with(&mut core, 1.0, |_| probe(GIB, 0));
    let Action::Wait { counters, .. } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((counters.attempt, counters.cut_short), (2, true), "the number is shown on");
    assert_eq!(started(&run(&mut core, 60.0)), [(1, 2)]);
    core.worker_ended(61.0, 1, crash());
    run(&mut core, 61.0);
    assert_eq!(started(&run(&mut core, 99.0)), [(1, 3)]);
}

#[test]
fn attempts_go_on_behind_those_of_earlier_runs_of_the_batch() {
    let mut core = core(1);
    let counters = Counters { used_before: 4, ..Counters::default() };
    load_each(&mut core, vec![JobFacts { counters, ..job(1) }]);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 5)]);
    core.worker_ended(1.0, 1, crash());
    run(&mut core, 1.0);
    assert_eq!(started(&run(&mut core, 11.0)), [(1, 6)]);
}

#[test]
fn what_was_paused_stays_paused_over_a_restart_and_a_retry_keeps_its_time() {
    let mut core = core(4);
    let waiting = |id, reason, retry_at| JobFacts {
        state: JobState::Waiting,
        waiting: Some(reason),
        waiting_since: Some(0.0),
        counters: Counters { attempt: 1, failures: 1, retry_at, ..Counters::default() },
        ..job(id)
    };
    load_each(
        &mut core,
        vec![
            waiting(1, WaitReason::Paused, None),
            waiting(2, WaitReason::Retry, Some(50.0)),
            waiting(3, WaitReason::Network, None),
        ],
    );
    assert_eq!(started(&run(&mut core, 0.0)), [(3, 2)]);
    assert_eq!(core.next_deadline(), Some(50.0));
    assert_eq!(started(&run(&mut core, 50.0)), [(2, 2)]);
    core.resume(60.0, 1).unwrap();
    assert_eq!(started(&run(&mut core, 60.0)), [(1, 2)]);
}

#[test]
fn a_transient_failure_is_tried_again_after_growing_delays_until_attempts_are_used_up() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    let mut now = 0.0;
    for (attempt, delay) in [(1, 10.0), (2, 20.0), (3, 40.0), (4, 80.0)] {
        assert_eq!(started(&run(&mut core, now)), [(1, attempt)]);
        core.worker_ended(now, 1, crash());
        let actions = run(&mut core, now);
        assert_eq!(waits(&actions), [(1, WaitReason::Retry, false)]);
        assert_eq!(core.next_deadline(), Some(now + delay));
        now += delay;
    }
    assert_eq!(started(&run(&mut core, now)), [(1, 5)]);
    core.worker_ended(now, 1, crash());
    assert!(matches!(run(&mut core, now)[0], Action::Fail { job: 1, .. }));
}

#[test]
fn a_start_tells_whether_one_more_failure_would_be_the_last() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    let mut now = 0.0;
    for last in [false, false, false, false, true] {
        let counters = run(&mut core, now).into_iter().find_map(|action| match action {
            Action::Start { counters, .. } => Some(counters),
            _ => None,
        });
        assert_eq!(core.would_give_up(now, &counters.unwrap()), last);
        core.worker_ended(now, 1, crash());
        run(&mut core, now);
        now = core.next_deadline().unwrap_or(now);
    }
}

#[test]
fn progress_resets_the_count_of_failures() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    let mut now = 0.0;
    for percentage in 1..=20 {
        assert_eq!(started(&run(&mut core, now)).len(), 1, "{percentage}");
        core.progressed(1, f64::from(percentage), 0);
        core.worker_ended(now, 1, crash());
        run(&mut core, now);
        assert_eq!(core.next_deadline(), Some(now + 10.0));
        now += 10.0;
    }
}

#[test]
fn a_permanent_failure_ends_the_job_at_once() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.worker_ended(1.0, 1, failure(Kind::Source));
    let actions = run(&mut core, 1.0);
    assert!(matches!(&actions[0], Action::Fail { job: 1, error, .. } if error.kind() == Kind::Source));
    assert_eq!(actions[1], Action::BatchEnded { batch: 1 });
}

#[test]
fn an_outage_suspends_what_runs_and_starts_nothing_until_it_is_over() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1), job(2)]);
    run(&mut core, 0.0);
    core.set_network(1.0, down());
    let actions = run(&mut core, 1.0);
    assert_eq!(waits(&actions), [(1, WaitReason::Network, true), (2, WaitReason::Network, false)]);
    core.set_network(2.0, Network::Up);
    let actions = run(&mut core, 2.0);
    assert_eq!(actions[0], Action::Continue { job: 1 }, "the older one goes on, in its attempt");
    assert!(matches!(actions[1], Action::Requeue { job: 2, .. }));
}

#[test]
fn an_outage_lets_local_jobs_through_where_only_network_jobs_pause() {
    let mut core = core(2);
    core.set_policy(0.0, Policy { pause_scope: PauseScope::NetworkJobs, ..policy(2) });
    load_each(&mut core, vec![JobFacts { needs_network: true, ..job(1) }, job(2), job(3)]);
    core.set_network(0.0, down());
    let actions = run(&mut core, 0.0);
    assert_eq!(waits(&actions), [(1, WaitReason::Network, false)]);
    assert_eq!(started(&actions), [(2, 1), (3, 1)]);
}

#[test]
fn a_failure_by_a_network_that_is_down_costs_no_attempt() {
    let mut core = core(1);
    core.set_policy(0.0, Policy { pause_on_network_down: true, ..policy(1) });
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.set_network(1.0, down());
    run(&mut core, 1.0);
    core.worker_ended(1.0, 1, failure(Kind::Network));
    run(&mut core, 1.0);
    core.set_network(9.0, Network::Up);
    assert_eq!(started(&run(&mut core, 9.0)), [(1, 1)]);
}

#[test]
fn an_outage_that_lasts_is_told_once_and_ends_jobs_only_after_give_up() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    core.set_network(0.0, down());
    run(&mut core, 0.0);
    assert_eq!(core.next_deadline(), Some(300.0));
    assert_eq!(run(&mut core, 300.0), [Action::OutageTooLong { seconds: 300.0 }]);
    assert_eq!(core.next_deadline(), Some(43_200.0));
    assert!(matches!(run(&mut core, 43_200.0)[0], Action::Fail { job: 1, .. }));
}

#[test]
fn where_an_outage_is_to_fail_jobs_it_uses_up_their_attempts() {
    let mut core = core(1);
    core.set_policy(0.0, Policy { on_network_timeout: OnNetworkTimeout::Fail, ..policy(1) });
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.set_network(0.0, down());
    run(&mut core, 0.0);
    let actions = run(&mut core, 300.0);
    assert!(actions.contains(&Action::Tell { job: 1, command: WorkerCommand::Stop }));
    core.worker_ended(300.0, 1, WorkerEnd::Finished(WorkerOutcome::Stopped));
    assert_eq!(waits(&run(&mut core, 300.0)), [(1, WaitReason::Retry, false)]);
}

#[test]
fn draining_starts_nothing_new() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1), job(2)]);
    run(&mut core, 0.0);
    core.drain(true);
    core.worker_ended(1.0, 1, success());
    assert_eq!(started(&run(&mut core, 1.0)), []);
    core.drain(false);
    assert_eq!(started(&run(&mut core, 2.0)), [(2, 1)]);
}

#[test]
fn a_cancelled_worker_that_does_not_listen_is_killed_and_its_leftovers_removed() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.cancel(1.0, 1, false).unwrap();
    let told = Action::Tell { job: 1, command: WorkerCommand::Cancel { keep_partial: false } };
    assert_eq!(run(&mut core, 1.0), [told]);
    assert_eq!(run(&mut core, 1.0 + CANCEL_PATIENCE_S), [Action::Kill { job: 1 }]);
    core.worker_ended(12.0, 1, WorkerEnd::Finished(WorkerOutcome::Stopped));
    let cancelled = Action::Cancel { job: 1, error: None, clean: true };
    assert_eq!(run(&mut core, 12.0), [cancelled, Action::BatchEnded { batch: 1 }]);
}

#[test]
fn a_cancelled_worker_that_tells_libvirt_has_time_to_take_that_back() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.stage_began(1, Stage::Libvirt);
    core.cancel(1.0, 1, false).unwrap();
    run(&mut core, 1.0);
    assert_eq!(run(&mut core, 2.0 + CANCEL_PATIENCE_S), []);
    assert_eq!(run(&mut core, 1.0 + HANDOVER_PATIENCE_S), [Action::Kill { job: 1 }]);
}

#[test]
fn a_job_that_ended_before_the_cancel_reached_it_has_succeeded() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.cancel(1.0, 1, false).unwrap();
    core.worker_ended(1.0, 1, success());
    assert!(run(&mut core, 1.0).iter().any(|action| matches!(action, Action::Succeed { job: 1, .. })));
    assert_eq!(core.cancel(2.0, 1, false), Err("has ended"));
}

#[test]
fn stopping_checkpoints_every_worker_and_costs_no_attempt() {
    let mut core = core(2);
    load_each(&mut core, vec![job(1), job(2), job(3)]);
    run(&mut core, 0.0);
    core.pause(0.0, 2).unwrap();
    run(&mut core, 0.0);
    core.stop(1.0);
    let told = run(&mut core, 1.0);
    let stop = |job| Action::Tell { job, command: WorkerCommand::Stop };
    assert!([1, 2, 3].iter().all(|id| told.contains(&stop(*id))), "{told:?}");
    assert!(!core.is_quiet());
    for id in [1, 2, 3] {
        core.worker_ended(2.0, id, WorkerEnd::Finished(WorkerOutcome::Stopped));
    }
    let actions = run(&mut core, 2.0);
    let open = Counters { attempt: 1, cut_short: true, ..Counters::default() };
    assert_eq!(actions[0], Action::Requeue { job: 1, counters: open.clone() });
    assert!(matches!(&actions[1], Action::Wait { job: 2, reason: WaitReason::Paused, counters, .. }
        if *counters == open));
    assert!(core.is_quiet());
    assert_eq!(core.next_deadline(), None);
}

#[test]
fn a_worker_that_does_not_stop_in_time_is_killed() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.stop(1.0);
    run(&mut core, 1.0);
    assert_eq!(core.next_deadline(), Some(1.0 + STOP_PATIENCE_S));
    assert_eq!(run(&mut core, 1.0 + STOP_PATIENCE_S), [Action::Kill { job: 1 }]);
}

#[test]
fn a_batch_whose_jobs_have_all_ended_is_closed_when_it_is_loaded() {
    let mut core = core(1);
    core.load(0.0, batch(7, &[JobFacts { state: JobState::Skipped, ..job(1) }]), Vec::new());
    assert_eq!(run(&mut core, 0.0), [Action::BatchEnded { batch: 7 }]);
}

#[test]
fn reservations_shrink_as_a_job_writes() {
    let mut core = core(2);
    load_each(&mut core, vec![job(1), job(2)]);
    let actions = run_with(&mut core, 0.0, |_| probe(100 * MIB, 150 * MIB));
    assert_eq!(started(&actions), [(1, 1)]);
    core.progressed(1, 60.0, 60 * MIB);
    assert_eq!(core.ledger().reserved(1), 40 * MIB);
}
