//! Logins that are refused, and servers that bear only so many jobs.

use super::*;
use crate::model::remote::{LOGIN_RULE, RemoteNeed};

fn remote(id: JobId, login: &str) -> JobFacts {
    let need = RemoteNeed {
        shuts_down: false,
        server: "vc.example.com:443".to_owned(),
        login: login.to_owned(),
        login_file: Some(login.into()),
        ..RemoteNeed::default()
    };
    JobFacts { remote: Some(need), ..job(id) }
}

fn refused() -> WorkerEnd {
    let error = Error::new(Kind::Auth, "the password is wrong").rule(LOGIN_RULE);
    WorkerEnd::Finished(WorkerOutcome::Failed { error })
}

fn three() -> Core {
    let mut core = core(3);
    load_each(&mut core, vec![remote(1, "/c/a"), remote(2, "/c/a"), remote(3, "/c/a")]);
    core
}

#[test]
fn of_a_login_that_nobody_has_tried_one_job_makes_the_trial() {
    let mut core = three();
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1)]);
    core.login_works(1);
    assert_eq!(started(&run(&mut core, 1.0)), [(2, 1), (3, 1)]);
}

#[test]
fn one_refusal_holds_all_jobs_of_the_login_and_no_other() {
    let mut core = three();
    load_each(&mut core, vec![remote(4, "/c/b")]);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1), (4, 1)]);
    core.worker_ended(1.0, 1, refused());
    let actions = run(&mut core, 1.0);
    assert_eq!(started(&actions), []);
    let all = [(1, WaitReason::Auth, false), (2, WaitReason::Auth, false), (3, WaitReason::Auth, false)];
    assert_eq!(waits(&actions), all);
    load_each(&mut core, vec![remote(5, "/c/a")]);
    assert_eq!(waits(&run(&mut core, 2.0)), [(5, WaitReason::Auth, false)], "nor one that comes later");
    assert_eq!(core.refused_logins().into_keys().collect::<Vec<_>>(), ["/c/a"]);
}

#[test]
fn one_that_is_let_go_tries_for_all() {
    let mut core = three();
    run(&mut core, 0.0);
    core.worker_ended(1.0, 1, refused());
    run(&mut core, 1.0);
    core.resume(2.0, 2).unwrap();
    core.resume(2.0, 1).unwrap();
    assert_eq!(started(&run(&mut core, 2.0)), [(1, 1)]);
    core.worker_ended(3.0, 1, refused());
    assert_eq!(started(&run(&mut core, 3.0)), [], "nor does the other that was let go");
    core.resume(4.0, 3).unwrap();
    assert_eq!(started(&run(&mut core, 4.0)), [(3, 1)]);
    core.login_works(3);
    assert_eq!(started(&run(&mut core, 5.0)), [(1, 1), (2, 1)], "the attempt was not counted");
}

#[test]
fn one_that_is_brought_back_after_its_end_tries_it_too_and_once() {
    let mut core = three();
    run(&mut core, 0.0);
    core.worker_ended(1.0, 1, refused());
    run(&mut core, 1.0);
    core.try_login_again(4);
    core.try_login_again(5);
    load_each(&mut core, vec![remote(4, "/c/a"), remote(5, "/c/a")]);
    assert_eq!(started(&run(&mut core, 2.0)), [(4, 1)]);
    core.worker_ended(3.0, 4, refused());
    assert_eq!(started(&run(&mut core, 3.0)), [], "nor does the other that was brought back");
}

#[test]
fn a_login_that_was_mended_is_tried_by_one() {
    let mut core = three();
    run(&mut core, 0.0);
    core.worker_ended(1.0, 1, refused());
    run(&mut core, 1.0);
    core.login_changed("/c/a");
    assert_eq!(started(&run(&mut core, 2.0)), [(1, 1)]);
    assert!(core.refused_logins().is_empty());
}

#[test]
fn after_a_restart_a_refused_login_is_still_refused() {
    let mut core = core(2);
    let waiting = JobFacts {
        state: JobState::Waiting,
        waiting: Some(WaitReason::Auth),
        waiting_detail: "login refused: the password is wrong".to_owned(),
        ..remote(1, "/c/a")
    };
    load_each(&mut core, vec![waiting, remote(2, "/c/a")]);
    let actions = run(&mut core, 0.0);
    assert_eq!((started(&actions), waits(&actions)), (vec![], vec![(2, WaitReason::Auth, false)]));
}

#[test]
fn a_privilege_that_one_job_lacks_is_no_concern_of_others() {
    let mut core = three();
    run(&mut core, 0.0);
    let error = Error::new(Kind::Auth, "Datastore.Browse is missing");
    core.worker_ended(1.0, 1, WorkerEnd::Finished(WorkerOutcome::Failed { error }));
    let actions = run(&mut core, 1.0);
    assert_eq!(waits(&actions), [(1, WaitReason::Auth, false)]);
    assert_eq!(started(&actions), [(2, 1)]);
}

#[test]
fn a_trial_that_comes_to_nothing_is_made_by_the_next() {
    let mut core = three();
    run(&mut core, 0.0);
    core.worker_ended(
        1.0,
        1,
        WorkerEnd::Finished(WorkerOutcome::Failed { error: Error::new(Kind::Source, "there is no such VM") }),
    );
    assert_eq!(started(&run(&mut core, 1.0)), [(2, 1)]);
}

#[test]
fn a_server_bears_so_many_jobs_and_others_go_past() {
    let mut core = core(3);
    core.policy.per_vcenter = Some(1);
    load_each(&mut core, vec![remote(1, "/c/a"), remote(2, "/c/b"), job(3)]);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1), (3, 1)]);
    core.worker_ended(1.0, 1, success());
    assert_eq!(started(&run(&mut core, 1.0)), [(2, 1)]);
}

#[test]
fn what_a_worker_found_is_recorded_before_the_job_is_queued_again() {
    let mut core = core(1);
    load_each(&mut core, vec![remote(1, "/c/a")]);
    run(&mut core, 0.0);
    let plan = Box::new(plan());
    core.worker_ended(1.0, 1, WorkerEnd::Planned { plan: plan.clone(), changed: None });
    let actions = run(&mut core, 1.0);
    assert_eq!(actions[0], Action::Plan { job: 1, plan });
    assert!(matches!(actions[1], Action::Requeue { job: 1, .. }), "{actions:?}");
    assert_eq!(started(&actions), [(1, 1)], "it is the same attempt");
}

#[test]
fn a_vm_that_became_another_one_costs_an_attempt() {
    let mut core = core(1);
    load_each(&mut core, vec![remote(1, "/c/a")]);
    run(&mut core, 0.0);
    let changed = Some(Error::new(Kind::Source, "other disks").transient());
    core.worker_ended(1.0, 1, WorkerEnd::Planned { plan: Box::new(plan()), changed });
    assert_eq!(waits(&run(&mut core, 1.0)), [(1, WaitReason::Retry, false)]);
}

fn plan() -> crate::model::plan::Plan {
    let text =
        "manifest_version: \"1.0\"\nsource: {vsphere: {host: vc.example.com, credential: a, vm_name: web}}\n";
    let settings = Settings::defaults(Path::new("/s"), 2);
    let submission =
        crate::model::planner::Submission::read(text.as_bytes(), "web.yaml", Path::new("/in"), &settings);
    submission.unwrap().plans("web", "", &settings).unwrap().remove(0)
}

#[test]
fn an_entry_whose_vms_are_jobs_has_ended_whatever_it_was_told_and_its_batch_goes_on_with_them() {
    for told in ["nothing", "pause", "cancel", "stop"] {
        let mut core = core(3);
        let entry = remote(1, "/c/a");
        load_batch(&mut core, vec![entry.clone()], |_| {});
        assert_eq!(started(&run(&mut core, 0.0)), [(1, 1)]);
        match told {
            "pause" => core.pause(1.0, 1).unwrap(),
            "cancel" => core.cancel(1.0, 1, false).unwrap(),
            "stop" => core.stop(1.0),
            _ => {}
        }
        run(&mut core, 1.0);
        assert_eq!(core.is_being_cancelled(1), told == "cancel");
        // Its VMs are taken in, and then it is told to have ended.
        let ended = JobFacts { state: JobState::Skipped, ..entry };
        let members = vec![remote(2, "/c/a"), remote(3, "/c/a")];
        let facts = batch(1, &[ended, members[0].clone(), members[1].clone()]);
        let members = members.into_iter().map(|job| JobFacts { batch: 1, ..job }).collect();
        core.load(2.0, facts, members);
        core.worker_ended(2.0, 1, WorkerEnd::Expanded);
        let actions = run(&mut core, 2.0);
        assert!(!core.knows(1) && core.knows_batch(1), "{told}");
        let expected: &[(JobId, u32)] = if told == "stop" { &[] } else { &[(2, 1), (3, 1)] };
        assert_eq!(started(&actions), expected, "{told}: its login has worked");
        assert!(!actions.iter().any(|action| matches!(action, Action::BatchEnded { .. })), "{told}");
    }
}
