//! A file system that becomes full under a copy: told as that, and gone on from when there is room.

use std::num::NonZeroU64;

use hyper2kvm::disk::{Control, Target};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{Compression, OutputFormat, SourceFormat};

use crate::support::{disks, small_disk::SmallDisk};
use crate::{copy_to, engine, open, target};

#[test]
fn a_copy_that_finds_no_room_says_so_and_goes_on_when_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, control) = (engine(), Control::new());
    let source = open(&disks::disk(dir.path(), "disk", "raw", 56, 48, 3), SourceFormat::Raw).unwrap();
    for (format, compress) in [
        (OutputFormat::Vmdk, Compression::None),
        (OutputFormat::Vmdk, Compression::Zlib),
        (OutputFormat::Vhd, Compression::None),
        (OutputFormat::Vdi, Compression::None),
        (OutputFormat::Qcow2, Compression::None),
    ] {
        let case = format!("{} {compress:?}", format.name());
        let small = SmallDisk::mount(&dir.path().join("small"), 24);
        let at = |name: &str| dir.path().join("small").join(name);
        let target = Target { compress, journal: Some(at("journal")), ..target(at("result"), format) };
        // Slow enough that no thread is far behind the others when room ends: what comes after a gap is not kept.
        let slowly = Control::new();
        slowly.limit_reading(NonZeroU64::new(48 << 20));
        let measure = engine.measure(&source, &target, &control).unwrap();
        let error = engine.copy(&source, &target, &measure, &slowly, &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskSpace, "{case}: {error}");
        // Room for two results: what QEMU had open is let go of some time after it has ended.
        small.resize(160);
        let copied = copy_to(&engine, &source, &target).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(copied.restarted, None, "{case}");
        assert!(copied.kept_bytes > 0, "{case}: nothing kept");
        engine.check(&target.path, format, &control).unwrap();
        engine.compare(&source, &target.path, format, &control, &mut |_| ()).unwrap();
        // The same as if there had always been room.
        let gone_on = disks::sha256(&target.path);
        for name in ["result", "journal"] {
            std::fs::remove_file(at(name)).unwrap();
        }
        copy_to(&engine, &source, &target).unwrap();
        assert_eq!(gone_on, disks::sha256(&target.path), "{case}");
    }
}
