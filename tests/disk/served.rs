//! Disks that are served over NBD: QEMU sees in them what it sees in the images themselves, and nobody gets anything else out of it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hyper2kvm::disk::{Control, Served, Target};
use hyper2kvm::model::plan::{OutputFormat, Preallocation, SourceFormat};

use crate::support::{disks, wait_for};
use crate::{engine, open, target};

const MIB: u64 = 1 << 20;

fn served(path: &Path, format: SourceFormat) -> Served {
    open(path, format).unwrap().serve(&Control::new()).unwrap()
}

fn node(served: &Served) -> String {
    let path = served.socket().display();
    format!(
        "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"nbd\",\"server\":{{\"type\":\"unix\",\"path\":\"{path}\"}}}}}}"
    )
}

fn qemu_img(args: &[&str]) -> String {
    let done = Command::new("qemu-img").args(args).output().expect("qemu-img is installed by set-up");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Which parts of a disk hold something, as QEMU tells it.
fn data(image: &str, format: &[&str]) -> Vec<(u64, u64)> {
    let text = qemu_img(&[&["map", "--output=json"], format, &[image]].concat());
    let map: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut data: Vec<(u64, u64)> = Vec::new();
    for range in map.iter().filter(|range| range["data"] == true) {
        let (start, length) = (range["start"].as_u64().unwrap(), range["length"].as_u64().unwrap());
        match data.last_mut() {
            Some((_, end)) if *end == start => *end += length,
            _ => data.push((start, start + length)),
        }
    }
    data
}

#[test]
fn qemu_sees_the_same_bytes_and_the_same_holes_as_in_the_image() {
    let dir = tempfile::tempdir().unwrap();
    for (format, driver) in [
        (SourceFormat::Raw, "raw"),
        (SourceFormat::Qcow2, "qcow2"),
        (SourceFormat::Vmdk, "vmdk"),
        (SourceFormat::Vdi, "vdi"),
    ] {
        let path = disks::disk(dir.path(), "disk", format.name(), 96, 7, 3);
        let (served, image) = (served(&path, format), path.to_str().unwrap());
        qemu_img(&["compare", "-f", driver, "-F", "raw", image, &node(&served)]);
        let (seen, there) = (data(&node(&served), &[]), data(image, &["-f", driver]));
        assert_eq!(seen, there, "{driver}");
        assert!(seen.iter().map(|(start, end)| end - start).sum::<u64>() < 64 * MIB, "{driver}: {seen:?}");
    }
}

#[test]
fn everything_that_qemu_does_with_a_source_it_does_through_the_socket_too() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, control) = (engine(), Control::new());
    let path = disks::disk(dir.path(), "disk", "vmdk", 48, 5, 8);
    let served = served(&path, SourceFormat::Vmdk);
    // Only the socket leads to it: its file could not be opened by anybody.
    let hidden = dir.path().join("hidden");
    fs::rename(&path, &hidden).unwrap();
    fs::write(&path, "not the disk").unwrap();
    // A layout that QEMU writes, and its comparison with the source.
    let laid_out = Target {
        preallocation: Preallocation::Metadata,
        ..target(dir.path().join("result.qcow2"), OutputFormat::Qcow2)
    };
    let original = open(&hidden, SourceFormat::Vmdk).unwrap();
    let measure = engine.measure(&original, &laid_out, &control).unwrap();
    let copied = engine.copy(served.disk(), &laid_out, &measure, &control, &mut |_| ()).unwrap();
    assert!(copied.engine.starts_with("qemu-img "), "{}", copied.engine);
    engine.compare(served.disk(), &laid_out.path, laid_out.format, &control, &mut |_| ()).unwrap();
    engine.compare(&original, &laid_out.path, laid_out.format, &control, &mut |_| ()).unwrap();
    // An overlay, opened by nothing but what its header says.
    let overlay = dir.path().join("overlay.qcow2");
    engine.make_overlay(served.disk(), &overlay, 48 * MIB, &control).unwrap();
    let overlay = overlay.to_str().unwrap();
    qemu_img(&["compare", "-f", "qcow2", "-F", "vmdk", overlay, hidden.to_str().unwrap()]);
}

/// Says it to the server, and hears whatever comes until it goes.
fn said(served: &Served, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // It may have gone before all is said.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    heard
}

/// The beginning of a conversation up to where requests may come, without options.
fn begun() -> Vec<u8> {
    [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat()
}

fn request(command: u16, at: u64, length: u32) -> Vec<u8> {
    let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
    request.extend([0, command].iter().flat_map(|number: &u16| number.to_be_bytes()));
    request.extend([7, at].iter().flat_map(|number: &u64| number.to_be_bytes()));
    request.extend(length.to_be_bytes());
    request
}

/// The error numbers of the simple answers that came after what is said of the disk.
fn errors(heard: &[u8]) -> Vec<u32> {
    let answers = heard[18 + 10..].chunks_exact(16);
    answers.map(|answer| u32::from_be_bytes(answer[4..8].try_into().unwrap())).collect()
}

#[test]
fn nobody_writes_or_reads_beyond_the_end_of_what_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = disks::disk(dir.path(), "disk", "raw", 8, 2, 3);
    let (served, before) = (served(&path, SourceFormat::Raw), disks::sha256(&path));
    let (not_permitted, invalid) = (1, 22);
    let written = [request(1, 0, 5), b"wrote".to_vec(), request(4, 0, 4096), request(6, 0, 4096)].concat();
    let beyond = [(8 * MIB - 511, 512), (u64::MAX, 2), (0, 33 << 20), (0, 0)]
        .map(|(at, length)| request(0, at, length));
    // A map was not asked for, and nobody knows the last one.
    let others = [request(7, 0, 4096), request(99, 0, 0), request(3, 0, 0), request(2, 0, 0)].concat();
    let heard = said(&served, &[begun(), written, beyond.concat(), others].concat());
    assert_eq!(
        errors(&heard),
        [&[not_permitted; 3][..], &[invalid; 4], &[invalid, invalid, 0]].concat(),
        "{heard:?}"
    );
    assert_eq!(disks::sha256(&path), before);
    let denied = Command::new("qemu-io").args(["-c", "write 0 512", &node(&served)]).output().unwrap();
    assert!(!denied.status.success());
}

#[test]
fn who_speaks_another_protocol_is_let_go_and_others_are_served_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = disks::disk(dir.path(), "disk", "raw", 8, 2, 3);
    let served = served(&path, SourceFormat::Raw);
    let option = |number: u32, length: u32| {
        [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &number.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    let cases: [Vec<u8>; 8] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 4096],
        option(7, u32::MAX),
        option(7, 4),
        [option(1, 4), b"else".to_vec()].concat(),
        [begun(), vec![0x5a; 28]].concat(),
        [begun(), request(1, 0, u32::MAX)].concat(),
    ];
    for case in &cases {
        let heard = said(&served, case);
        assert!(heard.starts_with(b"NBDMAGICIHAVEOPT"), "{case:?}: {heard:?}");
    }
    // Nor does one who never ends asking.
    let endless = [&3_u32.to_be_bytes()[..], &option(3, 0)[4..].repeat(1000)].concat();
    assert!(said(&served, &endless).len() < 64 * 128);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", path.to_str().unwrap(), &node(&served)]);
}

#[test]
fn there_are_never_more_than_sixteen_clients_and_one_that_goes_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = disks::disk(dir.path(), "disk", "raw", 8, 2, 3);
    let served = served(&path, SourceFormat::Raw);
    let greeted = || {
        let mut stream = UnixStream::connect(served.socket()).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).ok().map(|()| stream)
    };
    let mut clients: Vec<UnixStream> = (0..16).map(|_| greeted().expect("there is room")).collect();
    assert!(greeted().is_none());
    clients.pop();
    wait_for("room for another client", greeted);
}

#[test]
fn what_was_served_is_closed_to_everybody_else_and_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = disks::disk(dir.path(), "disk", "qcow2", 8, 2, 3);
    let served = served(&path, SourceFormat::Qcow2);
    let directory = served.socket().parent().unwrap().to_owned();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let mut client = UnixStream::connect(served.socket()).unwrap();
    let (mut greeting, mut rest) = ([0; 18], Vec::new());
    client.read_exact(&mut greeting).unwrap();
    drop(served);
    assert!(!directory.exists());
    assert_eq!(client.read_to_end(&mut rest).unwrap_or_default(), 0);
    let write =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", "write 0 512"]).arg(&path).output().unwrap();
    assert!(write.status.success(), "nobody holds the disk any more: {write:?}");
}
