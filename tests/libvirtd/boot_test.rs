//! Boot tests through a real libvirt: guests that are boot sectors, and what is left of a test however it ends.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper2kvm::disk::{Control, Engine};
use hyper2kvm::model::boot::{BootVerdict, Verdict};
use hyper2kvm::model::error::{Disposition, Kind, Result};
use hyper2kvm::model::machine::{DiskBus, Firmware, Machine, MachineDisk, MachineNic, NicLink};
use hyper2kvm::model::manifest::{Accelerator, BootMethod};
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::pipeline::boot_test::{self, BootTestOrder};
use hyper2kvm::sys::process::Launcher;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::boot_sector::guest;
use crate::support::libvirtd::Libvirtd;
use crate::support::{disks, within};

/// Emulated, on a machine that does other things too: under emulation a guest gets four times this.
const PATIENCE_S: f64 = 150.0;
/// What has to be gone by then is left.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// A guest that says nothing more, and is still there when something happens to its test.
const WAITS: &str = "Loading\r\n";

/// A libvirt, a directory for the test, and a guest that belongs to somebody else.
struct Site {
    libvirtd: Libvirtd,
    work: PathBuf,
    disk: PathBuf,
}

impl Site {
    fn new(says: &str) -> Site {
        let libvirtd = Libvirtd::start();
        let [work, sources] = ["work", "sources"].map(|name| libvirtd.images().join(name));
        for directory in [&work, &sources] {
            fs::create_dir(directory).unwrap();
        }
        let disk = guest(&sources, says);
        std::os::unix::fs::chown(&disk, Some(1234), Some(1234)).unwrap();
        fs::set_permissions(&disk, fs::Permissions::from_mode(0o600)).unwrap();
        Site { libvirtd, work, disk }
    }

    fn order(&self) -> BootTestOrder {
        let mut machine = Machine::new("web");
        machine.firmware = Some(Firmware::Bios);
        machine.disks = vec![MachineDisk {
            boot_order: Some(1),
            ..MachineDisk::new("boot", &self.disk, SourceFormat::Raw)
        }];
        machine.nics = vec![MachineNic {
            mac: Some("00:50:56:00:00:01".to_owned()),
            ..MachineNic::new(NicLink::Network("default".to_owned()))
        }];
        let mut order = BootTestOrder::new(machine, &self.work);
        order.options.method = BootMethod::Libvirt;
        order.options.accel = Accelerator::Tcg;
        order.options.memory_mib = Some(128);
        order.options.vcpus = Some(1);
        order.options.timeout_s = PATIENCE_S;
        order.options.libvirt_uri = Some(self.libvirtd.uri());
        order
    }

    fn run(&self, order: &BootTestOrder) -> Result<BootVerdict> {
        boot_test::run(order, &engine(), &Control::new(), &mut |_| ())
    }

    /// Tries it, and looks that the image is what it was and nothing is left.
    fn tried(&self, change: impl FnOnce(&mut BootTestOrder)) -> Result<BootVerdict> {
        let before = (state(&self.disk), disks::sha256(&self.disk));
        let mut order = self.order();
        change(&mut order);
        let found = self.run(&order);
        assert_eq!((state(&self.disk), disks::sha256(&self.disk)), before, "the image is another now");
        self.nothing_is_left();
        found
    }

    /// The program, in a process of its own, that tries the guest.
    fn spawn(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_hyper2kvm"))
            .args(["boot-test", "--json", "--method", "libvirt", "--accel", "tcg", "--memory", "128MiB"])
            .args(["--libvirt-uri", &self.libvirtd.uri(), "--firmware", "bios"])
            .arg(&self.disk)
            .env("TMPDIR", &self.work)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What libvirt calls the machines that run.
    fn running(&self) -> Vec<String> {
        let names = self.libvirtd.sh("virsh -q list --name");
        names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// Waits until a machine of a test runs: one that is still being made is listed, too.
    fn await_running(&self) {
        let state = "virsh -q list | awk '$2 ~ /^h2k-test-/ {print $3}'";
        let runs = || (self.libvirtd.sh(state).trim() == "running").then_some(());
        assert!(within(Duration::from_secs(120), runs).is_some(), "{}", self.libvirtd.log());
    }

    /// Tries the guest, and does this as soon as it runs.
    fn tried_while(&self, then: impl FnOnce()) -> Result<BootVerdict> {
        std::thread::scope(|scope| {
            let tried = scope.spawn(|| self.run(&self.order()));
            self.await_running();
            then();
            tried.join().unwrap()
        })
    }

    /// No machine, process, variables or TPM; and nothing in the directory.
    fn nothing_is_left(&self) {
        self.no_machine_is_left();
        assert_eq!(fs::read_dir(&self.work).unwrap().count(), 0, "something was left behind");
    }

    fn no_machine_is_left(&self) {
        let left = || {
            self.libvirtd.sh("virsh -q list --all --name | grep h2k-test- || true
                pgrep -a 'qemu-system|swtpm' | grep h2k-test- || true
                find /var/lib/libvirt/qemu/nvram /var/lib/libvirt/swtpm -type f 2>/dev/null || true")
        };
        let gone = within(GONE_WITHIN, || left().trim().is_empty().then_some(()));
        assert!(gone.is_some(), "left: {}", left());
    }
}

/// Owner, group, mode, size, when its content and itself were changed.
fn state(path: &Path) -> (u32, u32, u32, u64, i64, i64) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode(), found.size(), found.mtime_nsec(), found.ctime_nsec())
}

fn engine() -> Engine {
    let launcher = Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"));
    let mut engine = Engine::find(launcher).expect("qemu-img is installed by set-up");
    engine.sandbox_required = true;
    engine
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_guest_comes_up_by_its_domain_and_its_image_stays_what_it_was() {
    let site = Site::new("Welcome\r\nweb login: ");
    for bus in [DiskBus::VirtioBlk, DiskBus::VirtioScsi, DiskBus::Sata] {
        let found = site.tried(|order| order.machine.disks[0].bus = bus).unwrap();
        assert_eq!(found.verdict, Verdict::Booted, "{found:?}");
        assert_eq!((found.accel.as_str(), found.firmware.as_str()), ("tcg", "bios"));
        assert_eq!(found.evidence, "login prompt: web login:");
        assert!(found.console_tail.unwrap().ends_with("Welcome\nweb login:"));
    }
}

#[test]
fn the_command_says_what_it_found() {
    let site = Site::new("Welcome\r\nweb login: ");
    let output = site.spawn().wait_with_output().unwrap();
    let found = document(&output);
    assert_eq!((&found["verdict"], &found["accel"]), (&"booted".into(), &"tcg".into()), "{found}");
    site.nothing_is_left();
}

#[test]
fn a_guest_that_fails_is_told_by_its_console_with_a_picture() {
    let site = Site::new(
        "Kernel panic - not syncing: VFS: Unable to mount root fs on block(0,0)\r\nCall Trace:\r\n",
    );
    let dir = tempfile::tempdir().unwrap();
    let (console, screenshot) = (dir.path().join("console.txt"), dir.path().join("screen.png"));
    let found = site
        .tried(|order| {
            order.console = Some(console.clone());
            order.screenshot = Some(screenshot.clone());
        })
        .unwrap();
    assert_eq!(found.verdict, Verdict::Failed, "{found:?}");
    assert_eq!(found.error.as_deref(), Some("the kernel cannot mount the root file system"));
    assert!(found.console_tail.unwrap().ends_with("Call Trace:"));
    assert!(fs::read_to_string(&console).unwrap().contains("Kernel panic - not syncing"));
    assert!(fs::read(&screenshot).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_guest_that_starts_over_and_over_again_is_noticed() {
    let found = Site::new("hello\r\n\x02").tried(|_| ()).unwrap();
    assert_eq!(found.error.as_deref(), Some("the guest starts over and over again"), "{found:?}");
}

#[test]
fn a_guest_that_says_nothing_more_is_undetermined_when_its_time_is_over() {
    let found = Site::new(WAITS)
        .tried(|order| {
            order.options.timeout_s = 3.0;
            order.options.display = false;
        })
        .unwrap();
    assert_eq!((found.verdict, found.booted), (Verdict::Undetermined, false), "{found:?}");
    assert!(found.evidence.contains("within 12 s"), "{found:?}");
}

#[test]
fn a_known_passphrase_is_typed() {
    let site = Site::new("Please unlock disk sda3_crypt: \x01\r\nweb login: ");
    let found = site.tried(|order| order.passphrases = vec!["open sesame".to_owned()]).unwrap();
    assert_eq!(found.evidence, "login prompt: web login:", "{found:?}");
}

#[test]
fn uefi_has_variables_of_its_own_which_are_gone() {
    let site = Site::new(WAITS);
    let found = site.tried(|order| order.machine.firmware = Some(Firmware::Uefi)).unwrap();
    assert_eq!((found.verdict, found.firmware.as_str()), (Verdict::Failed, "uefi"), "{found:?}");
}

/// A disk whose one program for UEFI is a kernel: no signature of it is of those whose keys firmware comes with.
fn kernel_disk(directory: &Path) -> PathBuf {
    let disk = directory.join("kernel.img");
    let script = "truncate -s 64M \"$1\"; printf 'label: dos\\nstart=2048, type=ef\\n' | sfdisk -q \"$1\"
        mformat -i \"$1@@1M\" -F -T $((63 * 2048)); mmd -i \"$1@@1M\" ::EFI ::EFI/BOOT
        mcopy -i \"$1@@1M\" \"$(ls /boot/vmlinuz-* | head -n 1)\" ::EFI/BOOT/BOOTX64.EFI";
    let made = Command::new("sh").args(["-euc", script, "sh"]).arg(&disk).status().unwrap();
    assert!(made.success(), "a kernel, fdisk and mtools are installed by set-up");
    disk
}

#[test]
fn secure_boot_is_tried_with_its_firmware_which_refuses_what_nobody_has_signed() {
    let site = Site::new(WAITS);
    let disk = kernel_disk(&site.work.with_file_name("sources"));
    let tried = |secure_boot: bool| {
        site.tried(|order| {
            order.machine.disks[0].path.clone_from(&disk);
            order.machine.firmware = Some(Firmware::Uefi);
            order.machine.secure_boot = secure_boot;
            order.options.memory_mib = Some(512);
            order.options.expect = Some("starting Boot0001".to_owned());
        })
        .unwrap()
    };
    let found = tried(false);
    assert!(found.booted, "{found:?}");
    let found = tried(true);
    assert_eq!((found.verdict, found.firmware.as_str()), (Verdict::Failed, "uefi"), "{found:?}");
    assert!(found.console_tail.as_deref().unwrap_or_default().contains("Access Denied"), "{found:?}");
    let ran = |words: &str| {
        let count = format!("cat /var/log/libvirt/qemu/h2k-test-web-*.log | grep -c -e '{words}' || true");
        site.libvirtd.sh(&count).trim().to_owned()
    };
    // One of the two machines: its firmware, the mode that guards its variables, and the flash that only that mode writes.
    for words in ["OVMF_CODE_4M.ms.fd", "smm=on", "driver=cfi.pflash01,property=secure,value=on"] {
        assert_eq!(ran(words), "1", "{words}");
    }
}

#[test]
fn a_machine_with_a_tpm_starts_or_it_is_said_what_is_missing() {
    let site = Site::new("web login: ");
    let tried = site.tried(|order| order.machine.tpm = true);
    match hyper2kvm::sys::process::find_program("swtpm_setup") {
        Some(_) => assert!(tried.unwrap().booted),
        None => assert_eq!(tried.unwrap_err().kind(), Kind::Libvirt),
    }
}

#[test]
fn a_machine_of_the_same_name_goes_on_as_if_nothing_were_tried() {
    let site = Site::new("web login: ");
    site.libvirtd.sh(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><interface type='user'><mac address='00:50:56:00:00:01'/></interface></devices></domain>
end
virsh -q start web",
    );
    let look = || site.libvirtd.sh("virsh dumpxml web; virsh domid web");
    let before = look();
    let found = site
        .tried(|order| order.machine.uuid = Some("564d1c2a-0000-1111-2222-333344445555".to_owned()))
        .unwrap();
    assert!(found.booted, "{found:?}");
    assert_eq!(look(), before);
    assert_eq!(site.running(), ["web"]);
}

#[test]
fn a_test_that_is_cancelled_ends_and_leaves_nothing() {
    let site = Site::new(WAITS);
    let control = Control::new();
    let mut heard = 0;
    let error = boot_test::run(&site.order(), &engine(), &control, &mut |_| {
        heard += 1;
        control.cancel(false);
    })
    .unwrap_err();
    assert_eq!((error.kind(), heard), (Kind::Cancelled, 1));
    site.nothing_is_left();
}

#[test]
fn a_test_that_is_paused_stands_still_and_its_time_with_it() {
    let site = Site::new(WAITS);
    let mut order = site.order();
    order.options.timeout_s = 3.0;
    order.options.display = false;
    let control = Control::new();
    let state = || site.libvirtd.sh("virsh -q domstate $(virsh -q list --all --name)").trim().to_owned();
    let is = |wanted: &str| within(GONE_WITHIN, || (state() == wanted).then_some(())).is_some();
    let found = std::thread::scope(|scope| {
        let control = &control;
        let tried = scope.spawn(move || boot_test::run(&order, &engine(), control, &mut |_| ()));
        site.await_running();
        assert!(is("running"));
        control.pause();
        assert!(is("paused"));
        // Longer than the guest may take in all.
        std::thread::sleep(Duration::from_secs(14));
        assert_eq!(state(), "paused");
        control.resume();
        assert!(is("running"));
        tried.join().unwrap().unwrap()
    });
    assert_eq!(found.verdict, Verdict::Undetermined, "{found:?}");
    assert!(found.seconds < 14.0, "{found:?}");
    site.nothing_is_left();
}

#[test]
fn nothing_goes_on_when_the_program_is_killed() {
    let site = Site::new(WAITS);
    let before = (state(&site.disk), disks::sha256(&site.disk));
    let mut program = site.spawn();
    site.await_running();
    program.kill().unwrap();
    program.wait().unwrap();
    site.no_machine_is_left();
    assert_eq!((state(&site.disk), disks::sha256(&site.disk)), before);
    // What cannot go by itself is a directory without a disk in it; the next test takes it away.
    let tries = || {
        let names = fs::read_dir(&site.work).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("hyper2kvm-try")).count()
    };
    assert_eq!(tries(), 1);
    let mut order = site.order();
    order.options.timeout_s = 1.0;
    site.run(&order).unwrap();
    assert_eq!(tries(), 0);
}

#[test]
fn a_libvirtd_that_is_killed_ends_the_test_and_the_machine_ends_with_it() {
    let site = Site::new(WAITS);
    let error = site.tried_while(|| site.libvirtd.kill()).unwrap_err();
    assert_eq!(error.kind(), Kind::Libvirt, "{error}");
    assert_eq!(error.disposition(), Disposition::Transient, "{error}");
    site.libvirtd.await_up();
    site.nothing_is_left();
}

#[test]
fn a_libvirtd_that_does_not_come_back_takes_the_machine_with_it() {
    let site = Site::new(WAITS);
    let begun = Instant::now();
    let error = site
        .tried_while(|| {
            site.libvirtd.hold(true);
            site.libvirtd.kill();
        })
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Libvirt, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(180), "{:?}", begun.elapsed());
    let qemu = "pgrep -a qemu-system | grep h2k-test- || true";
    assert!(within(GONE_WITHIN, || site.libvirtd.sh(qemu).trim().is_empty().then_some(())).is_some());
    site.libvirtd.hold(false);
    site.libvirtd.await_up();
    site.nothing_is_left();
}

#[test]
fn a_machine_whose_test_and_libvirtd_were_killed_is_ended_by_the_next_test() {
    let site = Site::new(WAITS);
    let mut program = site.spawn();
    site.await_running();
    site.libvirtd.hold(true);
    site.libvirtd.kill();
    program.kill().unwrap();
    program.wait().unwrap();
    site.libvirtd.hold(false);
    site.libvirtd.await_up();
    site.await_running();
    let mut order = site.order();
    order.options.timeout_s = 1.0;
    site.run(&order).unwrap();
    site.no_machine_is_left();
}

#[test]
fn a_libvirtd_that_hangs_costs_a_time_out_and_the_machine_nothing() {
    let site = Site::new(WAITS);
    let begun = Instant::now();
    let error = site.tried_while(|| site.libvirtd.signal(Signal::STOP)).unwrap_err();
    site.libvirtd.signal(Signal::CONT);
    assert_eq!(error.kind(), Kind::Libvirt, "{error}");
    assert_eq!(error.disposition(), Disposition::Transient, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(180), "{:?}", begun.elapsed());
    site.nothing_is_left();
}

#[test]
fn a_job_tries_its_result_through_libvirt() {
    let site = Site::new("web login: ");
    let manifest = site.libvirtd.images().join("web.yaml");
    let disk = site.disk.display();
    let config = site.libvirtd.images().join("hyper2kvm.yaml");
    fs::write(&config, format!("libvirt: {{uri: \"{}\"}}\n", site.libvirtd.uri())).unwrap();
    let mut from_outside = Command::new(env!("CARGO_BIN_EXE_hyper2kvm"));
    from_outside.arg("--config").arg(&config);
    // That of the system, and the configured one.
    for (mut program, out) in [(site.libvirtd.hyper2kvm(), "out"), (from_outside, "outside")] {
        let out = site.libvirtd.images().join(out);
        let text = format!(
            "manifest_version: '1.0'\nname: web\noutput: {{directory: {}}}\nvm: {{mem_mb: 128, cpu: 1, firmware: bios}}\n\
         pipeline:\n  inspect: {{enabled: false}}\n  fix: {{enabled: false}}\n\
         \x20 boot_test: {{enabled: true, method: libvirt, accel: tcg, timeout_s: {PATIENCE_S}}}\n\
         disks: [{{id: boot, source_format: raw, local_path: {disk}}}]\n",
            out.display()
        );
        fs::write(&manifest, text).unwrap();
        let output = program.arg("convert").arg(&manifest).env("TMPDIR", &site.work).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
        let result = &report["pipeline"]["stages"]["boot_test"]["result"];
        assert_eq!(result["verdict"], "booted", "{report:#}");
        site.no_machine_is_left();
        let log = site
            .libvirtd
            .sh("cat /var/log/libvirt/qemu/h2k-test-web-*.log; rm /var/log/libvirt/qemu/h2k-test-web-*.log");
        assert!(log.contains("nbd"), "libvirt ran another machine: {log}");
    }
}
