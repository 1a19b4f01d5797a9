//! Limits of bandwidth, against a running daemon: who has which part of them, and when they are others.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::site::{drop_disk, only_vm, source, wait_copying, wait_vm};
use super::support::{Daemon, wait_for, within};

const MIB: u64 = 1 << 20;

fn limited(entries: &str) -> String {
    format!("max_concurrent_jobs: 2\nlimits:\n  disk_reserve: 1MiB\n  bandwidth: [{entries}]\n")
}

/// A daemon with these entries of `limits.bandwidth`.
fn start(entries: &str) -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(&limited(entries));
    daemon.start();
    daemon
}

/// Puts other limits in force.
fn reload(daemon: &Daemon, entries: &str) {
    daemon.configure(&limited(entries));
    daemon.signal(rustix::process::Signal::HUP);
}

fn bytes_done(vm: &Value) -> u64 {
    vm["disks"]["boot"]["bytes_done"].as_u64().unwrap_or_default()
}

/// How long copying the disk of a batch's only VM took.
fn copying_seconds(daemon: &Daemon, batch: &str) -> f64 {
    let reports =
        Daemon::files_below(&daemon.state().join("output").join(batch), |name| name == "report.json");
    let read = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let report = read(reports.first().expect("a report"));
    let seconds = report["pipeline"]["stages"]["extraction"]["result"]["disks"][0]["seconds"].as_f64();
    seconds.unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn jobs_that_copy_at_the_same_time_share_one_limit() {
    let daemon = start("{rate: 6MiB/s}");
    daemon.client(&["pause"]);
    for name in ["one", "two"] {
        let disk = source(&daemon, name, "raw", 24);
        drop_disk(&daemon, name, &disk, "raw", "");
        wait_vm(&daemon, name, "paused", |vm| vm["waiting_reason"] == "paused");
    }
    let resumed = Instant::now();
    daemon.client(&["resume"]);
    for name in ["one", "two"] {
        assert_eq!(daemon.wait_batch(name)["state"], "completed");
    }
    // Of a piece each that came at once, and a burst.
    let least = (48.0 - 4.0) / 6.0;
    assert!(resumed.elapsed().as_secs_f64() >= least, "{:?}", resumed.elapsed());
    for name in ["one", "two"] {
        // With the limit for itself it would have been less than four seconds; on a busy machine one may begin later.
        let seconds = copying_seconds(&daemon, name);
        assert!(seconds >= 4.5, "{name}: {seconds}");
    }
    assert!(daemon.log().contains("sources are read at most 6.0 MiB/s"), "{}", daemon.log());
}

#[test]
fn a_job_has_a_limit_of_its_own_where_there_is_one() {
    let daemon = start("{rate: unlimited, per_job: 4MiB/s}");
    let disk = source(&daemon, "disk", "raw", 16);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
    let seconds = copying_seconds(&daemon, "vm");
    assert!(seconds >= (16.0 - 1.5) / 4.0, "{seconds}");
}

#[test]
fn a_paused_copy_under_a_limit_stands_still_and_a_reload_lets_it_run() {
    let daemon = start("{rate: 512KiB/s}");
    // It would take minutes.
    let disk = source(&daemon, "disk", "raw", 96);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    daemon.client(&["pause", "vm"]);
    wait_vm(&daemon, "vm", "paused", |vm| vm["waiting_reason"] == "paused");
    // What was under way still arrives, and is shown a second later.
    let at = wait_for("the copy to stand still", || {
        let now = || bytes_done(&only_vm(&daemon.progress("vm").unwrap()));
        let before = now();
        std::thread::sleep(Duration::from_millis(2500));
        (now() == before).then_some(before)
    });
    std::thread::sleep(Duration::from_millis(2500));
    let vm = only_vm(&daemon.progress("vm").unwrap());
    assert_eq!(bytes_done(&vm), at, "{vm}");
    assert!(at < 48 * MIB, "{at}");

    daemon.client(&["resume", "vm"]);
    wait_vm(&daemon, "vm", "going on", |vm| bytes_done(vm) > at);
    reload(&daemon, "{rate: unlimited}");
    let reloaded = Instant::now();
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
    assert!(reloaded.elapsed() < Duration::from_secs(60), "{:?}", reloaded.elapsed());
    assert!(daemon.log().contains("sources are read as fast as it goes"), "{}", daemon.log());
}

#[test]
fn a_limit_ends_when_its_time_is_over() {
    const LEFT_S: u64 = 20;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // A time zone in which the next minute begins then.
    let ahead = (60 + 60 - LEFT_S - now % 60) % 60;
    let minute = (now + ahead) / 60 % (24 * 60);
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let (opens, closes) = (clock(minute + 24 * 60 - 60), clock(minute + 1));
    let mut daemon = Daemon::prepare();
    daemon.env("TZ", &format!("HERE-00:00:{ahead:02}"));
    daemon.configure(&limited(&format!("{{when: \"{opens}-{closes}\", rate: 64KiB/s}}")));
    daemon.start();
    let disk = source(&daemon, "disk", "raw", 32);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    let limited =
        within(Duration::from_secs(LEFT_S), || daemon.log().contains("at most 64.0 KiB/s").then_some(()));
    assert!(limited.is_some(), "{}", daemon.log());
    wait_for("the limit to end", || daemon.log().contains("as fast as it goes").then_some(()));
    let over = Instant::now();
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
    assert!(over.elapsed() < Duration::from_secs(60), "{:?}", over.elapsed());
}
