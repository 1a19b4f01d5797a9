//! `check`: what monitoring systems see.

use crate::fake::Fake;
use crate::run::{run, run_at};

#[test]
fn a_service_that_is_away_is_critical() {
    let dir = tempfile::tempdir().unwrap();
    let done = run_at(dir.path(), &["check"]);
    assert_eq!(done.code, 2);
    assert!(done.stdout.starts_with("HYPER2KVM CRITICAL - "), "{}", done.stdout);
    assert_eq!(done.stdout.lines().count(), 1);
    assert!(done.stderr.is_empty());
}

#[test]
fn standing_still_and_too_many_failed_jobs_are_critical() {
    let fake = Fake::start();
    // The progress of the batch `web` is years old.
    let done = run_at(fake.state(), &["check"]);
    assert_eq!(done.code, 2);
    assert!(done.stdout.contains("web has not moved for"), "{}", done.stdout);
    assert!(done.stdout.contains(" | running=1;;;0 "), "{}", done.stdout);

    let patient = ["check", "--stalled", "99999d"];
    assert_eq!(run_at(fake.state(), &patient).code, 1, "a failed job and a full disk are warnings");
    let strict = run_at(fake.state(), &["check", "--stalled", "99999d", "--max-failed", "0"]);
    assert_eq!(strict.code, 2);
    assert!(strict.stdout.contains("failed=1;;0;0"), "{}", strict.stdout);
}

#[test]
fn with_json_the_findings_are_one_document() {
    let fake = Fake::start();
    let done = run_at(fake.state(), &["check", "--json", "--stalled", "99999d"]);
    assert_eq!(done.code, 1);
    let found = done.json();
    assert_eq!((&found["status"], &found["exit_code"]), (&"warning".into(), &1.into()));
    assert!(!found["problems"].as_array().unwrap().is_empty());
}

#[test]
fn a_duration_that_is_none_is_wrong_usage() {
    assert_eq!(run(&["check", "--stalled", "soon"]).code, 2);
}
