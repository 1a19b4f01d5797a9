//! Copies that this program makes by itself of images that QEMU wrote: QEMU reads in them what went in.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use hyper2kvm::disk::{Control, Target};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{Compression, OutputFormat, SourceFormat};

use crate::{engine, open, target};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How QEMU is asked for an image, and how we are told what it is.
const SUBFORMATS: [(&str, &str, SourceFormat); 11] = [
    ("raw", "", SourceFormat::Raw),
    ("vmdk", "subformat=monolithicSparse", SourceFormat::Vmdk),
    ("vmdk", "subformat=streamOptimized", SourceFormat::Vmdk),
    ("vmdk", "subformat=monolithicFlat", SourceFormat::Vmdk),
    ("vmdk", "subformat=twoGbMaxExtentSparse", SourceFormat::Vmdk),
    ("vmdk", "subformat=twoGbMaxExtentFlat", SourceFormat::Vmdk),
    ("vpc", "subformat=dynamic,force_size=on", SourceFormat::Vhd),
    ("vpc", "subformat=fixed,force_size=on", SourceFormat::Vhd),
    ("vhdx", "subformat=dynamic,block_size=1048576", SourceFormat::Vhdx),
    ("vhdx", "subformat=fixed", SourceFormat::Vhdx),
    ("vdi", "", SourceFormat::Vdi),
];

/// What lies on a disk: what, and how large the disk is.
const CONTENTS: [(&str, u64); 8] = [
    ("one sector", 512),
    ("odd sectors", 63 * 512),
    ("zeros", 8 * MIB),
    ("noise", 3 * MIB + 512),
    ("fragments", 40 * MIB),
    ("text", 9 * MIB),
    ("far apart", 5 * GIB),
    ("nearly nothing", 2048 * GIB - MIB),
];

/// A raw disk of this kind; of the large ones nearly all is a hole.
fn raw(path: &Path, what: &str, bytes: u64) {
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    let put = |at: u64, data: &[u8]| file.write_all_at(data, at).unwrap();
    match what {
        "one sector" | "noise" | "odd sectors" => put(0, &noise(bytes as usize)),
        "fragments" => {
            for number in 0..400 {
                let at = (number * 7_368_787) % (bytes - 4096);
                put(at - at % 512, &noise(512 + (number as usize % 5) * 512));
            }
        }
        "text" => put(MIB - 100, &b"the same again and again. ".repeat(200_000)),
        "far apart" => {
            for at in [0, 2 * GIB - 512, 2 * GIB, 4 * GIB + 12 * KIB, bytes - 512] {
                put(at, &noise(512));
            }
        }
        "nearly nothing" => put(bytes - 4096, &noise(4096)),
        _ => {}
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ bytes as u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8 | 1
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// The same disk in another format; `None` where the format cannot have it.
fn image(raw: &Path, driver: &str, options: &str, what: &str) -> Option<PathBuf> {
    let path = raw.with_file_name(format!(
        "{driver}-{}.{driver}",
        options.replace(|c: char| !c.is_alphanumeric(), "-")
    ));
    let mut make = Command::new("qemu-img");
    make.args(["convert", "-f", "raw", "-O", driver]);
    if !options.is_empty() {
        make.args(["-o", options]);
    }
    let made = make.arg(raw).arg(&path).output().unwrap();
    // A VHD ends at 2040 GiB.
    let is_too_large = driver == "vpc" && what == "nearly nothing";
    assert_eq!(
        made.status.success(),
        !is_too_large,
        "{driver} {options} {what}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    made.status.success().then_some(path)
}

/// What this program writes: a format, how it is packed, and the largest disk that it can have.
const TARGETS: [(OutputFormat, Compression, u64); 8] = [
    (OutputFormat::Raw, Compression::None, u64::MAX),
    (OutputFormat::Qcow2, Compression::None, u64::MAX),
    (OutputFormat::Qcow2, Compression::Zstd, u64::MAX),
    (OutputFormat::Qcow2, Compression::Zlib, u64::MAX),
    (OutputFormat::Vmdk, Compression::None, u64::MAX),
    (OutputFormat::Vmdk, Compression::Zlib, u64::MAX),
    (OutputFormat::Vhd, Compression::None, 2040 * GIB),
    (OutputFormat::Vdi, Compression::None, u64::MAX),
];

fn is_flat(options: &str) -> bool {
    ["fixed", "Flat"].iter().any(|word| options.contains(word))
}

#[test]
fn what_is_copied_of_an_image_is_what_went_into_it() {
    let (engine, control) = (engine(), Control::new());
    let mut images = 0;
    for (what, bytes) in CONTENTS {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.raw");
        raw(&disk, what, bytes);
        let original = open(&disk, SourceFormat::Raw).unwrap();
        for (driver, options, format) in SUBFORMATS {
            // Without holes, a large one would have to be written whole; and QEMU takes half a minute for the tables of a large VMDK.
            let is_slow_to_make = driver == "vmdk" && !options.contains("monolithicSparse");
            if bytes > GIB && is_flat(options) || bytes > 64 * GIB && is_slow_to_make {
                continue;
            }
            let path = match driver {
                "raw" => disk.clone(),
                _ => match image(&disk, driver, options, what) {
                    Some(path) => path,
                    None => continue,
                },
            };
            let source =
                open(&path, format).unwrap_or_else(|error| panic!("{driver} {options} {what}: {error}"));
            for to in [OutputFormat::Raw, OutputFormat::Qcow2] {
                let case = format!("{driver} {options} {what} to {}", to.name());
                let target = target(dir.path().join("result"), to);
                let measure = engine.measure(&source, &target, &control).unwrap();
                let copied = engine.copy(&source, &target, &measure, &control, &mut |_| ());
                let copied = copied.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(copied.engine.starts_with("hyper2kvm "), "{case}: by {}", copied.engine);
                assert!(copied.allocated_bytes <= measure.required_bytes, "{case}: {copied:?} {measure:?}");
                engine.check(&target.path, to, &control).unwrap_or_else(|error| panic!("{case}: {error}"));
                let compared = engine.compare(&original, &target.path, to, &control, &mut |_| ());
                compared.unwrap_or_else(|error| panic!("{case}: {error}"));
                fs::remove_file(&target.path).unwrap();
            }
            images += 1;
        }
    }
    assert!(images >= 60, "only {images} images");
}

#[test]
fn whatever_lies_on_a_disk_is_in_every_target_that_is_made_of_it() {
    let (engine, control) = (engine(), Control::new());
    for (what, bytes) in CONTENTS {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.raw");
        raw(&disk, what, bytes);
        let source = open(&disk, SourceFormat::Raw).unwrap();
        for (format, compress, most) in TARGETS {
            let case = format!("{what} to {} {compress:?}", format.name());
            let target = Target { compress, ..target(dir.path().join("result"), format) };
            let measure = engine.measure(&source, &target, &control).unwrap();
            let copy = || engine.copy(&source, &target, &measure, &control, &mut |_| ());
            if bytes > most {
                let error = copy().unwrap_err();
                assert_eq!(error.kind(), Kind::Unsupported, "{case}: {error}");
                continue;
            }
            let copied = copy().unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(copied.engine.starts_with("hyper2kvm "), "{case}: by {}", copied.engine);
            assert!(copied.allocated_bytes <= measure.required_bytes, "{case}: {copied:?} {measure:?}");
            check(&target.path, format, &case);
            // QEMU takes a minute for the tables of a large VMDK.
            if bytes <= 64 * GIB || format != OutputFormat::Vmdk {
                let compared = engine.compare(&source, &target.path, format, &control, &mut |_| ());
                compared.unwrap_or_else(|error| panic!("{case}: {error}"));
            }
            let again = dir.path().join("again");
            fs::rename(&target.path, &again).unwrap();
            copy().unwrap_or_else(|error| panic!("{case} again: {error}"));
            assert!(same_bytes(&target.path, &again), "{case}: another file the second time");
            fs::remove_file(&target.path).unwrap();
            fs::remove_file(&again).unwrap();
        }
    }
}

/// QEMU finds nothing wrong, no clusters that nobody uses among it.
fn check(path: &Path, format: OutputFormat, case: &str) {
    if matches!(format, OutputFormat::Qcow2 | OutputFormat::Vmdk | OutputFormat::Vdi) {
        let checked =
            Command::new("qemu-img").args(["check", "-f", format.name()]).arg(path).output().unwrap();
        assert!(checked.status.success(), "{case}: {checked:?}");
    }
}

/// Whether two files hold the same; what is a hole in both is not read.
fn same_bytes(one: &Path, other: &Path) -> bool {
    let compared = Command::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "raw", "-s"])
        .args([one, other])
        .output();
    let lengths = [one, other].map(|path| fs::metadata(path).unwrap().len());
    lengths[0] == lengths[1] && compared.unwrap().status.success()
}

#[test]
fn no_machine_starts_on_a_disk_while_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::support::disks::disk(dir.path(), "disk", "qcow2", 300, 256, 1);
    let (engine, control) = (engine(), Control::new());
    let source = open(&disk, SourceFormat::Qcow2).unwrap();
    let target = target(dir.path().join("result"), OutputFormat::Raw);
    let measure = engine.measure(&source, &target, &control).unwrap();
    let write = || Command::new("qemu-io").args(["-f", "qcow2", "-c", "quit"]).arg(&disk).output().unwrap();
    assert!(write().status.success());
    // A busy machine may be late; it has more than one chance.
    let refused = (0..20).find_map(|_| {
        let refused = thread::scope(|scope| {
            let copy =
                scope.spawn(|| engine.copy(&source, &target, &measure, &control, &mut |_| ()).unwrap());
            let mut refused = None;
            while !copy.is_finished() && refused.is_none() {
                refused = Some(write()).filter(|tried| !tried.status.success());
            }
            refused
        });
        fs::remove_file(&target.path).unwrap();
        refused
    });
    let refused = refused.expect("a machine could start every time");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lock"), "{refused:?}");
    assert!(write().status.success());
}

#[test]
fn a_disk_that_a_machine_opened_after_it_was_looked_at_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::support::disks::disk(dir.path(), "disk", "qcow2", 8, 4, 1);
    let (engine, control) = (engine(), Control::new());
    let source = open(&disk, SourceFormat::Qcow2).unwrap();
    let target = target(dir.path().join("result"), OutputFormat::Raw);
    let measure = engine.measure(&source, &target, &control).unwrap();
    let mut machine = crate::support::disks::held(&disk, "qcow2");
    let refused = engine.copy(&source, &target, &measure, &control, &mut |_| ());
    drop(machine.stdin.take());
    machine.wait().unwrap();
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("open elsewhere"), "{error}");
    assert!(!target.path.exists());
}
