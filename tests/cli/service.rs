//! The commands against the real service: what the small scheduler of the other tests cannot promise.

use std::fs;
use std::time::{Duration, Instant};

use crate::run::{Done, hyper2kvm, parts, request, talk};
use crate::support::disks::{disk, manifest};
use crate::support::{Daemon, wait_for};

fn at(daemon: &Daemon, words: &[&str]) -> Done {
    hyper2kvm().args(words).env("HYPER2KVM_STATE_DIR", daemon.state()).output().unwrap().into()
}

/// A manifest beside its disk, and the manifest's path.
fn input(daemon: &Daemon, name: &str) -> String {
    let source = disk(daemon.scratch(), name, "vmdk", 16, 4, 7);
    let text = manifest(&[("boot", &source, "vmdk")], &format!("name: {name}\n"));
    let path = daemon.scratch().join(format!("{name}.yaml"));
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_service_runs_the_pre_flight_as_itself_and_opens_no_guest_for_it() {
    let daemon = Daemon::start_new();
    let path = input(&daemon, "web");
    let checked = at(&daemon, &["submit", "--check", "--json", &path]);
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    let validation = checked.json()["inputs"][0]["validation"].clone();
    assert_eq!(
        (&validation["ok"], &validation["results"][0]["rule"]),
        (&true.into(), &"disk.no_checksum".into())
    );
    let opened = fs::read_to_string(&path).unwrap();
    let opened = opened.replace("inspect: {enabled: false}", "inspect: {enabled: true}");
    let other = daemon.scratch().join("opened.yaml");
    fs::write(&other, opened).unwrap();
    let checked = at(&daemon, &["submit", "--check", "--json", other.to_str().unwrap()]).json();
    let results = checked["inputs"][0]["validation"]["results"].as_array().unwrap().clone();
    assert!(results.iter().any(|finding| finding["rule"] == "guest.not_opened"), "{results:?}");
    // It sees what is there, and says who is in the way.
    let out = daemon.state().join("output/web/web");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("boot.qcow2"), "a result").unwrap();
    let checked = at(&daemon, &["submit", "--check", "--json", &path]);
    assert_eq!(checked.code, 1, "{}", checked.stdout);
    assert_eq!(checked.json()["inputs"][0]["validation"]["results"][0]["rule"], "target.exists");
}

#[test]
fn a_manifest_goes_from_submit_to_a_result_and_every_look_agrees() {
    let daemon = Daemon::start_new();
    let path = input(&daemon, "web");
    assert_eq!(at(&daemon, &["submit", "--check", &path]).code, 0);
    let done = at(&daemon, &["submit", "--wait", "--json", &path]);
    assert_eq!(done.code, 0, "{}{}", done.stderr, daemon.log());
    let job = done.json()["jobs"][0].clone();
    assert_eq!(
        (&job["state"], &job["batch_id"], &job["vm_id"]),
        (&"succeeded".into(), &"web".into(), &"web".into())
    );
    assert_eq!(job["progress_percentage"], 100.0);

    let id = job["job_id"].to_string();
    for name in [id.as_str(), "web", "web/web"] {
        let shown = at(&daemon, &["show", name, "--json"]);
        assert_eq!(shown.code, 0, "{name}: {}", shown.stderr);
        assert_eq!(shown.json()["job_id"], job["job_id"], "{name}");
    }
    let shown = at(&daemon, &["show", &id, "--json"]).json();
    assert!(shown["outputs"].to_string().contains("boot.qcow2"), "{shown}");
    assert_eq!(
        at(&daemon, &["list", "--state", "succeeded", "--json"]).json()["jobs"][0]["job_id"],
        job["job_id"]
    );
    assert_eq!(at(&daemon, &["watch", "web"]).code, 0);

    let log = at(&daemon, &["logs", "web"]);
    assert_eq!(log.code, 0, "{}", log.stderr);
    let validate = at(&daemon, &["logs", "web", "--stage", "validate"]).stdout;
    assert!(!validate.is_empty() && validate.len() < log.stdout.len(), "{}", log.stdout);

    let checked = at(&daemon, &["check"]);
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    assert!(checked.stdout.starts_with("HYPER2KVM OK - 1 succeeded | "), "{}", checked.stdout);
}

#[test]
fn acting_on_what_has_ended_or_never_was_is_refused() {
    let daemon = Daemon::start_new();
    let path = input(&daemon, "web");
    assert_eq!(at(&daemon, &["submit", "--wait", &path]).code, 0, "{}", daemon.log());
    for words in [["cancel", "web/web"], ["pause", "web/web"], ["retry", "web/web"]] {
        let done = at(&daemon, &words);
        assert_eq!(done.code, 1, "{words:?}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains("succeeded"), "{}", done.stderr);
    }
    for words in [&["cancel", "nobody"][..], &["show", "77"], &["priority", "no/body", "3"]] {
        assert_eq!(at(&daemon, words).code, 5, "{words:?}");
    }
    let bad = daemon.scratch().join("bad.yaml");
    fs::write(&bad, "manifest_version: \"1.0\"\nnonsense: 1\n").unwrap();
    let refused = at(&daemon, &["submit", bad.to_str().unwrap(), "--json"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert_eq!(
        (&refused.error_json()["kind"], &refused.error_json()["line"]),
        (&"manifest".into(), &2.into())
    );
}

#[test]
fn a_paused_service_holds_a_job_until_it_is_resumed() {
    let daemon = Daemon::start_new();
    let path = input(&daemon, "web");
    assert_eq!(at(&daemon, &["pause"]).code, 0);
    assert_eq!(at(&daemon, &["status", "--json"]).json()["paused"], true);
    assert_eq!(at(&daemon, &["check"]).code, 1);
    assert_eq!(at(&daemon, &["submit", &path]).code, 0);
    let moved = at(&daemon, &["priority", "web", "-3", "--json"]);
    assert_eq!(moved.json()["jobs"][0]["priority"], -3, "{}", moved.stderr);
    assert!(!at(&daemon, &["show", "web", "--json"]).json()["state"].to_string().contains("succeeded"));
    assert_eq!(at(&daemon, &["resume"]).code, 0);
    assert_eq!(at(&daemon, &["watch", "web"]).code, 0, "{}", daemon.log());
}

#[test]
fn every_route_for_looking_answers_and_stop_ends_the_service() {
    let mut daemon = Daemon::start_new();
    let socket = daemon.state().join("control.sock");
    let metrics = talk(&socket, &request("GET /metrics", ""));
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("hyper2kvm_"), "{metrics}");
    let (_, stats) = parts(&talk(&socket, &request("GET /v1/stats", "")));
    assert_eq!(
        (&stats["total_processed"], &stats["success_rate_percent"]),
        (&0.into(), &serde_json::Value::Null)
    );
    assert_eq!(parts(&talk(&socket, &request("POST /v1/stop", ""))).0, 200);
    assert!(daemon.wait_end(Duration::from_secs(30)).success(), "{}", daemon.log());
    assert!(!socket.exists());
}

#[test]
fn a_service_that_ends_while_it_is_watched_is_told_as_unreachable() {
    let mut daemon = Daemon::start_new();
    let path = input(&daemon, "web");
    at(&daemon, &["pause"]);
    let waiting = hyper2kvm()
        .args(["submit", "--wait", &path])
        .env("HYPER2KVM_STATE_DIR", daemon.state())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the job to be there", || {
        let list = at(&daemon, &["list", "--json"]).json();
        (!list["jobs"].as_array()?.is_empty()).then_some(())
    });
    daemon.stop();
    let done: Done = waiting.wait_with_output().unwrap().into();
    assert_eq!(done.code, 4, "{}{}", done.stdout, done.stderr);
    assert!(!done.stderr.is_empty());
}

#[test]
fn status_is_answered_at_once_while_a_thousand_manifests_arrive() {
    let daemon = Daemon::start_new();
    assert_eq!(at(&daemon, &["pause"]).code, 0);
    let source = disk(daemon.scratch(), "one", "raw", 1, 1, 1);
    for index in 0..1000 {
        let text = manifest(&[("boot", &source, "raw")], &format!("name: vm{index}\n"));
        daemon.drop_file(&format!("vm{index}.yaml"), text);
    }
    let (mut times, mut meanwhile) = (Vec::new(), 0);
    wait_for("all of them to be accepted", || {
        let began = Instant::now();
        let status = at(&daemon, &["status", "--json"]).json();
        times.push(began.elapsed());
        let counts = status["counts"].as_object()?.clone();
        let accepted = counts.values().filter_map(serde_json::Value::as_u64).sum::<u64>();
        meanwhile += u32::from((1..1000).contains(&accepted));
        (accepted == 1000).then_some(())
    });
    assert!(meanwhile > 0, "nothing was answered before all were accepted");
    times.sort();
    let middle = times[times.len() / 2];
    // The whole command, process start included, on a machine that other tests use too.
    assert!(middle < Duration::from_secs(5), "{middle:?} of {} looks", times.len());
}
