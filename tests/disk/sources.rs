//! Sources of more than one file, of odd sizes, in every variant of their format; and chains, where allowed.

use std::path::Path;
use std::process::Command;

use hyper2kvm::disk::{Control, Engine, SourceDisk, estimate_virtual_size};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{OutputFormat, SourceFormat};

use crate::support::disks;
use crate::{copy_to, engine, open, open_chain, target};

fn qemu_img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Copies to raw beside the source and gives the result's digest.
fn content(engine: &Engine, source: &SourceDisk, dir: &Path) -> String {
    let wanted = target(dir.join("content.raw"), OutputFormat::Raw);
    copy_to(engine, source, &wanted).unwrap();
    let digest = disks::sha256(&wanted.path);
    std::fs::remove_file(&wanted.path).unwrap();
    digest
}

#[test]
fn every_variant_of_every_format_gives_the_bytes_that_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let flat = dir.path().join("flat.raw");
    disks::raw(&flat, 24, 5, 9);
    let expected = disks::sha256(&flat);
    for (format, driver, options) in [
        (SourceFormat::Vmdk, "vmdk", "subformat=monolithicSparse"),
        (SourceFormat::Vmdk, "vmdk", "subformat=monolithicFlat"),
        (SourceFormat::Vmdk, "vmdk", "subformat=twoGbMaxExtentSparse"),
        (SourceFormat::Vmdk, "vmdk", "subformat=twoGbMaxExtentFlat"),
        (SourceFormat::Vmdk, "vmdk", "subformat=streamOptimized"),
        (SourceFormat::Vhd, "vpc", "subformat=dynamic,force_size=on"),
        (SourceFormat::Vhd, "vpc", "subformat=fixed,force_size=on"),
        (SourceFormat::Vhdx, "vhdx", "subformat=dynamic"),
        (SourceFormat::Vhdx, "vhdx", "subformat=fixed"),
        (SourceFormat::Vdi, "vdi", "static=off"),
        (SourceFormat::Vdi, "vdi", "static=on"),
        (SourceFormat::Qcow2, "qcow2", "compat=0.10"),
        (SourceFormat::Qcow2, "qcow2", "compat=1.1,extended_l2=on"),
        (SourceFormat::Qcow2, "qcow2", "compat=1.1,cluster_size=2M"),
        (SourceFormat::Qcow2, "qcow2", "compat=1.1,cluster_size=512"),
        (SourceFormat::Qcow2, "qcow2", "compat=1.1,preallocation=falloc"),
    ] {
        let inner = tempfile::tempdir().unwrap();
        let path = inner.path().join("disk.img");
        qemu_img(&["convert", "-f", "raw", "-O", driver, "-o", options, text(&flat), text(&path)]);
        let source = open(&path, format).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(source.facts.virtual_size, 24 << 20, "{options}");
        assert_eq!(estimate_virtual_size(&path, format).unwrap(), 24 << 20, "{options}");
        assert_eq!(content(&engine, &source, dir.path()), expected, "{options}");
        source.check_unchanged(&Control::new()).unwrap();
    }
    // Noise is never packed.
    std::fs::write(&flat, "words that come again ".repeat(400_000)).unwrap();
    std::fs::File::options().write(true).open(&flat).unwrap().set_len(24 << 20).unwrap();
    let expected = disks::sha256(&flat);
    for compression in ["zlib", "zstd"] {
        let path = dir.path().join("packed.qcow2");
        let option = format!("compression_type={compression}");
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &option, text(&flat), text(&path)]);
        let source = open(&path, SourceFormat::Qcow2).unwrap();
        assert!(source.facts.compressed);
        assert_eq!(content(&engine, &source, dir.path()), expected);
    }
}

#[test]
fn a_split_disk_is_watched_in_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let flat = dir.path().join("flat.raw");
    disks::raw(&flat, 8, 2, 9);
    let disk = dir.path().join("disk.vmdk");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        text(&flat),
        text(&disk),
    ]);
    let source = open(&disk, SourceFormat::Vmdk).unwrap();
    assert_eq!(source.identity().len(), 2);
    assert_eq!(source.facts.subformat.as_deref(), Some("monolithicFlat"));
    assert!(source.facts.file_size > 8 << 20);
    let extent = source.facts.extents[0].clone();
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::OpenOptions::new().write(true).open(&extent).unwrap(),
        b"changed",
        0,
    )
    .unwrap();
    let error = source.check_unchanged(&Control::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("changed while"), "{error}");
}

#[test]
fn a_chain_is_read_when_allowed_and_only_where_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let engine = engine();
    let base = disks::disk(elsewhere.path(), "base", "vmdk", 16, 3, 5);
    let expected = disks::content_sha256(&base, "vmdk");
    let (middle, top) = (dir.path().join("middle.qcow2"), dir.path().join("top.qcow2"));
    qemu_img(&["create", "-f", "qcow2", "-b", text(&base), "-F", "vmdk", text(&middle)]);
    qemu_img(&["create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", text(&top)]);

    let refused = open(&top, SourceFormat::Qcow2).unwrap_err();
    assert!(refused.to_string().contains("backing_chain: true"), "{refused}");
    let outside = open_chain(&top, SourceFormat::Qcow2, &[]).unwrap_err();
    assert!(outside.to_string().contains("outside"), "{outside}");
    let source = open_chain(&top, SourceFormat::Qcow2, &[elsewhere.path().to_owned()]).unwrap();
    assert_eq!(source.facts.backing.len(), 2);
    assert_eq!(source.identity().len(), 3);
    assert_eq!(content(&engine, &source, dir.path()), expected);
}

#[test]
fn broken_chains_are_told_apart_from_sound_ones() {
    let dir = tempfile::tempdir().unwrap();
    let base = disks::disk(dir.path(), "base", "qcow2", 8, 1, 5);
    let path = |name: &str| dir.path().join(name);
    let on = |below: &str, format: &str, name: &str| {
        qemu_img(&["create", "-u", "-f", "qcow2", "-b", below, "-F", format, text(&path(name)), "8M"]);
    };
    // A loop, a gap, a name that is a protocol, a false format, a chain without end.
    on("loop-b.qcow2", "qcow2", "loop-a.qcow2");
    on("loop-a.qcow2", "qcow2", "loop-b.qcow2");
    on("gone.qcow2", "qcow2", "gap.qcow2");
    on("nbd:host:1", "raw", "net.qcow2");
    on("base.qcow2", "vmdk", "false.qcow2");
    for number in 0..40 {
        let below = if number == 0 { "base.qcow2".to_owned() } else { format!("deep-{}.qcow2", number - 1) };
        on(&below, "qcow2", &format!("deep-{number}.qcow2"));
    }
    for (name, word) in [
        ("loop-a.qcow2", "twice"),
        ("gap.qcow2", "missing"),
        ("net.qcow2", "not the name of a file"),
        ("false.qcow2", "declared as vmdk"),
        ("deep-39.qcow2", "longer than"),
    ] {
        let error = open_chain(&path(name), SourceFormat::Qcow2, &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Source, "{name}: {error}");
        assert!(error.to_string().contains(word), "{name}: {error}");
    }
    open_chain(&path("deep-20.qcow2"), SourceFormat::Qcow2, &[]).unwrap();
    assert!(base.exists());
}

#[test]
fn a_vmware_snapshot_is_read_on_the_disk_that_it_was_made_on_and_on_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let base = disks::disk(dir.path(), "base", "vmdk", 16, 3, 5);
    let expected = disks::content_sha256(&base, "vmdk");
    let top = dir.path().join("top.vmdk");
    qemu_img(&["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", text(&top)]);
    let source = open_chain(&top, SourceFormat::Vmdk, &[]).unwrap();
    assert_eq!(content(&engine, &source, dir.path()), expected);
    // The base's content id changes with every use: the snapshot does not fit any more.
    let mut bytes = std::fs::read(&base).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\nCID=").unwrap() + 5;
    bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
    std::fs::write(&base, bytes).unwrap();
    let error = open_chain(&top, SourceFormat::Vmdk, &[]).unwrap_err();
    assert!(error.to_string().contains("changed after"), "{error}");
}

#[test]
fn a_raw_disk_of_an_odd_size_is_filled_up_and_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    std::fs::write(&disk, vec![7; 100_001]).unwrap();
    let engine = engine();
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    assert!(source.warnings[0].contains("multiple of 512"));
    for format in OutputFormat::ALL {
        let wanted = target(dir.path().join("result"), format);
        copy_to(&engine, &source, &wanted).unwrap();
        engine
            .compare(&source, &wanted.path, format, &control, &mut |_| ())
            .unwrap_or_else(|error| panic!("{}: {error}", format.name()));
        std::fs::remove_file(&wanted.path).unwrap();
    }
}

#[test]
fn a_disk_that_no_vhd_can_hold_is_refused_before_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&disk), "3T"]);
    let engine = engine();
    let source = open(&disk, SourceFormat::Qcow2).unwrap();
    let wanted = target(dir.path().join("disk.vhd"), OutputFormat::Vhd);
    let error = copy_to(&engine, &source, &wanted).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(!wanted.path.exists());
}

#[test]
fn a_result_that_is_there_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disks::disk(dir.path(), "disk", "raw", 4, 1, 1);
    let engine = engine();
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    let wanted = target(dir.path().join("taken"), OutputFormat::Qcow2);
    std::fs::write(&wanted.path, "precious").unwrap();
    let measure = engine.measure(&source, &wanted, &control).unwrap();
    assert!(engine.copy(&source, &wanted, &measure, &control, &mut |_| ()).is_err());
    assert_eq!(std::fs::read_to_string(&wanted.path).unwrap(), "precious");
}

#[test]
fn a_changed_result_does_not_pass_for_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disks::disk(dir.path(), "disk", "raw", 8, 2, 1);
    let engine = engine();
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    let wanted = target(dir.path().join("result"), OutputFormat::Raw);
    copy_to(&engine, &source, &wanted).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&wanted.path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 5000).unwrap();
    let compare = || engine.compare(&source, &wanted.path, OutputFormat::Raw, &control, &mut |_| ());
    assert_eq!(compare().unwrap_err().kind(), Kind::Validation);
    file.set_len(16 << 20).unwrap();
    let error = compare().unwrap_err();
    assert!(error.to_string().contains("16777216 bytes"), "{error}");
}

#[test]
fn what_a_conversion_will_occupy_is_told_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disks::disk(dir.path(), "disk", "raw", 400, 9, 1);
    let engine = engine();
    let control = Control::new();
    let source = open(&disk, SourceFormat::Raw).unwrap();
    for format in OutputFormat::ALL {
        let wanted = target(dir.path().join("result"), format);
        let measure = engine.measure(&source, &wanted, &control).unwrap();
        assert_eq!(measure.bytes_to_copy, 9 << 20);
        let made = engine.copy(&source, &wanted, &measure, &control, &mut |_| ()).unwrap();
        assert!(made.allocated_bytes <= measure.required_bytes, "{}: {made:?} {measure:?}", format.name());
        assert!(measure.required_bytes < 60 << 20, "{}: {measure:?}", format.name());
        std::fs::remove_file(&wanted.path).unwrap();
    }
}
