//! Every source format into every target format: same content, source untouched.

use hyper2kvm::disk::{Control, Target};
use hyper2kvm::model::plan::{Compression, OutputFormat, Preallocation, SourceFormat};

use crate::support::disks;
use crate::{copy_to, engine, open, target};

#[test]
fn a_raw_disk_that_is_laid_out_beforehand_takes_all_its_room_and_holds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, control) = (engine(), Control::new());
    let path = disks::disk(dir.path(), "disk", "vmdk", 40, 5, 7);
    let source = open(&path, SourceFormat::Vmdk).unwrap();
    for preallocation in [Preallocation::Falloc, Preallocation::Full] {
        let result = dir.path().join("result.raw");
        let wanted = Target { preallocation, ..target(&result, OutputFormat::Raw) };
        let copied = copy_to(&engine, &source, &wanted).unwrap();
        assert!(copied.engine.starts_with("hyper2kvm "), "{preallocation:?}: {copied:?}");
        assert!(copied.allocated_bytes >= 40 << 20, "{preallocation:?}: {copied:?}");
        engine.compare(&source, &result, OutputFormat::Raw, &control, &mut |_| ()).unwrap();
        std::fs::remove_file(&result).unwrap();
    }
}

#[test]
fn a_level_is_heeded() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, control) = (engine(), Control::new());
    let path = dir.path().join("text.raw");
    let text: String = (0..400_000u64).map(|line| format!("line {line} of {}\n", line * line)).collect();
    std::fs::write(&path, &text.as_bytes()[..8 << 20]).unwrap();
    let source = open(&path, SourceFormat::Raw).unwrap();
    for (format, compress, levels) in [
        (OutputFormat::Qcow2, Compression::Zstd, [1, 19]),
        (OutputFormat::Qcow2, Compression::Zlib, [1, 9]),
        (OutputFormat::Vmdk, Compression::Zlib, [1, 9]),
    ] {
        let sizes = levels.map(|level| {
            let result = dir.path().join("result");
            let wanted = Target { level: Some(level), compress, ..target(&result, format) };
            let copied = copy_to(&engine, &source, &wanted).unwrap();
            engine.compare(&source, &result, format, &control, &mut |_| ()).unwrap();
            std::fs::remove_file(&result).unwrap();
            copied.file_size
        });
        assert!(sizes[1] < sizes[0], "{} {compress:?}: {sizes:?}", format.name());
    }
}

#[test]
fn every_source_format_becomes_every_target_format_with_the_same_content() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let control = Control::new();
    for from in SourceFormat::ALL {
        let path = disks::disk(dir.path(), "disk", from.name(), 40, 5, 7);
        let before = (disks::sha256(&path), std::fs::metadata(&path).unwrap().modified().unwrap());
        let source = open(&path, from).unwrap();
        assert_eq!(source.facts.virtual_size, 40 << 20, "{}", from.name());
        for to in OutputFormat::ALL {
            for packed in [Compression::None, Compression::Zlib, Compression::Zstd] {
                let result = dir.path().join(format!("result.{}", to.name()));
                let wanted = Target { compress: packed, ..target(&result, to) };
                let measure = engine.measure(&source, &wanted, &control).unwrap();
                let mut last = 0;
                engine
                    .copy(&source, &wanted, &measure, &control, &mut |seen| {
                        assert!(seen.bytes_done >= last && seen.bytes_done <= seen.bytes_total);
                        last = seen.bytes_done;
                    })
                    .unwrap_or_else(|error| panic!("{} to {}: {error}", from.name(), to.name()));
                engine.check(&result, to, &control).unwrap();
                engine.compare(&source, &result, to, &control, &mut |_| ()).unwrap();
                std::fs::remove_file(&result).unwrap();
            }
        }
        source.check_unchanged(&Control::new()).unwrap();
        let after = (disks::sha256(&path), std::fs::metadata(&path).unwrap().modified().unwrap());
        assert_eq!(before, after);
    }
}
