//! A guest that is really repaired, and a worker that dies at any step of it: the result is that of an undisturbed one.

use std::path::Path;
use std::process::Command;

use hyper2kvm::model::job::Stage;
use hyper2kvm::model::placement::Home;
use hyper2kvm::model::plan::Packing;
use hyper2kvm::model::report::Report;

use crate::site::{Site, names};
use crate::support::{disks, trees};

const UUID: &str = "6c0f3c52-51d1-4b5e-8a6f-7d8a1f3f9a01";

/// A VM whose only disk holds the files of a Debian that names its root by slot.
fn site() -> Site {
    let mut site = Site::new(&["raw"]);
    let files = [
        ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
        ("etc/fstab", "/dev/sda / ext4 errors=remount-ro 0 1\n"),
        ("etc/hostname", "web\n"),
        ("usr/bin/apt-get", ""),
    ];
    trees::ext4(site.source(0), 64, &trees::tree(site.root(), &files), &["-U", UUID]);
    for planned in &mut site.order.plan.stages {
        planned.enabled |= matches!(planned.stage, Stage::Inspect | Stage::Fix);
    }
    site.order.plan.guest.fix.backup = true;
    site
}

/// What a file of the result holds, read without a machine.
fn file_in(site: &Site, path: &str) -> String {
    file_of(site, &site.out().join("disk0.qcow2"), path)
}

fn file_of(site: &Site, result: &Path, path: &str) -> String {
    let raw = site.root().join("result.raw");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(result).arg(&raw);
    assert!(convert.status().unwrap().success());
    trees::file_in(&raw, path)
}

#[track_caller]
fn assert_repaired(site: &Site, report: &Report, before: &str) {
    let paths: Vec<&str> = report.fixes.iter().map(|fix| fix.path.as_str()).collect();
    assert_eq!(paths, ["/etc/fstab"]);
    assert_eq!(file_in(site, "/etc/fstab"), format!("UUID={UUID} / ext4 errors=remount-ro 0 1\n"));
    let kept = file_in(site, "/var/lib/hyper2kvm/backup/etc/fstab");
    assert_eq!(kept, "/dev/sda / ext4 errors=remount-ro 0 1\n");
    assert_eq!(disks::sha256(site.source(0)), before, "the source was written to");
    site.assert_only(&["disk0.qcow2", "report.json"]);
    site.assert_no_process();
}

#[test]
fn a_repair_is_in_the_result_and_not_in_the_source() {
    let site = site();
    let before = disks::sha256(site.source(0));
    let report = site.succeed().content.unwrap();
    assert_repaired(&site, &report, &before);
}

#[test]
fn a_guest_in_a_disk_that_qemu_cannot_read_is_repaired_likewise() {
    let mut site = site();
    let disk = &mut site.order.plan.disks[0];
    disk.bytes = Some(std::fs::metadata(&disk.source).unwrap().len());
    assert!(Command::new("gzip").arg("-1").arg(&disk.source).status().unwrap().success());
    disk.source = disk.source.with_extension("raw.gz");
    disk.packing = Some(Packing::Gzip);
    let before = disks::sha256(site.source(0));
    let report = site.succeed().content.unwrap();
    assert_repaired(&site, &report, &before);
}

#[test]
#[cfg(feature = "failpoints")]
fn a_worker_killed_at_any_step_of_a_repair_is_gone_on_from_to_the_same_guest() {
    for step in ["fix.before-mark", "fix.after-mark", "commit.before", "commit.after"] {
        let site = site();
        let before = disks::sha256(site.source(0));
        let program = crate::crashes::armed(&site, step);
        let told = crate::site::drive(&program, &site.order, &site.log(), |_, _| {});
        assert!(
            matches!(told.outcome, hyper2kvm::model::protocol::WorkerOutcome::Failed { .. }),
            "{step}: {:?}",
            told.outcome
        );
        site.assert_no_process();
        let report = site.succeed().content.unwrap();
        assert_repaired(&site, &report, &before);
    }
}

#[test]
fn a_repair_of_a_disk_on_another_file_system_is_put_into_its_result_there() {
    let elsewhere = tempfile::Builder::new().prefix("h2k-repairs-").tempdir_in("/dev/shm").unwrap();
    let mut site = site();
    let home = Home { directory: elsewhere.path().to_owned(), stem: "vm-disk0".to_owned() };
    site.order.plan.disks[0].placement.home = Some(home);
    let report = site.succeed().content.unwrap();
    assert_eq!(report.fixes.len(), 1, "{:?}", report.fixes);
    site.assert_only(&["report.json"]);
    assert_eq!(names(elsewhere.path()), ["vm-disk0.qcow2"]);
    let fstab = file_of(&site, &elsewhere.path().join("vm-disk0.qcow2"), "/etc/fstab");
    assert_eq!(fstab, format!("UUID={UUID} / ext4 errors=remount-ro 0 1\n"));
}
