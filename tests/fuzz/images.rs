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
use crate::support::vhd::Vhd;
use crate::support::vhdx::{Block, Change, Entry, PAGE, Vhdx, leave_open, summed, write_unfinished};

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
    let by_qemu = FORMATS.iter().map(|(format, option)| {
        let path = scratch.join("seed.image");
        let done = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format, "-o", option])
            .args([&raw, &path])
            .output()
            .expect("qemu-img is installed by set-up");
        assert!(done.status.success(), "{format} {option}: {}", String::from_utf8_lossy(&done.stderr));
        fs::read(&path).unwrap()
    });
    by_qemu.chain(of_hyper_v(scratch)).collect()
}

/// What Hyper-V makes and QEMU does not; what the differing ones stand on lies beside where they are put.
fn of_hyper_v(scratch: &Path) -> Vec<Vec<u8>> {
    let path = scratch.join("seed.image");
    let piece = |byte: u8| Block::Full(vec![(512, vec![byte; 4096])]);
    let base = Vhdx::new(5 << 20, 1, vec![(4, piece(1)), (0, piece(2))]);
    let some = vec![(0, Block::Partly(vec![(0, vec![3; 4096])])), (1, Block::Zeros), (3, piece(4))];
    let child = base.on("base.vhdx", 2, some);
    let finished = Vhdx { blocks: vec![(4, piece(1)), (0, piece(2)), (2, piece(3))], ..base.clone() };
    let old = Vhd { block: 512 << 10, ..Vhd::new(1 << 20, 1, vec![(1, vec![(0, vec![5; 4096])])]) };
    let younger =
        old.on("base.vhd", 2, vec![(0, vec![(512, vec![6; 1024])]), (1, vec![(4096, vec![7; 512])])]);
    base.write(&scratch.join("base.vhdx"));
    old.write(&scratch.join("base.vhd"));
    let unfinished = |path: &Path| {
        let changes = write_unfinished(&base, &finished, path);
        leave_open(path, 9);
        let first = Entry::new(255, 1, vec![Change::Zeros { from: 4 << 20, bytes: PAGE }]);
        let second = Entry { tail: 255, ..Entry::new(first.pages() - 1, 2, changes) };
        [first, second].iter().for_each(|entry| entry.write(path));
    };
    let large = Vhdx { sector: 4096, ..base.clone() };
    let writers: [&dyn Fn(&Path); 5] = [
        &|path| child.write(path),
        &|path| large.write(path),
        &unfinished,
        &|path| old.write(path),
        &|path| younger.write(path),
    ];
    let written = writers.into_iter().map(|write| {
        write(&path);
        fs::read(&path).unwrap()
    });
    written.collect()
}

/// Which part of a seed goes bad.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// Its first bytes.
    Header,
    /// Any of it.
    Whole,
    /// One of the pages that hold something, with the checksum of what begins there made right again.
    Page(u16),
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![Just(Part::Header), Just(Part::Whole), any::<u16>().prop_map(Part::Page)]
}

fn spoil(seed: &[u8], steps: &[Step], part: Part) -> Vec<u8> {
    let at = match part {
        Part::Whole => return mutated(seed, steps),
        Part::Header => 0,
        Part::Page(which) => {
            let full = seed.chunks(HEADER).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            let full: Vec<usize> = full.map(|(number, _)| number * HEADER).collect();
            full[usize::from(which) % full.len()]
        }
    };
    let mut bytes = seed.to_vec();
    let end = (at + HEADER).min(bytes.len());
    let mut page = mutated(&bytes[at..end], steps);
    page.resize(end - at, 0);
    bytes[at..end].copy_from_slice(&page);
    if matches!(part, Part::Page(_)) {
        let length = match page.get(..4) {
            Some(b"head") => HEADER,
            Some(b"regi") => 64 << 10,
            Some(b"loge") => u32::from_le_bytes([page[8], page[9], page[10], page[11]]) as usize,
            _ => 0,
        };
        if let Some(structure) = bytes.get_mut(at..at + length).filter(|structure| structure.len() >= 8) {
            structure.copy_from_slice(&summed(structure.to_vec()));
        }
    }
    bytes
}

#[test]
fn what_a_file_is_can_always_be_told() {
    let scratch = TempDir::new().unwrap();
    let seeds = seeds(scratch.path());
    let path = scratch.path().join("image");
    hold(400, &(0..seeds.len(), steps(), part()), |(seed, steps, part)| {
        fs::write(&path, spoil(&seeds[seed], &steps, part)).unwrap();
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
    hold(100, &(0..seeds.len(), steps(), part()), |(seed, steps, part)| {
        fs::write(&path, spoil(&seeds[seed], &steps, part)).unwrap();
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
    let policy = OpenPolicy { backing_chain: true, ..OpenPolicy::default() };
    let source = open_source(path, format, &policy, engine, &control)?;
    let measure = engine.measure(&source, target, &control)?;
    if measure.bytes_to_copy > MOST_COPIED {
        return Ok(false);
    }
    engine.copy(&source, target, &measure, &control, &mut |_| ()).map(|_| true)
}
