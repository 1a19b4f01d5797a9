//! Guests that are looked into where they lie, before a byte of them is copied: what is found is told with all else that is wrong, the source is
//! left alone, and what was read is not asked for again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::jobs::{prepared, store};
use crate::support::vcenter::{Options, PASSWORD, Vcenter, disk};
use crate::support::{Daemon, trees};

pub const MIB: u64 = 1 << 20;
const ROOT_MIB: u64 = 256;
const DATA_MIB: u64 = 8;
/// What a look at such a guest may read: tables of file systems, and a few files.
pub const A_LOOK: u64 = 48 * MIB;
/// A first byte of each file, each time that it is looked at, and its description.
const LOOKS: u64 = 64 << 10;
/// How swap is known to hold the memory of a guest that sleeps.
pub const ASLEEP: &[u8; 10] = b"S1SUSPEND\0";

/// A vCenter with a machine, with a Debian on its first disk, swap on its second and nothing on its third; and where its results go.
pub struct Scene {
    pub daemon: Daemon,
    pub vcenter: Vcenter,
    disks: [PathBuf; 3],
    /// What its manifest says of the source besides where it is.
    further: &'static str,
}

impl Scene {
    /// A machine that is off.
    fn new(change: impl FnOnce(&mut [u8], &mut [u8])) -> Scene {
        Scene::with("", &json!({}), "", change)
    }

    /// A machine of which more is to be said, on a host with these settings.
    pub fn with(
        settings: &str,
        machine: &Value,
        further: &'static str,
        change: impl FnOnce(&mut [u8], &mut [u8]),
    ) -> Scene {
        let daemon = prepared(settings);
        let release = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        let files = [
            ("etc/os-release", release),
            ("etc/fstab", "/dev/sda / ext4 errors=remount-ro 0 1\n"),
            ("etc/hostname", "web\n"),
            ("usr/bin/apt-get", ""),
        ];
        let disks = ["root.raw", "swap.raw", "data.raw"].map(|name| daemon.scratch().join(name));
        trees::ext4(&disks[0], ROOT_MIB, &trees::tree(daemon.scratch(), &files), &[]);
        let mut data = vec![0; (DATA_MIB * MIB) as usize];
        fs::write(&disks[1], &data).unwrap();
        assert!(Command::new("/sbin/mkswap").arg("-q").arg(&disks[1]).status().unwrap().success());
        let mut swap = fs::read(&disks[1]).unwrap();
        change(&mut swap, &mut data);
        fs::write(&disks[1], swap).unwrap();
        fs::write(&disks[2], data).unwrap();
        let all: Vec<Value> = disks.iter().map(|content| disk(content)).collect();
        let mut web = json!({ "name": "web", "disks": all });
        web.as_object_mut().unwrap().extend(machine.as_object().unwrap().clone());
        let vcenter = Vcenter::start(Options::vcenter().machine(web));
        store(&daemon, &vcenter, PASSWORD);
        Scene { daemon, vcenter, disks, further }
    }

    pub fn out(&self) -> PathBuf {
        self.daemon.scratch().join("out")
    }

    pub fn convert(&self, preflight: &str, further: &[&str], failpoint: Option<&str>) -> Output {
        let manifest = self.daemon.scratch().join("web.yaml");
        let text = format!(
            "manifest_version: \"1.0\"\nname: web\nsource:\n  vsphere: {{credential: vc, port: {}, vm_name: web{}}}\npipeline: {{boot_test: {{enabled: false}}}}\n{preflight}\n",
            self.vcenter.port(),
            self.further
        );
        fs::write(&manifest, text).unwrap();
        let mut convert = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        convert.arg("convert").arg(&manifest).arg("-o").arg(self.out());
        convert.arg("--config").arg(self.daemon.config()).arg("--json");
        convert.args(further);
        convert.env("HYPER2KVM_STATE_DIR", self.daemon.state());
        convert.envs(failpoint.map(|point| ("HYPER2KVM_FAILPOINT", point)));
        convert.output().unwrap()
    }

    /// What the source's files hold on the datastore is what they held.
    pub fn assert_untouched(&self) {
        for (number, disk) in self.disks.iter().enumerate() {
            let held = fs::read(disk).unwrap();
            let flat = |name: &str| name.ends_with("-flat.vmdk");
            let files = Daemon::files_below(&self.vcenter.datastore("ds1"), flat);
            assert!(files.iter().any(|file| fs::read(file).unwrap() == held), "disk {number}: {files:?}");
        }
    }

    pub fn sent(&self) -> u64 {
        self.vcenter.sent_of("-flat")
    }
}

/// Makes a volume one of BitLocker's, by the two places by which it is known for one.
pub fn lock(volume: &mut [u8]) {
    volume[..11].copy_from_slice(b"\xeb\x58\x90-FVE-FS-");
    volume[176..184].copy_from_slice(&4096u64.to_le_bytes());
    volume[4096..4104].copy_from_slice(b"-FVE-FS-");
    volume[4104..4108].copy_from_slice(&[0, 4, 2, 0]);
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn report(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_guest_that_sleeps_or_is_locked_is_refused_before_its_copy_with_all_else_that_is_wrong_and_its_source_is_left_alone()
 {
    let scene = Scene::new(|swap, data| {
        swap[4086..4096].copy_from_slice(ASLEEP);
        lock(data);
    });
    let done = scene.convert(
        "preflight: {level: full, rules: {network.no_mac: error, guest.bitlocker: error}}\nnics: [{id: a}]",
        &[],
        None,
    );
    let told = text(&done.stdout) + &text(&done.stderr);
    assert!(!done.status.success(), "{told}");
    assert!(told.contains("the guest sleeps") && told.contains("encrypted with BitLocker"), "{told}");
    assert!(told.contains("hardware address"), "{told}");
    let sent = scene.sent();
    assert!(sent > 0 && sent < A_LOOK, "{sent} bytes for a look: {told}");
    let results = Daemon::files_below(&scene.out(), |name| name.contains("disk-"));
    assert!(results.is_empty(), "a copy had begun: {results:?}");
    // Who asks without a job is told the same.
    let mut validate = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    validate.args(["validate", "--deep", "--json"]).arg(scene.daemon.scratch().join("web.yaml"));
    let told = text(&validate.arg("--config").arg(scene.daemon.config()).output().unwrap().stdout);
    assert!(told.contains("\"guest.hibernated\"") && told.contains("\"network.no_mac\""), "{told}");
    scene.assert_untouched();
}

#[test]
#[cfg(feature = "failpoints")]
fn what_a_look_has_read_is_not_asked_for_again_by_the_copy_nor_looked_at_again_after_a_kill() {
    let scene = Scene::new(|_, _| {});
    let all = (ROOT_MIB + 2 * DATA_MIB) * MIB;
    let cut = scene.convert("preflight: full", &[], Some("partial.done"));
    let told = text(&cut.stderr);
    assert!(!cut.status.success() && told.contains("SIGKILL"), "{told}");
    let done = scene.convert("preflight: full", &["--resume"], None);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    let sent = scene.sent();
    // The kill has cost what was kept of the others, and nothing of the first.
    assert!(sent >= all && sent - all <= LOOKS + 2 * DATA_MIB * MIB, "{sent} bytes for {all}");
    let report = report(&scene.out());
    let load = &report["pipeline"]["stages"]["load"];
    assert!(load.to_string().contains("\"transport\":\"https\""), "{report}");
    assert!(load["look"].is_null() && load["result"]["look"].is_null(), "it was looked at twice: {load}");
    scene.assert_untouched();
}

#[test]
fn a_sound_guest_is_looked_at_and_copied_with_each_byte_asked_for_once() {
    let scene = Scene::new(|_, _| {});
    let done = scene.convert("preflight: full", &[], None);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    let (sent, all) = (scene.sent(), (ROOT_MIB + 2 * DATA_MIB) * MIB);
    assert!(sent >= all && sent - all <= LOOKS, "{sent} bytes for {all}");
    let report = report(&scene.out());
    let load = report["pipeline"]["stages"]["load"].to_string();
    let read: Option<u64> = load.split("\"bytes_read\":").nth(1).and_then(|rest| {
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok())
    });
    assert!(read.is_some_and(|read| read > 0 && read < A_LOOK), "{load}");
}
