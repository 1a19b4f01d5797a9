//! Appliances whose disks lie in pieces, or are packed: read where they are, and their checksums held against what was read.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::appliances::{BOTH, at, converted, manifest, site, two_disks, write};
use crate::support::appliances::{Ovf, cut_up, gzip, pack, sums};
use crate::support::disks;

const PIECE: u64 = 100_000;

/// The descriptor of two disks: the first in pieces, the second packed and in pieces. All files of the appliance, the descriptor first.
fn in_pieces(dir: &Path) -> Vec<String> {
    gzip(dir, "web-disk2.vmdk");
    let mut ovf: Ovf = two_disks();
    for (disk, further) in [("web-disk1.vmdk", ""), ("web-disk2.vmdk", r#" ovf:compression="gzip""#)] {
        let size = fs::metadata(dir.join(disk)).unwrap().len();
        let file = format!(r#"ovf:href="{disk}""#);
        let told = format!(r#"{file} ovf:size="{size}" ovf:chunkSize="{PIECE}"{further}"#);
        ovf.references = ovf.references.replace(&file, &told);
    }
    write(dir, "web.ovf", &ovf.text());
    let mut files = vec!["web.ovf".to_owned()];
    for disk in ["web-disk1.vmdk", "web-disk2.vmdk"] {
        files.extend(cut_up(dir, disk, PIECE));
    }
    files
}

fn named(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}

#[test]
fn disks_in_pieces_and_packed_ones_are_read_where_they_lie() {
    let site = site();
    let dir = site.path();
    let files = in_pieces(dir);
    write(dir, "web.mf", &sums(dir, &named(&files)));
    // Pieces may lie in any order in an archive.
    let mut packed: Vec<&str> = named(&files).into_iter().chain(["web.mf"]).collect();
    packed.reverse();
    pack(dir, "pax", "web.ova", &packed);
    let pieces = files.iter().filter(|file| file.contains("disk1")).count();
    assert!(pieces > 3, "{files:?}");

    for (input, beside) in [("web.ova", ""), ("web.ovf", ".000000000")] {
        let found = manifest(dir, input);
        let disks = found["disks"].as_array().unwrap();
        assert_eq!(disks[0]["member"], "web-disk1.vmdk", "{found}");
        let path = disks[0]["local_path"].as_str().unwrap();
        assert!(path.ends_with(if beside.is_empty() { "web.ova" } else { beside }), "{found}");
        assert_eq!(disks[0]["piece_checksums"].as_array().unwrap().len(), pieces, "{found}");
        assert_eq!((&disks[0]["compression"], &disks[1]["compression"]), (&json!(null), &json!("gzip")));
        assert_eq!(disks[1]["id"], "web-disk2");
        converted(dir, input, &BOTH);
        fs::remove_dir_all(dir.join("out")).unwrap();

        let done = at(dir, &["manifest", input, "-o", "vm.yaml"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        converted(dir, "vm.yaml", &BOTH);
        fs::remove_dir_all(dir.join("out")).unwrap();
        fs::remove_file(dir.join("vm.yaml")).unwrap();
    }
}

#[test]
fn a_disk_in_dozens_of_pieces_is_read_in_their_order_wherever_they_lie() {
    const SMALL: u64 = 32 << 10;
    let site = site();
    let dir = site.path();
    let (mut ovf, disk) = (two_disks(), "web-disk1.vmdk");
    let size = fs::metadata(dir.join(disk)).unwrap().len();
    let file = format!(r#"ovf:href="{disk}""#);
    let told = format!(r#"{file} ovf:size="{size}" ovf:chunkSize="{SMALL}""#);
    ovf.references = ovf.references.replace(&file, &told);
    write(dir, "web.ovf", &ovf.text());
    let mut pieces = cut_up(dir, disk, SMALL);
    assert!(pieces.len() >= 24, "{pieces:?}");
    // Every third one first, then the others backwards.
    let (mut mixed, mut rest): (Vec<_>, Vec<_>) =
        pieces.drain(..).enumerate().partition(|(number, _)| number % 3 == 1);
    rest.reverse();
    mixed.extend(rest);
    let mut files = vec!["web.ovf".to_owned(), "web-disk2.vmdk".to_owned()];
    files.extend(mixed.into_iter().map(|(_, name)| name));
    write(dir, "web.mf", &sums(dir, &named(&files)));
    files.push("web.mf".to_owned());
    pack(dir, "gnu", "web.ova", &named(&files));
    for file in files {
        fs::remove_file(dir.join(file)).unwrap();
    }
    converted(dir, "web.ova", &BOTH);
}

#[test]
fn a_piece_with_a_wrong_checksum_is_named_and_nothing_is_published() {
    let site = site();
    let dir = site.path();
    let files = in_pieces(dir);
    write(dir, "web.mf", &sums(dir, &named(&files)));
    // Bytes that no table and no packing notices.
    let spoiled = "web-disk1.vmdk.000000003";
    let mut bytes = fs::read(dir.join(spoiled)).unwrap();
    bytes[5000] ^= 1;
    fs::write(dir.join(spoiled), bytes).unwrap();
    let done = at(dir, &["convert", "web.ovf", "-o", "out", "--no-fix"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("checksum") && done.stderr.contains(spoiled), "{}", done.stderr);
    let left = fs::read_dir(dir.join("out"))
        .map_or(0, |left| left.filter(|entry| entry.as_ref().unwrap().path().extension().is_some()).count());
    assert_eq!(left, 0, "something is left");
}

#[test]
fn a_manifest_may_name_a_packed_disk_and_its_zeros_take_no_room() {
    let site = site();
    let dir = site.path();
    disks::raw(&dir.join("data.img"), 256, 3, 9);
    fs::copy(dir.join("data.img"), dir.join("data.raw")).unwrap();
    gzip(dir, "data.img");
    fs::rename(dir.join("data.img"), dir.join("data.img.gz")).unwrap();
    let checksum = disks::sha256(&dir.join("data.img.gz"));
    let manifest = |checksum: &str| {
        json!({
            "manifest_version": "1.0", "profile": "none", "output": { "directory": "out" },
            "disks": [{
                "id": "data", "source_format": "raw", "local_path": "data.img.gz", "compression": "gzip",
                "bytes": 256 << 20, "checksum": format!("sha256:{checksum}"),
            }],
        })
    };
    write(dir, "bad.json", &manifest(&"0".repeat(64)).to_string());
    let done = at(dir, &["convert", "bad.json"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains(&format!("data.img.gz is {checksum}")), "{}", done.stderr);

    write(dir, "vm.json", &manifest(&checksum).to_string());
    converted(dir, "vm.json", &[("data.qcow2", "data.raw")]);
    let size = fs::metadata(dir.join("out/data.qcow2")).unwrap().len();
    assert!(size < 16 << 20, "{size} bytes");
}

#[test]
fn an_appliance_in_pieces_can_be_looked_at_like_any_other() {
    let site = site();
    let dir = site.path();
    let files = in_pieces(dir);
    pack(dir, "ustar", "web.ova", &named(&files));
    let done = at(dir, &["plan", "web.ova"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("web.ova:web-disk2.vmdk (vmdk"), "{}", done.stdout);
}
