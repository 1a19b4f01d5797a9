//! Guests that are one boot sector: they say what a real guest would say, and hear what is typed.

use hyper2kvm::disk::Control;
use hyper2kvm::model::boot::{BootVerdict, Verdict};
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::machine::DiskBus;
use hyper2kvm::pipeline::boot_test::{self, BootTestOrder};

use crate::support::boot_sector::guest;
use crate::support::disks;
use crate::{engine, order};

/// Tries a guest that says this, and looks that nothing is changed or left.
fn tried(says: &str, change: impl FnOnce(&mut BootTestOrder)) -> Result<BootVerdict> {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let disk = guest(dir.path(), says);
    let before = disks::sha256(&disk);
    let mut order = order(&disk, &work);
    change(&mut order);
    let found = boot_test::run(&order, &engine(), &Control::new(), &mut |_| ());
    assert_eq!(disks::sha256(&disk), before, "the test wrote into the disk");
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "something was left behind");
    found
}

fn verdict(says: &str, change: impl FnOnce(&mut BootTestOrder)) -> BootVerdict {
    tried(says, change).unwrap()
}

#[test]
fn a_login_prompt_is_a_guest_that_is_up_on_every_bus() {
    let of_today = [DiskBus::VirtioBlk, DiskBus::VirtioScsi, DiskBus::Sata].map(|bus| (bus, "q35", false));
    let old = [
        (DiskBus::VirtioBlk, "q35", true),
        (DiskBus::VirtioScsi, "q35", true),
        (DiskBus::VirtioBlk, "pc", true),
        (DiskBus::Ide, "pc", false),
    ];
    for (bus, machine_type, is_virtio_old) in of_today.into_iter().chain(old) {
        let found = verdict("Welcome\r\nweb login: ", |order| {
            order.machine.disks[0].bus = bus;
            order.machine.machine_type = machine_type.to_owned();
            order.machine.is_virtio_old = is_virtio_old;
        });
        assert_eq!(found.verdict, Verdict::Booted, "{found:?}");
        assert!(found.booted && found.error.is_none());
        assert_eq!((found.accel.as_str(), found.firmware.as_str()), ("tcg", "bios"));
        assert_eq!(found.evidence, "login prompt: web login:");
        assert!(found.console_tail.unwrap().ends_with("Welcome\nweb login:"));
    }
}

#[test]
fn a_panic_is_a_failure_with_all_that_was_said_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let (console, screenshot) = (dir.path().join("web.1.console.txt"), dir.path().join("web.1.screen.png"));
    let says = "Kernel panic - not syncing: VFS: Unable to mount root fs on block(0,0)\r\nCall Trace:\r\n";
    let found = verdict(says, |order| {
        order.console = Some(console.clone());
        order.screenshot = Some(screenshot.clone());
    });
    assert_eq!(found.verdict, Verdict::Failed, "{found:?}");
    assert_eq!(found.error.as_deref(), Some("the kernel cannot mount the root file system"));
    let error = found.failure().unwrap();
    assert_eq!(error.kind(), Kind::Boot);
    assert!(error.details().console_tail.as_ref().unwrap().ends_with("Call Trace:"));
    let kept = std::fs::read_to_string(&console).unwrap();
    assert!(kept.contains("Kernel panic - not syncing") && !kept.contains('\x1b'), "{kept}");
    assert_eq!(found.screenshot.as_deref(), Some(screenshot.as_path()));
    assert!(std::fs::read(&screenshot).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_known_passphrase_is_typed_and_an_unknown_one_is_evidence() {
    let asks = "Please unlock disk sda3_crypt: \x01\r\nweb login: ";
    let opened = verdict(asks, |order| order.passphrases = vec!["open sesame".to_owned()]);
    assert_eq!(opened.evidence, "login prompt: web login:", "{opened:?}");
    let unknown = verdict(asks, |_| ());
    assert_eq!(unknown.verdict, Verdict::Booted);
    assert!(
        unknown.evidence.contains("passphrase") && unknown.evidence.contains("none is known"),
        "{unknown:?}"
    );
}

#[test]
fn passphrases_that_are_refused_prove_nothing() {
    let ask = "Please unlock disk sda3_crypt: \x01\r\nbad passphrase\r\n";
    let found = verdict(&ask.repeat(3), |order| order.passphrases = vec!["one".to_owned(), "two".to_owned()]);
    assert_eq!(found.verdict, Verdict::Undetermined, "{found:?}");
    assert!(found.evidence.contains("refused") && !found.evidence.contains("one"), "{found:?}");
}

#[test]
fn an_expected_text_is_waited_for_beyond_the_login_prompt() {
    let expect = |order: &mut BootTestOrder| order.options.expect = Some("app [0-9]+ is ready".to_owned());
    let found = verdict("web login: \r\napp 12 is ready\r\n", expect);
    assert_eq!(found.evidence, "the expected text: app 12 is ready", "{found:?}");
    let found = verdict("web login: ", |order| {
        expect(order);
        order.options.timeout_s = 12.0;
    });
    assert_eq!(found.verdict, Verdict::Undetermined);
    assert!(found.evidence.contains("login prompt, but not the expected text"), "{found:?}");
}

#[test]
fn a_guest_that_starts_over_and_over_again_is_noticed() {
    let found = verdict("hello\r\n\x02", |_| ());
    assert_eq!(found.error.as_deref(), Some("the guest starts over and over again"), "{found:?}");
}

#[test]
fn time_that_runs_out_over_known_trouble_is_a_failure_and_over_nothing_is_not() {
    let short = |order: &mut BootTestOrder| {
        order.options.timeout_s = 12.0;
        order.options.display = false;
    };
    let stuck = verdict("dracut-initqueue: timeout, still waiting for hooks\r\n", short);
    assert_eq!(stuck.verdict, Verdict::Failed, "{stuck:?}");
    assert!(stuck.error.unwrap().contains("time-out scripts"));
    let silent = verdict("Loading\r\n", |order| {
        short(order);
        order.options.timeout_s = 3.0;
    });
    assert_eq!((silent.verdict, silent.booted), (Verdict::Undetermined, false), "{silent:?}");
    assert!(silent.evidence.contains("within 12 s") && silent.failure().is_none());
}

#[test]
fn a_machine_that_qemu_does_not_know_is_an_error_and_not_a_verdict() {
    let error = tried("web login: ", |order| order.machine.machine_type = "pdp-11".to_owned()).unwrap_err();
    assert_eq!(error.kind(), Kind::Boot);
    assert!(error.to_string().contains("pdp-11"), "{error}");
}

#[test]
fn a_test_that_is_cancelled_ends_at_once_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let disk = guest(dir.path(), "Loading\r\n");
    let control = Control::new();
    let mut heard = 0;
    let error = boot_test::run(&order(&disk, &work), &engine(), &control, &mut |_| {
        heard += 1;
        control.cancel(false);
    })
    .unwrap_err();
    assert_eq!((error.kind(), heard), (Kind::Cancelled, 1));
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
}

#[test]
fn a_deep_working_directory_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..6).fold(dir.path().to_owned(), |path, _| path.join("a-directory-with-quite-a-long-name"));
    std::fs::create_dir_all(&deep).unwrap();
    let disk = guest(dir.path(), "web login: ");
    let found = boot_test::run(&order(&disk, &deep), &engine(), &Control::new(), &mut |_| ()).unwrap();
    assert!(found.booted, "{found:?}");
}
