//! What log lines look like, in a process of their own: the log is started once per process.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hyper2kvm::model::config::{LogFormat, LogSettings};
use hyper2kvm::service::logging;
use hyper2kvm::sys::lines::fold::Fold;
use hyper2kvm::sys::lines::{self, Bound};
use hyper2kvm::sys::time::now_epoch;
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Set in the process that logs; its value is a scratch directory.
const INSIDE: &str = "HYPER2KVM_TEST_LOGS";

/// Runs this test again to log, and gives what it wrote to stderr.
#[track_caller]
fn logged(scratch: &Path, variables: &[(&str, &str)]) -> String {
    let test = std::thread::current().name().expect("the harness names test threads").to_owned();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env_remove(logging::FILTER_VARIABLE)
        .env(INSIDE, scratch)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", super::root::said(&done));
    String::from_utf8(done.stderr).unwrap()
}

fn scratch_inside() -> Option<std::path::PathBuf> {
    std::env::var_os(INSIDE).map(Into::into)
}

fn settings(format: LogFormat) -> LogSettings {
    LogSettings { format, file: None, journald: true }
}

/// Something that happens to a job.
fn work() {
    tracing::info!(
        target: "hyper2kvm::work", job = 17, batch = "my-batch", vm = "web01", stage = "convert", bytes = 4096, "copied"
    );
    tracing::debug!(target: "hyper2kvm::work", "details");
}

#[test]
fn text_lines_carry_time_level_job_and_words() {
    if scratch_inside().is_some() {
        logging::for_daemon(&settings(LogFormat::Text), 0, 0).unwrap();
        work();
        return;
    }
    let text = logged(Path::new("/"), &[]);
    let line = text.lines().find(|line| line.contains("copied")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.starts_with("20"), "no time: {line}");
    for part in [" INFO ", "job=17", "batch=\"my-batch\"", "vm=\"web01\"", "stage=\"convert\"", "bytes=4096"]
    {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!text.contains("details"), "debug lines appear unasked: {text}");
    assert!(!text.contains('\u{1b}'), "colours in something that is no terminal: {text}");
}

#[test]
fn json_lines_are_one_object_each() {
    if scratch_inside().is_some() {
        logging::for_daemon(&settings(LogFormat::Json), 1, 0).unwrap();
        work();
        return;
    }
    let text = logged(Path::new("/"), &[]);
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["msg"], &lines[0]["level"]), (&"copied".into(), &"INFO".into()));
    let context = serde_json::json!({ "job": 17, "batch": "my-batch", "vm": "web01", "stage": "convert", "bytes": 4096 });
    assert_eq!(lines[0]["ctx"], context);
    assert_eq!(lines[1]["msg"], "details");
}

#[test]
fn a_warning_that_is_said_over_and_over_is_told_with_its_count_wherever_lines_go() {
    if let Some(scratch) = scratch_inside() {
        let file = Some(scratch.join("h2k.log"));
        let log = logging::for_daemon(&LogSettings { file, ..settings(LogFormat::Json) }, 0, 0).unwrap();
        for _ in 0..1000 {
            tracing::warn!(target: "hyper2kvm", job = 17, "is slow");
            tracing::warn!(target: "other", "a matter of others");
        }
        tracing::error!(target: "hyper2kvm", "failed");
        log.finish();
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let stderr = logged(scratch.path(), &[]);
    let file = std::fs::read_to_string(scratch.path().join("h2k.log")).unwrap();
    for text in [stderr, file] {
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let said: Vec<&str> = lines.iter().filter_map(|line| line["msg"].as_str()).collect();
        assert_eq!(said[..3], ["is slow", "a matter of others", "failed"], "{text}");
        assert_eq!(said.len(), 5, "{text}");
        let count = "is slow (999 times more within 60 s)";
        let told = lines.iter().find(|line| line["msg"] == count).unwrap_or_else(|| panic!("{text}"));
        assert_eq!((&told["level"], &told["ctx"]["job"]), (&"WARN".into(), &17.into()), "{told}");
    }
}

#[test]
fn counts_of_warnings_are_told_while_they_go_on() {
    if scratch_inside().is_some() {
        let fold = Fold::new(Duration::from_millis(500));
        let text = lines::text(std::io::stderr, &Bound::new(), false, true, now_epoch);
        tracing_subscriber::registry().with(fold.over(text)).init();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2500) {
            tracing::warn!("is slow");
            std::thread::sleep(Duration::from_millis(2));
        }
        // Nothing is said any more: the last count is told all the same.
        std::thread::sleep(Duration::from_millis(1500));
        return;
    }
    let text = logged(Path::new("/"), &[]);
    let told: Vec<&str> = text.lines().filter(|line| line.contains("is slow")).collect();
    assert!(told.len() >= 3 && told.len() <= 8, "{text}");
    assert!(told[1..].iter().all(|line| line.ends_with("times more within 0.5 s)")), "{text}");
}

#[test]
fn the_file_gets_the_same_lines_and_can_be_rotated() {
    if let Some(scratch) = scratch_inside() {
        let file = scratch.join("h2k.log");
        let log =
            logging::for_daemon(&LogSettings { file: Some(file.clone()), ..settings(LogFormat::Text) }, 0, 0)
                .unwrap();
        tracing::info!(target: "hyper2kvm", "before");
        std::fs::rename(&file, scratch.join("h2k.log.1")).unwrap();
        log.reopen().unwrap();
        tracing::info!(target: "hyper2kvm", "after");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let stderr = logged(scratch.path(), &[]);
    let read = |name: &str| std::fs::read_to_string(scratch.path().join(name)).unwrap();
    assert!(read("h2k.log.1").contains("before") && !read("h2k.log.1").contains("after"));
    assert!(read("h2k.log").contains("after") && !read("h2k.log").contains("before"));
    assert!(stderr.contains("before") && stderr.contains("after"));
}

#[test]
fn the_level_changes_while_running_and_the_environment_overrides_it() {
    if scratch_inside().is_some() {
        let log = logging::for_daemon(&settings(LogFormat::Text), 0, 0).unwrap();
        tracing::debug!(target: "hyper2kvm", "first");
        log.set_verbosity(1);
        tracing::debug!(target: "hyper2kvm", "second");
        log.set_verbosity(-1);
        tracing::info!(target: "hyper2kvm", "third");
        return;
    }
    let text = logged(Path::new("/"), &[]);
    assert!(!text.contains("first") && text.contains("second") && !text.contains("third"), "{text}");
    let text = logged(Path::new("/"), &[(logging::FILTER_VARIABLE, "error")]);
    assert!(!text.contains("second"), "{text}");
}

#[test]
fn a_log_file_that_cannot_be_opened_is_an_error_with_advice() {
    let file = Some("/nonexistent/h2k.log".into());
    let error = logging::for_daemon(&LogSettings { file, ..settings(LogFormat::Text) }, 0, 0).unwrap_err();
    assert!(error.to_string().contains("cannot open the log file /nonexistent/h2k.log"), "{error}");
    assert!(error.details().advice.is_some());
}

#[test]
fn commands_log_warnings_only_and_without_times() {
    if scratch_inside().is_some() {
        logging::for_command(0);
        tracing::info!(target: "hyper2kvm", "chatter");
        tracing::warn!(target: "hyper2kvm", "trouble");
        return;
    }
    let text = logged(Path::new("/"), &[]);
    assert!(text.lines().any(|line| line.trim() == "WARN trouble"), "{text}");
    assert!(!text.contains("chatter"), "{text}");
}

#[test]
fn other_log_settings_are_told_to_need_a_restart() {
    if scratch_inside().is_some() {
        let log = logging::for_daemon(&settings(LogFormat::Text), 0, 0).unwrap();
        let other = LogSettings { format: LogFormat::Json, file: Some("/x".into()), journald: true };
        assert_eq!(log.needs_restart(&other), ["log.format", "log.file"]);
        assert!(log.needs_restart(&settings(LogFormat::Text)).is_empty());
        return;
    }
    logged(Path::new("/"), &[]);
}
