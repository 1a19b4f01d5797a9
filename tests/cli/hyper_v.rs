//! Disks of Hyper-V that QEMU does not read, converted from outside: checkpoints, large sectors, and what a power cut left.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;

use crate::run::{Done, hyper2kvm};
use crate::support::disks;
use crate::support::vhd::Vhd;
use crate::support::vhdx::{Block, Entry, MIB, Vhdx, leave_open, write_unfinished};

fn convert(directory: &Path, words: &[&str]) -> Done {
    let mut command = hyper2kvm();
    command.args(["convert", "--no-fix", "--json", "-o", "out"]).args(words).current_dir(directory);
    command.output().unwrap().into()
}

fn only_qcow2(directory: &Path) -> String {
    let mut found: Vec<_> = fs::read_dir(directory.join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "qcow2"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let path = found.remove(0);
    let sum = disks::content_sha256(&path, "qcow2");
    fs::remove_dir_all(directory.join("out")).unwrap();
    sum
}

/// Whether it was copied by this program, and then held against what was read.
fn is_ours(report: &Value) -> bool {
    let text = report.to_string();
    text.contains("\"engine\":\"hyper2kvm ") && text.contains("\"identical\":true")
}

#[test]
fn a_chain_of_checkpoints_becomes_one_disk_where_somebody_allows_it() {
    let site = tempfile::tempdir().unwrap();
    let at = |name: &str| site.path().join(name);
    let plain = File::create(at("plain")).unwrap();
    let base = Vhdx::new(9 * MIB, 1, vec![(2, Block::Full(vec![(0, vec![7; 1 << 20])]))]);
    let first =
        base.on("base.vhdx", 2, vec![(2, Block::Partly(vec![(512, vec![8; 512])])), (4, Block::Zeros)]);
    let second = first.on("first.avhdx", 3, vec![(0, Block::Partly(vec![(4096, vec![9; 1024])]))]);
    for (image, name) in [(&base, "base.vhdx"), (&first, "first.avhdx"), (&second, "web.avhdx")] {
        image.write(&at(name));
        image.show(&plain);
    }
    let refused = convert(site.path(), &["web.avhdx"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("backing_chain: true") || refused.stderr.contains("backing_chain: true"));
    let done = convert(site.path(), &["--backing-chain", "web.avhdx"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert_eq!(only_qcow2(site.path()), disks::sha256(&at("plain")));
    let mut written = hyper2kvm();
    written.args(["manifest", "--backing-chain", "web.avhdx", "--no-compute-checksums", "--json"]);
    let written: Done = written.current_dir(site.path()).output().unwrap().into();
    assert_eq!(written.json()["manifests"][0]["disks"][0]["backing_chain"], true);
    let manifest = "manifest_version: \"1.0\"\nname: web\n\
        disks:\n  - {id: boot, source_format: vhdx, local_path: web.avhdx, backing_chain: true}\n";
    fs::write(at("web.yaml"), manifest).unwrap();
    let done = convert(site.path(), &["web.yaml"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(is_ours(&done.json()), "{}", done.stdout);
    assert_eq!(only_qcow2(site.path()), disks::sha256(&at("plain")));
}

#[test]
fn a_directory_with_a_differing_vhd_is_a_machine_with_that_disk() {
    let site = tempfile::tempdir().unwrap();
    let rack = site.path().join("rack");
    fs::create_dir(&rack).unwrap();
    let plain = File::create(site.path().join("plain")).unwrap();
    let base = Vhd::new(8 * MIB, 1, vec![(1, vec![(0, vec![5; 4096])])]);
    let top = base.on("web.vhd", 2, vec![(1, vec![(512, vec![6; 512])]), (3, vec![(0, vec![7; 512])])]);
    for (image, name) in [(&base, "web.vhd"), (&top, "web_1.avhd")] {
        image.write(&rack.join(name));
        image.show(&plain);
    }
    let done = convert(site.path(), &["rack"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(is_ours(&done.json()), "{}", done.stdout);
    assert_eq!(only_qcow2(site.path()), disks::sha256(&site.path().join("plain")));
}

#[test]
fn what_a_power_cut_left_and_large_sectors_are_converted_and_warned_about() {
    let site = tempfile::tempdir().unwrap();
    let at = |name: &str| site.path().join(name);
    let before = Vhdx { sector: 4096, ..Vhdx::new(16 * MIB, 1, vec![]) };
    let mut after = before.clone();
    after.blocks.push((5, Block::Full(vec![(4096, vec![3; 8192])])));
    let changes = write_unfinished(&before, &after, &at("web.vhdx"));
    leave_open(&at("web.vhdx"), 9);
    Entry::new(0, 1, changes).write(&at("web.vhdx"));
    after.show(&File::create(at("plain")).unwrap());
    let source = disks::sha256(&at("web.vhdx"));
    let done = convert(site.path(), &["web.vhdx"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(is_ours(&done.json()), "{}", done.stdout);
    for told in ["not closed cleanly", "sectors have 4096 bytes"] {
        assert!(done.stdout.contains(told), "{}", done.stdout);
    }
    assert_eq!(only_qcow2(site.path()), disks::sha256(&at("plain")));
    assert_eq!(disks::sha256(&at("web.vhdx")), source, "the source was written");
}
