//! What is paused stands still, by its own name or with everything else, and goes on only when it is let go.

use super::*;

#[test]
fn pausing_everything_holds_what_runs_and_what_comes_and_resuming_lets_it_go_on() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1), job(2)]);
    run(&mut core, 0.0);
    core.pause_all(1.0, true);
    let actions = run(&mut core, 1.0);
    assert_eq!(waits(&actions), [(1, WaitReason::Paused, true), (2, WaitReason::Paused, false)]);
    load_each(&mut core, vec![job(3)]);
    assert_eq!(waits(&run(&mut core, 1.0)), [(3, WaitReason::Paused, false)]);
    assert!(core.resume(1.0, 1).is_err());
    core.pause_all(2.0, false);
    let actions = run(&mut core, 2.0);
    assert_eq!(actions[0], Action::Continue { job: 1 });
    assert_eq!(started(&actions), []);
}

#[test]
fn resuming_everything_leaves_what_was_paused_by_its_own_name() {
    let mut core = core(4);
    load_each(&mut core, vec![job(1), job(2), job(3)]);
    run(&mut core, 0.0);
    core.pause(1.0, 1).unwrap();
    core.pause_all(2.0, true);
    core.pause(3.0, 2).unwrap();
    let actions = run(&mut core, 3.0);
    assert_eq!(waits(&actions).last(), Some(&(2, WaitReason::Paused, false)), "it is told in other words");
    core.pause_all(4.0, false);
    assert_eq!(run(&mut core, 4.0), [Action::Continue { job: 3 }]);
    assert_eq!(core.held(), [1, 2].into());
    core.resume(5.0, 2).unwrap();
    assert_eq!(run(&mut core, 5.0), [Action::Continue { job: 2 }]);
}

#[test]
fn what_stood_still_with_everything_goes_on_where_everything_does() {
    let paused = |id, detail: &str| JobFacts {
        state: JobState::Waiting,
        waiting: Some(WaitReason::Paused),
        waiting_detail: detail.to_owned(),
        ..job(id)
    };
    let mut core = core(4);
    load_each(&mut core, vec![paused(1, ALL_PAUSED), paused(2, "paused by the operator")]);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1)], "the daemon died while it resumed everything");
}

#[test]
fn a_paused_job_frees_its_slot_and_takes_the_next_free_one_when_resumed() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1), job(2)]);
    run(&mut core, 0.0);
    core.pause(1.0, 1).unwrap();
    let actions = run(&mut core, 1.0);
    assert_eq!(waits(&actions), [(1, WaitReason::Paused, true)]);
    assert_eq!(started(&actions), [(2, 1)]);
    core.resume(2.0, 1).unwrap();
    let actions = run(&mut core, 2.0);
    assert!(matches!(actions[..], [Action::Requeue { job: 1, .. }]), "{actions:?}");
    core.worker_ended(3.0, 2, success());
    assert!(run(&mut core, 3.0).contains(&Action::Continue { job: 1 }));
}

#[test]
fn a_paused_job_stays_paused_when_its_worker_dies() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.pause(1.0, 1).unwrap();
    core.worker_ended(2.0, 1, crash());
    assert_eq!(waits(&run(&mut core, 2.0)).last(), Some(&(1, WaitReason::Paused, false)));
    assert_eq!((started(&run(&mut core, 99.0)), core.next_deadline()), (vec![], None));
}
