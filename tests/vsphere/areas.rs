//! Disks of which their server knows what is in use: only that is fetched, of machines that are off and of such that run behind a snapshot.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hyper2kvm::disk::{Control, Engine, Measure, SourceDisk, Target};
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::plan::{Compression, OutputFormat, Preallocation};
use hyper2kvm::sys::process::Launcher;
use hyper2kvm::vsphere::inventory::VmRef;
use hyper2kvm::vsphere::snapshot::{self, Quiesce};
use hyper2kvm::vsphere::{Client, folder};
use serde_json::{Value, json};

use crate::folder::{connect, machine_of};
use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{disks, wait_for};

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 40;
/// A fifth of it, here and there.
const USED: u64 = 8 * MIB;

/// A vCenter with one machine, `web`, whose disk holds little.
struct Site {
    vcenter: Vcenter,
    client: Client,
    dir: tempfile::TempDir,
}

impl Site {
    fn new(machine: Value) -> Site {
        Site::sized(machine, DISK_MIB, USED)
    }

    fn sized(mut machine: Value, disk_mib: u64, used: u64) -> Site {
        let dir = tempfile::tempdir().unwrap();
        disks::raw(&dir.path().join("original"), disk_mib, used / MIB, 7);
        machine["name"] = json!("web");
        machine["disks"] = json!([disk(&dir.path().join("original"))]);
        let vcenter = Vcenter::start(Options::vcenter().machine(machine));
        let client = connect(&vcenter.address(), &vcenter, &Control::new()).unwrap();
        Site { vcenter, client, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What its disk holds, and how much of that comes over the network.
    fn fetched(&self, source: &SourceDisk) -> (Measure, Vec<u8>, u64) {
        for name in ["result", "journal"] {
            let _ = fs::remove_file(self.path(name));
        }
        let before = self.vcenter.sent_of("-flat.vmdk");
        let measure = self.copy(source, &Control::new(), &AtomicU64::new(0)).unwrap();
        let result = fs::read(self.path("result")).unwrap();
        (measure, result, self.vcenter.sent_of("-flat.vmdk") - before)
    }

    fn copy(&self, source: &SourceDisk, control: &Control, done: &AtomicU64) -> Result<Measure> {
        let engine = Engine::find(Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"))).unwrap();
        let target = Target {
            path: self.path("result"),
            format: OutputFormat::Raw,
            compress: Compression::None,
            level: None,
            preallocation: Preallocation::Off,
            journal: Some(self.path("journal")),
        };
        let measure = engine.measure(source, &target, control)?;
        let mut heard = |progress: hyper2kvm::disk::CopyProgress| {
            done.store(progress.bytes_done, Ordering::Relaxed);
        };
        engine.copy(source, &target, &measure, control, &mut heard).map(|_| measure)
    }

    fn cold(&self) -> SourceDisk {
        let machine = machine_of(&self.client);
        folder::source(&self.client, &machine, &machine.disks[0], 4).unwrap()
    }

    fn snapshot(&self) -> String {
        let vm = VmRef { moref: machine_of(&self.client).moref };
        snapshot::create(&self.client, &vm, ("ours", ""), Quiesce::No, &mut |_| {}).unwrap().moref
    }

    fn as_of(&self, snapshot: &str) -> Result<SourceDisk> {
        let machine = machine_of(&self.client);
        folder::source_as_of(&self.client, &machine, &machine.disks[0], snapshot, 4)
    }
}

#[test]
fn holes_of_a_disk_are_not_fetched_where_its_server_knows_them() {
    let site = Site::new(json!({ "change_tracking": true }));
    let original = fs::read(site.path("original")).unwrap();
    let (measure, result, sent) = site.fetched(&site.cold());
    assert!(result == original, "the result is another one than what lies on the datastore");
    assert!((USED..=USED + USED / 20).contains(&sent), "{sent} bytes for {USED}");
    assert_eq!(measure.bytes_to_copy, USED);
    // A datastore that does not know says that all is in use, and a server may say nothing.
    for answers in ["whole", "refused"] {
        site.vcenter.areas(answers);
        let (measure, result, sent) = site.fetched(&site.cold());
        assert!(result == original && sent >= DISK_MIB * MIB, "{answers}: {sent}");
        assert_eq!(measure.bytes_to_copy, DISK_MIB * MIB, "{answers}");
    }
    // Nothing was changed for it.
    let asked = site.vcenter.requests();
    assert!(asked.iter().all(|request| !request.call.ends_with("_Task")), "{asked:?}");
}

#[test]
fn a_machine_that_runs_is_read_as_it_was_when_its_snapshot_was_made() {
    /// Several times what may be on its way.
    const LARGE: u64 = 24 * MIB;
    /// What may have come and not be written down.
    const UNDER_WAY: u64 = 8 * MIB;
    let site = Site::sized(json!({ "change_tracking": true, "on": true }), 60, LARGE);
    site.vcenter.guest_writes("web", 0, 13 * MIB, &[1; 300]);
    let snapshot = site.snapshot();
    let wanted = site.vcenter.disk_as_of("web", 0, &snapshot);
    let source = site.as_of(&snapshot).unwrap();
    site.vcenter.guest_writes("web", 0, 0, &[2; 5000]);
    // Slow, so that it can be stopped in between.
    site.vcenter.throttle(2 * MIB);
    let (control, done) = (Control::new(), AtomicU64::new(0));
    let stopped = thread::scope(|scope| {
        let copy = scope.spawn(|| site.copy(&source, &control, &done));
        wait_for("half of it to come", || (done.load(Ordering::Relaxed) > LARGE / 2).then_some(()));
        control.stop();
        copy.join().unwrap()
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Cancelled);
    site.vcenter.throttle(0);
    site.vcenter.guest_writes("web", 0, 20 * MIB, &[3; 5000]);
    // It is the same disk, whatever is told of it meanwhile; what was there is not fetched again.
    site.vcenter.areas("whole");
    let again = site.as_of(&snapshot).unwrap();
    assert_eq!(again, source);
    site.vcenter.areas("");
    site.copy(&site.as_of(&snapshot).unwrap(), &Control::new(), &done).unwrap();
    let sent = site.vcenter.sent_of("-flat.vmdk");
    assert!(sent <= LARGE + UNDER_WAY + MIB, "{sent} bytes for {LARGE}");
    let result = fs::read(site.path("result")).unwrap();
    assert!(result == wanted, "it is not what the guest saw then");
    assert!(site.vcenter.disk_now("web", 0) != wanted, "the guest went on");
    again.check_unchanged(&Control::new()).unwrap();
    // Who looks again once it is gone has another disk before him.
    snapshot::remove(&site.client, &snapshot, false, &mut |_| {}).unwrap();
    let error = site.as_of(&snapshot).unwrap_err();
    assert_eq!(error.details().rule.as_deref(), Some("disk.snapshots"), "{error}");
    assert_ne!(site.as_of(&site.snapshot()).unwrap(), again);
}

#[test]
fn a_machine_with_snapshots_of_its_own_is_refused_with_what_to_do() {
    let site = Site::new(json!({ "on": true, "snapshots": ["before the update"] }));
    let error = site.as_of(&site.snapshot()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.details().advice.as_ref().unwrap().contains("transport: nfc"), "{error:?}");
}

#[test]
fn a_job_fetches_what_is_in_use_and_says_so() {
    let daemon = prepared("");
    let content = disks::disk(daemon.scratch(), "system", "raw", DISK_MIB, USED / MIB, 1);
    let machine = json!({ "name": "web", "change_tracking": true, "disks": [disk(&content)] });
    let vcenter = Vcenter::start(Options::vcenter().machine(machine));
    store(&daemon, &vcenter, PASSWORD);
    let (input, out) = (format!("vsphere://vc:{}/web", vcenter.port()), daemon.scratch().join("out"));
    let (out_name, config) = (out.display().to_string(), daemon.config().display().to_string());
    let words = ["convert", &input, "-o", &out_name, "--profile", "none", "--config", &config];
    let converted = daemon.client(&words);
    assert_eq!(converted["pipeline"]["success"], true, "{converted}");
    let sent = vcenter.sent_of("-flat.vmdk");
    assert!(sent <= USED + USED / 20, "{sent} bytes for {USED}");
    assert_eq!(
        disks::content_sha256(&out.join("disk-0.qcow2"), "qcow2"),
        disks::content_sha256(&content, "raw")
    );
    let told = converted.to_string();
    assert!(told.contains(&format!("\"bytes_to_fetch\":{USED}")), "{told}");
}
