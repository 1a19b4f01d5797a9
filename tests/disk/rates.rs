//! Copies that keep to a rate: never faster, however slow not given up, and obeying at once whoever changes, pauses or ends them.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hyper2kvm::disk::{Control, CopyOutcome, Target};
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::plan::{OutputFormat, Preallocation, SourceFormat};

use crate::support::{disks, wait_for};
use crate::{engine, open, target};

const MIB: u64 = 1 << 20;

/// Who copies into these: this program, and QEMU.
const OURS: (OutputFormat, Preallocation) = (OutputFormat::Raw, Preallocation::Off);
const QEMUS: (OutputFormat, Preallocation) = (OutputFormat::Qcow2, Preallocation::Metadata);

/// What a copy without progress may take in these tests.
const STALL_S: f64 = 2.0;

fn limited(bytes_per_second: u64) -> Control {
    let control = Control::new();
    control.limit_reading(NonZeroU64::new(bytes_per_second));
    control
}

/// Copies a disk of so many MiB of noise.
fn copy(
    mib: u64,
    (format, preallocation): (OutputFormat, Preallocation),
    control: &Control,
    on_progress: &mut dyn FnMut(u64),
) -> Result<CopyOutcome> {
    let dir = tempfile::tempdir().unwrap();
    let disk = disks::disk(dir.path(), "disk", "raw", mib, mib, 1);
    let mut engine = engine();
    engine.stall_timeout_s = STALL_S;
    let source = open(&disk, SourceFormat::Raw).unwrap();
    let target = Target { preallocation, ..target(dir.path().join("result"), format) };
    let measure = engine.measure(&source, &target, &Control::new()).unwrap();
    let copied = engine.copy(&source, &target, &measure, control, &mut |told| on_progress(told.bytes_done));
    if copied.is_ok() {
        let compared = engine.compare(&source, &target.path, format, &Control::new(), &mut |_| ());
        compared.expect("what was copied slowly is copied right");
    }
    copied
}

#[test]
fn a_copy_is_at_no_moment_further_than_its_rate_and_a_burst() {
    let rate = 8 * MIB;
    let begun = Instant::now();
    let copied = copy(20, OURS, &limited(rate), &mut |done| {
        let most = rate as f64 * (begun.elapsed().as_secs_f64() + 0.2);
        assert!(done as f64 <= most, "{done} bytes after {:?}", begun.elapsed());
    });
    let copied = copied.unwrap();
    assert!(copied.engine.starts_with("hyper2kvm "), "{copied:?}");
    assert!(copied.seconds >= 20.0 / 8.0 - 0.2, "{copied:?}");
    assert!(copied.seconds < 30.0, "{copied:?}");
}

#[test]
fn a_copy_by_qemu_keeps_to_its_rate_in_pulses() {
    let copied = copy(160, QEMUS, &limited(40 * MIB), &mut |_| ()).unwrap();
    assert!(copied.engine.starts_with("qemu-img "), "{copied:?}");
    // What it reads ahead in one pulse is paid for by the next, but for the last.
    assert!(copied.seconds >= 2.0, "{copied:?}");
    assert!(copied.seconds < 40.0, "{copied:?}");
}

#[test]
fn a_copy_that_is_slower_than_the_stall_limit_asks_for_is_not_given_up() {
    let (ours, by_qemu) = thread::scope(|scope| {
        // Whoever waits eight seconds for a piece tells nothing for longer than the limit.
        let ours = scope.spawn(|| copy(2, OURS, &limited(128 << 10), &mut |_| ()).unwrap());
        let by_qemu = scope.spawn(|| copy(64, QEMUS, &limited(12 * MIB), &mut |_| ()).unwrap());
        (ours.join().unwrap(), by_qemu.join().unwrap())
    });
    assert!(ours.seconds > 3.0 * STALL_S, "{ours:?}");
    assert!(by_qemu.seconds > STALL_S, "{by_qemu:?}");
}

#[test]
fn a_copy_under_way_feels_another_rate_at_once() {
    for (format, mib) in [(OURS, 32), (QEMUS, 96)] {
        // It would take minutes.
        let control = limited(128 << 10);
        let begun = Instant::now();
        let hand = control.clone();
        thread::scope(|scope| {
            let changed = scope.spawn(move || {
                thread::sleep(Duration::from_millis(1500));
                hand.limit_reading(NonZeroU64::new(1 << 30));
            });
            copy(mib, format, &control, &mut |_| ()).unwrap();
            assert!(changed.is_finished(), "it was over before: {:?}", begun.elapsed());
        });
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_cancelled_copy_does_not_wait_for_its_turn() {
    for (format, mib) in [(OURS, 16), (QEMUS, 64)] {
        let control = limited(64 << 10);
        let hand = control.clone();
        let cancelled = thread::spawn(move || {
            thread::sleep(Duration::from_millis(1000));
            hand.cancel(false);
            Instant::now()
        });
        let error = copy(mib, format, &control, &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled);
        let took = cancelled.join().unwrap().elapsed();
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
}

#[test]
fn a_copy_that_is_paused_under_a_rate_stands_still_and_goes_on() {
    let control = limited(10 * MIB);
    let done = AtomicU64::new(0);
    let now = || done.load(Ordering::Relaxed);
    let copied = thread::scope(|scope| {
        let copy = scope.spawn(|| copy(40, OURS, &control, &mut |told| done.store(told, Ordering::Relaxed)));
        wait_for("the copy to begin", || (now() > 4 * MIB).then_some(()));
        control.pause();
        // What is being read when the pause comes is still written.
        let at = wait_for("the copy to stand still", || {
            let before = now();
            thread::sleep(Duration::from_millis(700));
            (now() == before).then_some(before)
        });
        assert!(at < 40 * MIB, "it went on while it was paused");
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(now(), at);
        let resumed = Instant::now();
        control.resume();
        let copied = copy.join().unwrap().unwrap();
        let owed = (40 * MIB - at) as f64 / (10 * MIB) as f64;
        assert!(resumed.elapsed().as_secs_f64() >= owed - 0.5, "a pause saved nothing up");
        copied
    });
    assert!(copied.seconds > 40.0 / 10.0 + 1.5 - 0.5, "{copied:?}");
}
