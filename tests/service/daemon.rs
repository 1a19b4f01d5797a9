//! The daemon as a process: one per state directory, ends in order, continues what was cut off.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::site::{HELD, drop_disk, held_daemon, only_vm, source, wait_copying, wait_vm};
use super::support::{Daemon, disks, wait_for};

/// From the notice of the stop on, as the unit allows it.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_dropped_manifest_of_three_disks_becomes_a_published_result() {
    let daemon = held_daemon();
    let sources: Vec<_> = [("boot", "vmdk"), ("data", "qcow2"), ("swap", "raw")]
        .map(|(n, f)| (n, f, source(&daemon, n, f, 24)))
        .into();
    let before: Vec<_> = sources
        .iter()
        .map(|(_, _, path)| (disks::sha256(path), path.metadata().unwrap().modified().unwrap()))
        .collect();
    let rows: Vec<_> = sources.iter().map(|(name, format, path)| (*name, path.as_path(), *format)).collect();
    daemon.drop_file("web.yaml", disks::manifest(&rows, "output: {format: qcow2, compress: zlib}\n"));

    let mut seen: Vec<f64> = Vec::new();
    let last = wait_for("the batch to end", || {
        let progress = daemon.progress("web")?;
        seen.push(progress["progress_percentage"].as_f64().unwrap());
        (progress["state"] == "completed").then_some(progress)
    });
    assert!(seen.is_sorted(), "progress fell: {seen:?}");
    assert_eq!(last["progress_percentage"], 100.0);
    assert_eq!(last["counts"]["completed"], 1);

    let settled = daemon.wait_settled("processed", "web.yaml");
    let report: Value =
        serde_json::from_slice(&std::fs::read(format!("{}.report.json", settled.display())).unwrap())
            .unwrap();
    assert_eq!(report["batch"]["success"], true);
    let vm_id = only_vm(&last)["vm_id"].as_str().unwrap().to_owned();
    let output = daemon.state().join("output/web");
    for (name, format, path) in &sources {
        let result = output.join(&vm_id).join(format!("{name}.qcow2"));
        let driver = if *format == "raw" { "raw" } else { format };
        assert_eq!(disks::content_sha256(&result, "qcow2"), disks::content_sha256(path, driver), "{name}");
    }
    assert!(output.join(&vm_id).join("report.json").exists());
    for name in ["batch_report.json", "batch_summary.txt", ".hyper2kvm-checkpoint-web.json"] {
        assert!(output.join(name).exists(), "{name}");
    }
    let link = output.join(".hyper2kvm-batch-progress-web.json");
    assert_eq!(std::fs::read_link(link).unwrap(), daemon.state().join("progress/web.json"));
    for ((_, _, path), (hash, modified)) in sources.iter().zip(before) {
        assert_eq!(disks::sha256(path), hash);
        assert_eq!(path.metadata().unwrap().modified().unwrap(), modified);
    }
    let left =
        Daemon::files_below(daemon.state(), |name| name.ends_with(".partial") || name.contains("journal"));
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_second_daemon_on_a_state_directory_is_told_who_holds_it() {
    let daemon = Daemon::start_new();
    let second = daemon.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert!(words.contains(&daemon.pid().to_string()) && words.contains(&host), "{words}");
    assert!(daemon.progress("none").is_none());
    assert_eq!(daemon.client(&["status"])["pid"], daemon.pid());
}

#[test]
fn a_configuration_that_is_not_valid_ends_the_start_with_its_place() {
    let daemon = Daemon::prepare();
    daemon.configure("max_concurrent_jobs: many\n");
    let done = daemon.command().output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    let words = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(words.contains("max_concurrent_jobs"), "{words}");
    assert!(words.contains("hyper2kvm.yaml"), "{words}");
}

#[test]
fn the_files_for_monitors_can_be_read_by_them() {
    let daemon = Daemon::start_new();
    let status = daemon.status_file().unwrap();
    assert_eq!(status["network"], "unwatched");
    assert_eq!(status["counts"]["queued"], 0);
    let mode = |name: &str| daemon.state().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("status.json"), 0o644);
    assert_eq!(mode("incoming"), 0o2770);
}

#[test]
fn a_stop_in_mid_copy_ends_in_time_and_the_job_goes_on_after_the_next_start() {
    let mut daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 256);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    let begun = Instant::now();
    let status = daemon.stop();
    assert!(begun.elapsed() < STOP_LIMIT, "took {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    daemon.assert_no_orphans();
    assert_eq!(only_vm(&daemon.progress("vm").unwrap())["state"], "queued");
    assert_eq!(daemon.status_file().unwrap()["ready"], false);

    daemon.start();
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed", "{progress}");
    assert_eq!(only_vm(&progress)["attempt"], 1, "a stop costs no attempt");
    daemon.wait_settled("processed", "vm.yaml");
}

#[test]
fn a_worker_that_does_not_listen_is_not_waited_for_after_a_second_sigterm() {
    let mut daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 128);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    signal_worker(&daemon, Signal::STOP);
    daemon.signal(Signal::TERM);
    wait_for("the stop to begin", || daemon.log().contains("stopping").then_some(()));
    assert!(daemon.ended().is_none(), "it waits for its worker");
    daemon.signal(Signal::TERM);
    let status = daemon.wait_end(Duration::from_secs(5));
    assert_eq!(status.code(), Some(130));
    daemon.assert_no_orphans();
}

/// Sends a signal to the one worker that runs.
fn signal_worker(daemon: &Daemon, signal: Signal) {
    let (worker, _) = daemon
        .processes()
        .into_iter()
        .find(|(_, command)| command.contains(" worker "))
        .expect("a worker runs");
    let pid = rustix::process::Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_daemon_killed_in_mid_copy_continues_and_the_job_ends_once() {
    let mut daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 128);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    daemon.kill9();
    daemon.assert_no_orphans();
    daemon.start();
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed", "{progress}");
    let settled = daemon.wait_settled("processed", "vm.yaml");
    assert!(!settled.with_file_name("vm-2.yaml").exists());
    let details = daemon.client(&["show", "vm"]);
    let ends = details["events"].as_array().unwrap().iter().filter(|e| e["message"] == "succeeded").count();
    assert_eq!(ends, 1, "{details}");
    assert_eq!(
        disks::content_sha256(std::path::Path::new(details["outputs"][0].as_str().unwrap()), "qcow2"),
        disks::content_sha256(&disk, "raw")
    );
}

/// A process that passes for a worker of an earlier daemon and would never end by itself.
fn old_worker(daemon: &Daemon) -> std::process::Child {
    std::fs::write(daemon.scratch().join("worker"), "read end\n").unwrap();
    let log = std::fs::File::create(daemon.state().join("logs/old.log")).unwrap();
    let mut command = std::process::Command::new("sh");
    command.arg("worker").current_dir(daemon.scratch()).stdin(std::process::Stdio::piped()).stderr(log);
    command.spawn().unwrap()
}

#[test]
fn a_daemon_is_ready_while_an_old_worker_dies_but_starts_and_discards_nothing_before() {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("max_concurrent_jobs: 2\n{HELD}"));
    daemon.start();
    // They are dropped when both are there: writing the second takes as long as copying the first may.
    let sources = [("vm", 256), ("other", 240)].map(|(name, mib)| (name, source(&daemon, name, "raw", mib)));
    for (name, disk) in &sources {
        drop_disk(&daemon, name, disk, "raw", "");
    }
    for name in ["vm", "other"] {
        wait_copying(&daemon, name);
    }
    daemon.kill9();
    daemon.assert_no_orphans();
    let mut old = old_worker(&daemon);
    daemon.start();
    daemon.client(&["cancel", "other"]);
    assert_eq!(old.wait().unwrap().signal(), Some(9), "it was given time, and then killed");
    let left = || Daemon::files_below(&daemon.state().join("output/other"), |name| name.contains(".partial"));
    wait_for("what was copied of it to be thrown away", || left().is_empty().then_some(()));

    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    assert_eq!(only_vm(&progress)["attempt"], 1, "being killed costs no attempt");
    let log = std::fs::read_to_string(daemon.log_path()).unwrap();
    let log = &log[log.rfind("the service starts").unwrap()..];
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("not told: {what}\n{log}"));
    let gone = at("the workers of an earlier daemon are gone");
    assert!(at("ready after") < gone, "{log}");
    assert!(gone < at(" running") && gone < at(" cancelled"), "{log}");
}

#[test]
fn a_killed_worker_costs_an_attempt_and_the_job_succeeds_in_the_next() {
    let daemon = held_daemon();
    let disk = source(&daemon, "disk", "raw", 128);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_copying(&daemon, "vm");
    signal_worker(&daemon, Signal::KILL);
    let progress = daemon.wait_batch("vm");
    assert_eq!(progress["state"], "completed", "{progress}\n{}", daemon.log());
    assert_eq!(only_vm(&progress)["attempt"], 2);
}

#[test]
fn a_reload_with_a_bad_file_keeps_the_old_settings_and_a_good_one_is_taken() {
    let daemon = Daemon::start_new();
    let disk = source(&daemon, "disk", "raw", 8);
    daemon.configure("max_concurrent_jobs: 0\n");
    daemon.signal(Signal::HUP);
    wait_for("the refusal to be logged", || daemon.log().contains("not valid").then_some(()));
    drop_disk(&daemon, "after-bad", &disk, "raw", "");
    assert_eq!(daemon.wait_batch("after-bad")["state"], "completed");
    let textfile = daemon.scratch().join("hyper2kvm.prom");
    daemon.configure(&format!("metrics: {{textfile: {}}}\n", textfile.display()));
    daemon.signal(Signal::HUP);
    let text = wait_for("the textfile", || std::fs::read_to_string(&textfile).ok());
    assert!(text.contains("hyper2kvm_jobs{state=\"succeeded\"} 1"), "{text}");
}

#[test]
fn a_reload_keeps_what_the_command_line_asked_to_be_logged() {
    let mut daemon = Daemon::prepare();
    daemon.argument("-v");
    daemon.start();
    daemon.signal(Signal::HUP);
    wait_for("the reload", || daemon.log().contains("reloaded;").then_some(()));
    let disk = source(&daemon, "disk", "raw", 8);
    drop_disk(&daemon, "vm", &disk, "raw", "");
    assert_eq!(daemon.wait_batch("vm")["state"], "completed");
    let log = daemon.log();
    let after = log.split("reloaded;").nth(1).unwrap();
    assert!(after.contains("DEBUG"), "{log}");
}

#[test]
fn a_drop_with_a_secret_in_it_is_kept_as_a_private_redacted_copy() {
    let daemon = Daemon::start_new();
    let disk = source(&daemon, "disk", "raw", 8);
    let text = disks::manifest(&[("root", &disk, "raw")], "");
    daemon.drop_file("vm.yaml", format!("# the old password: hunter2\n{text}"));
    let settled = daemon.wait_settled("processed", "vm.yaml");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        std::fs::read_to_string(&settled).unwrap(),
        format!("# the old password: \"[redacted]\"\n{text}")
    );
    assert_eq!(mode(&settled), 0o600);
    assert_eq!(mode(&settled.with_file_name("vm.yaml.report.json")), 0o640);
    // The copy is there before what was dropped is gone.
    let processing = daemon.state().join("processing");
    wait_for("the drop to be gone", || (std::fs::read_dir(&processing).unwrap().count() == 0).then_some(()));
}

#[test]
fn a_job_that_fails_ends_with_its_report_beside_its_drop() {
    let daemon = Daemon::start_new();
    let bad = daemon.scratch().join("bad.vmdk");
    std::fs::write(&bad, vec![7_u8; 1 << 20]).unwrap();
    drop_disk(&daemon, "bad", &bad, "vmdk", "");
    let settled = daemon.wait_settled("failed", "bad.yaml");
    let report: Value =
        serde_json::from_slice(&std::fs::read(format!("{}.error.json", settled.display())).unwrap()).unwrap();
    assert_eq!(report["kind"], "source", "{report}");
    assert_eq!(report["phase"], "job");
    assert_eq!(report["batch_id"], "bad");
    assert_eq!(report["stage"], "load");
    assert_eq!(report["attempts"], 1);
    assert!(report["suggestion"].is_string(), "{report}");
    assert_eq!(daemon.progress("bad").unwrap()["state"], "failed");
}

#[test]
fn what_was_ended_but_not_put_away_is_put_away_by_the_next_daemon() {
    let mut daemon = Daemon::start_new();
    let disk = source(&daemon, "disk", "raw", 8);
    // A directory that is a file cannot take the drop: settling is tried again and again.
    let processed = daemon.state().join("processed");
    std::fs::remove_dir_all(&processed).unwrap();
    std::fs::write(&processed, "in the way").unwrap();
    drop_disk(&daemon, "vm", &disk, "raw", "");
    wait_vm(&daemon, "vm", "succeeded", |vm| vm["state"] == "succeeded");
    daemon.kill9();
    std::fs::remove_file(&processed).unwrap();
    daemon.start();
    daemon.wait_settled("processed", "vm.yaml");
    assert_eq!(std::fs::read_dir(daemon.state().join("processing")).unwrap().count(), 0);
}
