//! A file system that becomes full under a copy: told as that, and gone on from when there is room.

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
        let error = copy_to(&engine, &source, &target).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskSpace, "{case}: {error}");
        small.resize(96);
        let copied = copy_to(&engine, &source, &target).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(copied.restarted, None, "{case}");
        assert!(copied.kept_bytes >= 4 << 20, "{case}: {} kept", copied.kept_bytes);
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
