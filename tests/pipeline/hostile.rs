//! Sources that change, results that rot, file systems that fill up.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::plan::{OutputFormat, Preflight};
use hyper2kvm::model::protocol::{WorkerEvent, WorkerOutcome};

use crate::site::{Site, names};
use crate::support::disks;

/// Bytes a second: what is done to a copy under way is done in time.
const SLOW: Option<std::num::NonZeroU64> = std::num::NonZeroU64::new(16 << 20);

#[test]
fn a_source_that_changes_during_the_copy_fails_the_job() {
    let mut site = Site::sized(&["raw"], 256, 192);
    site.order.plan.output.compress = hyper2kvm::model::plan::Compression::Zlib;
    let source = site.source(0).to_owned();
    let told = site.run_with(|event, _| {
        if matches!(event, WorkerEvent::StageDetail { stage: Stage::Convert, .. }) {
            let file = OpenOptions::new().write(true).open(&source).unwrap();
            file.write_all_at(b"the machine still runs", 255 << 20).unwrap();
        }
    });
    match told.outcome {
        WorkerOutcome::Failed { error } => {
            assert_eq!(error.kind(), Kind::Source, "{error}");
            assert!(error.to_string().contains("changed during the copy"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    site.assert_only(&[]);
}

#[test]
fn a_result_that_rots_before_it_is_checked_fails_validation_and_is_thrown_away() {
    let mut site = Site::sized(&["raw", "raw"], 64, 48);
    site.order.limits.reading = SLOW;
    site.order.plan.output.format = hyper2kvm::model::plan::OutputFormat::Raw;
    let partial = site.out().join(".disk0.raw.partial");
    let told = site.run_with(|event, _| {
        if matches!(event, WorkerEvent::StageDetail { stage: Stage::Extraction, detail } if detail == "disk 2/2") {
            let file = OpenOptions::new().write(true).open(&partial).unwrap();
            file.write_all_at(b"rot", 5 << 20).unwrap();
        }
    });
    match told.outcome {
        WorkerOutcome::Failed { error } => {
            assert_eq!(error.kind(), Kind::Validation, "{error}");
            assert_eq!(error.details().stage, Some(Stage::Validate));
        }
        other => panic!("{other:?}"),
    }
    assert!(!partial.exists(), "a rotten result is kept");
    site.succeed();
    site.assert_only(&["disk0.raw", "disk1.raw", "report.json"]);
    site.assert_same_content();
}

#[test]
fn a_checksum_that_does_not_fit_fails_and_leaves_nothing() {
    let mut site = Site::new(&["raw"]);
    site.order.plan.disks[0].checksum = Some("0".repeat(64));
    // Whoever copies: the one is written by ourselves, the other by QEMU.
    for format in [OutputFormat::Vmdk, OutputFormat::Qcow2] {
        site.order.plan.output.format = format;
        let error = site.fail();
        assert_eq!(error.kind(), Kind::Source, "{error}");
        assert!(error.to_string().contains("checksum"), "{error}");
        site.assert_only(&[]);
    }
    site.order.plan.disks[0].checksum = Some(disks::sha256(site.source(0)));
    site.succeed();
}

#[test]
fn a_smaller_preflight_looks_at_no_checksum() {
    let mut site = Site::new(&["raw"]);
    site.order.plan.disks[0].checksum = Some("0".repeat(64));
    site.order.plan.preflight = Preflight::Metadata;
    site.succeed();
}

#[test]
fn a_format_that_was_declared_wrongly_names_the_right_one() {
    let mut site = Site::new(&["qcow2"]);
    site.order.plan.disks[0].source_format = hyper2kvm::model::plan::SourceFormat::Vmdk;
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("qcow2"), "{error}");
}

#[test]
fn a_source_outside_the_roots_is_refused() {
    let mut site = Site::new(&["raw"]);
    site.order.limits.read_roots = vec![site.root().join("elsewhere")];
    assert_eq!(site.fail().kind(), Kind::Source);
}

#[test]
fn too_little_room_is_told_before_anything_is_copied() {
    let mut site = Site::new(&["raw"]);
    site.order.limits.disk_reserve_bytes = u64::MAX / 2;
    let error = site.fail();
    assert_eq!(error.kind(), Kind::DiskSpace);
    assert!(error.details().need_bytes.is_some_and(|need| need >= 4 << 20));
    assert!(error.details().free_bytes.is_some());
    site.assert_only(&[]);
}

/// Runs this test binary's test again inside a mount name space of its own, where it may mount.
pub fn in_private_mounts(test: &str, inside: impl FnOnce()) {
    const MARK: &str = "HYPER2KVM_TEST_PRIVATE_MOUNTS";
    if std::env::var_os(MARK).is_some() {
        return inside();
    }
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

/// Unmounts when it goes out of scope, so that the directory below can be removed.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount_small(site: &Site, mib: u32) -> Mounted {
    std::fs::create_dir(site.out()).unwrap();
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
        .arg(site.out())
        .status()
        .unwrap();
    assert!(done.success());
    Mounted(site.out())
}

#[test]
fn a_file_system_that_fills_up_during_the_copy_is_disk_space_and_gives_the_room_back() {
    in_private_mounts(
        "hostile::a_file_system_that_fills_up_during_the_copy_is_disk_space_and_gives_the_room_back",
        || {
            let mut site = Site::sized(&["raw"], 64, 48);
            // Long enough for somebody else to take the room meanwhile.
            site.order.limits.reading = SLOW;
            site.order.plan.output.compress = hyper2kvm::model::plan::Compression::Zlib;
            let _mounted = mount_small(&site, 64);
            let filler = site.out().join("filler");
            let told = site.run_with(|event, _| {
                if matches!(event, WorkerEvent::StageStarted { stage: Stage::Convert }) {
                    // As much of it as there still is room for.
                    let _ = std::fs::write(&filler, vec![1_u8; 60 << 20]);
                }
            });
            match told.outcome {
                WorkerOutcome::Failed { error } => assert_eq!(error.kind(), Kind::DiskSpace, "{error}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(names(&site.out()), ["filler"]);
            std::fs::remove_file(&filler).unwrap();
            site.succeed();
            site.assert_only(&["disk0.qcow2", "report.json"]);
        },
    );
}
