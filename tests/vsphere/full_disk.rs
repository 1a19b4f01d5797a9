//! No room here for what comes from a server: told as that, nothing half-done has its name, nothing is left over there, and it goes on when there is
//! some.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::download::vsphere;
use crate::jobs::{prepared, store};
use crate::support::small_disk::SmallDisk;
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, disks, wait_for, within};

const MIB: u64 = 1 << 20;

/// A vCenter whose machine `web` has disks of so many MiB, full of noise.
fn site(dir: &Path, mib: &[u64]) -> Vcenter {
    let disks: Vec<Value> = (mib.iter().enumerate())
        .map(|(number, mib)| {
            let content = dir.join(format!("content-{number}"));
            disks::raw(&content, *mib, *mib, number as u64 + 1);
            disk(&content)
        })
        .collect();
    Vcenter::start(Options::vcenter().machine(json!({ "name": "web", "disks": disks })))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// It says what is missing and what to do, with the exit code of work that failed, and leaves the server alone.
#[track_caller]
fn is_told(vcenter: &Vcenter, done: &Output) {
    let error: Value = serde_json::from_slice(&done.stderr)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
    assert_eq!((done.status.code(), &error["kind"]), (Some(1), &json!("disk_space")), "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("give the same command again"), "{error}");
    assert_eq!((vcenter.sessions(), vcenter.leases()), (0, 0));
}

#[test]
fn a_download_that_finds_no_room_is_told_and_goes_on_when_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let vcenter = site(dir.path(), &[96]);
    let out = dir.path().join("out");
    let small = SmallDisk::mount(&out, 80);
    let what = ["download", "[ds1] web/web-flat.vmdk", "-o", out.to_str().unwrap()];
    is_told(&vcenter, &vsphere(&vcenter, &what));
    assert_eq!(names(&out), ["web-flat.vmdk.partial", "web-flat.vmdk.partial.json"]);
    small.resize(128);
    let before = vcenter.sent_of("-flat");
    let done = vsphere(&vcenter, &what);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let saved: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(saved["files"][0]["resumed_bytes"], json!(64 * MIB), "{saved}");
    assert!(vcenter.sent_of("-flat") - before <= 33 * MIB);
    assert_eq!(names(&out), ["web-flat.vmdk"]);
    assert_eq!(disks::sha256(&out.join("web-flat.vmdk")), disks::sha256(&dir.path().join("content-0")));
    drop(small);
}

#[test]
fn an_export_that_finds_no_room_keeps_what_is_whole_and_frees_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let vcenter = site(dir.path(), &[8, 40]);
    let out = dir.path().join("out");
    let small = SmallDisk::mount(&out, 24);
    let what = ["export", "web", "-o", out.to_str().unwrap(), "--format", "ova"];
    is_told(&vcenter, &vsphere(&vcenter, &what));
    assert_eq!(names(&out), [".web.ova.partial"]);
    let kept = fs::metadata(out.join(".web.ova.partial/web.ova")).unwrap().len();
    assert!((8 * MIB..12 * MIB).contains(&kept), "{kept}");
    small.resize(96);
    let done = vsphere(&vcenter, &what);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["kept_disks"], 1, "{told}");
    assert_eq!((names(&out), vcenter.leases()), (vec!["web.ova".to_owned()], 0));
    let listed = Command::new("tar").arg("-tf").arg(out.join("web.ova")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 4, "{listed:?}");
    drop(small);
}

#[test]
fn a_job_that_finds_no_room_in_mid_transfer_waits_with_nobody_logged_in_and_goes_on() {
    for transport in ["https", "nfc"] {
        let dir = tempfile::tempdir().unwrap();
        let vcenter = site(dir.path(), &[40]);
        let out = dir.path().join("out");
        let small = SmallDisk::mount(&out, 64);
        let mut daemon = prepared(&format!("output_dir: {}\n", out.display()));
        store(&daemon, &vcenter, PASSWORD);
        // Slow, so that it is under way when there is no more room.
        vcenter.throttle(4 * MIB);
        daemon.start();
        let port = vcenter.port();
        daemon.drop_file(
            "web.yaml",
            format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  vsphere: {{credential: vc, port: {port}, vm_name: web, transport: {transport}}}\n"),
        );
        let partial = |path: &Path| Daemon::files_below(path, |name| name.ends_with(".partial"));
        wait_for("the copy to begin", || (!partial(&out).is_empty()).then_some(()));
        let ballast = small.fill();
        wait_for("the job to wait for room", || {
            let job = daemon.client(&["list"])["jobs"][0].clone();
            assert_ne!(job["state"], "succeeded", "{transport}: it was faster");
            (job["waiting_reason"] == "disk_space").then_some(())
        });
        let gone = within(Duration::from_secs(10), || {
            (vcenter.sessions() == 0 && vcenter.leases() == 0).then_some(())
        });
        assert!(gone.is_some(), "{transport}: {} sessions, {} leases", vcenter.sessions(), vcenter.leases());
        assert!(Daemon::files_below(&out, |name| name.ends_with(".qcow2")).is_empty());
        vcenter.throttle(0);
        fs::remove_file(ballast).unwrap();
        let progress = daemon.wait_batch("web");
        assert_eq!(progress["state"], "completed", "{transport}: {progress}\n{}", daemon.log());
        let result = out.join("web/web/disk-0.qcow2");
        assert_eq!(
            disks::content_sha256(&result, "qcow2"),
            disks::sha256(&dir.path().join("content-0")),
            "{transport}"
        );
        assert!(partial(&out).is_empty());
        daemon.kill9();
        drop(daemon);
        drop(small);
    }
}
