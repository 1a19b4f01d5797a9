//! Jobs whose libvirt is away.

use super::*;

fn silent() -> WorkerEnd {
    let error = Error::new(Kind::Libvirt, "qemu:///system did not answer for 30 s").transient();
    WorkerEnd::Finished(WorkerOutcome::Failed { error })
}

#[test]
fn a_job_waits_for_libvirt_and_that_costs_it_no_attempt() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    let mut now = 0.0;
    for delay in [10.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0] {
        assert_eq!(started(&run(&mut core, now)), [(1, 1)], "after {now} s");
        core.worker_ended(now, 1, silent());
        assert_eq!(waits(&run(&mut core, now)), [(1, WaitReason::Libvirt, false)]);
        assert_eq!(core.next_deadline(), Some(now + delay));
        now += delay;
    }
    // What else fails has all its attempts.
    assert_eq!(started(&run(&mut core, now)), [(1, 1)]);
    core.worker_ended(now, 1, crash());
    assert_eq!(waits(&run(&mut core, now)), [(1, WaitReason::Retry, false)]);
    now = core.next_deadline().unwrap();
    assert_eq!(started(&run(&mut core, now)), [(1, 2)]);
    core.worker_ended(43_200.0, 1, silent());
    assert!(matches!(run(&mut core, 43_200.0)[0], Action::Fail { job: 1, .. }));
}

#[test]
fn all_who_wait_for_libvirt_go_on_at_once_when_it_is_back() {
    let mut core = core(2);
    load_each(&mut core, vec![job(1), job(2)]);
    run(&mut core, 0.0);
    core.worker_ended(0.0, 1, silent());
    core.worker_ended(0.0, 2, crash());
    run(&mut core, 0.0);
    core.libvirt_is_back();
    // The other one waits for its own time.
    assert_eq!(started(&run(&mut core, 1.0)), [(1, 1)]);
    assert_eq!(core.next_deadline(), Some(10.0));
    // How long it was away counts on.
    core.worker_ended(20.0, 1, silent());
    assert_eq!(waits(&run(&mut core, 20.0)), [(1, WaitReason::Libvirt, false)]);
    core.pause_all(21.0, true);
    core.libvirt_is_back();
    assert_eq!(started(&run(&mut core, 21.0)), []);
}

#[test]
fn what_libvirt_refuses_is_no_reason_to_wait() {
    let mut core = core(1);
    load_each(&mut core, vec![job(1)]);
    run(&mut core, 0.0);
    core.worker_ended(0.0, 1, failure(Kind::Libvirt));
    assert!(matches!(run(&mut core, 0.0)[0], Action::Fail { job: 1, .. }));
}

#[test]
fn a_wait_for_libvirt_keeps_its_time_over_a_restart_and_ends_at_once_when_it_is_resumed() {
    let mut core = core(2);
    let waiting = |id| JobFacts {
        state: JobState::Waiting,
        waiting: Some(WaitReason::Libvirt),
        waiting_since: Some(0.0),
        counters: Counters { attempt: 3, cut_short: true, retry_at: Some(50.0), ..Counters::default() },
        ..job(id)
    };
    load_each(&mut core, vec![waiting(1), waiting(2)]);
    assert_eq!(started(&run(&mut core, 1.0)), []);
    core.resume(1.0, 2).unwrap();
    assert_eq!(started(&run(&mut core, 1.0)), [(2, 3)]);
    assert_eq!(core.next_deadline(), Some(50.0));
    assert_eq!(started(&run(&mut core, 50.0)), [(1, 3)]);
}
