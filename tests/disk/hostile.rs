//! Bad disks are refused with the right kind and advice, quickly, and nothing is written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper2kvm::disk::{Control, OpenPolicy, detect, open_source};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{OutputFormat, SourceFormat};

use crate::support::bad_disks;
use crate::support::disks;
use crate::{copy_to, engine, open, target};

fn format(name: &str) -> SourceFormat {
    SourceFormat::ALL.into_iter().find(|format| format.name() == name).unwrap()
}

/// Every file below a directory with its digest; fifos only by name.
fn inventory(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(inventory(&entry.path()));
        } else if entry.file_type().unwrap().is_file() && entry.metadata().unwrap().len() < 1 << 28 {
            found.push((entry.path(), disks::sha256(&entry.path())));
        } else {
            found.push((entry.path(), String::new()));
        }
    }
    found.sort();
    found
}

#[test]
fn bad_disks_are_refused_by_kind_with_advice_and_left_as_they_are() {
    let mut wrong = Vec::new();
    for case in bad_disks::ALL {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("disks");
        std::fs::create_dir(&dir).unwrap();
        let path = (case.make)(&dir);
        let before = inventory(&dir);
        let started = Instant::now();
        match open(&path, format(case.format)) {
            Ok(source) => wrong.push(format!("{}: was opened: {source:?}", case.name)),
            Err(error) => {
                if error.kind().name() != case.kind {
                    wrong.push(format!("{}: {} instead of {}: {error}", case.name, error.kind(), case.kind));
                }
                if error.details().advice.as_ref().is_none_or(String::is_empty) {
                    wrong.push(format!("{}: no advice: {error}", case.name));
                }
                if error.details().cause.contains("qemu-img") {
                    wrong.push(format!("{}: only QEMU noticed: {error}", case.name));
                }
            }
        }
        if started.elapsed() > Duration::from_secs(20) {
            wrong.push(format!("{}: took {:?}", case.name, started.elapsed()));
        }
        assert_eq!(inventory(&dir), before, "{}: something was written", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(bad_disks::ALL.len() >= 30);
}

#[test]
fn a_raw_disk_that_begins_like_a_qcow2_is_copied_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let trap = dir.path().join("trap.qcow2");
    let done = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw"])
        .arg(&trap)
        .output()
        .unwrap();
    assert!(done.status.success());
    let disk = dir.path().join("disk.raw");
    disks::raw(&disk, 8, 2, 1);
    let mut bytes = std::fs::read(&disk).unwrap();
    let header = std::fs::read(&trap).unwrap();
    bytes[..header.len().min(65_536)].copy_from_slice(&header[..header.len().min(65_536)]);
    std::fs::write(&disk, &bytes).unwrap();

    let engine = engine();
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    assert_eq!(source.facts.virtual_size, 8 << 20);
    let target = target(dir.path().join("result.raw"), OutputFormat::Raw);
    copy_to(&engine, &source, &target).unwrap();
    assert_eq!(disks::sha256(&target.path), disks::sha256(&disk));
    engine.compare(&source, &target.path, OutputFormat::Raw, &control, &mut |_| ()).unwrap();
}

#[test]
fn a_source_outside_the_roots_is_refused_even_through_a_link() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = disks::disk(outside.path(), "disk", "qcow2", 4, 1, 1);
    let link = inside.path().join("disk.qcow2");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let roots = [inside.path().to_owned()];
    let policy = OpenPolicy { read_roots: &roots, ..OpenPolicy::default() };
    for path in [&disk, &link] {
        let error = open_source(path, SourceFormat::Qcow2, &policy, &engine(), &Control::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().contains("paths.read"), "{error}");
    }
}

#[test]
fn an_image_that_qemu_has_open_is_refused_as_open_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disks::disk(dir.path(), "disk", "qcow2", 4, 1, 1);
    // The tool's own prompt keeps the image open for writing, with QEMU's locks, until its input ends.
    let mut holder = disks::held(&disk, "qcow2");
    let error = open(&disk, SourceFormat::Qcow2).expect_err("it was opened");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("open elsewhere"), "{error}");
    open(&disk, SourceFormat::Qcow2).unwrap();
}

#[test]
fn names_do_not_decide_what_a_file_is() {
    let dir = tempfile::tempdir().unwrap();
    for format in SourceFormat::ALL {
        let made = disks::disk(dir.path(), "disk", format.name(), 4, 1, 1);
        let renamed = dir.path().join("no-suffix-at-all");
        std::fs::rename(made, &renamed).unwrap();
        assert_eq!(detect(&renamed).unwrap().format.source_format(), Some(format));
        open(&renamed, format).unwrap();
        std::fs::remove_file(&renamed).unwrap();
    }
}
