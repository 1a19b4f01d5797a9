//! VHD whose footers are missing, damaged or contradict each other: a disk that grows has two, and one of them is enough.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hyper2kvm::disk::{SourceDisk, is_known_whole};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{OutputFormat, SourceFormat};

use crate::support::{bad_disks::vhd_checksum, disks};
use crate::{copy_to, engine, open, target};

/// A disk of 16 MiB that grows, and what it holds.
fn disk(dir: &Path) -> (PathBuf, String) {
    let path = disks::disk(dir, "disk", "vhd", 16, 4, 3);
    let content = disks::content_sha256(&path, "vpc");
    (path, content)
}

fn content(source: &SourceDisk) -> String {
    let (engine, dir) = (engine(), tempfile::tempdir().unwrap());
    let target = target(dir.path().join("result"), OutputFormat::Raw);
    copy_to(&engine, source, &target).unwrap();
    disks::sha256(&target.path)
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn cut(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length(path) - bytes).unwrap();
}

#[test]
fn the_copy_in_front_is_enough_while_all_data_is_there() {
    for (spoil, what) in [
        ((|path: &Path| patch(path, length(path) - 448, &[1, 2, 3])) as fn(&Path), "a wrong checksum"),
        (|path| patch(path, length(path) - 512, &[0; 512]), "zeros"),
        (|path| cut(path, 512), "missing"),
        (|path| cut(path, 100), "not whole"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = disk(dir.path());
        assert!(is_known_whole(&path, SourceFormat::Vhd).unwrap());
        spoil(&path);
        let source = open(&path, SourceFormat::Vhd).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(source.warnings[0].contains("footer"), "{what}: {:?}", source.warnings);
        assert_eq!(content(&source), expected, "{what}");
        // Whether more is still to come is not known.
        assert!(!is_known_whole(&path, SourceFormat::Vhd).unwrap(), "{what}");
        // A block that is cut is not to be had any more.
        cut(&path, 2 << 20);
        let error = open(&path, SourceFormat::Vhd).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{what}: {error}");
    }
}

#[test]
fn the_footer_at_the_end_is_enough_and_qemu_is_not_asked() {
    // QEMU would take such a disk for a fixed one, and its tables for data.
    for spoilt in [0, 70] {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = disk(dir.path());
        patch(&path, spoilt, b"spoilt");
        let source = open(&path, SourceFormat::Vhd).unwrap();
        assert!(source.warnings[0].contains("in front"), "{:?}", source.warnings);
        assert_eq!(content(&source), expected);
    }
}

#[test]
fn without_a_sound_footer_and_with_two_that_contradict_each_other_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = disk(dir.path());
    let mut larger = fs::read(&path).unwrap()[..512].to_vec();
    larger[48..56].copy_from_slice(&(32_u64 << 20).to_be_bytes());
    vhd_checksum(&mut larger, 64);
    patch(&path, length(&path) - 512, &larger);
    let error = open(&path, SourceFormat::Vhd).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("two footers"), "{error}");
    patch(&path, length(&path) - 440, b"x");
    patch(&path, 72, b"x");
    let error = open(&path, SourceFormat::Vhd).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn the_size_is_the_one_in_the_footer_and_not_its_geometry() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = disk(dir.path());
    for at in [0, length(&path) - 512] {
        let mut footer = fs::read(&path).unwrap()[..512].to_vec();
        footer[56..60].copy_from_slice(&[0xff, 0xff, 16, 63]);
        vhd_checksum(&mut footer, 64);
        patch(&path, at, &footer);
    }
    assert_eq!(open(&path, SourceFormat::Vhd).unwrap().facts.virtual_size, 16 << 20);
}
