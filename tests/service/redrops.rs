//! What a second drop means, seen from outside: all and only what was promised runs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Daemon, disks, wait_for, wait_for_count};

fn small(dir: &Path, stem: &str, seed: u64) -> String {
    let path = disks::disk(dir, stem, "vmdk", 8, 2, seed);
    disks::manifest(&[("root", &path, "vmdk")], "")
}

fn jobs(daemon: &Daemon) -> Vec<Value> {
    daemon.client(&["list"])["jobs"].as_array().unwrap().clone()
}

fn state_of(daemon: &Daemon, batch: &str) -> String {
    let progress = daemon.wait_batch(batch);
    let vm = progress["vms"].as_object().unwrap().values().next().unwrap().clone();
    vm["state"].as_str().unwrap().to_owned()
}

fn error_file(daemon: &Daemon, name: &str) -> Value {
    let path = daemon.wait_settled("failed", &format!("{name}.error.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_same_content_while_it_runs_is_refused_as_a_duplicate_naming_the_batch() {
    let daemon = Daemon::start_new();
    daemon.client(&["pause"]);
    let text = small(daemon.scratch(), "disk", 1);
    daemon.drop_file("web.yaml", &text);
    wait_for("the first drop to be queued", || (jobs(&daemon).len() == 1).then_some(()));
    daemon.drop_file("again.yaml", &text);
    let error = error_file(&daemon, "again.yaml");
    assert_eq!(error["kind"], "duplicate");
    assert!(error["error"].as_str().unwrap().contains("web"), "{error:#}");
    daemon.client(&["resume"]);
    assert_eq!(state_of(&daemon, "web"), "succeeded");
    assert_eq!(jobs(&daemon).len(), 1);
}

#[test]
fn the_same_file_after_success_is_skipped_and_moves_no_bytes() {
    let daemon = Daemon::start_new();
    let text = small(daemon.scratch(), "disk", 1);
    daemon.drop_file("web.yaml", &text);
    assert_eq!(state_of(&daemon, "web"), "succeeded");
    let result = daemon.state().join("output/web/web/root.qcow2");
    let before = fs::metadata(&result).unwrap().modified().unwrap();
    daemon.wait_settled("processed", "web.yaml");
    daemon.drop_file("web.yaml", &text);
    daemon.wait_settled("processed", "web-2.yaml");
    assert_eq!(fs::metadata(&result).unwrap().modified().unwrap(), before);
    assert!(jobs(&daemon).iter().any(|job| job["state"] == "skipped"), "{:#?}", jobs(&daemon));
}

#[test]
fn the_same_file_after_a_failure_continues_and_succeeds() {
    let daemon = Daemon::start_new();
    let missing = daemon.scratch().join("late.vmdk");
    let text = disks::manifest(&[("root", &missing, "vmdk")], "");
    daemon.drop_file("web.yaml", &text);
    assert_eq!(error_file(&daemon, "web.yaml")["kind"], "source");
    disks::disk(daemon.scratch(), "late", "vmdk", 8, 2, 1);
    daemon.drop_file("web.yaml", &text);
    daemon.wait_settled("processed", "web.yaml");
    assert!(daemon.state().join("output/web/web/root.qcow2").exists());
}

#[test]
fn other_content_under_a_name_that_succeeded_runs_beside_it() {
    let daemon = Daemon::start_new();
    daemon.drop_file("web.yaml", small(daemon.scratch(), "one", 1));
    assert_eq!(state_of(&daemon, "web"), "succeeded");
    let first = disks::sha256(&daemon.state().join("output/web/web/root.qcow2"));
    daemon.drop_file("web.yaml", small(daemon.scratch(), "two", 2));
    assert_eq!(state_of(&daemon, "web-2"), "succeeded");
    assert_eq!(disks::sha256(&daemon.state().join("output/web/web/root.qcow2")), first);
    assert!(
        !Daemon::files_below(&daemon.state().join("output/web-2"), |name| name == "root.qcow2").is_empty()
    );
}

#[test]
fn two_people_who_drop_the_same_name_both_get_their_machine() {
    let daemon = Daemon::start_new();
    daemon.client(&["pause"]);
    daemon.drop_file("web.yaml", small(daemon.scratch(), "ours", 1));
    wait_for("the first to be queued", || (jobs(&daemon).len() == 1).then_some(()));
    daemon.drop_file("web.yaml", small(daemon.scratch(), "theirs", 2));
    wait_for("the second to be queued", || (jobs(&daemon).len() == 2).then_some(()));
    daemon.client(&["resume"]);
    assert_eq!(state_of(&daemon, "web"), "succeeded");
    assert_eq!(state_of(&daemon, "web-2"), "succeeded");
}

#[test]
fn a_writer_that_closes_often_is_taken_once_and_whole() {
    let daemon = Daemon::start_new();
    let text = small(daemon.scratch(), "disk", 1).replace("manifest_version: \"1.0\"\n", "")
        + "manifest_version: \"1.0\"\n";
    let path = daemon.state().join("incoming/slow.yaml");
    for piece in text.as_bytes().chunks(20) {
        fs::OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(state_of(&daemon, "slow"), "succeeded");
    assert_eq!(jobs(&daemon).len(), 1);
    assert_eq!(
        Daemon::files_below(&daemon.state().join("failed"), |_| true),
        Vec::<std::path::PathBuf>::new()
    );
}

#[test]
fn more_drops_than_an_inotify_queue_holds_are_each_taken_once() {
    const DROPS: usize = 20_000;
    let mut daemon = Daemon::prepare();
    daemon.start();
    daemon.client(&["pause"]);
    let incoming = daemon.state().join("incoming");
    let aside = daemon.state().join("aside");
    fs::create_dir(&aside).unwrap();
    for index in 0..DROPS {
        let text = format!(
            "{{\"manifest_version\":\"1.0\",\"disks\":[{{\"id\":\"d\",\"source_format\":\"raw\",\"local_path\":\"/nowhere/{index}.raw\"}}]}}"
        );
        fs::write(aside.join(format!("vm-{index}.json")), text).unwrap();
    }
    for index in 0..DROPS {
        let name = format!("vm-{index}.json");
        fs::rename(aside.join(&name), incoming.join(&name)).unwrap();
    }
    wait_for_count("drops that became jobs", DROPS as u64, || {
        let status = daemon.client(&["status"]);
        status["counts"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
    });
    wait_for("the drop directory to be empty", || {
        (fs::read_dir(&incoming).unwrap().count() == 0).then_some(())
    });
    assert_eq!(fs::read_dir(daemon.state().join("processing")).unwrap().count(), DROPS);
}
