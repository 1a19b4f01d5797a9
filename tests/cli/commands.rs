//! The commands that ask a running service: what they print, and how they end.

use std::fs;

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::run::{hyper2kvm, run, run_at};

/// What the contract promises of a job in JSON.
const JOB_KEYS: [&str; 14] = [
    "job_id",
    "batch_id",
    "vm_id",
    "state",
    "waiting_reason",
    "waiting_detail",
    "current_stage",
    "progress_percentage",
    "attempt",
    "priority",
    "submitted_at",
    "started_at",
    "completed_at",
    "error",
];

#[track_caller]
fn assert_job(job: &Value) {
    for key in JOB_KEYS {
        assert!(job.get(key).is_some(), "{key} is missing in {job}");
    }
}

#[test]
fn jobs_are_listed_as_one_object_with_one_array() {
    let fake = Fake::start();
    let done = run_at(fake.state(), &["list", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let list = done.json();
    assert_eq!(list.as_object().unwrap().len(), 1);
    assert_eq!(list["jobs"].as_array().unwrap().len(), 4);
    list["jobs"].as_array().unwrap().iter().for_each(assert_job);
}

#[test]
fn a_list_for_people_is_a_table_without_colours_in_a_pipe() {
    let fake = Fake::start();
    let done = run_at(fake.state(), &["list", "--batch", "web"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", done.stdout);
    assert!(lines[0].contains("BATCH") && lines[2].contains("waiting (disk_space)"), "{}", done.stdout);
    assert!(!done.stdout.contains('\x1b'));
}

#[test]
fn a_list_can_be_narrowed() {
    let fake = Fake::start();
    let ids = |words: &[&str]| -> Vec<i64> {
        let list = run_at(fake.state(), words).json();
        list["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_i64().unwrap()).collect()
    };
    assert_eq!(ids(&["list", "--json", "--state", "failed"]), [3]);
    assert_eq!(ids(&["list", "--json", "--batch", "web"]), [1, 2]);
    assert_eq!(ids(&["list", "--json", "--limit", "1"]), [1]);
    assert_eq!(run_at(fake.state(), &["list", "--state", "asleep"]).code, 2);
}

#[test]
fn the_socket_is_found_by_option_before_or_after_the_command_and_by_environment() {
    let fake = Fake::start();
    let (state, socket) = (fake.state().to_str().unwrap(), fake.socket());
    for words in [
        vec!["--state-dir", state, "status"],
        vec!["status", "--state-dir", state],
        vec!["status", "--socket", socket.to_str().unwrap()],
        vec!["--socket", socket.to_str().unwrap(), "status"],
    ] {
        let done = run(&words);
        assert_eq!(done.code, 0, "{words:?}: {}", done.stderr);
    }
}

#[test]
fn a_job_is_shown_by_number_by_name_and_by_batch_and_name() {
    let fake = Fake::start();
    for name in ["1", "vm1", "web/vm1"] {
        let done = run_at(fake.state(), &["show", name, "--json"]);
        assert_job(&done.json());
        assert_eq!(done.json()["job_id"], 1);
    }
    let text = run_at(fake.state(), &["show", "db1"]).stdout;
    assert!(text.contains("failed") && text.contains("the source is cut off"), "{text}");
}

#[test]
fn what_is_not_there_ends_with_5_and_says_so() {
    let fake = Fake::start();
    for words in [
        vec!["show", "nobody"],
        vec!["cancel", "nobody"],
        vec!["retry", "99"],
        vec!["priority", "no/body", "1"],
        vec!["pause", "nobody"],
        vec!["resume", "nobody"],
        vec!["watch", "nobody"],
        vec!["logs", "nobody"],
    ] {
        let done = run_at(fake.state(), &words);
        assert_eq!(done.code, 5, "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains("there is no job"), "{}", done.stderr);
        assert!(done.stdout.is_empty());
    }
}

#[test]
fn acting_on_an_ended_job_ends_with_1_and_names_its_state() {
    let fake = Fake::start();
    for words in [["cancel", "db1"], ["pause", "mail"], ["resume", "3"]] {
        let done = run_at(fake.state(), &words);
        assert_eq!(done.code, 1, "{words:?}");
        assert!(done.stderr.contains("failed") || done.stderr.contains("succeeded"), "{}", done.stderr);
    }
}

#[test]
fn errors_with_json_are_one_object_on_standard_error() {
    let fake = Fake::start();
    let done = run_at(fake.state(), &["--json", "cancel", "db1"]);
    assert!(done.stdout.is_empty());
    let error = done.error_json();
    assert_eq!(error["exit_code"], 1);
    assert_eq!(error["kind"], "manifest");
    assert!(error["error"].as_str().unwrap().contains("failed"));
}

#[test]
fn jobs_are_cancelled_paused_resumed_moved_and_retried() {
    let fake = Fake::start();
    let states = |words: &[&str]| -> Vec<String> {
        let done = run_at(fake.state(), words);
        assert_eq!(done.code, 0, "{words:?}: {}", done.stderr);
        let acted = done.json();
        let jobs = acted["jobs"].as_array().unwrap();
        jobs.iter().for_each(assert_job);
        jobs.iter().map(|job| job["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&["pause", "web/vm1", "--json"]), ["waiting"]);
    assert_eq!(states(&["resume", "web/vm1", "--json"]), ["running"]);
    assert_eq!(states(&["priority", "2", "-5", "--json"]), ["waiting"]);
    assert_eq!(states(&["cancel", "1", "2", "--keep-partial", "--json"]), ["cancelled", "cancelled"]);
    assert_eq!(states(&["retry", "db1", "--from", "convert", "--json"]), ["queued"]);
    assert_eq!(states(&["retry", "--all", "--json"]), ["queued", "queued"]);
    assert_eq!(states(&["cancel", "--all", "--json"]), ["cancelled", "cancelled", "cancelled"]);
    assert_eq!(run_at(fake.state(), &["retry", "db1", "--from", "nowhere"]).code, 2);
    assert_eq!(run_at(fake.state(), &["retry"]).code, 2);
}

#[test]
fn the_service_is_paused_drained_and_set_to_work_again() {
    let fake = Fake::start();
    let status = || run_at(fake.state(), &["status", "--json"]).json();
    run_at(fake.state(), &["pause", "--all"]);
    assert_eq!(status()["paused"], true);
    run_at(fake.state(), &["drain"]);
    assert_eq!(status()["draining"], true);
    run_at(fake.state(), &["resume"]);
    run_at(fake.state(), &["drain", "--off"]);
    assert_eq!((&status()["paused"], &status()["draining"]), (&json!(false), &json!(false)));
    assert_eq!(run_at(fake.state(), &["prune", "--dry-run", "--json"]).json()["dry_run"], true);
}

#[test]
fn manifests_are_handed_over_and_the_jobs_are_told() {
    let fake = Fake::start();
    let path = fake.state().join("vm.yaml");
    fs::write(&path, "manifest_version: \"1.0\"\n").unwrap();
    let done = run_at(fake.state(), &["submit", path.to_str().unwrap(), "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_job(&done.json()["jobs"][0]);
    let waited = run_at(fake.state(), &["submit", path.to_str().unwrap(), "--wait", "--json"]);
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    assert_eq!(waited.json()["jobs"][0]["state"], "succeeded");
}

#[test]
fn one_refused_manifest_does_not_keep_the_others_out() {
    let fake = Fake::start();
    let path = |name: &str, content: &str| {
        let path = fake.state().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (bad, good) = (path("bad.yaml", "bad: 1\n"), path("good.yaml", "good: 1\n"));
    let done = run_at(fake.state(), &["submit", &bad, &good]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("bad.yaml:1:1"), "{}", done.stderr);
    assert!(done.stdout.contains("batch-"), "{}", done.stdout);
    assert_eq!(run_at(fake.state(), &["submit", "/no/such/file"]).code, 2);
    assert_eq!(run_at(fake.state(), &["submit", "/"]).code, 2);
}

#[test]
fn watching_ends_when_the_job_has_ended_and_tells_how() {
    let fake = Fake::start();
    let done = run_at(fake.state(), &["watch", "web/vm1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let last = done.stdout.lines().last().unwrap();
    assert!(last.contains("succeeded"), "{}", done.stdout);
    assert!(done.stdout.lines().count() >= 2);
    assert_eq!(run_at(fake.state(), &["watch", "db1"]).code, 1);
}

#[test]
fn every_moment_of_a_watch_is_one_document_with_json() {
    let fake = Fake::start();
    let done = run_at(fake.state(), &["watch", "mail", "--json"]);
    assert_eq!(done.code, 0);
    for line in done.stdout.lines() {
        let moment: Value = serde_json::from_str(line).unwrap();
        assert_eq!(moment["schema"], "hyper2kvm.progress/1");
    }
}

#[test]
fn the_log_of_a_job_is_printed_whole_or_by_stage() {
    let fake = Fake::start();
    assert_eq!(run_at(fake.state(), &["logs", "1"]).stdout.lines().count(), 4);
    let stage = run_at(fake.state(), &["logs", "1", "--stage", "extraction"]);
    assert_eq!(stage.stdout, "INFO stage begins stage=extraction\nINFO copying\n");
    let document = run_at(fake.state(), &["logs", "1", "--json"]).json();
    assert_eq!(document["lines"].as_array().unwrap().len(), 4);
    let none = run_at(fake.state(), &["logs", "3"]);
    assert_eq!(none.code, 1);
    assert!(none.stderr.contains("pruned"), "{}", none.stderr);
}

#[test]
fn a_followed_log_ends_with_its_job() {
    let fake = Fake::start();
    run_at(fake.state(), &["cancel", "web/vm1"]);
    assert_eq!(run_at(fake.state(), &["logs", "web/vm1", "--follow"]).code, 0);
}

#[test]
fn without_the_daemon_a_log_is_found_in_the_state_directory() {
    let fake = Fake::start();
    let socket = fake.state().join("elsewhere.sock");
    let done = run_at(fake.state(), &["logs", "web/vm1", "--socket", socket.to_str().unwrap()]);
    assert_eq!((done.code, done.stdout.lines().count()), (0, 4), "{}", done.stderr);
    assert_eq!(run_at(fake.state(), &["logs", "1", "--socket", socket.to_str().unwrap()]).code, 4);
}

#[test]
fn a_daemon_that_is_away_ends_every_client_with_4_and_advice() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        vec!["list"],
        vec!["show", "1"],
        vec!["watch"],
        vec!["watch", "1"],
        vec!["logs", "1"],
        vec!["cancel", "1"],
        vec!["retry", "1"],
        vec!["priority", "1", "2"],
        vec!["pause"],
        vec!["resume"],
        vec!["drain"],
        vec!["prune"],
        vec!["status"],
    ] {
        let done = run_at(dir.path(), &words);
        assert_eq!(done.code, 4, "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains("systemctl start hyper2kvm"), "{}", done.stderr);
        assert!(done.stderr.contains(dir.path().to_str().unwrap()), "{}", done.stderr);
    }
    // A socket that a killed daemon left behind.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).unwrap());
    let done = run_at(dir.path(), &["status"]);
    assert_eq!(done.code, 4);
    assert!(done.stderr.contains("nobody listens"), "{}", done.stderr);
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let fake = Fake::start();
    let mut child = hyper2kvm()
        .args(["watch", "--json"])
        .env("HYPER2KVM_STATE_DIR", fake.state())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    // Something changes, so that it has to write.
    run_at(fake.state(), &["pause"]);
    let done = child.wait_with_output().unwrap();
    assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn an_interrupt_ends_a_watch_with_130() {
    let fake = Fake::start();
    let mut child = hyper2kvm()
        .args(["watch", "--json"])
        .env("HYPER2KVM_STATE_DIR", fake.state())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
