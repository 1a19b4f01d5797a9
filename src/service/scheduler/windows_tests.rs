//! What waits for its batch's window, what stands still when that closes, and what goes on all the same.

use super::*;
use crate::model::manifest::{AtClose, Gate};
use crate::model::remote::{RemoteNeed, WINDOW_RULE};
use crate::model::window::Window;

/// Thursday 1970-01-01 was the first day: the window below is open from 01:00 to 02:00 of that day, and again a week later.
const OPENS: f64 = 3600.0;
const CLOSES: f64 = 7200.0;
const WEEK: f64 = 7.0 * 86_400.0;

fn window(at_close: AtClose, gates: &[Gate]) -> Option<Window> {
    Some(Window::new(None, ("Thu 01:00", "Thu 02:00"), Some(gates), Some(at_close)).unwrap())
}

fn load_at(core: &mut Core, now: f64, mut jobs: Vec<JobFacts>, at_close: AtClose) {
    jobs.iter_mut().for_each(|job| job.batch = 1);
    let facts = BatchFacts { window: window(at_close, &[Gate::Start]), ..batch(1, &jobs) };
    core.load(now, facts, jobs);
}

/// Two slots and two jobs of a batch with a window, at work since that opened.
fn at_work(at_close: AtClose) -> Core {
    let mut core = core(2);
    load_at(&mut core, OPENS, vec![job(1), job(2)], at_close);
    assert_eq!(started(&run(&mut core, OPENS)), [(1, 1), (2, 1)]);
    core
}

fn window_waits(jobs: &[JobId], suspend: bool) -> Vec<(JobId, WaitReason, bool)> {
    jobs.iter().map(|job| (*job, WaitReason::Window, suspend)).collect()
}

#[test]
fn a_job_waits_for_its_window_and_starts_in_the_second_in_which_it_opens() {
    let mut core = core(1);
    load_at(&mut core, 0.0, vec![job(1), job(2)], AtClose::Finish);
    load_each(&mut core, vec![job(3)]);
    let actions = run(&mut core, 0.0);
    assert_eq!(waits(&actions), window_waits(&[1, 2], false));
    assert_eq!(started(&actions), [(3, 1)], "another batch goes ahead");
    let Action::Wait { detail, .. } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(detail, "its window opens Thu 1970-01-01 01:00 +00:00 (UTC)");
    core.worker_ended(10.0, 3, success());
    run(&mut core, 10.0);
    // It is looked at every minute and not more often, whatever happens to the clock; and at the very second.
    let mut now = 10.0;
    let mut looks = 0;
    while now < OPENS {
        now = core.next_deadline().unwrap();
        looks += 1;
        if now < OPENS {
            assert_eq!(run(&mut core, now), [], "{now}");
        }
    }
    assert_eq!((now, looks <= 61), (OPENS, true), "{looks}");
    assert_eq!(started(&run(&mut core, now)), [(1, 1)]);
    core.worker_ended(OPENS + 9.0, 1, success());
    assert_eq!(started(&run(&mut core, OPENS + 9.0)), [(2, 1)]);
    core.worker_ended(OPENS + 9.0, 2, success());
    run(&mut core, OPENS + 9.0);
    assert_eq!(core.next_deadline(), None, "with nobody left nothing is looked at");
}

#[test]
fn what_runs_when_it_closes_goes_on_and_what_has_not_begun_waits() {
    let mut core = core(1);
    load_at(&mut core, OPENS, vec![job(1), job(2)], AtClose::Finish);
    assert_eq!(started(&run(&mut core, OPENS)), [(1, 1)]);
    assert_eq!(waits(&run(&mut core, CLOSES)), window_waits(&[2], false));
    // What has begun goes on behind a pause too.
    core.pause(CLOSES + 1.0, 1).unwrap();
    run(&mut core, CLOSES + 1.0);
    core.resume(CLOSES + 2.0, 1).unwrap();
    assert_eq!(run(&mut core, CLOSES + 2.0), [Action::Continue { job: 1 }]);
    core.worker_ended(CLOSES + 3.0, 1, success());
    assert_eq!(started(&run(&mut core, CLOSES + 3.0)), []);
    assert_eq!(started(&run(&mut core, WEEK + OPENS)), [(2, 1)]);
}

#[test]
fn a_new_attempt_after_a_failure_is_a_start() {
    let mut core = at_work(AtClose::Finish);
    run(&mut core, CLOSES);
    core.worker_ended(CLOSES + 1.0, 1, crash());
    run(&mut core, CLOSES + 1.0);
    let due = CLOSES + 60.0;
    assert_eq!(waits(&run(&mut core, due)), window_waits(&[1], false));
    assert_eq!(started(&run(&mut core, WEEK + OPENS)), [(1, 2)]);
}

#[test]
fn what_is_held_at_the_close_frees_its_slot_and_goes_on_when_it_opens_again() {
    let mut core = at_work(AtClose::Hold);
    load_each(&mut core, vec![job(3)]);
    assert_eq!(started(&run(&mut core, CLOSES - 1.0)), []);
    let actions = run(&mut core, CLOSES);
    assert_eq!(waits(&actions), window_waits(&[1, 2], true));
    assert_eq!(started(&actions), [(3, 1)]);
    core.worker_ended(CLOSES + 1.0, 3, success());
    run(&mut core, CLOSES + 1.0);
    let actions = run(&mut core, WEEK + OPENS);
    assert_eq!(actions, [Action::Continue { job: 1 }, Action::Continue { job: 2 }]);
}

#[test]
fn no_word_of_the_operator_opens_a_window_and_each_is_kept() {
    let mut core = at_work(AtClose::Hold);
    run(&mut core, CLOSES);
    core.resume(CLOSES + 1.0, 1).unwrap();
    assert_eq!(run(&mut core, CLOSES + 1.0), [], "a resume does not open it");
    core.pause(CLOSES + 2.0, 1).unwrap();
    assert_eq!(waits(&run(&mut core, CLOSES + 2.0)), [(1, WaitReason::Paused, false)]);
    assert_eq!(run(&mut core, WEEK + OPENS), [Action::Continue { job: 2 }], "a pause outlasts the window");
    core.resume(WEEK + OPENS, 1).unwrap();
    assert_eq!(run(&mut core, WEEK + OPENS), [Action::Continue { job: 1 }]);
    core.pause_all(WEEK + CLOSES - 1.0, true);
    run(&mut core, WEEK + CLOSES - 1.0);
    core.pause_all(WEEK + CLOSES + 1.0, false);
    assert_eq!(waits(&run(&mut core, WEEK + CLOSES + 1.0)), window_waits(&[1, 2], false));
    core.cancel(WEEK + CLOSES + 2.0, 1, false).unwrap();
    let actions = run(&mut core, WEEK + CLOSES + 2.0);
    assert!(
        matches!(actions[..], [Action::Tell { job: 1, command: WorkerCommand::Cancel { .. } }]),
        "{actions:?}"
    );
    core.set_priority(2, -5);
    assert_eq!(run(&mut core, WEEK + CLOSES + 3.0), []);
}

#[test]
fn a_window_that_opens_while_everything_stands_lets_nothing_go() {
    let mut core = core(2);
    core.policy.pause_scope = PauseScope::NetworkJobs;
    load_at(&mut core, 0.0, vec![job(1), JobFacts { needs_network: true, ..job(2) }], AtClose::Finish);
    run(&mut core, 0.0);
    core.pause_all(1.0, true);
    core.set_network(1.0, down());
    assert_eq!(run(&mut core, 1.0), []);
    let paused = [(1, WaitReason::Paused, false), (2, WaitReason::Paused, false)];
    assert_eq!(waits(&run(&mut core, OPENS)), paused);
    core.pause_all(OPENS + 1.0, false);
    let actions = run(&mut core, OPENS + 1.0);
    assert_eq!((started(&actions), waits(&actions)), (vec![(1, 1)], vec![(2, WaitReason::Network, false)]));
    run(&mut core, CLOSES);
    core.set_network(CLOSES + 1.0, Network::Up);
    assert_eq!(waits(&run(&mut core, CLOSES + 1.0)), window_waits(&[2], false), "it has not begun");
}

#[test]
fn what_depends_on_another_waits_for_that_first_and_then_for_the_window() {
    let mut core = core(2);
    let second = JobFacts { depends_on: vec!["vm1".to_owned()], ..job(2) };
    load_at(&mut core, CLOSES - 1.0, vec![job(1), second], AtClose::Finish);
    let actions = run(&mut core, CLOSES - 1.0);
    assert_eq!(waits(&actions), [(2, WaitReason::Dependency, false)]);
    core.worker_ended(CLOSES + 1.0, 1, success());
    assert_eq!(waits(&run(&mut core, CLOSES + 1.0)), window_waits(&[2], false));
    assert_eq!(started(&run(&mut core, WEEK + OPENS)), [(2, 1)]);
}

#[test]
fn a_clock_that_is_set_is_believed() {
    let mut core = core(1);
    load_at(&mut core, 100.0, vec![job(1)], AtClose::Finish);
    run(&mut core, 100.0);
    // Forward into the next window, as behind a night of sleep.
    assert_eq!(started(&run(&mut core, WEEK + OPENS + 30.0)), [(1, 1)]);

    let mut core = super::core(1);
    load_at(&mut core, WEEK + 100.0, vec![job(1)], AtClose::Finish);
    run(&mut core, WEEK + 100.0);
    // A week back: it waits for another opening, and says so.
    let actions = run(&mut core, 100.0);
    let [Action::Wait { detail, suspend: false, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(detail, "its window opens Thu 1970-01-01 01:00 +00:00 (UTC)");
    assert_eq!(core.next_deadline(), Some(160.0));
    assert_eq!(started(&run(&mut core, OPENS)), [(1, 1)]);
}

#[test]
fn a_restart_finds_what_waits_what_was_held_and_what_may_go_on() {
    let waiting = |id| JobFacts {
        state: JobState::Waiting,
        waiting: Some(WaitReason::Window),
        waiting_detail: "its window opens Thu 1970-01-08 01:00 +00:00 (UTC)".to_owned(),
        ..job(id)
    };
    let cut = |id, cut_short| {
        let counters = Counters { attempt: 1, cut_short, ..Counters::default() };
        JobFacts { counters, state: JobState::Running, ..job(id) }
    };
    for (at_close, goes_on) in [(AtClose::Hold, vec![]), (AtClose::Finish, vec![(2, 1)])] {
        let mut core = core(4);
        load_at(&mut core, CLOSES, vec![waiting(1), cut(2, false)], at_close);
        let actions = run(&mut core, CLOSES);
        assert_eq!(started(&actions), goes_on, "{at_close:?}");
        assert!(!waits(&actions).iter().any(|(job, ..)| *job == 1), "it is known to wait: {actions:?}");
        let opened = started(&run(&mut core, WEEK + OPENS));
        assert_eq!(opened.first(), Some(&(1, 1)), "{at_close:?}");
        assert_eq!(opened.len() + goes_on.len(), 2);
    }
    // It opened while no daemon was there.
    let mut core = core(4);
    load_at(&mut core, WEEK + OPENS + 1.0, vec![waiting(1)], AtClose::Hold);
    assert_eq!(started(&run(&mut core, WEEK + OPENS + 1.0)), [(1, 1)]);
}

#[test]
fn a_service_that_ends_or_drains_does_not_wait_for_a_window() {
    let mut core = at_work(AtClose::Hold);
    run(&mut core, CLOSES);
    core.drain(true);
    assert_eq!(run(&mut core, CLOSES + 1.0), []);
    core.stop(CLOSES + 2.0);
    let actions = run(&mut core, CLOSES + 2.0);
    let stop = |job| Action::Tell { job, command: WorkerCommand::Stop };
    assert!([1, 2].iter().all(|job| actions.contains(&stop(*job))), "{actions:?}");
    for job in [1, 2] {
        core.worker_ended(CLOSES + 3.0, job, WorkerEnd::Finished(WorkerOutcome::Stopped));
    }
    assert_eq!(
        waits(&run(&mut core, CLOSES + 3.0)),
        window_waits(&[1, 2], false),
        "they keep what they wait for"
    );
    assert!(core.is_quiet() && core.next_deadline().is_none());
}

#[test]
fn what_waits_for_room_or_was_being_measured_does_not_start_outside_the_window() {
    let mut core = core(2);
    load_at(&mut core, OPENS, vec![job(1), job(2)], AtClose::Finish);
    let actions = run_with(&mut core, OPENS, |_| probe(2 * GIB, GIB));
    assert_eq!(waits(&actions), [(1, WaitReason::DiskSpace, false), (2, WaitReason::DiskSpace, false)]);
    let later = run(&mut core, CLOSES + 1.0);
    assert_eq!((started(&later), waits(&later)), (vec![], window_waits(&[1, 2], false)));

    let mut core = super::core(1);
    load_at(&mut core, CLOSES - 1.0, vec![job(1)], AtClose::Hold);
    assert_eq!(core.actions(CLOSES - 1.0), [Action::Probe { job: 1 }]);
    assert_eq!(core.actions(CLOSES), []);
    core.probed(CLOSES + 1.0, 1, probe(GIB, 90 * GIB));
    assert_eq!(waits(&core.actions(CLOSES + 1.0)), window_waits(&[1], false));
}

#[test]
fn a_window_that_gates_only_what_this_version_does_not_do_holds_nothing_up() {
    let mut core = core(1);
    let mut facts = vec![job(1)];
    facts[0].batch = 1;
    let gates = window(AtClose::Hold, &[Gate::Shutdown, Gate::Cutover, Gate::Autostart]);
    core.load(0.0, BatchFacts { window: gates, ..batch(1, &facts) }, facts);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1)]);
    assert_eq!(waits(&run(&mut core, CLOSES)), []);
}

/// A job that shuts its source down, in a batch whose window gates only that.
fn shuts_down(is_shut_down: bool) -> Core {
    let need = RemoteNeed {
        server: "vc:443".to_owned(),
        login: "/c/a".to_owned(),
        shuts_down: true,
        ..RemoteNeed::default()
    };
    let mut facts = vec![JobFacts { remote: Some(need), is_shut_down, ..job(1) }];
    facts[0].batch = 1;
    let mut core = core(1);
    let gates = window(AtClose::Finish, &[Gate::Shutdown]);
    core.load(0.0, BatchFacts { window: gates, ..batch(1, &facts) }, facts);
    core
}

#[test]
fn a_job_waits_for_the_window_in_which_it_may_shut_its_source_down_and_only_as_long_as_that_runs() {
    let mut core = shuts_down(false);
    assert_eq!(waits(&run(&mut core, 0.0)), window_waits(&[1], false));
    assert_eq!(core.may_shut_down_until(1, 0.0), Some(0.0));
    assert_eq!(started(&run(&mut core, OPENS)), [(1, 1)]);
    assert_eq!(core.may_shut_down_until(1, OPENS), Some(CLOSES));
    // Its worker comes to it too late: no attempt is lost.
    let error = Error::new(Kind::Source, "closed").rule(WINDOW_RULE).transient();
    core.worker_ended(CLOSES + 1.0, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
    assert_eq!(waits(&run(&mut core, CLOSES + 1.0)), window_waits(&[1], false));
    assert_eq!(started(&run(&mut core, WEEK + OPENS)), [(1, 1)]);
    // It has shut it down, and fails after that: the source is not kept waiting.
    core.source_stands(1, true);
    let error = Error::new(Kind::Network, "away").transient();
    core.worker_ended(WEEK + CLOSES, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
    run(&mut core, WEEK + CLOSES);
    assert_eq!(started(&run(&mut core, WEEK + CLOSES + 100.0)), [(1, 2)]);
    assert_eq!(started(&run(&mut shuts_down(true), 0.0)), [(1, 1)]);
}
