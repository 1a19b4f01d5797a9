//! Guests as VMware has them, through the service: what they are on KVM before, what they are after, and what they kept.
//!
//! A guest proves all of it in one boot, the job's own boot test: its report on the serial console tells what came up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::guests::{Guest, told};
use crate::support::{Daemon, disks, within};
use crate::{nothing_mounted, set_up};

/// A conversion with its boot, emulated, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(40 * 60);
/// What a guest gets to come up or to give up, before the factor for emulation.
const BOOT_TIMEOUT: &str = "300s";

/// Who takes turns.
const TURNS: [&str; 9] = [
    "bookworm-nouuid",
    "bookworm-two-kernels",
    "bookworm-split",
    "bookworm-uefi-nofallback",
    "bookworm-md",
    "bullseye-btrfs",
    "trixie-uki",
    VIRT_V2V,
    SET_UP,
];

/// The turn in which virt-v2v repairs one of them.
const VIRT_V2V: &str = "virt-v2v";
/// The turn in which one of them becomes larger, has other addresses, and is set up.
const SET_UP: &str = "set-up";

#[test]
fn a_bios_guest_with_an_address_of_ifupdown_is_repaired() {
    is_repaired("bookworm-bios");
}

#[test]
fn a_uefi_guest_with_lvm_and_dracut_is_repaired() {
    is_repaired("trixie-uefi-lvm");
}

#[test]
fn a_guest_with_an_encrypted_root_and_network_manager_is_repaired() {
    is_repaired("bookworm-luks");
}

/// `HYPER2KVM_TEST_GUEST` names it; else the commit decides.
#[test]
fn the_guest_whose_turn_it_is_is_repaired() {
    let named = std::env::var("HYPER2KVM_TEST_GUEST").ok().filter(|name| !name.is_empty());
    match named.as_deref().unwrap_or(TURNS[commit() % TURNS.len()]) {
        VIRT_V2V => virt_v2v_repairs("bookworm-bios"),
        SET_UP => set_up::is_set_up("trixie-uefi-lvm"),
        name => is_repaired(name),
    }
}

/// Another repairs, and all else is as ever: the source is read only, and what came of it has to boot.
#[track_caller]
fn virt_v2v_repairs(name: &str) {
    let guest = Guest::build(name);
    let before = disks::sha256(&guest.disks[0]);
    nothing_mounted::from_here_on();
    let service = Service::start(&guest);
    let converted = service.convert("first", &[(&guest.disks[0], "vmdk")], "{fix: {engine: virt-v2v}}");
    let stages = &converted.report["pipeline"]["stages"];
    assert_eq!(stages["fix"]["result"]["engine"], "virt-v2v", "{stages:#}");
    assert_eq!(stages["boot_test"]["result"]["verdict"], "booted", "{stages:#}");
    assert_eq!(converted.report["fixes"].as_array().unwrap().len(), 1, "{:#}", converted.report["fixes"]);
    assert_eq!(disks::sha256(&guest.disks[0]), before, "the source was written to");
}

/// A number that is another for every commit; 0 where there is no history.
fn commit() -> usize {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"]);
    let told = git.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    told.ok().and_then(|hash| usize::from_str_radix(hash.get(..7)?, 16).ok()).unwrap_or(0)
}

/// It does not boot as it is, comes up once it was converted, and what was found in it is what is known to be.
#[track_caller]
fn is_repaired(name: &str) {
    let guest = Guest::build(name);
    let before: Vec<String> = guest.disks.iter().map(|disk| disks::sha256(disk)).collect();
    nothing_mounted::from_here_on();
    let service = Service::start(&guest);

    service.assert_does_not_boot(&guest.disks);

    let sources: Vec<(&Path, &str)> = guest.disks.iter().map(|disk| (disk.as_path(), "vmdk")).collect();
    let first = service.convert("first", &sources, "{}");
    assert_eq!(first.report.pointer("/pipeline/stages/boot_test/result/verdict"), Some(&"booted".into()));
    assert_came_up(&guest, &first.console);
    let after: Vec<String> = guest.disks.iter().map(|disk| disks::sha256(disk)).collect();
    assert_eq!(after, before, "the sources were written to");

    let results: Vec<(&Path, &str)> = first.disks.iter().map(|disk| (disk.as_path(), "qcow2")).collect();
    let second = service.convert("second", &results, "{boot_test: {enabled: false}}");
    assert_eq!(second.report["fixes"], serde_json::json!([]), "a repaired guest is repaired again");
    for (one, other) in first.disks.iter().zip(&second.disks) {
        assert_eq!(disks::content_sha256(one, "qcow2"), disks::content_sha256(other, "qcow2"));
    }
    insta::assert_snapshot!(format!("inspected-{name}"), identity_in(&first.report));
}

/// Who the guest is, as `inspect --json` tells it too; without what changes with each update of its packages.
fn identity_in(report: &Value) -> String {
    let mut identity = report["guest"].clone();
    for mount in identity["mounts"].as_array_mut().unwrap() {
        mount["free_bytes"] = Value::Null;
    }
    let kernels = identity["kernels"].as_array().unwrap().iter();
    let versions: Vec<String> =
        kernels.map(|kernel| kernel["version"].as_str().unwrap().to_owned()).collect();
    let mut text = serde_json::to_string_pretty(&identity).unwrap();
    for (number, version) in versions.iter().enumerate() {
        text = text.replace(version, &format!("KERNEL-{number}"));
    }
    text
}

/// What the guest says of itself: its address on the card of the same name, no name of a disk by slot, all that it mounts, and who it is.
#[track_caller]
fn assert_came_up(guest: &Guest, console: &str) {
    let said: Vec<&str> = console.lines().filter_map(|line| line.trim().strip_prefix("H2K-")).collect();
    let says = |line: &str| assert!(said.contains(&line), "not said: {line}\n{said:#?}");
    says("END");
    says(&format!("NET {} {}", guest.fact("/nics/0/name"), guest.fact("/nics/0/address")));
    says(&format!("MACHINE-ID {}", guest.fact("/machine_id")));
    let lines =
        |start: &str| -> Vec<&str> { said.iter().copied().filter(|line| line.starts_with(start)).collect() };
    assert!(lines("ROUTE ").iter().any(|line| line.contains(guest.fact("/nics/0/gateway"))), "{said:#?}");
    assert_eq!(lines("FAILED "), [""; 0], "units failed");
    for slot in ["FSTAB /dev/sd", "FSTAB /dev/hd", "FSTAB /dev/vd"] {
        assert_eq!(lines(slot), [""; 0], "named by slot");
    }
    let mounts = lines("MOUNT ");
    let is_mounted = |path: &str, kind: &str| {
        mounts.iter().any(|line| line.starts_with(&format!("MOUNT {path} ")) && line.ends_with(kind))
    };
    assert!(is_mounted("/", guest.fact("/becomes/root")), "{mounts:#?}");
    for path in guest.list("/becomes/mounts") {
        assert!(is_mounted(path, ""), "{path}: {mounts:#?}");
    }
    assert_eq!(!lines("SWAP ").is_empty(), guest.is("/becomes/swap"), "{said:#?}");
}

/// A service that knows the guest's key.
struct Service<'a> {
    guest: &'a Guest,
    daemon: Daemon,
}

/// What came of a conversion.
struct Converted {
    report: Value,
    disks: Vec<PathBuf>,
    /// All that the guest said during the job's boot test.
    console: String,
}

impl Service<'_> {
    fn start(guest: &Guest) -> Service<'_> {
        let mut daemon = Daemon::prepare();
        let (key, scratch) = (Service::key(&daemon), daemon.scratch().display().to_string());
        std::fs::write(&key, guest.passphrase().unwrap_or_default()).unwrap();
        for (name, text) in [
            ("right", format!("password_file: {}\n", key.display())),
            ("wrong", "password: another\n".to_owned()),
        ] {
            std::fs::write(daemon.scratch().join(format!("{name}.yaml")), text).unwrap();
        }
        daemon.configure(&format!("credentials: {{dir: {scratch}, allowed_dirs: [{scratch}]}}\n"));
        daemon.start();
        Service { guest, daemon }
    }

    fn key(daemon: &Daemon) -> PathBuf {
        daemon.scratch().join("key")
    }

    /// Under KVM's hardware, as it is.
    #[track_caller]
    fn assert_does_not_boot(&self, disks: &[PathBuf]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.args([
            "boot-test",
            "--json",
            "--accel",
            "tcg",
            "--memory",
            "1GiB",
            "--timeout",
            BOOT_TIMEOUT,
        ]);
        command.args(["--firmware", self.guest.fact("/firmware")]);
        if self.guest.passphrase().is_some() {
            command.arg("--key-file").arg(Service::key(&self.daemon));
        }
        let output = command.args(disks).output().unwrap();
        let verdict: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", told(&output)));
        assert_eq!(verdict["verdict"], "failed", "it needs no repair: {verdict:#}");
    }

    /// Drops a manifest and waits for its result.
    #[track_caller]
    fn convert(&self, name: &str, disks: &[(&Path, &str)], pipeline: &str) -> Converted {
        // As an administrator keeps it, and among several, of which it is not known which fits.
        let keys = match name {
            "first" => "[{credential: right}]".to_owned(),
            _ => format!("[{{credential: wrong}}, {{key_file: {}}}]", Service::key(&self.daemon).display()),
        };
        let mut manifest = format!("manifest_version: \"1.0\"\nname: {name}\npipeline: {pipeline}\ndisks:\n");
        for (index, (path, format)) in disks.iter().enumerate() {
            let path = path.display();
            manifest += &format!("  - {{id: disk{index}, source_format: {format}, local_path: {path}}}\n");
        }
        manifest += &format!("vm: {{cpu: 1, mem_mb: 1024, firmware: {}}}\n", self.guest.fact("/firmware"));
        manifest += &format!("nics: [{{id: nic0, mac: \"{}\"}}]\n", self.guest.fact("/nics/0/mac"));
        if self.guest.passphrase().is_some() {
            manifest += &format!("luks: {keys}\n");
        }
        self.daemon.drop_file(&format!("{name}.yaml"), manifest);
        let ended = within(PATIENCE, || {
            let progress = self.daemon.progress(name)?;
            matches!(progress["state"].as_str(), Some("completed" | "failed" | "cancelled"))
                .then_some(progress)
        });
        let state = ended.as_ref().and_then(|progress| progress["state"].as_str());
        let directory = self.daemon.state().join("output").join(name).join(name);
        let console = self.daemon.state().join("logs").join(name).join(format!("{name}.1.console.txt"));
        let console = String::from_utf8_lossy(&std::fs::read(console).unwrap_or_default()).into_owned();
        assert_eq!(state, Some("completed"), "{name}: {ended:#?}\n{}\n{console}", self.daemon.log());
        let report = std::fs::read(directory.join("report.json")).unwrap();
        Converted {
            report: serde_json::from_slice(&report).unwrap(),
            disks: (0..disks.len()).map(|index| directory.join(format!("disk{index}.qcow2"))).collect(),
            console,
        }
    }
}
