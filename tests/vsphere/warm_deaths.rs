//! Warm migrations whose workers, and the service with them, are killed at one step after the other while the guest goes on writing to both of its
//! disks: the same job goes on each time, and its results hold what the guest wrote last.

use std::fs;

use serde_json::{Value, json};

use crate::clones::asked;
use crate::jobs::prepared;
use crate::support::vcenter::Vcenter;
use crate::support::{Daemon, wait_for};
use crate::warm::{
    ALLOWED, MIB, bytes, is_left_alone, is_migrated, manifest, passes, running, running_and, wait_between,
    wait_for_pass,
};

/// Nobody tries again by himself, so that it is known where the next one begins.
const BY_HAND: &str = "retry: {base_delay_s: 600, max_delay_s: 600, max_attempts: 50}\n";

/// A service that lets its job be killed.
struct Deaths {
    daemon: Daemon,
    vcenter: Vcenter,
    number: u64,
}

impl Deaths {
    fn prepared(tracked: bool) -> Deaths {
        let daemon = prepared(&format!("{ALLOWED}{BY_HAND}"));
        let vcenter = running_and(&daemon, tracked);
        Deaths { daemon, vcenter, number: 0 }
    }

    fn drop_it(&self) {
        self.daemon.drop_file("web.yaml", manifest(&self.vcenter, "power: shutdown, warm: {interval_s: 1}"));
    }

    /// The guest writes to both disks, somewhere else each time.
    fn writes(&self) {
        let round = self.number;
        let what = [round as u8 | 1; 5000];
        self.vcenter.guest_writes("web", 0, round * 7919 * 512 % (31 * MIB), &what);
        self.vcenter.guest_writes("web", 1, round * 7919 * 512 % (3 * MIB), &what);
    }

    /// Starts the service anew, with or without a place to die at.
    fn start(&mut self, point: Option<&str>) {
        self.daemon.kill9();
        self.daemon.no_env("HYPER2KVM_FAILPOINT");
        if let Some(point) = point {
            self.number += 1;
            self.daemon.env("HYPER2KVM_FAILPOINT", point);
            let once = self.once();
            self.daemon.env("HYPER2KVM_FAILPOINT_ONCE", &once);
        }
        self.daemon.start();
    }

    fn once(&self) -> String {
        self.daemon.scratch().join(format!("once-{}", self.number)).to_str().unwrap().to_owned()
    }

    /// Lets what waits begin. A job that was at work when its service died goes on by itself, and may be at its end, or have died
    /// again, before anybody can ask: whether that was so is not what these tests are about.
    fn hurry(&self) {
        self.daemon.run_client(&["resume", "web"]);
    }

    /// Lets what waits begin, and waits until it is dead.
    #[track_caller]
    fn dies(&self, point: &str) {
        self.hurry();
        wait_for(&format!("somebody to die at {point}"), || {
            (fs::read(self.once()).ok()? == b"x").then_some(())
        });
    }

    /// The newest pass that is in the VM's journal.
    fn newest(&self) -> u64 {
        let journal = fs::read(self.daemon.state().join("output/web/web/.web.journal.json")).unwrap();
        let journal: Value = serde_json::from_slice(&journal).unwrap();
        journal["passes"]["made"].as_array().unwrap().last().unwrap()["number"].as_u64().unwrap()
    }

    /// One point after the other.
    #[track_caller]
    fn die_at(&mut self, points: &[&str], writes: bool) {
        for point in points {
            self.start(Some(point));
            self.dies(point);
            if writes {
                self.writes();
            }
        }
    }
}

#[test]
fn killed_at_every_step_of_its_first_pass_a_migration_loses_nothing_of_what_its_guest_writes() {
    let mut deaths = Deaths::prepared(false);
    deaths.start(Some("acts.intended"));
    deaths.drop_it();
    deaths.writes();
    wait_for("somebody to die", || (fs::read(deaths.once()).ok()? == b"x").then_some(()));
    // Of change tracking, then of the snapshot.
    deaths.die_at(&["acts.did", "acts.done", "acts.intended", "acts.did", "acts.done"], true);
    deaths.die_at(&["warm.patched", "warm.patched:2", "warm.passed", "acts.undid", "acts.undone"], true);
    deaths.start(None);
    deaths.hurry();
    let first = wait_for_pass(&deaths.daemon, 1);
    assert_eq!((&first["number"], &first["kind"]), (&json!(1), &json!("full")), "{first}");
    wait_for_pass(&deaths.daemon, 2);
    deaths.daemon.client(&["cutover", "web"]);
    let passes = is_migrated(&deaths.daemon, &deaths.vcenter);
    assert_eq!(passes.iter().filter(|pass| pass["kind"] == "full").count(), 1, "{passes:?}");
}

#[test]
fn killed_at_every_step_of_a_pass_and_of_its_cutover_a_migration_ends_as_if_nobody_had_died() {
    let mut deaths = Deaths::prepared(false);
    deaths.start(None);
    deaths.drop_it();
    wait_for_pass(&deaths.daemon, 1);
    deaths.writes();
    deaths.die_at(&["acts.intended", "acts.did", "acts.done", "warm.patched", "warm.patched:2"], true);
    deaths.die_at(&["acts.undid", "acts.undone"], true);
    deaths.die_at(&["warm.passed"], true);
    let untold = deaths.newest();
    // Whoever comes next tells of that pass, and makes the next one of what was written since.
    deaths.vcenter.guest_writes("web", 0, 28 * MIB, &vec![99; MIB as usize]);
    deaths.start(None);
    deaths.hurry();
    let next = wait_for_pass(&deaths.daemon, untold + 1);
    assert!(next["number"] == untold + 1 && bytes(&next) >= MIB, "{next}");
    assert!(passes(&deaths.daemon).iter().any(|pass| pass["number"] == untold), "it was never told");

    deaths.start(Some("acts.intended:2"));
    // One that was killed over would be gone on with, and the shutdown be the first that is intended.
    wait_for("no snapshot to stand", || {
        let all = asked(&deaths.daemon, &deaths.vcenter, &["snapshot", "list", "web"]);
        all["snapshots"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    deaths.daemon.client(&["cutover", "web"]);
    deaths.dies("the shutdown that was only intended");
    deaths.writes();
    // The guest has shut down, and nobody has written that down.
    deaths.die_at(&["acts.did:2", "acts.did", "acts.done"], false);
    deaths.die_at(&["warm.patched", "warm.patched:2", "warm.passed", "warm.over"], false);
    // Change tracking is switched off again.
    deaths.die_at(&["acts.undoing", "acts.undid", "acts.undone"], false);
    deaths.start(None);
    deaths.hurry();
    let passes = is_migrated(&deaths.daemon, &deaths.vcenter);
    assert_eq!(passes.iter().filter(|pass| pass["kind"] == "full").count(), 1, "{passes:?}");
}

#[test]
fn what_a_killed_pass_left_is_undone_when_its_job_is_cancelled_and_tracking_stays_as_it_was() {
    for (point, tracked) in [("warm.patched", true), ("warm.passed", false)] {
        let mut deaths = Deaths::prepared(tracked);
        deaths.start(Some(point));
        deaths.drop_it();
        wait_for("somebody to die", || (fs::read(deaths.once()).ok()? == b"x").then_some(()));
        let daemon = &deaths.daemon;
        wait_for("that to be known", || (daemon.progress("web")?["waiting_reason"] == "retry").then_some(()));
        let shown = asked(daemon, &deaths.vcenter, &["show", "web"]);
        assert_eq!(shown["snapshots"].as_array().map(Vec::len), Some(1), "{point}: {shown}");
        daemon.client(&["cancel", "web/web"]);
        wait_for("all to be undone", || {
            let acts = daemon.client(&["show", "web/web"])["acts"].as_array()?.clone();
            acts.iter().all(|act| act["state"] == "undone").then_some(())
        });
        is_left_alone(daemon, &deaths.vcenter, tracked);
        let left = Daemon::files_below(&daemon.state().join("output"), |name| name.contains("partial"));
        assert!(left.is_empty(), "{point}: {left:?}");
    }
}

#[test]
fn however_many_passes_there_are_its_ledger_stays_small() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "power: shutdown, warm: {interval_s: 600}"));
    for number in 1..=9 {
        wait_between(&daemon, number);
        daemon.client(&["resume", "web"]);
    }
    daemon.client(&["cutover", "web"]);
    is_migrated(&daemon, &vcenter);
    let report = fs::read(daemon.state().join("output/web/web/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let acts = report["acts"].as_array().unwrap();
    let snapshots: Vec<_> = acts.iter().filter(|act| act["act"] == "snapshot").collect();
    let left_out: u64 = acts.iter().filter_map(|act| act["left_out"].as_u64()).sum();
    assert!(snapshots.len() < 10 && snapshots.len() as u64 + left_out >= 10, "{acts:?}");
    assert_eq!(acts[0]["act"], "change_tracking", "{acts:?}");
}
