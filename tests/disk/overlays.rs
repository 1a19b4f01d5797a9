//! Overlays: what is changed never reaches the source, and reaches the result exactly once.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::disk::{Control, Depth, Engine, SourceDisk, Target};
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::{Compression, OutputFormat, SourceFormat};

use crate::support::disks;
use crate::{engine, open, target};

const MIB: u64 = 1 << 20;

/// A source, an overlay on it in which something was changed, and the engine.
struct Changed {
    dir: tempfile::TempDir,
    engine: Engine,
    source: SourceDisk,
    overlay: PathBuf,
}

impl Changed {
    fn of(format: SourceFormat, size: u64) -> Changed {
        let dir = tempfile::tempdir().unwrap();
        let path = disks::disk(dir.path(), "source", format.name(), 32, 4, 3);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        let (engine, source) = (engine(), open(&path, format).unwrap());
        let overlay = dir.path().join(".boot.overlay.partial");
        engine.make_overlay(&source, &overlay, size, &Control::new()).unwrap();
        // Over data, over a hole, and at the very end.
        for at in [0, 5 * MIB + 512, size - 64 * 1024] {
            qemu_io(&overlay, &format!("write -P 0xab {at} 64k"));
        }
        Changed { dir, engine, source, overlay }
    }

    fn seen(&self) -> SourceDisk {
        let size = self.engine.overlay_size(&self.overlay, &Control::new()).unwrap();
        self.source.seen_through(&self.overlay, size).unwrap()
    }

    fn copy(&self, from: &SourceDisk, format: OutputFormat, compress: Compression) -> PathBuf {
        let path = self.dir.path().join("result");
        let target = Target { compress, journal: Some(self.journal()), ..target(&path, format) };
        let control = Control::new();
        let measure = self.engine.measure(from, &target, &control).unwrap();
        self.engine.copy(from, &target, &measure, &control, &mut |_| {}).unwrap();
        path
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn commit(&self, result: &Path, format: OutputFormat) -> hyper2kvm::model::error::Result<()> {
        self.engine.commit_overlay(&self.overlay, result, format, &Control::new(), &mut |_| {})
    }

    fn differs(&self, result: &Path, format: OutputFormat) -> Option<Kind> {
        let compared = self.engine.compare(&self.seen(), result, format, &Control::new(), &mut |_| {});
        compared.err().map(|error| error.kind())
    }

    /// The same by what is known of the copy, by the tables and by every byte; `None`: that cannot be told.
    fn differs_by_extents(&self, result: &Path, format: OutputFormat) -> Option<Option<Kind>> {
        let (seen, control, journal) = (self.seen(), Control::new(), self.journal());
        let [tables, medium] = [Depth::Tables, Depth::Medium].map(|depth| {
            match self.engine.read_back(&seen, (result, format), &journal, depth, &control, &mut |_| {}) {
                Ok(told) => told.then_some(None),
                Err(error) => Some(Some(error.kind())),
            }
        });
        assert_eq!(tables, medium);
        medium
    }
}

fn qemu_io(image: &Path, command: &str) {
    let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(image).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("wrote"), "{command}: {said}");
}

#[test]
fn a_commit_changes_the_result_and_never_the_source_whatever_its_format() {
    for source in SourceFormat::ALL {
        for format in [OutputFormat::Qcow2, OutputFormat::Raw] {
            let changed = Changed::of(source, 32 * MIB);
            let before = disks::sha256(&changed.source.path);
            let overlay_before = disks::sha256(&changed.overlay);
            let result = changed.copy(&changed.source, format, Compression::None);
            assert_eq!(changed.differs(&result, format), Some(Kind::Validation), "{source:?}");
            assert_eq!(changed.differs_by_extents(&result, format), Some(Some(Kind::Validation)));
            changed.commit(&result, format).unwrap();
            assert_eq!(changed.differs(&result, format), None, "{source:?} {format:?}");
            assert_eq!(changed.differs_by_extents(&result, format), Some(None), "{source:?} {format:?}");
            changed.engine.check(&result, format, &Control::new()).unwrap();
            assert_eq!(disks::sha256(&changed.source.path), before, "{source:?} {format:?}");
            changed.source.check_unchanged(&Control::new()).unwrap();
            // It can be done again, should nobody have noted that it was done.
            assert_eq!(disks::sha256(&changed.overlay), overlay_before);
            let once = disks::content_sha256(&result, format.name());
            changed.commit(&result, format).unwrap();
            assert_eq!(disks::content_sha256(&result, format.name()), once);
        }
    }
}

#[test]
fn a_plain_commit_would_write_into_the_source_which_is_why_there_is_none() {
    let changed = Changed::of(SourceFormat::Qcow2, 32 * MIB);
    let before = disks::sha256(&changed.source.path);
    std::fs::set_permissions(&changed.source.path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let done = Command::new("qemu-img")
        .args(["commit", "-f", "qcow2", "-d"])
        .arg(&changed.overlay)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_ne!(disks::sha256(&changed.source.path), before);
}

#[test]
fn a_commit_that_was_cut_is_made_whole_by_doing_it_again() {
    let changed = Changed::of(SourceFormat::Vmdk, 32 * MIB);
    qemu_io(&changed.overlay, "write -P 0xcd 1M 24M");
    let result = changed.copy(&changed.source, OutputFormat::Qcow2, Compression::None);
    let control = Control::new();
    let cut = changed.engine.commit_overlay(
        &changed.overlay,
        &result,
        OutputFormat::Qcow2,
        &control,
        &mut |part| {
            if part > 0.0 {
                control.stop();
            }
        },
    );
    assert!(cut.is_err() || changed.differs(&result, OutputFormat::Qcow2).is_none());
    changed.commit(&result, OutputFormat::Qcow2).unwrap();
    assert_eq!(changed.differs(&result, OutputFormat::Qcow2), None);
    changed.engine.check(&result, OutputFormat::Qcow2, &Control::new()).unwrap();
}

#[test]
fn formats_that_are_written_as_a_stream_are_written_from_the_changed_disk() {
    let changed = Changed::of(SourceFormat::Vhd, 32 * MIB);
    let before = disks::sha256(&changed.source.path);
    for (format, compress) in [
        (OutputFormat::Qcow2, Compression::Zstd),
        (OutputFormat::Vmdk, Compression::Zlib),
        (OutputFormat::Vhd, Compression::None),
        (OutputFormat::Vdi, Compression::None),
    ] {
        let result = changed.copy(&changed.seen(), format, compress);
        assert_eq!(changed.differs(&result, format), None, "{format:?}");
        std::fs::remove_file(result).unwrap();
    }
    assert_eq!(disks::sha256(&changed.source.path), before);
    let result = changed.copy(&changed.seen(), OutputFormat::Vdi, Compression::None);
    let error = changed.commit(&result, OutputFormat::Vdi).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

#[test]
fn a_disk_that_grew_in_its_overlay_grows_in_its_result() {
    for format in [OutputFormat::Qcow2, OutputFormat::Raw] {
        let changed = Changed::of(SourceFormat::Raw, 48 * MIB);
        let result = changed.copy(&changed.source, format, Compression::None);
        changed.commit(&result, format).unwrap();
        assert_eq!(changed.differs(&result, format), None, "{format:?}");
        assert_eq!(changed.seen().facts.virtual_size, 48 * MIB);
    }
}

#[test]
fn an_overlay_is_not_committed_into_itself_nor_through_a_link() {
    let changed = Changed::of(SourceFormat::Raw, 32 * MIB);
    assert_eq!(changed.commit(&changed.overlay, OutputFormat::Qcow2).unwrap_err().kind(), Kind::Internal);
    let before = disks::sha256(&changed.source.path);
    let link = changed.dir.path().join("link");
    std::os::unix::fs::symlink(&changed.source.path, &link).unwrap();
    assert_eq!(changed.commit(&link, OutputFormat::Raw).unwrap_err().kind(), Kind::Output);
    assert_eq!(disks::sha256(&changed.source.path), before);
}

#[test]
fn an_overlay_is_made_only_where_nothing_is_and_only_of_what_its_header_can_name() {
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..5).fold(dir.path().to_owned(), |path, _| path.join("d".repeat(220)));
    std::fs::create_dir_all(&deep).unwrap();
    let source = open(&disks::disk(&deep, "source", "raw", 8, 1, 3), SourceFormat::Raw).unwrap();
    let overlay = dir.path().join("overlay");
    let error = engine().make_overlay(&source, &overlay, 8 * MIB, &Control::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(!overlay.exists());

    let source = open(&disks::disk(dir.path(), "source", "raw", 8, 1, 3), SourceFormat::Raw).unwrap();
    std::fs::write(&overlay, "precious").unwrap();
    engine().make_overlay(&source, &overlay, 8 * MIB, &Control::new()).unwrap_err();
    assert_eq!(std::fs::read_to_string(&overlay).unwrap(), "precious");
}

#[test]
fn an_overlay_on_a_copy_holds_every_piece_of_it_that_was_changed_whole() {
    for format in [OutputFormat::Qcow2, OutputFormat::Raw] {
        let dir = tempfile::tempdir().unwrap();
        let path = disks::disk(dir.path(), "source", "vmdk", 32, 4, 3);
        let (engine, source) = (engine(), open(&path, SourceFormat::Vmdk).unwrap());
        let overlay = dir.path().join(".boot.overlay.partial");
        let changed = Changed { dir, engine, source, overlay };
        let result = changed.copy(&changed.source, format, Compression::None);
        let copied = disks::sha256(&result);
        let control = Control::new();
        changed.engine.make_overlay_on_copy((&result, format), &changed.overlay, 32 * MIB, &control).unwrap();
        for at in [512, 5 * MIB + 512, 32 * MIB - 4096] {
            qemu_io(&changed.overlay, &format!("write -P 0xab {at} 4k"));
        }
        assert_eq!(disks::sha256(&result), copied, "the copy was written");
        // Of each piece all is in the overlay, so nothing below it has to be read to tell what is to be there.
        let map =
            Command::new("qemu-img").args(["map", "--output=json"]).arg(&changed.overlay).output().unwrap();
        let map: Vec<serde_json::Value> = serde_json::from_slice(&map.stdout).unwrap();
        let own: u64 =
            map.iter().filter(|range| range["depth"] == 0).filter_map(|range| range["length"].as_u64()).sum();
        assert_eq!(own, 3 * MIB, "{map:?}");
        changed.commit(&result, format).unwrap();
        assert_eq!(changed.differs(&result, format), None, "{format:?}");
        assert_eq!(changed.differs_by_extents(&result, format), Some(None), "{format:?}");
    }
}
