//! Results in several directories, seen from a daemon: when they count as there, as in the way, and as gone.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Daemon, disks};

/// A manifest whose second disk goes to this directory.
fn mapped(daemon: &Daemon, directory: &Path) -> String {
    let disk = |stem: &str, seed| disks::disk(daemon.scratch(), stem, "raw", 8, 2, seed);
    let (root, data) = (disk("root", 1), disk("data", 2));
    let mapping = format!("storage_mapping: {{disk_mappings: {{data: {}}}}}", directory.display());
    disks::manifest(&[("root", &root, "raw"), ("data", &data, "raw")], &mapping)
}

fn newest_job(daemon: &Daemon) -> Value {
    let jobs = daemon.client(&["list"])["jobs"].as_array().unwrap().clone();
    jobs.into_iter().max_by_key(|job| job["job_id"].as_i64()).unwrap()
}

#[test]
fn a_second_drop_moves_no_bytes_and_one_that_is_to_run_again_lies_beside_in_both_directories() {
    let daemon = Daemon::start_new();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let text = mapped(&daemon, elsewhere.path());
    daemon.drop_file("web.yaml", &text);
    daemon.wait_settled("processed", "web.yaml");
    let there = elsewhere.path().join("web-data.qcow2");
    let own = |path: &str| daemon.state().join("output/web").join(path);
    assert!(there.exists() && own("web/root.qcow2").exists() && !own("web/data.qcow2").exists());
    let report: Value = serde_json::from_slice(&fs::read(own("web/report.json")).unwrap()).unwrap();
    assert_eq!(report["artifacts"][1]["path"], there.to_str().unwrap());
    assert_eq!(report["artifacts"][1]["sha256"], disks::sha256(&there));
    let before = fs::metadata(&there).unwrap().modified().unwrap();

    daemon.drop_file("web.yaml", &text);
    daemon.wait_settled("processed", "web-2.yaml");
    assert_eq!(newest_job(&daemon)["state"], "skipped");

    daemon.drop_file("web.yaml", format!("rerun: all\n{text}"));
    daemon.wait_settled("processed", "web-3.yaml");
    assert_eq!(newest_job(&daemon)["state"], "succeeded", "{:#}", daemon.client(&["list"]));
    assert!(own("web-2/root.qcow2").exists() && own("web-2/report.json").exists());
    let mut names: Vec<_> =
        fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["web-2-data.qcow2", "web-data.qcow2"]);
    assert_eq!(fs::metadata(&there).unwrap().modified().unwrap(), before);
}

#[test]
fn a_file_in_the_way_in_the_other_directory_is_told_and_left() {
    let daemon = Daemon::start_new();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let there = elsewhere.path().join("web-data.qcow2");
    fs::write(&there, "somebody else's").unwrap();
    daemon.drop_file("web.yaml", mapped(&daemon, elsewhere.path()));
    let error = daemon.wait_settled("failed", "web.yaml.error.json");
    let error: Value = serde_json::from_slice(&fs::read(error).unwrap()).unwrap();
    assert_eq!(error["kind"], "exists", "{error:#}");
    assert_eq!(fs::read_to_string(&there).unwrap(), "somebody else's");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn a_daemon_that_is_killed_goes_on_in_both_directories() {
    let mut daemon = Daemon::start_new();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    daemon.drop_file("web.yaml", mapped(&daemon, elsewhere.path()));
    crate::support::wait_for("the batch to be known", || daemon.progress("web"));
    daemon.kill9();
    daemon.start();
    daemon.wait_settled("processed", "web.yaml");
    let names: Vec<_> =
        fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["web-data.qcow2"]);
}
