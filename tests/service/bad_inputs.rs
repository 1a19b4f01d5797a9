//! Bad manifests and bad disks, dropped on a running service: each ends in `failed/` with its reason,
//! and the good one behind them runs all the same.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Daemon, bad_disks, disks};

fn refusal(daemon: &Daemon, name: &str) -> Value {
    let path = daemon.wait_settled("failed", &format!("{name}.error.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The column of the table as it has to stand in the error file: `-` is null.
fn expected(text: &str) -> Value {
    match (text, text.parse::<u64>()) {
        ("-", _) => Value::Null,
        (_, Ok(number)) => number.into(),
        (text, Err(_)) => text.into(),
    }
}

fn assert_still_at_work(daemon: &Daemon) {
    let source = disks::disk(daemon.scratch(), "good", "vmdk", 8, 2, 9);
    daemon.drop_file("good.yaml", disks::manifest(&[("root", &source, "vmdk")], ""));
    assert_eq!(daemon.wait_batch("good")["state"], "completed");
}

#[test]
fn every_bad_manifest_ends_in_failed_with_kind_field_line_and_column() {
    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/bad");
    let table = fs::read_to_string(bad.join("EXPECTED.tsv")).unwrap();
    let daemon = Daemon::start_new();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    assert!(rows.len() >= 60);
    for row in &rows {
        daemon.drop_file(row[0], fs::read(bad.join(row[0])).unwrap());
    }
    let mut wrong = Vec::new();
    for row in &rows {
        let error = refusal(&daemon, row[0]);
        for (key, text) in ["kind", "field", "line", "column"].into_iter().zip(&row[1..5]) {
            if error[key] != expected(text) {
                wrong.push(format!("{}: {key} is {} instead of {text}", row[0], error[key]));
            }
        }
        if !error["suggestion"].is_string() {
            wrong.push(format!("{}: nothing is suggested: {error}", row[0]));
        }
        daemon.wait_settled("failed", row[0]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(daemon.client(&["list"])["jobs"].as_array().unwrap().is_empty());
    assert_still_at_work(&daemon);
}

#[test]
fn every_bad_disk_ends_in_failed_with_its_kind_and_leaves_nothing_behind() {
    let daemon = Daemon::start_new();
    let mut names = Vec::new();
    for case in bad_disks::ALL {
        let dir = daemon.scratch().join(case.name);
        fs::create_dir(&dir).unwrap();
        let path = (case.make)(&dir);
        let text = disks::manifest(&[("disk", &path, case.format)], "");
        daemon.drop_file(&format!("{}.yaml", case.name), text);
        names.push(case.name);
    }
    assert!(names.len() >= 30);
    let mut wrong = Vec::new();
    for case in bad_disks::ALL {
        let error = refusal(&daemon, &format!("{}.yaml", case.name));
        if error["kind"] != case.kind {
            wrong.push(format!(
                "{}: {} instead of {}: {}",
                case.name, error["kind"], case.kind, error["error"]
            ));
        }
        if error["stage"] != "load" || error["suggestion"].is_null() || error["batch_id"] != case.name {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let left = Daemon::files_below(&daemon.state().join("output"), |name| {
        name.contains(".partial") || name.ends_with(".qcow2") || name.contains(".tmp")
    });
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_still_at_work(&daemon);
}
