//! Results in several directories, seen from a daemon: when they count as there, as in the way, and as gone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::site::wait_copying;
use crate::support::{Daemon, disks, wait_for};

/// So soon a silent host counts as gone here.
const STALE_S: u64 = 3;

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

/// A host that shares its results with others.
fn host(share: &Path, further: &str) -> Daemon {
    let mut daemon = Daemon::prepare();
    let output = share.join("output");
    daemon.configure(&format!("output_dir: {}\ntakeover_stale_s: {STALE_S}\n{further}", output.display()));
    daemon.start();
    daemon
}

fn signal_all(processes: &[(u32, String)], signal: Signal) {
    for (pid, _) in processes {
        let _ = kill_process(Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap(), signal);
    }
}

#[test]
fn another_host_goes_on_in_the_other_directory_and_the_first_writes_nothing_there_any_more() {
    let share = tempfile::Builder::new().prefix("h2k-share-").tempdir().unwrap();
    let slow = share.path().join("slow");
    let source = disks::disk(share.path(), "disk", "vmdk", 32, 24, 7);
    let manifest = share.path().join("web.yaml");
    let mapping = format!("storage_mapping: {{disk_mappings: {{root: {}}}}}", slow.display());
    fs::write(&manifest, disks::manifest(&[("root", &source, "vmdk")], &mapping)).unwrap();
    let one = host(share.path(), "limits: {disk_reserve: 1MiB, bandwidth: [{rate: 4MiB/s}]}\n");
    let two = host(share.path(), "");
    one.client(&["submit", manifest.to_str().unwrap()]);
    wait_copying(&one, "web");
    wait_for("some of it to be written down", || {
        let there: Vec<PathBuf> = fs::read_dir(&slow).ok()?.flatten().map(|entry| entry.path()).collect();
        let blocks = |end: &str| {
            let found = there.iter().find(|path| path.to_string_lossy().ends_with(end))?;
            fs::metadata(found).ok().map(|file| (file.len(), file.blocks() * 512))
        };
        (blocks(".journal")?.0 > 600 && blocks(".partial")?.1 > 8 << 20).then_some(())
    });

    let processes = one.processes();
    signal_all(&processes, Signal::STOP);
    thread::sleep(Duration::from_secs(STALE_S) + Duration::from_millis(500));
    let done = two.run_client(&["submit", manifest.to_str().unwrap(), "--takeover", "--wait"]);
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), two.log());
    let report = fs::read(share.path().join("output/web/web/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let kept = &report["pipeline"]["stages"]["extraction"]["result"]["disks"][0]["kept_bytes"];
    assert!(kept.as_u64().is_some_and(|bytes| bytes > 0), "{report:#}");

    let result = slow.join("web-root.qcow2");
    let looks = || {
        let file = fs::metadata(&result).unwrap();
        (fs::read_dir(&slow).unwrap().count(), file.ino(), file.mtime(), file.mtime_nsec())
    };
    let before = looks();
    assert_eq!(before.0, 1, "the result and nothing else");
    signal_all(&processes, Signal::CONT);
    wait_for("the first host to find out", || {
        (one.client(&["show", "web/web"])["state"] == "failed").then_some(())
    });
    assert_eq!(looks(), before);
    assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(&source, "vmdk"));
}
