//! Workers that are killed at every durable step: whatever is there then, a next start ends with the same result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::protocol::{WorkerEvent, WorkerOutcome};
use hyper2kvm::report::vm_page;

use crate::site::{Site, drive};

/// Every step of a worker, and how often at most it is met with two disks.
const STEPS: [(&str, u32); 19] = [
    ("worker.started", 1),
    ("copy.target-made", 2),
    ("copy.before-journal", 2),
    ("copy.after-journal", 2),
    ("copy.before-sync", 2),
    ("copy.after-sync", 2),
    ("checkpoint.before-write", 6),
    ("checkpoint.after-write", 6),
    ("partial.done", 2),
    ("validate.done", 2),
    ("publish.before-intent", 1),
    ("publish.after-intent", 1),
    ("publish.between-renames", 1),
    ("publish.after-renames", 1),
    ("publish.after-text", 2),
    ("publish.before-report", 1),
    ("publish.after-report", 1),
    ("publish.between-reports", 2),
    ("worker.before-finished", 1),
];

/// A program that is the real one with a failpoint armed.
pub fn armed(site: &Site, failpoint: &str) -> PathBuf {
    let path = site.root().join("armed");
    let text = format!(
        "#!/bin/sh\nHYPER2KVM_FAILPOINT={failpoint} exec {} \"$@\"\n",
        env!("CARGO_BIN_EXE_hyper2kvm")
    );
    std::fs::write(&path, text).unwrap();
    let done = Command::new("chmod").arg("+x").arg(&path).status().unwrap();
    assert!(done.success());
    path
}

fn undisturbed() -> BTreeMap<String, String> {
    let site = Site::new(&["vmdk", "raw"]);
    site.succeed();
    site.hashes()
}

#[test]
fn a_worker_killed_at_any_step_is_gone_on_from_to_the_same_result() {
    let expected = undisturbed();
    for (name, times) in STEPS {
        for nth in 1..=times {
            let site = Site::new(&["vmdk", "raw"]);
            let told = drive(&armed(&site, &format!("{name}:{nth}")), &site.order, &site.log(), |_, _| {});
            match &told.outcome {
                WorkerOutcome::Failed { error } => {
                    assert_eq!(error.kind(), Kind::Internal, "{name}:{nth}: {error}");
                    assert!(error.to_string().contains("SIGKILL"), "{name}:{nth}: {error}");
                }
                // The step is met less often than that: nothing happened.
                WorkerOutcome::Succeeded(_) if nth > 1 => continue,
                other => panic!("{name}:{nth}: {other:?}\n{}", site.log_text()),
            }
            site.assert_no_process();
            if site.names().contains(&"report.json".to_owned()) {
                let names = site.names();
                assert!(
                    ["report.md", "report.txt"].iter().all(|page| names.contains(&(*page).to_owned())),
                    "{names:?}"
                );
            }
            site.succeed();
            site.assert_only(&["disk0.qcow2", "disk1.qcow2", "report.json"]);
            assert_pages_agree(&site);
            assert_eq!(site.hashes(), expected, "{name}:{nth}");
            assert!(!site.root().join("work").exists(), "{name}:{nth}: working files are left");
        }
    }
}

#[test]
fn a_finished_disk_is_not_copied_again() {
    let site = Site::new(&["vmdk", "raw"]);
    drive(&armed(&site, "partial.done:1"), &site.order, &site.log(), |_, _| {});
    let partial = std::fs::metadata(site.out().join(".disk0.qcow2.partial")).unwrap();
    let told = site.run();
    assert!(matches!(told.events[0], WorkerEvent::Started { resumed: true, .. }), "{:?}", told.events[0]);
    let result = std::fs::metadata(site.out().join("disk0.qcow2")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((partial.ino(), partial.mtime_nsec()), (result.ino(), result.mtime_nsec()));
}

#[test]
fn a_copy_that_was_cut_counts_only_with_the_right_checksum() {
    let mut site = Site::new(&["raw"]);
    let right = site.order.plan.disks[0].checksum.clone();
    site.order.plan.disks[0].checksum = Some("0".repeat(64));
    drive(&armed(&site, "copy.after-sync"), &site.order, &site.log(), |_, _| {});
    let journal = site.out().join(".disk0.qcow2.journal");
    assert!(journal.exists(), "the copy was not cut where it could go on");
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Source, "{error}");
    assert!(error.to_string().contains("checksum"), "{error}");
    site.assert_only(&[]);
    site.order.plan.disks[0].checksum = right;
    site.succeed();
}

#[test]
fn a_result_that_was_published_but_not_recorded_is_told_again() {
    let site = Site::new(&["vmdk"]);
    drive(&armed(&site, "worker.before-finished"), &site.order, &site.log(), |_, _| {});
    site.assert_only(&[".vm.journal.json", "disk0.qcow2", "report.json"]);
    let published = site.succeed();
    assert_eq!(published.report, Some(site.out().join("report.json")));
    site.assert_only(&["disk0.qcow2", "report.json"]);
}

#[test]
fn a_source_that_changed_after_the_crash_is_copied_again() {
    let site = Site::new(&["raw", "raw"]);
    drive(&armed(&site, "partial.done:2"), &site.order, &site.log(), |_, _| {});
    crate::support::disks::raw(site.source(0), 64, 4, 99);
    let told = site.run();
    assert!(matches!(told.outcome, WorkerOutcome::Succeeded(_)), "{:?}", told.outcome);
    let warned = told.events.iter().any(
        |event| matches!(event, WorkerEvent::Warning { message, .. } if message.contains("starts over")),
    );
    assert!(warned, "{:?}", told.events);
    site.assert_same_content();
}

#[test]
fn another_plan_does_not_go_on_from_the_old_ones_partial_results() {
    let mut site = Site::new(&["raw", "raw"]);
    drive(&armed(&site, "publish.between-renames"), &site.order, &site.log(), |_, _| {});
    site.order.plan.output.format = hyper2kvm::model::plan::OutputFormat::Raw;
    site.succeed();
    site.assert_only(&["disk0.raw", "disk1.raw", "report.json"]);
    site.assert_same_content();
}

#[test]
fn a_name_taken_between_the_renames_takes_the_published_ones_back() {
    let site = Site::new(&["raw", "raw"]);
    drive(&armed(&site, "publish.between-renames"), &site.order, &site.log(), |_, _| {});
    std::fs::write(site.out().join("disk1.qcow2"), "somebody else's").unwrap();
    assert_eq!(site.fail().kind(), Kind::Exists);
    let names = site.names();
    assert!(!names.contains(&"disk0.qcow2".to_owned()), "{names:?}");
    assert_eq!(std::fs::read_to_string(site.out().join("disk1.qcow2")).unwrap(), "somebody else's");
    std::fs::remove_file(site.out().join("disk1.qcow2")).unwrap();
    site.succeed();
    site.assert_only(&["disk0.qcow2", "disk1.qcow2", "report.json"]);
}

/// The pages are there and say what the report says.
#[track_caller]
fn assert_pages_agree(site: &Site) {
    let read = |name: &str| std::fs::read_to_string(site.out().join(name)).unwrap();
    let page = vm_page(&serde_json::from_str(&read("report.json")).unwrap());
    assert_eq!((read("report.md"), read("report.txt")), (page.markdown(), page.text()));
}
