//! Storage that stops answering in the middle of a copy: the attempt fails, and the next one goes on where it was.
//!
//! The results lie on a file system of their own, which is frozen: whoever writes to it hangs, as on a network file system that is away.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hyper2kvm::model::error::{Disposition, Kind};
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::protocol::{Published, WorkerEvent, WorkerOutcome};
use hyper2kvm::pipeline::publish;

use crate::hostile::in_private_mounts;
use crate::site::Site;
use crate::support::within;

const MIB: u64 = 1 << 20;
const DATA_MIB: u64 = 384;
/// What a copy leaves that was cut.
const CUT: [&str; 3] = [".disk0.qcow2.journal", ".disk0.qcow2.partial", ".vm.journal.json"];

/// A file system that can be made to hang; nothing is left of it when it goes out of scope.
struct Storage(PathBuf);

impl Storage {
    fn mount(site: &Site) -> Storage {
        let (at, image) = (site.root().join("storage"), site.root().join("image"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(1024 * MIB).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Storage(at)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        thaw(&self.0);
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn thaw(at: &Path) {
    // One that is not frozen says so.
    let _ = Command::new("fsfreeze").arg("--unfreeze").arg(at).output();
}

/// A VM whose first attempt failed because the storage of its result did not answer any more. The storage goes before the directory it is in.
fn stalled() -> (Site, Storage) {
    // A machine that is busy may look too late: then the copy was quicker.
    for _ in 0..5 {
        let mut site = Site::sized(&["raw"], DATA_MIB + 64, DATA_MIB);
        let storage = Storage::mount(&site);
        site.order.plan.output.directory = storage.0.join("out");
        site.order.limits.stall_timeout_s = 1.0;
        let (mut is_frozen, log) = (false, site.log());
        let told = site.run_with(|event, _| {
            let is_far =
                matches!(event, WorkerEvent::Disk { progress, .. } if progress.bytes_done > 80 * MIB);
            if is_far && !is_frozen {
                is_frozen = true;
                run(Command::new("fsfreeze").arg("--freeze").arg(&storage.0));
                let (at, log) = (storage.0.clone(), log.clone());
                std::thread::spawn(move || {
                    // It has given up; what it cleans up hangs, too.
                    within(Duration::from_secs(30), || {
                        let said = std::fs::read_to_string(&log).unwrap_or_default();
                        said.contains("no progress").then_some(())
                    });
                    thaw(&at);
                });
            }
        });
        match told.outcome {
            WorkerOutcome::Failed { error } => {
                assert_eq!((error.kind(), error.disposition()), (Kind::Conversion, Disposition::Transient));
                assert!(error.to_string().contains("no progress"), "{error}");
                site.assert_only(&CUT);
                site.assert_no_process();
                site.order.limits.stall_timeout_s = 60.0;
                return (site, storage);
            }
            WorkerOutcome::Succeeded(_) => {}
            other => panic!("{other:?}\n{}", site.log_text()),
        }
    }
    panic!("no copy was caught in time");
}

/// How much of its first disk an attempt had found done.
pub fn kept_bytes(published: &Published) -> u64 {
    let report = published.content.as_ref().unwrap();
    let result = report.pipeline.stages[&Stage::Extraction].result.clone().unwrap();
    result["disks"][0]["kept_bytes"].as_u64().unwrap_or(0)
}

#[test]
fn a_copy_that_stalled_is_gone_on_with_by_the_next_attempt() {
    in_private_mounts("stalls::a_copy_that_stalled_is_gone_on_with_by_the_next_attempt", || {
        let (site, _storage) = stalled();
        let published = site.succeed();
        let kept = kept_bytes(&published);
        assert!(kept >= 8 * MIB, "{} MiB were kept", kept / MIB);
        site.assert_only(&["disk0.qcow2", "report.json"]);
        site.assert_same_content();
    });
}

#[test]
fn a_copy_that_stalled_is_removed_when_there_is_no_next_attempt() {
    in_private_mounts("stalls::a_copy_that_stalled_is_removed_when_there_is_no_next_attempt", || {
        let (site, storage) = stalled();
        publish::abandon(&site.order.plan, None).unwrap();
        site.assert_only(&[]);
        drop((storage, site));

        let (mut site, _storage) = stalled();
        site.order.limits.read_roots = vec![site.root().join("elsewhere")];
        assert_eq!(site.fail().disposition(), Disposition::Permanent);
        site.assert_only(&[]);
    });
}
