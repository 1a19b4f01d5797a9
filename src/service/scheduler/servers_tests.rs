//! Servers that are away, and hosts and datastores that bear only so many jobs.

use std::collections::BTreeSet;

use super::*;
use crate::model::progress::ServerAway;
use crate::model::remote::RemoteNeed;

const SERVER: &str = "vc.example.com:443";

/// A job whose VM was found, and whose login is known to work.
fn found(core: &mut Core, id: JobId, host: &str, stores: &[&str]) {
    let need = RemoteNeed {
        server: SERVER.to_owned(),
        login: "/c/a".to_owned(),
        esxi_host: Some(host.to_owned()),
        datastores: stores.iter().map(|store| (*store).to_owned()).collect(),
        ..RemoteNeed::default()
    };
    load_each(core, vec![JobFacts { remote: Some(need), ..job(id) }]);
    core.login_works(id);
}

fn unreached() -> WorkerEnd {
    failed(Error::new(Kind::Network, "nobody listens").stage(Stage::Load))
}

fn broke_off() -> WorkerEnd {
    failed(Error::new(Kind::Network, "503").stage(Stage::Extraction))
}

fn failed(error: Error) -> WorkerEnd {
    WorkerEnd::Finished(WorkerOutcome::Failed { error })
}

/// Several jobs on a server that three of them found to be away.
fn away(jobs: JobId) -> Core {
    let mut core = core(3);
    core.policy.per_esxi_host = None;
    for id in 1..=jobs {
        found(&mut core, id, "host-1", &["DC0/ds1"]);
    }
    run(&mut core, 0.0);
    for id in 1..=3 {
        core.worker_ended(1.0, id, unreached());
    }
    core
}

fn failures(core: &Core) -> Vec<u32> {
    (1..=5).map(|id| core.jobs[&id].facts.counters.failures).collect()
}

#[test]
fn three_failures_in_a_row_hold_all_jobs_of_a_server_and_no_other() {
    let mut core = away(5);
    load_each(&mut core, vec![job(9)]);
    let actions = run(&mut core, 1.0);
    assert_eq!(started(&actions), [(9, 1)]);
    let all = waits(&actions);
    // The first two failed as any job does, and try again after the delay of their first failure.
    assert_eq!(all[..2], [(1, WaitReason::Retry, false), (2, WaitReason::Retry, false)]);
    assert_eq!(all[2..].iter().map(|wait| wait.1).collect::<Vec<_>>(), [WaitReason::Network; 3]);
    let told = Action::Server { server: SERVER.to_owned(), why: Some("nobody listens".to_owned()) };
    assert!(actions.contains(&told), "{actions:?}");
    let shown = ServerAway {
        server: SERVER.to_owned(),
        since: 1.0,
        next_at: Some(11.0),
        detail: "nobody listens".to_owned(),
    };
    assert_eq!(core.servers_away(), [shown]);
}

#[test]
fn one_at_a_time_tries_ever_more_rarely_and_that_costs_no_attempt() {
    let mut core = away(5);
    run(&mut core, 1.0);
    let (mut now, mut tried, mut delays) = (1.0, Vec::new(), Vec::new());
    for _ in 0..7 {
        let due = core.servers_away()[0].next_at.unwrap();
        delays.push(due - now);
        now = due;
        let actions = run(&mut core, now);
        let [(id, _)] = started(&actions)[..] else { panic!("{actions:?}") };
        tried.push(id);
        assert_eq!(core.servers_away()[0].next_at, None, "somebody tries");
        core.worker_ended(now, id, unreached());
        assert_eq!(started(&run(&mut core, now)), []);
    }
    assert_eq!(delays, [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0]);
    assert!(tried.windows(2).all(|pair| pair[0] != pair[1]), "in turn: {tried:?}");
    assert_eq!(failures(&core), [1, 1, 0, 0, 0], "but for those of before");
}

#[test]
fn the_first_that_is_let_in_lets_all_go_on() {
    let mut core = away(5);
    run(&mut core, 1.0);
    let actions = run(&mut core, 11.0);
    let [(id, _)] = started(&actions)[..] else { panic!("{actions:?}") };
    core.let_in(id);
    let actions = run(&mut core, 12.0);
    assert!(actions.contains(&Action::Server { server: SERVER.to_owned(), why: None }), "{actions:?}");
    assert_eq!(started(&actions).len(), 2, "as many as there are places: {actions:?}");
    assert_eq!(core.servers_away(), []);
}

#[test]
fn a_server_that_lets_in_but_gives_nothing_is_away_until_bytes_come() {
    let mut core = core(3);
    core.policy.per_esxi_host = None;
    (1..=4).for_each(|id| found(&mut core, id, "host-1", &["DC0/ds1"]));
    run(&mut core, 0.0);
    for id in 1..=3 {
        core.let_in(id);
        core.worker_ended(1.0, id, broke_off());
    }
    assert_eq!(waits(&run(&mut core, 1.0)).last(), Some(&(4, WaitReason::Network, false)));
    assert_eq!(started(&run(&mut core, 11.0)), [(1, 2)]);
    core.let_in(1);
    assert_eq!(core.servers_away().len(), 1, "to be let in was never the matter");
    core.left_to_copy(1, 1000);
    core.left_to_copy(1, 1000);
    assert_eq!(core.servers_away().len(), 1);
    core.left_to_copy(1, 999);
    assert_eq!(core.servers_away(), []);
}

#[test]
fn bytes_in_between_are_no_failures_in_a_row() {
    let mut core = core(3);
    core.policy.per_esxi_host = None;
    (1..=3).for_each(|id| found(&mut core, id, "host-1", &["DC0/ds1"]));
    run(&mut core, 0.0);
    core.worker_ended(1.0, 1, unreached());
    core.worker_ended(1.0, 2, unreached());
    core.left_to_copy(3, 1000);
    core.left_to_copy(3, 10);
    core.worker_ended(1.0, 3, broke_off());
    run(&mut core, 1.0);
    assert_eq!(core.servers_away(), []);
}

#[test]
fn a_server_that_never_answered_costs_attempts_until_they_are_used_up() {
    let mut core = core(1);
    let need = RemoteNeed { server: SERVER.to_owned(), login: "/c/a".to_owned(), ..RemoteNeed::default() };
    load_each(&mut core, vec![JobFacts { remote: Some(need), ..job(1) }]);
    let mut now = 0.0;
    for attempt in 1..=5 {
        assert_eq!(started(&run(&mut core, now)), [(1, attempt)], "at {now}");
        core.worker_ended(now, 1, unreached());
        let actions = run(&mut core, now);
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Fail { .. })), attempt == 5);
        now = core.jobs.get(&1).and_then(|job| job.facts.counters.retry_at).unwrap_or(now);
    }
    assert!(!core.knows(1));
}

#[test]
fn whoever_is_let_go_by_a_person_tries_at_once_and_who_ends_leaves_it_to_the_next() {
    let mut core = away(5);
    run(&mut core, 1.0);
    core.resume(2.0, 5).unwrap();
    core.resume(2.0, 4).unwrap();
    assert_eq!(started(&run(&mut core, 2.0)), [(5, 1)], "one at a time");
    core.worker_ended(3.0, 5, failed(Error::new(Kind::Source, "it runs").stage(Stage::Load)));
    let actions = run(&mut core, 3.0);
    assert!(matches!(started(&actions)[..], [(3 | 4, 1)]), "{actions:?}");
}

#[test]
fn after_a_restart_one_tries_at_once_and_the_others_still_wait() {
    let mut core = core(3);
    let need = RemoteNeed { server: SERVER.to_owned(), login: "/c/a".to_owned(), ..RemoteNeed::default() };
    let waiting = |id| JobFacts {
        state: JobState::Waiting,
        waiting: Some(WaitReason::Network),
        waiting_detail: format!("its server is away: {SERVER}: nobody listens"),
        waiting_since: Some(-100.0),
        remote: Some(need.clone()),
        ..job(id)
    };
    load_each(&mut core, vec![waiting(1), waiting(2)]);
    core.login_works(1);
    assert_eq!(started(&run(&mut core, 0.0)), [(1, 1)]);
    assert_eq!(core.servers_away()[0].since, -100.0);
    core.let_in(1);
    assert_eq!(started(&run(&mut core, 1.0)), [(2, 1)]);
}

#[test]
fn an_outage_of_the_network_says_nothing_of_servers() {
    let mut core = core(3);
    core.policy.per_esxi_host = None;
    (1..=3).for_each(|id| found(&mut core, id, "host-1", &["DC0/ds1"]));
    run(&mut core, 0.0);
    core.set_network(1.0, down());
    (1..=3).for_each(|id| core.worker_ended(1.0, id, unreached()));
    run(&mut core, 1.0);
    assert_eq!(core.servers_away(), []);
    core.set_network(2.0, Network::Up);
    assert_eq!(started(&run(&mut core, 2.0)), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn a_wait_for_a_server_ends_with_the_patience_for_jobs_and_not_with_that_for_networks() {
    let mut core = away(4);
    core.policy.on_network_timeout = OnNetworkTimeout::Fail;
    run(&mut core, 1.0);
    run(&mut core, 310.0);
    assert!((1..=4).all(|id| core.knows(id)));
    let actions = run(&mut core, 43_300.0);
    let lost =
        |action: &Action| matches!(action, Action::Fail { error, .. } if error.to_string().contains(SERVER));
    assert!(actions.iter().any(lost), "{actions:?}");
}

#[test]
fn a_host_and_a_datastore_bear_so_many_jobs_and_others_go_past() {
    let mut core = core(9);
    assert_eq!(core.policy.per_esxi_host, Some(2), "by default");
    core.policy.per_datastore = Some(1);
    for (id, host, stores) in [
        (1, "host-1", &["DC0/a"][..]),
        (2, "host-1", &["DC0/b", "DC0/c"]),
        (3, "host-1", &["DC0/d"]),
        (4, "host-2", &["DC0/c"]),
        (5, "host-2", &["DC1/c"]),
    ] {
        found(&mut core, id, host, stores);
    }
    load_each(&mut core, vec![job(6)]);
    let begun: BTreeSet<JobId> = started(&run(&mut core, 0.0)).into_iter().map(|(id, _)| id).collect();
    assert_eq!(begun, BTreeSet::from([1, 2, 5, 6]));
    core.worker_ended(1.0, 2, success());
    assert_eq!(started(&run(&mut core, 1.0)), [(3, 1), (4, 1)]);
}
