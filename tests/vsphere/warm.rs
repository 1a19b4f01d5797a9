//! VMs that are migrated while they run: what their guests go on writing is in the result, whoever is killed and whatever is forgotten.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clones::asked;
use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for};

pub const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 32;
/// Of these hold something at first.
const DATA_MIB: u64 = 16;
pub const ALLOWED: &str = "sources: {allow_shutdown: true}\n";

/// A machine that runs, with a disk that holds something and one that does not. Its changes are not tracked yet.
pub fn running(daemon: &Daemon) -> Vcenter {
    running_and(daemon, false)
}

/// The same; `tracked`: its changes are.
pub fn running_and(daemon: &Daemon, tracked: bool) -> Vcenter {
    let content = disks::disk(daemon.scratch(), "system", "raw", DISK_MIB, DATA_MIB, 1);
    let disks = json!([disk(&content), { "capacity": 4 * MIB }]);
    let machine = json!({ "name": "web", "on": true, "change_tracking": tracked, "disks": disks });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    store(daemon, &vcenter, PASSWORD);
    vcenter
}

pub fn manifest(vcenter: &Vcenter, further: &str) -> String {
    let port = vcenter.port();
    format!(
        "manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web, mode: warm, {further}}}\n"
    )
}

pub fn passes(daemon: &Daemon) -> Vec<Value> {
    let progress = daemon.progress("web");
    let passes = progress.and_then(|progress| progress["vms"]["web"]["passes"].as_array().cloned());
    passes.unwrap_or_default()
}

#[track_caller]
pub fn wait_for_pass(daemon: &Daemon, number: u64) -> Value {
    wait_for(&format!("pass {number}"), || {
        passes(daemon).into_iter().find(|pass| pass["number"].as_u64() >= Some(number))
    })
}

/// The same, and the job waits for the next one.
#[track_caller]
pub fn wait_between(daemon: &Daemon, number: u64) -> Value {
    let pass = wait_for_pass(daemon, number);
    wait_for("the next pass to be waited for", || {
        (daemon.progress("web")?["vms"]["web"]["waiting_reason"] == "cutover").then_some(())
    });
    pass
}

/// The job has ended well, its result holds what the guest saw last, and nothing of ours is left at the source.
#[track_caller]
pub fn is_migrated(daemon: &Daemon, vcenter: &Vcenter) -> Vec<Value> {
    let progress = daemon.wait_batch("web");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    for (number, name) in ["disk-0", "disk-1"].into_iter().enumerate() {
        let result = daemon.state().join(format!("output/web/web/{name}.qcow2"));
        let now = daemon.scratch().join(name);
        std::fs::write(&now, vcenter.disk_now("web", number)).unwrap();
        assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&now, "raw"), "{name}");
    }
    is_left_alone(daemon, vcenter, false);
    let left = Daemon::files_below(&daemon.state().join("output"), |name| name.contains("partial"));
    assert!(left.is_empty(), "{left:?}");
    passes(daemon)
}

/// No snapshot is at the source, and this is whether its changes are tracked.
#[track_caller]
pub fn is_left_alone(daemon: &Daemon, vcenter: &Vcenter, tracked: bool) {
    let shown = asked(daemon, vcenter, &["show", "web"]);
    assert_eq!((&shown["snapshots"], &shown["change_tracking"]), (&json!([]), &json!(tracked)), "{shown}");
}

pub fn bytes(pass: &Value) -> u64 {
    pass["bytes"].as_u64().unwrap()
}

/// Whatever a test ends by, who writes for it ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_a_guest_goes_on_writing_is_in_the_result_and_passes_become_smaller() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "power: shutdown, warm: {interval_s: 1}"));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        // One that never stops, and whose writes are somewhere else each time.
        scope.spawn(|| {
            for round in 0_u64.. {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let at = (round * 7919 * 4096) % ((DISK_MIB - 1) * MIB);
                vcenter.guest_writes("web", 0, at, &[round as u8 | 1; 3000]);
                thread::sleep(Duration::from_millis(100));
            }
        });
        wait_for_pass(&daemon, 1);
        vcenter.guest_writes("web", 0, 20 * MIB, &vec![7; 8 * MIB as usize]);
        vcenter.guest_writes("web", 1, MIB, &[8; 70_000]);
        wait_for_pass(&daemon, 3);
        is_over.store(true, Ordering::SeqCst);
    });
    let before = passes(&daemon).len();
    let acted = daemon.client(&["cutover", "web"]);
    assert_eq!(acted["jobs"][0]["vm_id"], "web", "{acted}");
    let passes = is_migrated(&daemon, &vcenter);
    for pass in &passes {
        println!(
            "pass {} ({}): {} bytes in {} s",
            pass["number"],
            pass["kind"],
            bytes(pass),
            pass["seconds"]
        );
    }
    let kinds: Vec<&str> = passes.iter().map(|pass| pass["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("full", "last"), "{kinds:?}");
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "changes"), "{kinds:?}");
    assert!(passes.len() > before, "{kinds:?}");
    // What is empty is never fetched, what has changed is not more than that, and little is left for the end.
    assert!(bytes(&passes[0]) < (DATA_MIB + 4) * MIB, "{passes:?}");
    assert!(passes[1..].iter().map(bytes).sum::<u64>() < DISK_MIB * MIB, "{passes:?}");
    assert!(bytes(passes.last().unwrap()) <= MIB, "{passes:?}");
    let report = std::fs::read(daemon.state().join("output/web/web/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let told = &report["pipeline"]["stages"]["extraction"]["result"]["passes"];
    assert_eq!(told.as_array().map(Vec::len), Some(passes.len()), "{report}");
}

#[test]
fn a_service_that_is_killed_in_mid_pass_goes_on_from_the_last_one() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "power: shutdown, warm: {interval_s: 600}"));
    wait_between(&daemon, 1);
    vcenter.throttle(MIB);
    let before = vcenter.sent_of("-flat");
    vcenter.guest_writes("web", 0, 4 * MIB, &vec![9; 12 * MIB as usize]);
    daemon.client(&["resume", "web"]);
    wait_for("a part of it to be sent", || (vcenter.sent_of("-flat") > before + 4 * MIB).then_some(()));
    daemon.kill9();
    vcenter.throttle(0);
    assert_eq!(passes(&daemon).len(), 1, "killed too late");
    vcenter.guest_writes("web", 0, 30 * MIB, &[10; 5000]);
    daemon.start();
    daemon.client(&["cutover", "web"]);
    let passes = is_migrated(&daemon, &vcenter);
    assert_eq!(passes.iter().filter(|pass| pass["kind"] == "full").count(), 1, "{passes:?}");
}

#[test]
fn changes_that_the_server_has_forgotten_cost_another_full_pass_and_are_told() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "power: shutdown, warm: {interval_s: 1}"));
    wait_for_pass(&daemon, 1);
    vcenter.guest_writes("web", 0, 3 * MIB + 100, &[11; 9000]);
    vcenter.reset_tracking("web");
    wait_for("another full pass", || {
        (passes(&daemon).iter().filter(|pass| pass["kind"] == "full").count() == 2).then_some(())
    });
    daemon.client(&["cutover", "web"]);
    is_migrated(&daemon, &vcenter);
    assert!(daemon.log().contains("is copied whole again"), "{}", daemon.log());
}

#[test]
fn by_itself_the_last_pass_is_made_when_little_is_left() {
    let mut daemon = prepared(ALLOWED);
    let vcenter = running(&daemon);
    daemon.start();
    let warm = "power: shutdown, warm: {cutover: auto, max_delta_mb: 1, interval_s: 1}";
    daemon.drop_file("web.yaml", manifest(&vcenter, warm));
    let passes = is_migrated(&daemon, &vcenter);
    assert!(passes.len() >= 3 && bytes(&passes[passes.len() - 2]) <= MIB, "{passes:?}");
}

#[test]
fn one_that_may_not_be_shut_down_is_waited_for_and_an_ended_job_cannot_be_cut_over() {
    let mut daemon = prepared("");
    let vcenter = running(&daemon);
    daemon.start();
    daemon.drop_file("web.yaml", manifest(&vcenter, "warm: {interval_s: 1}"));
    wait_for_pass(&daemon, 1);
    daemon.client(&["cutover", "web"]);
    let waits = wait_for("the VM to be waited for", || {
        let job = daemon.client(&["show", "web"]);
        job["waiting_detail"].as_str().filter(|detail| detail.contains("still runs")).map(str::to_owned)
    });
    assert!(waits.contains("has to be off"), "{waits}");
    vcenter.power(&json!({ "vm": "web", "on": false }));
    is_migrated(&daemon, &vcenter);
    let ended = daemon.run_client(&["cutover", "web"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let unknown = daemon.run_client(&["cutover", "nobody"]);
    assert_ne!(unknown.status.code(), Some(0));
}
