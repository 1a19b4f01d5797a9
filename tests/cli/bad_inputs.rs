//! What is said of every bad disk and every odd appliance: a table of kinds and messages, for people to read.
//!
//! Each is given to the built binary as a person would. Whatever it is, nothing crashes, nothing of it is changed, and where it is refused
//! nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::{Done, hyper2kvm};
use crate::support::{bad_appliances, bad_disks};

/// Looking at an input takes no longer, whatever it says of itself; with room for a loaded machine.
const LONGEST: Duration = Duration::from_secs(60);

/// Path → size and time of change of everything there.
fn inventory(dir: &Path) -> BTreeMap<PathBuf, (u64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        if metadata.is_dir() {
            found.extend(inventory(&entry.path()));
        }
        found.insert(entry.path(), (metadata.size(), metadata.mtime()));
    }
    found
}

fn convert(input: &Path, out: &Path) -> Done {
    let mut command = hyper2kvm();
    command.args(["convert", "--no-fix", "--json", "-o"]).arg(out).arg(input);
    command.output().unwrap().into()
}

/// What became of an input, in one line.
fn outcome(name: &str, dir: &Path, input: &Path) -> String {
    let (out, before) = (dir.parent().unwrap().join("out"), inventory(dir));
    let started = Instant::now();
    let done = convert(input, &out);
    assert!(started.elapsed() < LONGEST, "{name}: took {:?}", started.elapsed());
    assert_eq!(inventory(dir), before, "{name}: the source was changed");
    let outer = dir.parent().unwrap().to_str().unwrap();
    let plain = |text: &str| without_sums(&text.replace(outer, "")).replace(['\n', '\t'], "⏎");
    let line = match done.code {
        0 => {
            let mut results: Vec<String> = inventory(&out)
                .keys()
                .filter(|path| path.extension().is_some_and(|suffix| suffix == "qcow2"))
                .map(|path| path.strip_prefix(&out).unwrap().to_str().unwrap().to_owned())
                .collect();
            results.sort();
            let report: Value = serde_json::from_str(&done.stdout).unwrap();
            format!("converted\t{}\t{}", results.join(" "), plain(&warnings(&report).join("; ")))
        }
        1..=3 => {
            let left = if out.exists() { inventory(&out) } else { BTreeMap::new() };
            let left: Vec<_> = left
                .keys()
                .filter(|path| path.is_file() && !path.to_str().unwrap().contains("/.hyper2kvm/"))
                .collect();
            assert!(left.is_empty(), "{name}: this is left: {left:?}");
            let error = error_of(&done).unwrap_or_else(|| panic!("{name}: {}{}", done.stdout, done.stderr));
            let text = |key: &str| plain(error[key].as_str().unwrap_or("-"));
            assert_ne!(text("kind"), "internal", "{name}: {error}");
            assert_ne!(text("suggestion"), "-", "{name}: without advice: {error}");
            format!("{}\t{}\t{}", text("kind"), text("error"), text("suggestion"))
        }
        code => panic!("{name}: ended with {code}: {}", done.stderr),
    };
    format!("{name}\t{}\t{line}\n", done.code)
}

/// Before a worker begins the error is on stderr, afterwards in the report.
fn error_of(done: &Done) -> Option<Value> {
    if let Ok(error) = serde_json::from_str::<Value>(&done.stderr) {
        return Some(error);
    }
    let report: Value = serde_json::from_str(&done.stdout).ok()?;
    find_error(&report)
}

fn find_error(value: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key("kind") && fields.contains_key("suggestion") => {
            Some(value.clone())
        }
        Value::Object(fields) => fields.values().find_map(find_error),
        Value::Array(items) => items.iter().find_map(find_error),
        _ => None,
    }
}

/// What the reports warn of.
fn warnings(report: &Value) -> Vec<String> {
    match report {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("warnings", Value::Array(told)) => told
                    .iter()
                    .map(|one| one["message"].as_str().or(one.as_str()).unwrap_or_default().to_owned())
                    .collect(),
                (_, value) => warnings(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(warnings).collect(),
        _ => Vec::new(),
    }
}

/// Images have ids in them that are made up anew each time.
fn without_sums(text: &str) -> String {
    let is_sum = |word: &str| word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown = |word: &str| if is_sum(word) { "DIGITS".to_owned() } else { word.to_owned() };
    text.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            shown(bare) + &word[bare.len()..]
        })
        .collect()
}

/// The lines of all cases, two at a time, in their order.
fn table<T: Sync>(cases: &[T], line: impl Fn(&T, &Path) -> String + Sync) -> String {
    let (first, second) = cases.split_at(cases.len() / 2);
    let of = |part: &[T]| -> String {
        part.iter()
            .map(|case| {
                let outer = tempfile::tempdir().unwrap();
                let dir = outer.path().join("in");
                fs::create_dir(&dir).unwrap();
                line(case, &dir)
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| of(second));
        of(first) + &other.join().unwrap()
    })
}

#[test]
fn every_odd_appliance_is_converted_or_refused_in_the_right_words() {
    let table = table(bad_appliances::ALL, |(name, make), dir| outcome(name, dir, &make(dir)));
    insta::assert_snapshot!("odd_appliances", table);
}

#[test]
fn every_bad_disk_is_refused_in_the_right_words() {
    let table = table(bad_disks::ALL, |case, dir| {
        let disk = (case.make)(dir);
        let manifest = json!({
            "manifest_version": "1.0",
            "name": "web",
            "disks": [{ "id": "boot", "source_format": case.format, "local_path": disk }],
        });
        let path = dir.parent().unwrap().join("web.json");
        fs::write(&path, manifest.to_string()).unwrap();
        let line = outcome(case.name, dir, &path);
        assert!(line.contains(&format!("\t{}\t", case.kind)), "{line}");
        line
    });
    insta::assert_snapshot!("bad_disks", table);
}
