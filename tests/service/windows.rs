//! Batches with maintenance windows under a real service. A window knows minutes and no seconds, so what happens when one opens or closes
//! is awaited once, for several batches together.

use std::fs;
use std::thread;
use std::time::Duration;

use hyper2kvm::model::manifest::AtClose;
use hyper2kvm::model::planner::{BatchName, Rerun};
use hyper2kvm::model::window::Window;
use hyper2kvm::service::queue::{Admission, Db};
use jiff::{Timestamp, ToSpan};
use serde_json::Value;

use crate::queue_support::{accept, submission};
use crate::site::{only_vm, wait_copying, wait_vm};
use crate::support::{Daemon, disks, wait_for};

/// Slow enough that a copy is under way for longer than any minute lasts.
const SLOW: &str = "max_concurrent_jobs: 2\nlimits: {disk_reserve: 1MiB, bandwidth: [{rate: 1MiB/s}]}\n";

/// What is done before the window opens has this much time.
const AHEAD_S: i64 = 40;

/// A batch of one disk; `head`: what `batch_metadata` says.
fn batch(daemon: &Daemon, id: &str, data_mib: u64, head: &str) -> String {
    let path = daemon.scratch().join(format!("{id}.raw"));
    if !path.exists() {
        disks::disk(daemon.scratch(), id, "raw", data_mib + 8, data_mib, data_mib);
    }
    format!(
        "batch_version: \"1.0\"\nbatch_metadata: {{batch_id: {id}{head}}}\nvms:\n  - {{id: vm, manifest: {{profile: none, \
         pipeline: {{convert: {{enabled: true}}}}, disks: [{{id: boot, source_format: raw, local_path: {}}}]}}}}\n",
        path.display()
    )
}

/// `Sat 22:00`, so many hours after a moment.
fn week_time(moment: Timestamp, hours: i64) -> String {
    (moment + hours.hours()).strftime("%a %H:%M").to_string()
}

fn waits_for_its_window(vm: &Value) -> bool {
    vm["state"] == "waiting" && vm["waiting_reason"] == "window"
}

#[test]
fn at_the_minute_at_which_one_window_opens_and_another_closes_one_batch_starts_and_the_other_stands_still() {
    let mut daemon = Daemon::prepare();
    daemon.configure(SLOW);
    daemon.start();
    let held = batch(&daemon, "held", 160, "");
    batch(&daemon, "early", 1, "");
    let minute = (Timestamp::now().as_second() + AHEAD_S) / 60 + 1;
    let change = Timestamp::from_second(minute * 60).unwrap();
    let (before, at, after) = (week_time(change, -2), week_time(change, 0), week_time(change, 2));
    let opens = format!(", window: {{open: {at}, close: {after}}}");
    let closes = format!(", window: {{open: {before}, close: {at}, at_close: hold}}");
    daemon.drop_file("early.yaml", batch(&daemon, "early", 1, &opens));
    daemon.drop_file("held.yaml", batch(&daemon, "held", 160, &closes));
    wait_copying(&daemon, "held");
    wait_vm(&daemon, "early", "waiting for its window", waits_for_its_window);
    let shown = daemon.client(&["show", "early"]);
    let detail = format!("its window opens {} +00:00 (UTC)", change.strftime("%a %Y-%m-%d %H:%M"));
    assert_eq!(shown["waiting_detail"], detail.as_str(), "{shown:#}");
    assert_eq!(daemon.client(&["status"])["waiting"]["window"], 1);
    assert_eq!(daemon.progress("early").unwrap()["waiting_reason"], "window");

    // A service that waits stops at once, and the next one waits on.
    daemon.stop();
    daemon.start();
    wait_copying(&daemon, "held");
    daemon.client(&["resume", "early"]);
    wait_vm(&daemon, "early", "waiting for its window", waits_for_its_window);
    assert!(Timestamp::now() < change, "this machine is too busy: the restart took until the window opened");

    let early = daemon.wait_batch("early");
    assert_eq!(early["state"], "completed", "{early:#}\n{}", daemon.log());
    let late = only_vm(&early)["started_at"].as_f64().unwrap() - change.as_second() as f64;
    assert!((0.0..20.0).contains(&late), "it started {late} s after its window opened");

    let done = || {
        wait_vm(&daemon, "held", "held", waits_for_its_window)["disks"]["boot"]["bytes_done"]
            .as_u64()
            .unwrap()
    };
    // What was under way still arrives; at its rate a copy that goes on is told as 2 MiB more by then.
    let stands = wait_for("the copy to stand still", || {
        let before = done();
        thread::sleep(Duration::from_secs(2));
        (done() == before).then_some(before)
    });
    assert!(stands > 0);
    daemon.client(&["resume", "held"]);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(done(), stands, "nothing of it moves");

    // Who does not want to wait for a week ends it and drops it again without a window: it goes on where it was.
    daemon.client(&["cancel", "held", "--keep-partial"]);
    daemon.wait_settled("failed", "held.yaml");
    daemon.stop();
    daemon.configure("");
    daemon.start();
    daemon.drop_file("held.yaml", held);
    daemon.wait_settled("processed", "held.yaml");
    let progress = daemon.wait_batch("held");
    assert_eq!(progress["state"], "completed", "{progress:#}\n{}", daemon.log());
    let output = daemon.state().join("output/held/vm");
    let report = fs::read_to_string(output.join("report.json")).unwrap();
    let kept = report.split("\"kept_bytes\":").nth(1).map(|bytes| !bytes.trim_start().starts_with('0'));
    assert_eq!(kept, Some(true), "{report}");
    let result = output.join("boot.qcow2");
    let source = daemon.scratch().join("held.raw");
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&source, "raw"));
}

#[test]
fn a_batch_that_continues_takes_the_window_of_the_new_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("queue.db");
    let window =
        |open: &str| Window::new(Some("Europe/Berlin"), (open, "Sun 05:00"), None, Some(AtClose::Hold)).ok();
    let mut accepted = Vec::new();
    for window in [window("Sat 22:00"), window("Sat 20:00"), None] {
        let mut db = Db::open(&path).unwrap();
        let mut wanted = submission(BatchName::Named("fleet".to_owned()), Rerun::All, &[("vm", "A")]);
        wanted.window = window.clone().map(Box::new);
        let Admission::Accepted { batch_key, jobs, .. } = accept(&mut db, root.path(), wanted) else {
            panic!()
        };
        db.transition(jobs[0], hyper2kvm::service::queue::Change::Cancel, "cancelled").unwrap();
        accepted.push((batch_key, window));
    }
    // Whatever the run, and whoever opens the queue next.
    let db = Db::open(&path).unwrap();
    for (batch_key, window) in accepted {
        assert_eq!(db.batch_run(batch_key).unwrap().unwrap().window, window);
    }
    assert_eq!(db.batch("fleet").unwrap().unwrap().run, 3);
}
