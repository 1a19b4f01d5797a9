//! Packed images, sound and spoiled, held against what was packed.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};

use super::index::Index;
use super::*;
use crate::disk::window::Place;
use crate::model::error::{Error, Kind};

const MIB: usize = 1 << 20;

/// Bytes that pack a little, with a stretch of zeros in the middle.
fn plain(bytes: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut plain: Vec<u8> = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x3f
        })
        .collect();
    plain[bytes / 2..bytes / 2 + bytes / 4].fill(0);
    plain
}

fn packed(plain: &[u8]) -> Vec<u8> {
    let mut packer = GzBuilder::new()
        .filename("disk.img")
        .comment("a comment")
        .extra(vec![1; 300])
        .write(Vec::new(), Compression::fast());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

fn stored(bytes: &[u8]) -> Window {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Place::from(Path::new("x")).window(&mut |_| file.try_clone()).unwrap()
}

fn looked_through(bytes: &[u8], most: u64) -> std::result::Result<Index, Error> {
    index::make(&stored(bytes), most, &Control::new())
}

fn unpacked(bytes: &[u8]) -> Unpacked {
    let gzip = Gzip::new(1 << 40);
    gzip.look_through(&stored(bytes), &Control::new()).unwrap();
    gzip.open(stored(bytes)).unwrap()
}

fn read(unpacked: &Unpacked, at: usize, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match unpacked.read(&mut bytes[filled..], (at + filled) as u64).unwrap() {
            0 => break,
            got => filled += got,
        }
    }
    bytes.truncate(filled);
    bytes
}

fn refused(bytes: &[u8]) -> String {
    let error = looked_through(bytes, 1 << 40).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.details().advice.is_some());
    error.to_string()
}

#[test]
fn any_place_of_a_packed_image_is_read_in_any_order() {
    let plain = plain(21 * MIB + 12345);
    let unpacked = unpacked(&packed(&plain));
    assert_eq!(unpacked.len(), plain.len() as u64);
    for mib in [20, 3, 0, 19, 3, 4, 5, 12, 11, 10, 21, 8] {
        let at = mib * MIB + 777;
        let count = 300_000.min(plain.len() - at.min(plain.len()));
        assert!(read(&unpacked, at, count) == plain[at..at + count], "{mib}");
    }
    assert_eq!(read(&unpacked, plain.len() - 1, 10), plain[plain.len() - 1..]);
    assert!(read(&unpacked, plain.len(), 10).is_empty());
}

#[test]
fn several_threads_read_one_image() {
    let plain = plain(24 * MIB);
    let unpacked = unpacked(&packed(&plain));
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (unpacked, plain) = (&unpacked, &plain);
            scope.spawn(move || {
                for mib in (first..24).step_by(4) {
                    assert!(read(unpacked, mib * MIB, MIB) == plain[mib * MIB..(mib + 1) * MIB], "{mib}");
                }
            });
        }
    });
}

#[test]
fn members_one_behind_the_other_are_one_image_and_zeros_behind_them_are_nothing() {
    let plain = plain(2 * MIB);
    let (one, other) = plain.split_at(700_001);
    let bytes = [packed(one), packed(&[]), packed(other), vec![0; 4096]].concat();
    let unpacked = unpacked(&bytes);
    assert!(read(&unpacked, 0, plain.len() + 1) == plain);
    assert!(read(&unpacked, 700_000, 2) == plain[700_000..700_002]);
}

#[test]
fn long_stretches_of_zeros_are_holes() {
    let unpacked = unpacked(&packed(&plain(16 * MIB)));
    let (_, data_until) = unpacked.stored_from(0).unwrap();
    assert!((8 * MIB as u64..8 * MIB as u64 + 65536).contains(&data_until), "{data_until}");
    let (begin, end) = unpacked.stored_from(data_until).unwrap();
    assert!((12 * MIB as u64 - 65536..=12 * MIB as u64).contains(&begin), "{begin}");
    assert_eq!(end, 16 * MIB as u64);
    assert_eq!(unpacked.stored_from(16 * MIB as u64), None);
}

#[test]
fn points_stay_few_and_near() {
    // Zeros pack to a thousandth: a large image in a small file.
    let mut packer = GzBuilder::new().write(Vec::new(), Compression::fast());
    let (mib, count) = (vec![0; MIB], 300);
    (0..count).for_each(|_| packer.write_all(&mib).unwrap());
    let index = looked_through(&packer.finish().unwrap(), 1 << 40).unwrap();
    assert_eq!(index.bytes, (count * MIB) as u64);
    for at in (0..count * MIB).step_by(MIB) {
        let before = index.point_before(at as u64).at();
        assert!(before <= at as u64 && at as u64 - before <= 4 * MIB as u64, "{before} for {at}");
    }
}

#[test]
fn what_is_cut_anywhere_is_refused() {
    let whole = packed(&plain(100_000));
    for length in (0..whole.len()).step_by(997).chain(whole.len() - 9..whole.len()) {
        let told = refused(&whole[..length]);
        assert!(told.contains("cut off"), "{length}: {told}");
    }
}

#[test]
fn what_does_not_unpack_to_what_it_says_is_refused() {
    let whole = packed(&plain(100_000));
    for behind in [1, 8] {
        let mut wrong = whole.clone();
        let at = wrong.len() - behind;
        wrong[at] ^= 1;
        assert!(refused(&wrong).contains("checksum"));
    }
    let mut wrong = whole.clone();
    wrong[5000] ^= 0x10;
    assert!(refused(&wrong).contains("damaged"));
    assert!(refused(&[whole.as_slice(), b"and more"].concat()).contains("something else"));
    assert!(refused(b"KDMV and so on").contains("not packed with gzip"));
    let mut reserved = whole;
    reserved[3] |= 0x80;
    assert!(refused(&reserved).contains("newer than gzip"));
}

#[test]
fn what_unpacks_to_more_than_it_may_is_refused() {
    let bytes = packed(&vec![0; 8 * MIB]);
    assert!(looked_through(&bytes, 8 * MIB as u64).is_ok());
    let error = looked_through(&bytes, 8 * MIB as u64 - 1).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("more than 8.0 MiB"), "{error}");
}

#[test]
fn looking_through_ends_when_told() {
    let control = Control::new();
    control.stop();
    let error = index::make(&stored(&packed(&plain(MIB))), 1 << 40, &control).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
}
