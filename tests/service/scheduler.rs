//! What an operator can do with jobs, against a running daemon.

use std::time::Duration;

use serde_json::Value;

use super::site::{HELD, drop_disk, held_daemon, only_vm, source, wait_copying, wait_vm};
use super::support::{Daemon, disks, wait_for, within};

fn state_of(daemon: &Daemon, job: &str) -> String {
    daemon.client(&["show", job])["state"].as_str().unwrap().to_owned()
}

fn partials(daemon: &Daemon) -> usize {
    Daemon::files_below(daemon.state(), |name| name.ends_with(".partial")).len()
}

#[test]
fn a_cancelled_job_leaves_nothing_behind_and_can_be_retried() {
    let daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 128);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    let acted = daemon.client(&["cancel", "vm"]);
    assert_eq!(acted["jobs"][0]["state"], "cancelled", "{acted}");
    assert_eq!(partials(&daemon), 0);
    let settled = daemon.wait_settled("failed", "vm.yaml");
    let report: Value =
        serde_json::from_slice(&std::fs::read(format!("{}.error.json", settled.display())).unwrap()).unwrap();
    assert_eq!(report["kind"], "cancelled");

    let again = daemon.run_client(&["cancel", "vm"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("cancelled"));

    daemon.client(&["retry", "vm"]);
    daemon.wait_settled("processed", "vm.yaml");
    // The progress file is written at its own pace: for a moment it still shows the earlier end.
    wait_for("the progress file to tell the new end", || {
        daemon.progress("vm").filter(|progress| progress["state"] == "completed")
    });
    assert!(daemon.settled("failed", "vm.yaml").is_none(), "the drop has moved on");
    assert!(daemon.settled("failed", "vm.yaml.error.json").is_none(), "and what was said of it is gone");
}

#[test]
fn a_retry_from_a_stage_that_is_refused_throws_nothing_away() {
    let daemon = held_daemon();
    let (boot, data) = (source(&daemon, "boot", "raw", 8), source(&daemon, "data", "raw", 128));
    let manifest = disks::manifest(&[("boot", &boot, "raw"), ("data", &data, "raw")], "");
    daemon.drop_file("vm.yaml", &manifest);
    wait_vm(&daemon, "vm", "at its second disk", |vm| {
        vm["disks"]["data"]["bytes_done"].as_u64().is_some_and(|bytes| bytes > 0)
    });
    let older = daemon.client(&["show", "vm"])["job_id"].to_string();
    daemon.client(&["cancel", "vm", "--keep-partial"]);
    daemon.wait_settled("failed", "vm.yaml");
    let kept = partials(&daemon);
    assert!(kept > 0);

    daemon.client(&["pause"]);
    daemon.drop_file("vm.yaml", &manifest);
    wait_for("the batch to continue", || {
        (daemon.client(&["list"])["jobs"].as_array().unwrap().len() == 2).then_some(())
    });
    let refused = daemon.run_client(&["retry", &older, "--from", "load"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("earlier run"), "{refused:?}");
    assert_eq!(partials(&daemon), kept, "they are the newer job's now");

    daemon.client(&["resume"]);
    let progress = wait_for("the newer run to be shown as ended", || {
        daemon.progress("vm").filter(|progress| progress["state"] == "completed")
    });
    assert_eq!(only_vm(&progress)["resumed"], true, "{progress}");
}

#[test]
fn a_retry_from_a_stage_throws_away_what_was_made_and_begins_again() {
    let daemon = held_daemon();
    let (boot, data) = (source(&daemon, "boot", "raw", 8), source(&daemon, "data", "raw", 128));
    daemon.drop_file("vm.yaml", disks::manifest(&[("boot", &boot, "raw"), ("data", &data, "raw")], ""));
    wait_vm(&daemon, "vm", "at its second disk", |vm| {
        vm["disks"]["data"]["bytes_done"].as_u64().is_some_and(|bytes| bytes > 0)
    });
    daemon.client(&["cancel", "vm", "--keep-partial"]);
    assert!(partials(&daemon) > 0);
    daemon.client(&["pause"]);
    let acted = daemon.client(&["retry", "vm", "--from", "extraction"]);
    assert_eq!(acted["message"], "queued again");
    assert_eq!(partials(&daemon), 0);
    assert_eq!(daemon.run_client(&["retry", "vm"]).status.code(), Some(1), "it has not ended");
    daemon.client(&["resume"]);
    daemon.wait_settled("processed", "vm.yaml");
}

#[test]
fn a_paused_job_stands_still_over_a_restart_and_goes_on_when_resumed() {
    let mut daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 192);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    daemon.client(&["pause", "vm"]);
    let vm = wait_vm(&daemon, "vm", "paused", |vm| vm["waiting_reason"] == "paused");
    assert_eq!(vm["status"], "in_progress");
    wait_for("the copy to stand still", || {
        let size = || {
            let partials = Daemon::files_below(daemon.state(), |name| name.ends_with(".partial"));
            partials
                .iter()
                .map(|path| std::fs::metadata(path).map_or(0, |file| file.len()))
                .collect::<Vec<_>>()
        };
        let before = size();
        std::thread::sleep(Duration::from_millis(500));
        (!before.is_empty() && size() == before).then_some(())
    });

    daemon.stop();
    daemon.assert_no_orphans();
    daemon.start();
    assert_eq!(state_of(&daemon, "vm"), "waiting");
    daemon.client(&["resume", "vm"]);
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
}

#[test]
fn a_resumed_copy_goes_on_where_it_stood() {
    let daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 96);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    daemon.client(&["pause", "vm"]);
    wait_vm(&daemon, "vm", "paused", |vm| vm["waiting_reason"] == "paused");
    daemon.client(&["resume", "vm"]);
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed");
    assert_eq!(only_vm(&progress)["attempt"], 1);
    assert_eq!(only_vm(&progress)["resumed"], false, "it was the same worker");
}

#[test]
fn pausing_everything_outlives_the_daemon() {
    let mut daemon = Daemon::start_new();
    daemon.client(&["pause"]);
    let disk = source(&daemon, "disk", "raw", 8);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_vm(&daemon, "vm", "paused", |vm| vm["waiting_reason"] == "paused");
    daemon.stop();
    daemon.start();
    assert_eq!(daemon.client(&["status"])["paused"], true);
    assert_eq!(state_of(&daemon, "vm"), "waiting");
    daemon.client(&["resume"]);
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
    assert_eq!(daemon.client(&["status"])["paused"], false);
}

#[test]
fn a_job_paused_by_its_own_name_stays_paused_when_all_work_is_resumed() {
    let mut daemon = Daemon::start_new();
    let disk = source(&daemon, "disk", "raw", 8);
    daemon.client(&["pause"]);
    for name in ["held", "free"] {
        drop_disk(&daemon, name, &disk, "raw", &format!("name: {name}\n"));
        wait_vm(&daemon, name, "paused", |vm| vm["waiting_reason"] == "paused");
    }
    daemon.client(&["pause", "held"]);
    daemon.stop();
    daemon.start();
    let acted = daemon.client(&["resume"]);
    assert!(acted["message"].as_str().unwrap().contains("by its own name"), "{acted}");
    let named: Vec<&str> =
        acted["jobs"].as_array().unwrap().iter().map(|job| job["vm_id"].as_str().unwrap()).collect();
    assert_eq!(named, ["held"], "{acted}");
    assert_eq!(daemon.wait_batch("free")["state"], "completed");
    assert_eq!(state_of(&daemon, "held"), "waiting");
    assert_eq!(daemon.client(&["resume"])["message"], acted["message"], "however often");
    daemon.client(&["resume", "held"]);
    assert_eq!(daemon.wait_batch("held")["state"], "completed");
}

#[test]
fn the_more_urgent_job_goes_first() {
    let daemon = Daemon::prepare();
    daemon.configure("max_concurrent_jobs: 1\n");
    let mut daemon = daemon;
    daemon.start();
    daemon.client(&["pause"]);
    let disk = source(&daemon, "disk", "raw", 8);
    for name in ["first", "second", "third"] {
        drop_disk(&daemon, name, &disk, "raw", &format!("name: {name}\n"));
        wait_vm(&daemon, name, "paused", |vm| vm["waiting_reason"] == "paused");
    }
    daemon.client(&["priority", "first", "7"]);
    daemon.client(&["priority", "second", "9"]);
    daemon.client(&["resume"]);
    let started = |name| {
        let vm = only_vm(&daemon.wait_batch(name));
        vm["started_at"].as_f64().unwrap()
    };
    let (first, second, third) = (started("first"), started("second"), started("third"));
    assert!(third < first && first < second, "{third} {first} {second}");
}

#[test]
fn a_draining_daemon_ends_what_runs_and_leaves_drops_where_they_are() {
    let daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 96);
    drop_disk(&daemon, "running", &disk, "raw", "");
    wait_copying(&daemon, "running");
    daemon.client(&["drain"]);
    drop_disk(&daemon, "later", &disk, "raw", "");
    assert_eq!(daemon.wait_batch("running")["state"], "completed");
    assert!(daemon.state().join("incoming/later.yaml").exists());
    assert_eq!(daemon.client(&["status"])["draining"], true);
    daemon.client(&["drain", "--off"]);
    assert_eq!(daemon.wait_batch("later")["state"], "completed");
}

#[test]
fn a_job_that_does_not_fit_says_so_and_goes_on_when_it_does() {
    let daemon = Daemon::prepare();
    daemon.configure("limits: {disk_reserve: 900TiB}\n");
    let mut daemon = daemon;
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 8);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_vm(&daemon, "vm", "short of room", |vm| vm["waiting_reason"] == "disk_space");
    let job = daemon.client(&["show", "vm"]);
    let detail = job["waiting_detail"].as_str().unwrap();
    assert!(
        detail.starts_with("needs ") && detail.contains(" at /") && detail.contains(" free ("),
        "{detail}"
    );
    assert_eq!(daemon.client(&["status"])["waiting"]["disk_space"], 1);
    daemon.configure("limits: {disk_reserve: 1MiB}\n");
    daemon.signal(rustix::process::Signal::HUP);
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed");
    assert_eq!(only_vm(&progress)["attempt"], 1, "waiting costs no attempt");
}

#[test]
fn jobs_are_named_by_number_batch_or_vm_and_what_is_not_clear_is_refused() {
    let daemon = Daemon::start_new();
    let disk = source(&daemon, "disk", "raw", 8);
    for batch in ["one", "two"] {
        drop_disk(&daemon, batch, &disk, "raw", "name: web\n");
        daemon.wait_batch(batch);
    }
    let id = daemon.client(&["show", "one/web"])["job_id"].as_i64().unwrap();
    assert_eq!(daemon.client(&["show", &id.to_string()])["batch_id"], "one");
    assert_eq!(daemon.client(&["show", "two"])["vm_id"], "web");
    let unclear = daemon.run_client(&["show", "web"]);
    assert!(!unclear.status.success());
    let words = String::from_utf8_lossy(&unclear.stderr).into_owned();
    assert!(words.contains("one/web") && words.contains("two/web"), "{words}");
    assert_eq!(daemon.run_client(&["show", "nobody"]).status.code(), Some(5));
}

#[test]
fn what_a_cancelled_job_was_told_to_keep_is_pruned_when_it_is_old() {
    let daemon = Daemon::prepare();
    daemon.configure(&format!("retention: {{failed_partial_s: 0}}\n{HELD}"));
    let mut daemon = daemon;
    daemon.start();
    let (boot, data) = (source(&daemon, "boot", "raw", 8), source(&daemon, "data", "raw", 128));
    let manifest = disks::manifest(&[("boot", &boot, "raw"), ("data", &data, "raw")], "");
    daemon.drop_file("vm.yaml", &manifest);
    wait_vm(&daemon, "vm", "at its second disk", |vm| {
        vm["disks"]["data"]["bytes_done"].as_u64().is_some_and(|bytes| bytes > 0)
    });
    daemon.client(&["cancel", "vm", "--keep-partial"]);
    daemon.wait_settled("failed", "vm.yaml");
    // The first disk, which is finished, and what there is of the second.
    assert_eq!(partials(&daemon), 2);
    assert_eq!(daemon.client(&["prune"])["partials"], 2);
    let left = Daemon::files_below(&daemon.state().join("output"), |name| {
        [".partial", ".journal", ".extents", ".lock"].iter().any(|end| name.contains(end))
    });
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(daemon.client(&["prune"])["partials"], 0);
}

#[test]
fn a_dry_prune_removes_nothing_and_a_real_one_what_is_old() {
    let daemon = Daemon::prepare();
    daemon.configure("retention: {history_s: 0, logs_s: 0}\n");
    let mut daemon = daemon;
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 8);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    daemon.wait_batch("vm");
    let settled = daemon.wait_settled("processed", "vm.yaml");
    let pruned = within(Duration::from_secs(20), || {
        let pruned = daemon.client(&["prune", "--dry-run"]);
        (pruned["batches"] == 1).then_some(pruned)
    });
    let pruned = pruned.expect("the batch is settled");
    assert_eq!((pruned["dry_run"].clone(), pruned["logs"].clone()), (true.into(), 1.into()));
    assert!(daemon.progress("vm").is_some());
    assert_eq!(daemon.client(&["prune"])["batches"], 1);
    assert!(daemon.progress("vm").is_none());
    assert_eq!(daemon.run_client(&["show", "vm"]).status.code(), Some(5));
    assert!(settled.exists(), "drops that were put away stay");
    assert_eq!(Daemon::files_below(&daemon.state().join("output"), |n| n == "boot.qcow2").len(), 1);
}
