//! Archives, descriptors and lists of checksums that were spoiled: read, or refused with a reason; and what is read of them makes a manifest.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use proptest::prelude::*;
use tempfile::TempDir;

use hyper2kvm::disk::is_known_whole;
use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Kind;
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::model::planner::{Origin, Submission};
use hyper2kvm::source::{NoLibvirt, machines, place_found};

use crate::hold;
use crate::mutate::{mutated, steps};
use crate::support::appliances::{archive, vmware};

/// What a disk begins with, so that it may be told as one.
const DISK: &[u8] = b"KDMV\x01\0\0\0\x03\0\x03\0 and so on";

fn descriptor() -> Vec<u8> {
    vmware("web", &[("web-disk1.vmdk", 8), ("dir/data.vmdk", 16)]).text().into_bytes()
}

fn sums() -> Vec<u8> {
    ["web-disk1.vmdk", "dir/data.vmdk"]
        .iter()
        .map(|name| format!("SHA256({name})= {}\n", "0123456789abcdef".repeat(4)))
        .collect::<String>()
        .into_bytes()
}

fn packed(descriptor: &[u8], sums: &[u8]) -> Vec<u8> {
    archive(&[
        (b"web.ovf", b'0', descriptor),
        (b"web.mf", b'0', sums),
        (b"././@LongLink", b'L', b"web-disk1.vmdk\0"),
        (b"short", b'0', DISK),
        (b"pax", b'x', b"22 path=dir/data.vmdk\n"),
        (b"other", b'0', DISK),
    ])
}

/// Either it is refused as a bad source, with advice; or what it says can be planned, and its disks lie where it says.
fn read(path: &Path) -> Result<(), TestCaseError> {
    let found = match machines(&Origin::Ova(path.to_owned()), &NoLibvirt) {
        Ok(found) => found,
        Err(error) => {
            prop_assert!([Kind::Source, Kind::Unsupported].contains(&error.kind()), "{error:?}");
            prop_assert!(error.details().advice.is_some(), "{error:?}");
            prop_assert!(!error.to_string().contains(char::is_control), "{error:?}");
            return Ok(());
        }
    };
    prop_assert!(!found.is_empty());
    let size = fs::metadata(path).unwrap().len();
    for facts in found {
        for disk in &facts.disks {
            let place = place_found(disk).map_err(|e| TestCaseError::fail(e.to_string()))?;
            for piece in place.pieces() {
                let part = piece.part.unwrap();
                prop_assert!(part.offset + part.bytes <= size, "{part:?}");
            }
        }
        let mut document = facts.document();
        document["manifest_version"] = "1.0".into();
        let settings = Settings::defaults(Path::new("/state"), 2);
        let text = document.to_string();
        if let Err(error) = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings) {
            prop_assert_eq!(error.kind(), Kind::Manifest, "{}: {}", error, text);
        }
    }
    Ok(())
}

#[test]
fn what_is_not_spoiled_is_read() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("web.ova");
    fs::write(&path, packed(&descriptor(), &sums())).unwrap();
    let found = machines(&Origin::Ova(path.clone()), &NoLibvirt).unwrap();
    let members: Vec<_> = found[0].disks.iter().map(|disk| disk.member.as_deref().unwrap()).collect();
    assert_eq!(members, ["web-disk1.vmdk", "dir/data.vmdk"]);
}

#[test]
fn a_spoiled_archive_is_read_or_refused() {
    let scratch = TempDir::new().unwrap();
    let (path, whole) = (scratch.path().join("web.ova"), packed(&descriptor(), &sums()));
    hold(600, &steps(), |steps| {
        fs::write(&path, mutated(&whole, &steps)).unwrap();
        read(&path)
    });
}

/// An archive whose one disk is packed, and lies in two pieces.
fn in_pieces(packed: &[u8]) -> Vec<u8> {
    let piece = packed.len() / 2 + 1;
    let (one, two) = packed.split_at(piece.min(packed.len()));
    let mut ovf = vmware("web", &[("web-disk1.vmdk", 8)]);
    let how = format!(r#" ovf:chunkSize="{piece}" ovf:compression="gzip"/>"#);
    ovf.references = ovf.references.replace("/>", &how);
    archive(&[
        (b"web.ovf", b'0', ovf.text().as_bytes()),
        (b"web-disk1.vmdk.000000000", b'0', one),
        (b"web-disk1.vmdk.000000001", b'0', two),
    ])
}

#[test]
fn a_spoiled_packed_disk_is_unpacked_or_refused() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("web.ova");
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at / 700 * at % 251) as u8 & 0x1f).collect();
    let mut packer = GzBuilder::new().filename("disk").comment("seed").write(Vec::new(), Compression::best());
    packer.write_all(&content[..150_000]).unwrap();
    let first = packer.finish().unwrap();
    let mut packer = GzBuilder::new().extra([1, 2, 3]).write(first, Compression::none());
    packer.write_all(&content[150_000..150_100]).unwrap();
    let whole = packer.finish().unwrap();
    let look = |bytes: &[u8]| {
        fs::write(&path, in_pieces(bytes)).unwrap();
        let found = machines(&Origin::Ova(path.clone()), &NoLibvirt)?;
        // Whether it is a disk does not matter: it is unpacked to the end.
        is_known_whole(place_found(&found[0].disks[0])?, SourceFormat::Raw)
    };
    assert!(look(&whole).is_ok(), "{:?}", look(&whole));
    hold(600, &steps(), |steps| {
        if let Err(error) = look(&mutated(&whole, &steps)) {
            prop_assert!([Kind::Source, Kind::Unsupported].contains(&error.kind()), "{error:?}");
            prop_assert!(error.details().advice.is_some(), "{error:?}");
        }
        Ok(())
    });
}

#[test]
fn a_spoiled_descriptor_is_read_or_refused() {
    let scratch = TempDir::new().unwrap();
    let (path, descriptor, sums) = (scratch.path().join("web.ova"), descriptor(), sums());
    hold(1000, &steps(), |steps| {
        fs::write(&path, packed(&mutated(&descriptor, &steps), &sums)).unwrap();
        read(&path)
    });
}

#[test]
fn a_spoiled_list_of_checksums_is_read_or_refused() {
    let scratch = TempDir::new().unwrap();
    let (path, descriptor, sums) = (scratch.path().join("web.ova"), descriptor(), sums());
    hold(1000, &steps(), |steps| {
        fs::write(&path, packed(&descriptor, &mutated(&sums, &steps))).unwrap();
        read(&path)
    });
}
