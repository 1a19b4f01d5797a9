//! Machines that their hosts export: to files, whatever goes wrong on the way, and never with a lease left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hyper2kvm::disk::Control;
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::manifest::values::Secret;
use hyper2kvm::model::thumbprint::Thumbprint;
use hyper2kvm::vsphere::export::{self, Exported, Format, Wanted};
use hyper2kvm::vsphere::inventory::{self, Filters};
use hyper2kvm::vsphere::{Client, Endpoint, Login, Patience, Trusted, machine};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::disks::{raw, sha256};
use crate::support::vcenter::{Options, PASSWORD, USER, Vcenter, disk};
use crate::support::wait_for;

const QUICK: Patience = Patience {
    max_retries: 3,
    base_backoff: Duration::from_millis(20),
    max_backoff: Duration::from_millis(40),
    jitter: 0.25,
    timeout: Duration::from_secs(20),
};

/// A vCenter with a machine of two disks, and what is in them.
struct Site {
    dir: TempDir,
    vcenter: Vcenter,
}

impl Site {
    fn new(change: impl FnOnce(Options) -> Options) -> Site {
        Site::with(change, &json!({}))
    }

    fn with(change: impl FnOnce(Options) -> Options, more: &Value) -> Site {
        // More than a table of grains tells of, and one that is no whole number of them.
        Site::sized([(40, 9), (3, 2)], change, more)
    }

    fn sized(disks: [(u64, u64); 2], change: impl FnOnce(Options) -> Options, more: &Value) -> Site {
        let dir = tempfile::tempdir().unwrap();
        raw(&dir.path().join("one.raw"), disks[0].0, disks[0].1, 1);
        raw(&dir.path().join("two.raw"), disks[1].0, disks[1].1, 2);
        let disks = ["one.raw", "two.raw"].map(|name| disk(&dir.path().join(name)));
        let mut machine = json!({ "name": "web 01", "cpus": 2, "memory_mib": 1024, "disks": disks });
        machine.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let vcenter = Vcenter::start(change(Options::vcenter().machine(machine)));
        Site { dir, vcenter }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn client(&self, host: &str, trust: Trusted, patience: &Patience) -> Client {
        let endpoint = Endpoint { host: host.to_owned(), port: self.vcenter.port(), trust };
        let login = Login { username: USER.to_owned(), password: Secret::made(PASSWORD) };
        Client::connect(&endpoint, &login, patience, &Control::new()).unwrap()
    }

    fn export_with(&self, client: &Client, format: Format) -> Result<Exported> {
        let found =
            inventory::find(client, &inventory::Wanted::Name("web 01".to_owned()), &Filters::default())?;
        let machine = machine::machine(client, &found.reference())?;
        let wanted = Wanted { directory: self.out(), name: "web".to_owned(), format };
        export::export(client, &machine, &wanted, &Arc::default())
    }

    fn export(&self, format: Format) -> Result<Exported> {
        let trust = Trusted::System { ca_file: Some(self.vcenter.ca()) };
        self.export_with(&self.client("localhost", trust, &QUICK), format)
    }

    /// The same by somebody who believes nobody who is silent for long.
    fn export_hastily(&self, format: Format) -> Result<Exported> {
        let trust = Trusted::System { ca_file: Some(self.vcenter.ca()) };
        let patience = Patience { timeout: Duration::from_secs(1), ..QUICK };
        self.export_with(&self.client("localhost", trust, &patience), format)
    }

    fn asked(&self, call: &str) -> usize {
        self.vcenter.requests().iter().filter(|request| request.call == call).count()
    }

    /// Every lease that was begun has ended, so many of them with all that was wanted.
    fn has_no_lease(&self, begun: usize, completed: usize) {
        let counts = ["ExportVm", "HttpNfcLeaseComplete", "HttpNfcLeaseAbort"].map(|call| self.asked(call));
        assert_eq!(counts, [begun, completed, begun - completed]);
    }

    /// The files of a directory hold what the disks do, and the list of checksums is right.
    fn is_exported(&self, at: &Path) {
        let sums = std::fs::read_to_string(at.join("web.mf")).unwrap();
        for (name, content) in [("web-disk1.vmdk", "one.raw"), ("web-disk2.vmdk", "two.raw")] {
            let file = at.join(name);
            assert!(sums.contains(&format!("SHA256({name})= {}\n", sha256(&file))), "{sums}");
            let compared = Command::new("qemu-img")
                .args(["compare", "-f", "vmdk", "-F", "raw"])
                .args([&file, &self.dir.path().join(content)])
                .output()
                .unwrap();
            assert!(compared.status.success(), "{name}: {}", String::from_utf8_lossy(&compared.stdout));
        }
        assert!(sums.contains(&format!("SHA256(web.ovf)= {}\n", sha256(&at.join("web.ovf")))), "{sums}");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let ca = self.vcenter.ca();
        let port = self.vcenter.port().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.args(["vsphere", "--host", "localhost", "--port", &port, "--username", USER]);
        command.args(["--password-env", "PASSWORD", "--ca-file"]).arg(&ca).args(arguments);
        command.env("PASSWORD", PASSWORD).current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn hyper2kvm(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.current_dir(dir).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_machine_becomes_an_archive_that_is_converted_as_any_other() {
    let site = Site::new(|options| options);
    let done = site.run(&["export", "web 01", "-o", "out", "--format", "ova", "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    let named: Vec<&str> =
        told["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["web-01.ovf", "web-01-disk1.vmdk", "web-01-disk2.vmdk", "web-01.mf"]);
    assert_eq!(names(&site.out()), ["web-01.ova"]);
    site.has_no_lease(1, 1);
    let listed = Command::new("tar").arg("-tf").arg(site.out().join("web-01.ova")).output().unwrap();
    assert!(listed.status.success());
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().collect::<Vec<_>>(), named);

    let done = hyper2kvm(site.dir.path(), &["convert", "out/web-01.ova", "-o", "results", "--no-fix"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (result, content) in [("web-01-disk1.qcow2", "one.raw"), ("web-01-disk2.qcow2", "two.raw")] {
        let compared = Command::new("qemu-img")
            .args(["compare", "-f", "qcow2", "-F", "raw"])
            .args([site.dir.path().join("results").join(result), site.dir.path().join(content)])
            .output()
            .unwrap();
        assert!(compared.status.success(), "{result}: {:?}", names(&site.dir.path().join("results")));
    }
    // What is there is not replaced, and nobody is asked for it.
    let again = site.run(&["export", "web 01", "-o", "out", "--format", "ova"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    site.has_no_lease(1, 1);
}

#[test]
fn a_machine_becomes_a_directory_of_files_with_their_checksums() {
    let site = Site::new(|options| options);
    let exported = site.export(Format::Ovf).unwrap();
    assert_eq!(exported.path, site.out().join("web/web.ovf"));
    assert_eq!(names(&site.out()), ["web"]);
    assert_eq!(names(&site.out().join("web")), ["web-disk1.vmdk", "web-disk2.vmdk", "web.mf", "web.ovf"]);
    site.is_exported(&site.out().join("web"));
    site.has_no_lease(1, 1);
    let done = hyper2kvm(site.dir.path(), &["convert", "out/web/web.ovf", "-o", "results", "--no-fix"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn what_runs_or_is_not_whole_there_is_not_exported() {
    for (more, why) in [
        (json!({ "on": true }), "is running"),
        (json!({ "needs_consolidation": true }), "consolidated"),
        (json!({ "disks": [] }), "has no disks"),
    ] {
        let site = Site::with(|options| options, &more);
        let error = site.export(Format::Ova).unwrap_err();
        assert_eq!(error.kind(), Kind::Source, "{error}");
        assert!(error.to_string().contains(why) && error.details().advice.is_some(), "{error}");
        site.has_no_lease(0, 0);
        assert!(names(&site.out()).is_empty());
    }
}

#[test]
fn a_stream_that_breaks_off_is_begun_anew_and_no_lease_is_left() {
    for (kind, after) in [("reset", 0), ("status", 0), ("truncated", 100_000), ("cut", 3_000_000)] {
        let site = Site::new(|options| options);
        site.vcenter.fault(&json!({
            "on": "nfc", "named": "disk-0", "times": 2, "kind": kind, "after": after, "status": 503,
        }));
        site.export(Format::Ovf).unwrap();
        site.has_no_lease(3, 1);
        site.is_exported(&site.out().join("web"));
    }
}

#[test]
fn streams_that_fail_at_random_points_end_whole_or_are_told_and_leave_no_lease() {
    let site = Site::sized([(3, 2), (1, 1)], |options| options, &json!({}));
    let mut dice = crate::campaign::Dice::of("streams");
    for point in 0..10 {
        let kind = ["cut", "truncated", "damaged", "reset"][point % 4];
        let kind = match point {
            8 => "dripping",
            9 => "stalled",
            _ => kind,
        };
        let fault = json!({
            "on": "nfc", "named": "disk-0", "times": 1, "kind": kind, "after": dice.below(2 << 20),
        });
        site.vcenter.fault(&fault);
        let ended = site.export_hastily(Format::Ovf);
        site.vcenter.calm();
        match ended {
            Ok(_) => site.is_exported(&site.out().join("web")),
            Err(error) => assert_eq!((kind, error.kind()), ("damaged", Kind::Source), "{fault}: {error}"),
        }
        assert_eq!((site.vcenter.leases(), site.vcenter.sessions()), (0, 0), "{fault}");
        std::fs::remove_dir_all(site.out()).unwrap();
    }
}

#[test]
fn a_stream_that_makes_no_sense_is_told_and_leaves_no_lease() {
    let site = Site::new(|options| options);
    site.vcenter
        .fault(&json!({ "on": "nfc", "named": "disk-0", "times": 1, "kind": "damaged", "after": 65_536 }));
    let error = site.export(Format::Ovf).unwrap_err();
    assert_eq!(
        (error.kind(), error.details().rule.as_deref()),
        (Kind::Source, Some("disk.corrupt")),
        "{error}"
    );
    site.has_no_lease(1, 0);
}

#[test]
fn what_an_earlier_run_has_whole_is_not_fetched_again() {
    for format in [Format::Ovf, Format::Ova] {
        let site = Site::new(|options| options);
        site.vcenter
            .fault(&json!({ "on": "nfc", "named": "disk-1", "times": 9, "kind": "cut", "after": 70_000 }));
        let error = site.export(format).unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error}");
        assert_eq!(names(&site.out()), [format!(".web.{}.partial", format.name())]);
        let fetched = |name: &str| {
            let requests = site.vcenter.requests();
            requests.iter().filter(|request| request.path.contains(name)).count()
        };
        assert_eq!((fetched("disk-0"), fetched("disk-1")), (1, 4));
        site.vcenter.calm();
        let exported = site.export(format).unwrap();
        assert_eq!(exported.kept_disks, 1);
        assert_eq!((fetched("disk-0"), fetched("disk-1")), (1, 5));
        if format == Format::Ova {
            let unpacked = site.out().join("web");
            std::fs::create_dir(&unpacked).unwrap();
            let done = Command::new("tar")
                .arg("-xf")
                .arg(site.out().join("web.ova"))
                .arg("-C")
                .arg(&unpacked)
                .status();
            assert!(done.unwrap().success());
        }
        site.is_exported(&site.out().join("web"));
        site.has_no_lease(5, 1);
    }
}

#[test]
fn a_lease_is_kept_up_for_as_long_as_it_takes() {
    let site = Site::new(|options| options.with("lease_timeout", 8).with("throttle", 900 << 10));
    site.export(Format::Ovf).unwrap();
    assert!(site.asked("HttpNfcLeaseProgress") >= 3, "{}", site.asked("HttpNfcLeaseProgress"));
    site.is_exported(&site.out().join("web"));
    site.has_no_lease(1, 1);
}

#[test]
fn what_came_is_held_against_what_the_server_says_that_it_sent() {
    let site = Site::new(|options| options.with("wrong_checksums", true));
    let error = site.export(Format::Ovf).unwrap_err();
    assert!(error.to_string().contains("is not what the server says"), "{error}");
    site.has_no_lease(4, 0);
}

#[test]
fn a_host_is_trusted_by_the_certificate_that_the_lease_tells_and_by_no_other() {
    for wrong in [false, true] {
        let site = Site::new(|options| options.with("named_leases", true).with("wrong_thumbprints", wrong));
        let pinned = Trusted::Pinned(Thumbprint::parse(&site.vcenter.thumbprint()).unwrap());
        let exported = site.export_with(&site.client("127.0.0.1", pinned, &QUICK), Format::Ovf);
        match wrong {
            false => site.is_exported(exported.unwrap().path.parent().unwrap()),
            true => {
                let error = exported.unwrap_err();
                assert!(error.to_string().contains("certificate of localhost is not trusted"), "{error}");
            }
        }
        site.has_no_lease(1, usize::from(!wrong));
    }
}

#[test]
fn an_interrupt_ends_the_lease_and_what_is_whole_is_kept() {
    let site = Site::new(|options| options.with("throttle", 2 << 20));
    let port = site.vcenter.port().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    command.args(["vsphere", "--host", "localhost", "--port", &port, "--username", USER]);
    command.args(["--password-env", "PASSWORD", "--ca-file"]).arg(site.vcenter.ca());
    command.args(["export", "web 01", "-o", "out"]).env("PASSWORD", PASSWORD).current_dir(site.dir.path());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let partial = site.out().join(".web-01.ovf.partial/web-01-disk1.vmdk");
    wait_for("the first disk to come", || partial.metadata().ok().filter(|file| file.len() > 1 << 20));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(!child.wait().unwrap().success());
    site.has_no_lease(1, 0);
    assert_eq!(names(&site.out()), [".web-01.ovf.partial"]);
}
