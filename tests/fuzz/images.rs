//! Disks whose headers lie. Detection reads only what is there; opening asks `qemu-img` under limits.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use hyper2kvm::disk::{Control, Engine, OpenPolicy, Target, detect, open_source};
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::plan::{Compression, OutputFormat, Preallocation, SourceFormat};
use hyper2kvm::sys::process::Launcher;

use crate::hold;
use crate::mutate::{Step, mutated, steps};

/// Every format and subformat that qemu-img writes.
const FORMATS: [(&str, &str); 10] = [
    ("qcow2", "compat=1.1"),
    ("qcow2", "compat=1.1,extended_l2=on"),
    ("qcow2", "compat=0.10"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=streamOptimized"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vpc", "subformat=dynamic"),
    ("vpc", "subformat=fixed"),
    ("vhdx", "subformat=dynamic"),
    ("vdi", "static=off"),
];

/// A spoiled table may show one block in many places.
const MOST_COPIED: u64 = 256 << 20;
/// The images' first bytes hold their headers; further in lies data.
const HEADER: usize = 4096;

fn seeds(scratch: &Path) -> Vec<Vec<u8>> {
    let raw = scratch.join("seed.raw");
    let data: Vec<u8> = (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&raw, data).unwrap();
    FORMATS
        .iter()
        .map(|(format, option)| {
            let path = scratch.join("seed.image");
            let done = Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", format, "-o", option])
                .args([&raw, &path])
                .output()
                .expect("qemu-img is installed by set-up");
            assert!(done.status.success(), "{format} {option}: {}", String::from_utf8_lossy(&done.stderr));
            fs::read(&path).unwrap()
        })
        .collect()
}

/// A seed with a mutated header in front of its data, or mutated as a whole.
fn spoil(seed: &[u8], steps: &[Step], header_only: bool) -> Vec<u8> {
    if header_only {
        let (head, rest) = seed.split_at(HEADER.min(seed.len()));
        let mut bytes = mutated(head, steps);
        bytes.resize(head.len(), 0);
        bytes.extend_from_slice(rest);
        bytes
    } else {
        mutated(seed, steps)
    }
}

#[test]
fn what_a_file_is_can_always_be_told() {
    let scratch = TempDir::new().unwrap();
    let seeds = seeds(scratch.path());
    let path = scratch.path().join("image");
    hold(400, &(0..seeds.len(), steps(), any::<bool>()), |(seed, steps, header_only)| {
        fs::write(&path, spoil(&seeds[seed], &steps, header_only)).unwrap();
        let first = detect(&path).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let second = detect(&path).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(first, second);
        Ok(())
    });
}

#[test]
fn a_spoiled_image_is_copied_or_refused_as_a_bad_source() {
    let scratch = TempDir::new().unwrap();
    let seeds = seeds(scratch.path());
    let path = scratch.path().join("image");
    let engine = Engine::find(Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"))).unwrap();
    hold(60, &(0..seeds.len(), steps(), any::<bool>()), |(seed, steps, header_only)| {
        fs::write(&path, spoil(&seeds[seed], &steps, header_only)).unwrap();
        let detected = detect(&path).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let Some(format) = detected.format.source_format() else { return Ok(()) };
        let target = Target {
            path: scratch.path().join("result"),
            format: OutputFormat::Qcow2,
            compress: Compression::None,
            level: None,
            preallocation: Preallocation::Off,
            journal: None,
        };
        let copied = copied(&engine, &path, format, &target);
        if let Err(error) = &copied {
            let expected = [Kind::Source, Kind::Unsupported];
            prop_assert!(expected.contains(&error.kind()), "{error:?}");
            prop_assert!(!error.to_string().is_empty());
        }
        if let Ok(true) = copied {
            let sound = engine.check(&target.path, target.format, &Control::new());
            prop_assert!(sound.is_ok(), "{sound:?}");
        }
        let _ = fs::remove_file(&target.path);
        Ok(())
    });
}

/// Opens an image, asks its whole map, and copies it if it does not claim to be larger than a test has room for.
fn copied(engine: &Engine, path: &Path, format: SourceFormat, target: &Target) -> Result<bool> {
    let control = Control::new();
    let source = open_source(path, format, &OpenPolicy::default(), engine, &control)?;
    let measure = engine.measure(&source, target, &control)?;
    if measure.bytes_to_copy > MOST_COPIED {
        return Ok(false);
    }
    engine.copy(&source, target, &measure, &control, &mut |_| ()).map(|_| true)
}
