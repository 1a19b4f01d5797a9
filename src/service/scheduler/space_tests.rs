//! What waits for room, in what order it is asked, and what goes ahead meanwhile.

use super::*;
use crate::service::scheduler::policy::{SPACE_RECHECK_S, SPACE_WAITERS_MAX};

#[test]
fn what_does_not_fit_waits_with_need_free_and_path_and_a_smaller_one_goes_ahead() {
    let mut core = core(2);
    load_each(&mut core, vec![job(1), job(2)]);
    let actions = run_with(&mut core, 0.0, |id| probe(if id == 1 { 20 * GIB } else { GIB }, 10 * GIB));
    assert_eq!(started(&actions), [(2, 1)]);
    let Some(Action::Wait { reason, detail, .. }) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(*reason, WaitReason::DiskSpace);
    assert_eq!(detail, "needs 20.0 GiB at /out, 10.0 GiB free (0 B reserved by others, 0 B kept free)");
    assert_eq!(core.next_deadline(), Some(SPACE_RECHECK_S));
    assert_eq!(started(&run_with(&mut core, 5.0, |_| probe(20 * GIB, 30 * GIB))), [(1, 1)]);
}

#[test]
fn what_another_job_gives_back_is_looked_at_at_once() {
    let mut core = core(2);
    load_each(&mut core, vec![job(1), job(2)]);
    let actions = run_with(&mut core, 0.0, |_| probe(6 * GIB, 10 * GIB));
    assert_eq!((started(&actions).len(), waits(&actions).len()), (1, 1));
    core.worker_ended(1.0, 1, success());
    assert_eq!(started(&run_with(&mut core, 1.0, |_| probe(6 * GIB, 10 * GIB))), [(2, 1)]);
}

#[test]
fn a_worker_that_ran_out_of_room_waits_for_what_it_measured_and_loses_no_attempt() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    let error = Error::new(Kind::DiskSpace, "no room").space(50 * GIB, 10 * GIB);
    core.worker_ended(1.0, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
    assert_eq!(waits(&run(&mut core, 1.0)), [(1, WaitReason::DiskSpace, false)]);
    let actions = run_with(&mut core, 6.0, |_| probe(GIB, 40 * GIB));
    assert_eq!(started(&actions), [], "what the worker measured counts, not the estimate");
    assert_eq!(started(&run_with(&mut core, 11.0, |_| probe(GIB, 60 * GIB))), [(1, 1)]);
}

#[test]
fn one_that_runs_out_of_room_that_is_there_is_begun_ever_more_seldom_until_it_gets_further() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    let plenty = |_| probe(GIB, 60 * GIB);
    assert_eq!(started(&run_with(&mut core, 0.0, plenty)), [(1, 1)]);
    let runs_out = |core: &mut Core, now| {
        let error = Error::new(Kind::DiskSpace, "no room");
        core.worker_ended(now, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
        let waits = run_with(core, now, plenty);
        let Some(Action::Wait { reason: WaitReason::DiskSpace, detail, .. }) = waits.first() else {
            panic!("{waits:?}")
        };
        detail.clone()
    };
    assert_eq!(runs_out(&mut core, 0.0), "no room");
    assert_eq!(started(&run_with(&mut core, 5.0, plenty)), [(1, 1)]);
    let said = runs_out(&mut core, 10.0);
    assert!(said.starts_with("no room; again and again") && said.ends_with("tried in 10 s"), "{said}");
    assert_eq!(started(&run_with(&mut core, 15.0, plenty)), []);
    assert_eq!(started(&run_with(&mut core, 20.0, plenty)), [(1, 1)]);
    runs_out(&mut core, 20.0);
    assert_eq!(started(&run_with(&mut core, 35.0, plenty)), []);
    core.resume(35.0, 1).unwrap();
    assert_eq!(started(&run_with(&mut core, 35.0, plenty)), [(1, 1)], "whoever says so is obeyed");
    core.progressed(1, 40.0, 0);
    assert_eq!(runs_out(&mut core, 40.0), "no room", "it got further than before");
    assert_eq!(started(&run_with(&mut core, 45.0, plenty)), [(1, 1)]);
}

#[test]
fn a_file_system_that_says_itself_that_it_is_full_is_believed_when_it_has_room_again() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    for now in [0.0, 10.0, 20.0] {
        assert_eq!(started(&run_with(&mut core, now, |_| probe(GIB, 60 * GIB))), [(1, 1)], "{now}");
        let error = Error::new(Kind::DiskSpace, "no room").space(50 * GIB, 0);
        core.worker_ended(now, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
        assert_eq!(started(&run_with(&mut core, now, |_| probe(GIB, 40 * GIB))), []);
        assert_eq!(started(&run_with(&mut core, now + 5.0, |_| probe(GIB, 40 * GIB))), []);
    }
}

#[test]
fn one_that_fits_is_found_behind_any_number_that_never_do() {
    let mut core = core(2);
    load_each(&mut core, (1..=9).map(job).collect());
    let full = |_| probe(20 * GIB, GIB);
    assert_eq!(started(&run_with(&mut core, 0.0, full)), []);
    let room = |id| probe(20 * GIB, if id == 9 { 30 * GIB } else { GIB });
    assert_eq!(started(&run_with(&mut core, SPACE_RECHECK_S, room)), [(9, 1)]);
}

#[test]
fn a_round_that_takes_long_is_finished_before_the_next_begins() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1), job(2)]);
    run_with(&mut core, 0.0, |_| probe(20 * GIB, GIB));
    assert_eq!(core.actions(5.0), [Action::Probe { job: 1 }]);
    core.probed(14.0, 1, probe(20 * GIB, GIB));
    let asked: Vec<Action> =
        core.actions(30.0).into_iter().filter(|action| matches!(action, Action::Probe { .. })).collect();
    assert_eq!(asked, [Action::Probe { job: 2 }], "not the first one again");
}

#[test]
fn however_many_wait_for_a_full_disk_a_job_on_another_is_found() {
    let mut core = core(2);
    let last = SPACE_WAITERS_MAX as JobId + 20;
    load_each(&mut core, (1..=last).map(job).collect());
    let room = |id| match id == last {
        true => probe(GIB, 90 * GIB).map(|probe| SpaceProbe { file_system: 2, ..probe }),
        false => probe(20 * GIB, GIB),
    };
    for now in [0.0, SPACE_RECHECK_S] {
        let actions = run_with(&mut core, now, room);
        let expected: &[(JobId, u32)] = if now == 0.0 { &[(last, 1)] } else { &[] };
        assert_eq!(started(&actions), expected);
        let waiting: Vec<JobId> = core.waiting_for(WaitReason::DiskSpace).collect();
        assert!((SPACE_WAITERS_MAX..SPACE_WAITERS_MAX + 2).contains(&waiting.len()), "{}", waiting.len());
        assert!(!waiting.contains(&(last - 1)), "those behind so many stay queued");
    }
}

#[test]
fn what_a_worker_measures_holds_others_back_or_lets_them_in() {
    let mut core = core(2);
    load_each(&mut core, vec![job(1), job(2)]);
    core.pause(0.0, 2).unwrap();
    run_with(&mut core, 0.0, |_| probe(GIB, 10 * GIB));
    core.measured(1.0, 1, 8 * GIB);
    core.resume(1.0, 2).unwrap();
    let actions = run_with(&mut core, 1.0, |_| probe(6 * GIB, 10 * GIB));
    assert_eq!((started(&actions), waits(&actions)), (vec![], vec![(2, WaitReason::DiskSpace, false)]));
    core.measured(2.0, 1, 3 * GIB);
    assert_eq!(started(&run_with(&mut core, 2.0, |_| probe(6 * GIB, 10 * GIB))), [(2, 1)]);
}

#[test]
fn a_file_system_bears_so_many_jobs_and_those_of_others_go_past() {
    let mut core = core(9);
    core.policy.per_target_fs = Some(2);
    load_each(&mut core, (1..=6).map(job).collect());
    let on = |file_system| probe(GIB, 90 * GIB).map(|probe| SpaceProbe { file_system, ..probe });
    // The fifth writes to both, the sixth to another alone.
    let room = |id| match id {
        5 => on(2).map(|both| SpaceProbe { beside: on(1).into_iter().collect(), ..both }),
        6 => on(2),
        _ => on(1),
    };
    assert_eq!(started(&run_with(&mut core, 0.0, room)), [(1, 1), (2, 1), (6, 1)]);
    core.worker_ended(1.0, 2, success());
    assert_eq!(started(&run_with(&mut core, 1.0, room)), [(3, 1)]);
    core.worker_ended(2.0, 1, success());
    core.worker_ended(2.0, 3, success());
    assert_eq!(started(&run_with(&mut core, 2.0, room)), [(4, 1), (5, 1)]);
}
