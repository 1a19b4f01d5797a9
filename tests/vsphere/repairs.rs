//! Guests of a vCenter's machines that are repaired: after their disk has come here, and without asking for any of it again; also where the
//! worker is killed on the way.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::json;

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, trees};

const UUID: &str = "6c0f3c52-51d1-4b5e-8a6f-7d8a1f3f9a01";
const FSTAB: &str = "UUID=6c0f3c52-51d1-4b5e-8a6f-7d8a1f3f9a01 / ext4 errors=remount-ro 0 1\n";
const DISK_MIB: u64 = 64;
/// Besides its bytes: a first one of each file, each time that it is looked at, and its description.
const LOOKS: u64 = 64 << 10;

/// A vCenter with a machine whose only disk holds the files of a Debian that names its root by slot; and where its results go.
struct Scene {
    daemon: Daemon,
    vcenter: Vcenter,
}

impl Scene {
    fn new() -> Scene {
        let daemon = prepared("");
        let files = [
            (
                "etc/os-release",
                "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
            ),
            ("etc/fstab", "/dev/sda / ext4 errors=remount-ro 0 1\n"),
            ("etc/hostname", "web\n"),
            ("usr/bin/apt-get", ""),
        ];
        let content = daemon.scratch().join("guest.raw");
        trees::ext4(&content, DISK_MIB, &trees::tree(daemon.scratch(), &files), &["-U", UUID]);
        let machine = json!({ "name": "web", "disks": [disk(&content)] });
        let vcenter = Vcenter::start(Options::vcenter().machine(machine));
        store(&daemon, &vcenter, PASSWORD);
        Scene { daemon, vcenter }
    }

    fn out(&self) -> PathBuf {
        self.daemon.scratch().join("out")
    }

    fn convert(&self, further: &[&str], failpoint: Option<&str>) -> Output {
        let mut convert = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        convert.args(["convert", &format!("vsphere://vc:{}/web", self.vcenter.port()), "--no-boot-test"]);
        convert.arg("-o").arg(self.out()).arg("--config").arg(self.daemon.config()).args(further);
        convert.env("HYPER2KVM_STATE_DIR", self.daemon.state());
        convert.envs(failpoint.map(|point| ("HYPER2KVM_FAILPOINT", point)));
        convert.output().unwrap()
    }

    fn succeed(&self, further: &[&str]) {
        let output = self.convert(further, None);
        assert!(output.status.success(), "{further:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The names of what lies where the results do.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.out()).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The result holds the repaired guest, and nothing lies beside it that is not for people.
    #[track_caller]
    fn assert_repaired(&self, format: &str) {
        let (result, raw) =
            (self.out().join(format!("disk-0.{format}")), self.daemon.scratch().join("result.raw"));
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", format, "-O", "raw"]).args([&result, &raw]);
        assert!(convert.status().unwrap().success(), "{:?}", self.names());
        assert_eq!(trees::file_in(&raw, "/etc/fstab"), FSTAB);
        let left: Vec<String> = self.names().into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// How much of the disk was sent more than once.
    fn sent_again(&self) -> u64 {
        let sent = self.vcenter.sent_of("-flat");
        assert!(sent >= DISK_MIB << 20, "{sent} bytes are not all of it");
        sent - (DISK_MIB << 20)
    }
}

#[test]
fn a_guest_is_repaired_in_what_was_copied_and_its_disk_is_read_once_into_every_kind_of_result() {
    for (further, format) in [
        (&[][..], "qcow2"),
        (&["--to", "raw"], "raw"),
        (&["--compress=zstd"], "qcow2"),
        (&["--to", "vmdk"], "vmdk"),
    ] {
        let scene = Scene::new();
        scene.succeed(further);
        scene.assert_repaired(format);
        let again = scene.sent_again();
        assert!(again <= LOOKS, "{further:?}: {again} bytes were read twice");
    }
}

/// Where a worker is killed, and how much it may ask for again: what nobody had written down yet.
#[cfg(feature = "failpoints")]
const KILLS: [(&str, u64); 7] = [
    ("copy.after-journal:3", LOOKS + (8 << 20)),
    ("partial.done", LOOKS),
    ("fix.before-mark", LOOKS),
    ("fix.after-mark", LOOKS),
    ("commit.before", LOOKS),
    ("commit.after", LOOKS),
    ("publish.before-intent", LOOKS),
];

#[cfg(feature = "failpoints")]
fn killed_and_gone_on(point: &str, allowed: u64, further: &[&str]) {
    let scene = Scene::new();
    let cut = scene.convert(further, Some(point));
    let told = String::from_utf8_lossy(&cut.stderr).into_owned();
    assert!(!cut.status.success() && told.contains("SIGKILL"), "{point}: {told}");
    scene.succeed(&[further, &["--resume"]].concat());
    scene.assert_repaired("qcow2");
    let again = scene.sent_again();
    assert!(again <= allowed, "{point} {further:?}: {again} bytes were read twice");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_worker_killed_at_any_step_never_asks_again_for_what_was_durable() {
    for (point, allowed) in KILLS {
        killed_and_gone_on(point, allowed, &[]);
    }
}

#[test]
#[cfg(feature = "failpoints")]
fn nor_does_one_that_had_fetched_the_disk_to_pack_it_repaired() {
    for (point, allowed) in [
        ("copy.after-journal:3", LOOKS + (8 << 20)),
        ("partial.done:1", LOOKS),
        ("fix.after-mark", LOOKS),
        ("publish.before-intent", LOOKS),
    ] {
        killed_and_gone_on(point, allowed, &["--compress=zstd"]);
    }
}

#[test]
#[cfg(feature = "failpoints")]
fn what_was_fetched_and_changed_since_is_fetched_again() {
    let scene = Scene::new();
    let cut = scene.convert(&["--compress=zstd"], Some("partial.done:1"));
    assert!(!cut.status.success());
    let fetched = scene.out().join(".disk-0.fetched.partial");
    fs::File::options().append(true).open(fetched).unwrap().set_len(1 << 20).unwrap();
    scene.succeed(&["--compress=zstd", "--resume"]);
    scene.assert_repaired("qcow2");
    assert!(scene.sent_again() >= DISK_MIB << 20);
}
