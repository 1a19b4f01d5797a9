//! Manifests that nobody would write. Each is taken or refused as `manifest` (or `unsupported`),
//! with words; the same bytes always come to the same thing.

use std::path::Path;

use proptest::prelude::*;

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::planner::Submission;

use crate::hold;
use crate::mutate::{mutated, steps};

const SEEDS: [&str; 4] = [
    "manifest_version: \"1.0\"\nname: web\npriority: 10\ndisks:\n  - id: boot\n    source_format: vmdk\n    local_path: web.vmdk\n    boot_order_hint: 0\n  - id: data\n    source_format: raw\n    local_path: /srv/data.img\n    bytes: 1073741824\noutput:\n  directory: /srv/out\n  format: qcow2\n  compress: zstd\n",
    "{\"manifest_version\": \"1.0\", \"disks\": [{\"id\": \"a\", \"source_format\": \"qcow2\", \"local_path\": \"a.qcow2\", \"checksum\": \"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}], \"pipeline\": {\"validate\": {\"enabled\": true}}}",
    "manifest_version: 1.0\nprofile: none\nvm: {cpu: 4, mem_gb: 8, firmware: uefi}\nnics: [{id: n0, mac: \"52:54:00:12:34:56\", bridge: br-lan}]\ndisks: [{id: d, source_format: vhdx, local_path: d.vhdx}]\n",
    "batch_version: \"1.0\"\nbatch_metadata: {batch_id: b, parallel_limit: 2}\nvms:\n  - {id: a, manifest: a.yaml, priority: 1}\n  - {id: b, manifest: {disks: [{id: x, source_format: raw, local_path: x.img}]}}\n",
];

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let settings = Settings::defaults(Path::new("/var/lib/hyper2kvm"), 2);
    let read = || Submission::read(bytes, "x.yaml", Path::new("/srv/drops"), &settings);
    match (read(), read()) {
        (Ok(first), Ok(second)) => {
            prop_assert_eq!(&first, &second);
            // What was taken can be planned, or it is said why not.
            if let Err(error) = first.plans("batch", "", &settings) {
                prop_assert!(
                    [Kind::Manifest, Kind::Unsupported, Kind::Exists].contains(&error.kind()),
                    "{error:?}"
                );
            }
        }
        (Err(first), Err(second)) => {
            prop_assert_eq!(first.to_string(), second.to_string());
            prop_assert!([Kind::Manifest, Kind::Unsupported].contains(&first.kind()), "{first:?}");
            prop_assert!(!first.to_string().trim().is_empty());
        }
        _ => return Err(TestCaseError::fail("the same bytes came to two things")),
    }
    Ok(())
}

#[test]
fn the_seeds_are_good_as_far_as_this_version_goes() {
    let settings = Settings::defaults(Path::new("/var/lib/hyper2kvm"), 2);
    for seed in SEEDS {
        let read = Submission::read(seed.as_bytes(), "x.yaml", Path::new("/srv/drops"), &settings);
        if let Err(error) = read {
            // Batches come with a later version; everything else is understood.
            assert_eq!(error.kind(), Kind::Unsupported, "{error:?}\n{seed}");
        }
    }
}

#[test]
fn a_spoiled_manifest_is_taken_or_refused_with_words() {
    hold(1500, &(0..SEEDS.len(), steps()), |(seed, steps)| check(&mutated(SEEDS[seed].as_bytes(), &steps)));
}

#[test]
fn bytes_that_are_no_manifest_are_refused_with_words() {
    hold(500, &proptest::collection::vec(any::<u8>(), 0..2000), |bytes| check(&bytes));
}

#[test]
fn brackets_without_end_neither_hang_nor_overflow() {
    hold(40, &("[\\[{\\-?: \\n]{1,8}", 1_usize..20_000), |(piece, times)| {
        check(piece.repeat(times.min(100_000 / piece.len().max(1))).as_bytes())
    });
}
