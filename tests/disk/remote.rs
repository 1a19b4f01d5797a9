//! Disks that only QEMU reads: its storage daemon opens them, and they are copied like all others.

use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hyper2kvm::disk::{Control, CopyOutcome, Depth, Engine, OpenPolicy, Target, open_source};
use hyper2kvm::model::error::{Disposition, Error, Kind, Result};
use hyper2kvm::model::plan::{OutputFormat, SourceFormat};

use crate::support::{disks, rare_vmdks};
use crate::{copy_to, engine, open, target};

const MIB: u64 = 1 << 20;

fn with_journal(dir: &Path, format: OutputFormat) -> Target {
    Target { journal: Some(dir.join("journal")), ..target(dir.join("result"), format) }
}

/// A raw disk with holes, noise, and a last part that no piece fills.
fn model(dir: &Path, mib: u64) -> PathBuf {
    let path = dir.join("disk.raw");
    disks::raw(&path, mib, mib / 8, 5);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"somewhere", 3 * MIB + 12_345).unwrap();
    file.write_all_at(b"the end", mib * MIB - 7).unwrap();
    path
}

fn extended(raw: &Path) -> PathBuf {
    let path = raw.with_extension("qcow2");
    let options = ["convert", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on"];
    let made = Command::new("qemu-img").args(options).args([raw, &path]).status().unwrap();
    assert!(made.success());
    path
}

#[test]
fn what_only_qemu_reads_is_copied_by_ourselves_and_holds_what_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, control, raw) = (engine(), Control::new(), model(dir.path(), 40));
    let original = open(&raw, SourceFormat::Raw).unwrap();
    let allocated =
        engine.measure(&original, &with_journal(dir.path(), OutputFormat::Qcow2), &control).unwrap();
    for (path, format) in [
        (extended(&raw), SourceFormat::Qcow2),
        (rare_vmdks::se_sparse(&raw), SourceFormat::Vmdk),
        (rare_vmdks::vmfs_sparse(&raw), SourceFormat::Vmdk),
    ] {
        let case = path.display();
        let source = open(&path, format).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(source.facts.virtual_size, 40 * MIB, "{case}");
        for to in [OutputFormat::Raw, OutputFormat::Qcow2] {
            let target = with_journal(dir.path(), to);
            let measure = engine.measure(&source, &target, &control).unwrap();
            assert!(measure.bytes_to_copy <= allocated.bytes_to_copy + MIB, "{case}: {measure:?}");
            let copied = engine.copy(&source, &target, &measure, &control, &mut |_| ()).unwrap();
            let by = format!("hyper2kvm {}, qemu-storage-daemon ", env!("CARGO_PKG_VERSION"));
            assert!(copied.engine.starts_with(&by), "{case}: by {}", copied.engine);
            assert!(copied.allocated_bytes <= measure.required_bytes, "{case}: {copied:?}");
            engine.check(&target.path, to, &control).unwrap();
            engine.compare(&original, &target.path, to, &control, &mut |_| ()).unwrap();
            let journal = target.journal.unwrap();
            assert!(
                engine
                    .read_back(&source, (&target.path, to), &journal, Depth::Medium, &control, &mut |_| ())
                    .unwrap()
            );
            fs::remove_file(&target.path).unwrap();
            fs::remove_file(journal).unwrap();
        }
    }
}

#[test]
fn a_snapshot_that_only_qemu_reads_is_read_through_to_what_it_stands_on() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, control) = (engine(), Control::new());
    let base = extended(&model(dir.path(), 16));
    let snapshot = dir.path().join("snapshot.qcow2");
    let size = (16 * MIB).to_string();
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-o", "extended_l2=on", "-b"]);
    make.arg(base.file_name().unwrap()).arg(&snapshot).arg(size);
    assert!(make.status().unwrap().success());
    let written = Command::new("qemu-io").args(["-c", "write -P 7 5M 1M"]).arg(&snapshot).output().unwrap();
    assert!(written.status.success());
    let policy = OpenPolicy { backing_chain: true, ..OpenPolicy::default() };
    let source = open_source(&snapshot, SourceFormat::Qcow2, &policy, &engine, &control).unwrap();
    let target = with_journal(dir.path(), OutputFormat::Raw);
    let copied = copy_to(&engine, &source, &target).unwrap();
    assert!(copied.engine.contains("qemu-storage-daemon"), "{}", copied.engine);
    assert_eq!(disks::sha256(&target.path), disks::content_sha256(&snapshot, "qcow2"));
}

#[test]
fn where_there_is_no_storage_daemon_qemu_copies() {
    let dir = tempfile::tempdir().unwrap();
    let (mut engine, raw) = (engine(), model(dir.path(), 8));
    engine.storage_daemon = None;
    let source = open(&extended(&raw), SourceFormat::Qcow2).unwrap();
    let target = with_journal(dir.path(), OutputFormat::Raw);
    let copied = copy_to(&engine, &source, &target).unwrap();
    assert!(copied.engine.starts_with("qemu-img "), "{}", copied.engine);
    assert_eq!(disks::sha256(&target.path), disks::sha256(&raw));
}

/// A copy by something else that calls itself the storage daemon. Its script finds the real one in `$real`.
fn copied_by(script: &str, control: &Control) -> Result<CopyOutcome> {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine();
    engine.stall_timeout_s = 2.0;
    let source = open(&extended(&model(dir.path(), 64)), SourceFormat::Qcow2).unwrap();
    let target = with_journal(dir.path(), OutputFormat::Raw);
    let measure = engine.measure(&source, &target, &Control::new()).unwrap();
    let bin = tempfile::tempdir().unwrap();
    put_in(&mut engine, bin.path(), script);
    engine.copy(&source, &target, &measure, control, &mut |_| ())
}

fn put_in(engine: &mut Engine, bin: &Path, script: &str) {
    let (program, real) = (bin.join("daemon"), engine.storage_daemon.clone().unwrap());
    let version = "[ \"$1\" != --version ] || { echo qemu-storage-daemon version 0; exit; }";
    fs::write(&program, format!("#!/bin/bash\n{version}\nreal={}\n{script}\n", real.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    engine.storage_daemon = Some(program);
}

/// Listens as the daemon does, and does this with every connection.
fn listener(what: &str) -> String {
    format!(
        "exec /usr/bin/python3 -c '
import os, socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(\"disk\")
server.listen()
while True:
    client = server.accept()[0]
    {what}
'"
    )
}

fn failed(script: &str) -> Error {
    copied_by(script, &Control::new()).map(|copied| panic!("copied by {}", copied.engine)).unwrap_err()
}

#[test]
fn a_storage_daemon_that_is_as_it_has_to_be_is_used_wherever_it_lies() {
    let copied = copied_by("exec $real \"$@\"", &Control::new()).unwrap();
    assert!(copied.engine.ends_with("qemu-storage-daemon 0"), "{}", copied.engine);
}

#[test]
fn a_storage_daemon_that_does_not_open_the_disk_says_why() {
    let error = failed("echo \"qemu-storage-daemon: it is broken\" >&2; exit 1");
    assert_eq!(error.kind(), Kind::Source, "{error}");
    assert!(error.to_string().contains("it is broken"), "{error}");
}

#[test]
fn a_storage_daemon_that_dies_in_the_middle_fails_the_copy_and_another_attempt_may_go_better() {
    // Slow enough to be in the middle then.
    let control = Control::new();
    control.limit_reading(NonZeroU64::new(2 * MIB));
    let script = "$real \"$@\" & while ! [ -S disk ]; do sleep 0.01; done; sleep 0.3; kill -9 $$";
    let error = copied_by(script, &control).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    assert_ne!(error.disposition(), Disposition::Permanent, "{error}");
    assert!(error.to_string().contains("was killed"), "{error}");
}

#[test]
fn nonsense_on_the_socket_is_an_error_and_nothing_else() {
    let cases = [
        "client.sendall(os.urandom(4096))",
        "client.close()",
        "client.sendall(b\"NBDMAGICIHAVEOPT\" + bytes([0, 3]) + bytes(64))",
        "client.sendall(b\"NBDMAGICIHAVEOPT\" + bytes([0, 3]) + b\"\\xff\" * 4096)",
    ];
    for case in cases {
        let error = failed(&listener(case));
        assert_eq!(error.kind(), Kind::Internal, "{case}: {error}");
        assert!(error.to_string().contains("does not serve the disk"), "{case}: {error}");
    }
}

#[test]
fn a_storage_daemon_that_does_not_answer_is_not_waited_for_for_ever() {
    let begun = Instant::now();
    let error = failed(&listener("kept = client"));
    assert_eq!((error.kind(), error.disposition()), (Kind::Source, Disposition::Transient), "{error}");
    assert!(error.to_string().contains("did not answer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}
