//! What is shown of a job's attempts: their number and percentage never fall back, each has its log.

use std::time::Duration;

use serde_json::Value;

use super::site::{HELD, drop_disk, held_daemon, only_vm, source, wait_copying, wait_vm};
use super::support::{Daemon, within};

/// No file system has so much, so whatever starts waits for room.
const NO_ROOM: &str = "limits: {disk_reserve: 900TiB}\n";

fn percentage(vm: &Value) -> f64 {
    vm["progress_percentage"].as_f64().unwrap()
}

/// Waits until the copy of a batch's only VM has come further than its stage marks tell.
fn wait_well_under_way(daemon: &Daemon, batch: &str) {
    wait_copying(daemon, batch);
    let begun = percentage(&daemon.client(&["show", batch]));
    wait_vm(daemon, batch, "well under way", |vm| percentage(vm) > begun + 5.0);
}

/// The job's percentage in every progress file until one is as `is_last` wants it.
#[track_caller]
fn seen_until(daemon: &Daemon, batch: &str, is_last: impl Fn(&Value) -> bool) -> (Vec<f64>, Value) {
    let mut seen = Vec::new();
    let last = within(Duration::from_secs(180), || {
        let vm = only_vm(&daemon.progress(batch)?);
        seen.push(percentage(&vm));
        is_last(&vm).then_some(vm)
    });
    (seen, last.unwrap_or_else(|| panic!("{batch} did not end: {}", daemon.log())))
}

#[test]
fn a_killed_daemon_shows_the_attempt_and_no_less_progress_before_its_worker_runs_again() {
    let mut daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 256);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_well_under_way(&daemon, "vm");
    daemon.kill9();
    let shown = percentage(&only_vm(&daemon.progress("vm").unwrap()));

    daemon.configure(NO_ROOM);
    daemon.start();
    let vm = wait_vm(&daemon, "vm", "short of room", |vm| vm["waiting_reason"] == "disk_space");
    assert_eq!(vm["attempt"], 1, "{vm}");
    assert!(percentage(&vm) >= shown, "{shown} fell: {vm}");
    let listed = daemon.client(&["show", "vm"]);
    assert_eq!(listed["attempt"], 1);
    assert!(percentage(&listed) >= shown, "{shown} fell: {listed}");
    assert!(listed["log"].as_str().unwrap().ends_with(".1.log"));

    daemon.configure("");
    daemon.signal(rustix::process::Signal::HUP);
    let (seen, last) = seen_until(&daemon, "vm", |vm| vm["state"] == "succeeded");
    assert!(seen.is_sorted(), "progress fell: {seen:?}");
    assert_eq!(last["attempt"], 1, "being killed costs no attempt");
}

#[test]
fn a_stopped_daemon_shows_the_attempt_and_no_less_progress() {
    let mut daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 256);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_well_under_way(&daemon, "vm");
    let before = percentage(&only_vm(&daemon.progress("vm").unwrap()));
    daemon.stop();
    let vm = only_vm(&daemon.progress("vm").unwrap());
    assert_eq!((&vm["state"], &vm["attempt"]), (&"queued".into(), &1.into()));
    assert!(percentage(&vm) >= before, "{before} fell: {vm}");
}

#[test]
fn a_vm_that_is_cancelled_or_fails_keeps_its_percentage_and_the_next_attempt_begins_anew() {
    let daemon = Daemon::prepare();
    daemon.configure(&format!("retry: {{max_attempts: 1}}\n{HELD}"));
    let mut daemon = daemon;
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 256);
    drop_disk(&daemon, "cancelled", &disk, "raw", "");
    wait_well_under_way(&daemon, "cancelled");
    daemon.client(&["cancel", "cancelled"]);
    let (seen, _) = seen_until(&daemon, "cancelled", |vm| vm["state"] == "cancelled");
    assert!(seen.is_sorted(), "progress fell: {seen:?}");

    drop_disk(&daemon, "failed", &disk, "raw", "name: other\n");
    wait_well_under_way(&daemon, "failed");
    for (pid, command) in daemon.processes() {
        if command.split(' ').nth(1) == Some("worker") {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    let (seen, last) = seen_until(&daemon, "failed", |vm| vm["state"] == "failed");
    assert!(seen.is_sorted(), "progress fell: {seen:?}");
    assert!(percentage(&last) < 100.0);

    // A source that was touched is copied from its beginning.
    let touched = std::fs::File::options().write(true).open(&disk).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    daemon.client(&["pause"]);
    let queued = daemon.client(&["retry", "failed"])["jobs"][0].clone();
    assert_eq!((&queued["attempt"], percentage(&queued)), (&1.into(), percentage(&last)), "still the first");
    daemon.client(&["resume"]);
    wait_vm(&daemon, "failed", "in its second attempt", |vm| {
        vm["attempt"] == 2 && percentage(vm) < percentage(&last)
    });
}

#[test]
fn a_rerun_of_a_batch_does_not_write_into_the_logs_of_the_run_before() {
    let daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 192);
    drop_disk(&daemon, "vm", &disk, "raw", "name: web\n");
    wait_copying(&daemon, "vm");
    let older = daemon.client(&["show", "vm"])["job_id"].to_string();
    daemon.client(&["cancel", "vm"]);
    daemon.wait_settled("failed", "vm.yaml");
    let first = daemon.state().join("logs/vm/web.1.log");
    let said = std::fs::read(&first).unwrap();

    drop_disk(&daemon, "vm", &disk, "raw", "name: web\n");
    daemon.wait_settled("processed", "vm.yaml");
    assert_eq!(std::fs::read(&first).unwrap(), said, "nothing was added");
    let newer = daemon.client(&["show", "vm"]);
    assert_eq!(newer["attempt"], 2);
    let second = daemon.state().join("logs/vm/web.2.log");
    assert_eq!(newer["log"].as_str(), second.to_str());
    assert_eq!(daemon.client(&["show", &older])["log"].as_str(), first.to_str());
    let lines = |job: &str| daemon.client(&["logs", job])["lines"].as_array().unwrap().len();
    assert!(lines(&older) > 0 && lines("vm") > 0);
}
