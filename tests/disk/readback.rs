//! Results that are read back: whatever changed in them since they were copied is found.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use hyper2kvm::disk::{Control, Depth, SourceDisk, Target};
use hyper2kvm::model::error::{Kind, Result};
use hyper2kvm::model::plan::{Compression, OutputFormat, SourceFormat};

use crate::support::disks;
use crate::{copy_to, engine, open, target};

const MIB: u64 = 1 << 20;
const SIZE_MIB: u64 = 40;

/// A disk with 5 MiB of data, one every 8 MiB, and its copy.
struct Copy {
    dir: tempfile::TempDir,
    source: SourceDisk,
    format: OutputFormat,
}

impl Copy {
    fn new(from: SourceFormat, format: OutputFormat) -> Copy {
        Copy::packed(from, format, Compression::None)
    }

    fn packed(from: SourceFormat, format: OutputFormat, compress: Compression) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        let path = disks::disk(dir.path(), "disk", from.name(), SIZE_MIB, 5, 3);
        let copy = Copy { source: open(&path, from).unwrap(), dir, format };
        let engine = engine();
        let target =
            Target { compress, journal: Some(copy.path("extents")), ..target(copy.path("result"), format) };
        copy_to(&engine, &copy.source, &target).unwrap();
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Every byte of it.
    fn read_back(&self) -> Result<bool> {
        self.looked_into(Depth::Medium)
    }

    fn looked_into(&self, depth: Depth) -> Result<bool> {
        let (engine, control, result) = (engine(), Control::new(), self.path("result"));
        let (mut told, extents) = (0.0, self.path("extents"));
        engine.read_back(&self.source, (&result, self.format), &extents, depth, &control, &mut |part| {
            assert!((0.0..=1.0).contains(&part) && part >= told, "{part} after {told}");
            told = part;
        })
    }

    /// Changes a byte of the disk as the guest sees it.
    fn change(&self, at: u64) {
        let command = format!("write -P 0x5a {at} 1");
        let driver = if self.format == OutputFormat::Vhd { "vpc" } else { self.format.name() };
        let done =
            Command::new("qemu-io").args(["-f", driver, "-c", &command]).arg(self.path("result")).output();
        let done = done.unwrap();
        assert!(String::from_utf8_lossy(&done.stdout).contains("wrote"), "{done:?}");
    }
}

#[test]
fn a_sound_result_of_every_format_is_found_so_without_asking_the_source() {
    let sources = SourceFormat::ALL.map(|from| (from, OutputFormat::Qcow2, Compression::None));
    let targets = OutputFormat::ALL.map(|to| (SourceFormat::Raw, to, Compression::None));
    let packed = [
        (SourceFormat::Raw, OutputFormat::Qcow2, Compression::Zstd),
        (SourceFormat::Vmdk, OutputFormat::Qcow2, Compression::Zlib),
        (SourceFormat::Vmdk, OutputFormat::Vmdk, Compression::Zlib),
    ];
    for (from, to, packed) in sources.into_iter().chain(targets).chain(packed) {
        let case = format!("{} to {} {packed:?}", from.name(), to.name());
        let copy = Copy::packed(from, to, packed);
        for depth in [Depth::Tables, Depth::Medium] {
            assert!(copy.looked_into(depth).unwrap(), "{case}, {depth:?}");
        }
    }
}

#[test]
fn one_byte_that_changed_is_found_in_data_and_in_what_was_empty() {
    for to in OutputFormat::ALL {
        for at in [0, 8 * MIB + 77, 9 * MIB - 1, 3 * MIB, 20 * MIB + 4096, SIZE_MIB * MIB - 1] {
            let copy = Copy::new(SourceFormat::Vmdk, to);
            copy.change(at);
            let error = copy.read_back().unwrap_err();
            assert_eq!(error.kind(), Kind::Validation, "{at}: {error}");
            assert!(error.to_string().contains("bytes into the disk"), "{error}");
        }
    }
}

/// The entries of the first of the second tables of a qcow2, and where they lie in it.
fn first_table(image: &[u8]) -> (usize, Vec<u64>) {
    let number = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let place = |at: usize| (number(at) & 0x00ff_ffff_ffff_fe00) as usize;
    let table = place(place(40));
    (table, (0..8192).map(|entry| number(table + entry * 8)).collect())
}

#[test]
fn a_piece_that_is_shown_elsewhere_twice_or_not_at_all_is_found_by_the_tables_alone() {
    type Spoil = fn(&mut Vec<u64>);
    let spoil: [(&str, Spoil); 4] = [
        ("two changed places", |entries| entries.swap(1, 2)),
        ("one is shown twice", |entries| entries[129] = entries[128]),
        ("one is gone", |entries| entries[130] = 0),
        ("one is where nothing was", |entries| entries[60] = entries[5]),
    ];
    for (case, spoil) in spoil {
        let copy = Copy::new(SourceFormat::Vmdk, OutputFormat::Qcow2);
        let (at, mut entries) = first_table(&fs::read(copy.path("result")).unwrap());
        assert!(entries[128] != 0 && entries[60] == 0, "where the data of this disk lies");
        spoil(&mut entries);
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let file = OpenOptions::new().write(true).open(copy.path("result")).unwrap();
        file.write_all_at(&bytes, at as u64).unwrap();
        let error = copy.looked_into(Depth::Tables).unwrap_err();
        assert_eq!(error.kind(), Kind::Validation, "{case}: {error}");
    }
}

#[test]
fn what_was_not_looked_at_when_it_was_written_is_not_believed() {
    let copy = Copy::new(SourceFormat::Raw, OutputFormat::Qcow2);
    fs::remove_file(copy.path("result")).unwrap();
    fs::remove_file(copy.path("extents")).unwrap();
    let mut engine = engine();
    engine.looks_again = false;
    let target = Target { journal: Some(copy.path("extents")), ..target(copy.path("result"), copy.format) };
    copy_to(&engine, &copy.source, &target).unwrap();
    assert!(!copy.looked_into(Depth::Tables).unwrap());
    assert!(!copy.looked_into(Depth::Medium).unwrap());
}

#[test]
fn what_rots_in_a_packed_result_is_found() {
    for (to, packed) in [
        (OutputFormat::Qcow2, Compression::Zstd),
        (OutputFormat::Qcow2, Compression::Zlib),
        (OutputFormat::Vmdk, Compression::Zlib),
    ] {
        let copy = Copy::packed(SourceFormat::Raw, to, packed);
        let file = OpenOptions::new().read(true).write(true).open(copy.path("result")).unwrap();
        // In the midst of the data, which is noise.
        let (at, mut byte) = (3 * MIB + 77, [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        assert_eq!(copy.read_back().unwrap_err().kind(), Kind::Validation, "{} {packed:?}", to.name());
    }
}

#[test]
fn zeros_that_took_the_place_of_nothing_are_no_difference() {
    let copy = Copy::new(SourceFormat::Raw, OutputFormat::Raw);
    let file = OpenOptions::new().write(true).open(copy.path("result")).unwrap();
    file.write_all_at(&[0; 65536], 3 * MIB).unwrap();
    assert!(copy.read_back().unwrap());
}

#[test]
fn a_result_of_another_size_differs() {
    let copy = Copy::new(SourceFormat::Raw, OutputFormat::Raw);
    OpenOptions::new().write(true).open(copy.path("result")).unwrap().set_len(SIZE_MIB * MIB + 512).unwrap();
    assert_eq!(copy.read_back().unwrap_err().kind(), Kind::Validation);
}

#[test]
fn what_the_end_of_the_record_does_not_tell_is_compared_byte_by_byte() {
    let copy = Copy::new(SourceFormat::Vhdx, OutputFormat::Qcow2);
    let extents = OpenOptions::new().write(true).open(copy.path("extents")).unwrap();
    extents.set_len(extents.metadata().unwrap().len() - 1).unwrap();
    assert!(copy.read_back().unwrap());
    copy.change(8 * MIB);
    assert_eq!(copy.read_back().unwrap_err().kind(), Kind::Validation);
}

#[test]
fn data_that_became_zeros_is_found_also_where_the_record_does_not_tell_of_it() {
    for to in [OutputFormat::Qcow2, OutputFormat::Raw] {
        for is_told in [true, false] {
            let copy = Copy::new(SourceFormat::Raw, to);
            let result = copy.path("result");
            let done = Command::new("qemu-io")
                .args(["-f", to.name(), "-c", "write -z 8M 1M"])
                .arg(&result)
                .output()
                .unwrap();
            assert!(String::from_utf8_lossy(&done.stdout).contains("wrote"), "{done:?}");
            if !is_told {
                let extents = OpenOptions::new().write(true).open(copy.path("extents")).unwrap();
                extents.set_len(extents.metadata().unwrap().len() - 1).unwrap();
            }
            assert_eq!(copy.read_back().unwrap_err().kind(), Kind::Validation, "{} {is_told}", to.name());
        }
    }
}

#[test]
fn tables_that_make_no_sense_are_a_result_that_is_wrong() {
    let copy = Copy::new(SourceFormat::Raw, OutputFormat::Qcow2);
    let file = OpenOptions::new().write(true).open(copy.path("result")).unwrap();
    // The size of a cluster.
    file.write_all_at(&[0xff; 4], 20).unwrap();
    assert_eq!(copy.read_back().unwrap_err().kind(), Kind::Validation);
}

#[test]
fn a_record_that_is_not_ours_alone_is_not_believed() {
    type Spoil = fn(&Copy);
    let spoil: [(&str, Spoil); 5] = [
        ("others may write it", |copy| {
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(copy.path("extents"), mode).unwrap();
        }),
        ("it has two names", |copy| fs::hard_link(copy.path("extents"), copy.path("second")).unwrap()),
        ("it is a link", |copy| {
            fs::rename(copy.path("extents"), copy.path("elsewhere")).unwrap();
            symlink(copy.path("elsewhere"), copy.path("extents")).unwrap();
        }),
        ("it is a directory", |copy| {
            fs::remove_file(copy.path("extents")).unwrap();
            fs::create_dir(copy.path("extents")).unwrap();
        }),
        ("it is anything", |copy| fs::write(copy.path("extents"), [0xa5; 5000]).unwrap()),
    ];
    for (case, spoil) in spoil {
        let copy = Copy::new(SourceFormat::Raw, OutputFormat::Raw);
        spoil(&copy);
        assert!(!copy.read_back().unwrap(), "{case}");
    }
}

#[test]
fn without_a_record_of_this_very_copy_nothing_is_claimed() {
    let copy = Copy::new(SourceFormat::Raw, OutputFormat::Qcow2);
    fs::copy(copy.path("result"), copy.path("other")).unwrap();
    fs::rename(copy.path("other"), copy.path("result")).unwrap();
    assert!(!copy.read_back().unwrap());
    fs::remove_file(copy.path("extents")).unwrap();
    assert!(!copy.read_back().unwrap());
}
