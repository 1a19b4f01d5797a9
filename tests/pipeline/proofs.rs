//! What a result is held against when it is validated: what was read of the source when it was copied.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::OutputFormat;

use crate::crashes::armed;
use crate::site::{Site, drive};
use crate::support::disks;

/// A VM whose only disk is copied, and whose worker died before the result was looked at.
fn copied(to: OutputFormat) -> Site {
    let mut site = Site::new(&["raw"]);
    site.order.plan.output.format = to;
    drive(&armed(&site, "partial.done"), &site.order, &site.log(), |_, _| {});
    let begun = format!(".disk0.{}", to.name());
    site.assert_only(&[
        &format!("{begun}.extents"),
        &format!("{begun}.partial"),
        ".vm.journal.json",
        ".vm.lock",
    ]);
    site
}

/// Changes a file in a way that cannot be told from outside.
fn change(path: &Path, change: impl FnOnce(&File)) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    change(&file);
    file.set_modified(before).unwrap();
}

/// A byte somewhere in the data becomes another one.
fn flip(file: &File) {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes.iter().rposition(|byte| *byte > 1).unwrap();
    file.write_all_at(&[bytes[at] - 1], at as u64).unwrap();
}

#[test]
fn the_source_of_a_copy_of_our_own_is_not_read_a_second_time() {
    for to in [OutputFormat::Qcow2, OutputFormat::Raw] {
        let site = copied(to);
        let was = disks::sha256(site.source(0));
        change(site.source(0), flip);
        assert_ne!(disks::sha256(site.source(0)), was);
        site.succeed();
        site.assert_only(&[&format!("disk0.{}", to.name()), "report.json"]);
        let result = site.out().join(format!("disk0.{}", to.name()));
        assert_eq!(disks::content_sha256(&result, to.name()), was);
    }
}

#[test]
fn a_copy_that_changed_on_the_medium_is_found_and_thrown_away() {
    let site = copied(OutputFormat::Raw);
    change(&site.out().join(".disk0.raw.partial"), flip);
    let error = site.fail();
    assert_eq!(error.kind(), Kind::Validation, "{error}");
    site.assert_only(&[]);
    site.succeed();
    site.assert_same_content();
}

#[test]
fn without_what_is_known_of_a_copy_it_is_compared_with_its_source() {
    type Spoil = fn(&Site, &Path);
    let spoil: [(&str, Spoil); 3] = [
        ("gone", |_, extents| fs::remove_file(extents).unwrap()),
        ("cut", |_, extents| {
            let file = OpenOptions::new().write(true).open(extents).unwrap();
            file.set_len(file.metadata().unwrap().len() - 3).unwrap();
        }),
        ("a link", |site, extents| {
            fs::rename(extents, site.root().join("elsewhere")).unwrap();
            symlink(site.root().join("elsewhere"), extents).unwrap();
        }),
    ];
    for (case, spoil) in spoil {
        for is_sound in [true, false] {
            let site = copied(OutputFormat::Raw);
            spoil(&site, &site.out().join(".disk0.raw.extents"));
            if is_sound {
                site.succeed();
                site.assert_only(&["disk0.raw", "report.json"]);
                site.assert_same_content();
            } else {
                change(&site.out().join(".disk0.raw.partial"), flip);
                assert_eq!(site.fail().kind(), Kind::Validation, "{case}");
                site.assert_only(&[]);
            }
        }
    }
}
