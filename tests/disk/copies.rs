//! Every source format into every target format: same content, source untouched.

use std::path::Path;

use hyper2kvm::disk::{Control, Target};
use hyper2kvm::model::plan::{Compression, OutputFormat, Preallocation, SourceFormat};

use crate::support::disks;
use crate::{engine, open};

fn target(path: &Path, format: OutputFormat, compress: Compression) -> Target {
    Target {
        path: path.to_owned(),
        format,
        compress,
        level: None,
        preallocation: Preallocation::Off,
        journal: None,
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
                let wanted = target(&result, to, packed);
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
        source.check_unchanged().unwrap();
        let after = (disks::sha256(&path), std::fs::metadata(&path).unwrap().modified().unwrap());
        assert_eq!(before, after);
    }
}
