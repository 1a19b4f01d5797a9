//! What clients of a served disk may say: whatever it is, they get answers or are let go, and the next one gets the disk.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use hyper2kvm::disk::{Control, Engine, OpenPolicy, Served, open_source};
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::sys::process::Launcher;

use crate::hold;
use crate::mutate::{mutated, steps};
use crate::support::disks;

const SIZE: u64 = 1 << 20;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length, data].concat()
}

fn request(command: u16, at: u64, length: u32) -> Vec<u8> {
    let head = [0x2560_9513_u32.to_be_bytes().as_slice(), &[0, 0], &command.to_be_bytes()].concat();
    [head.as_slice(), &[7; 8], &at.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// Everything that a client can want, in a sound order.
fn conversation() -> Vec<u8> {
    let map = [&[0; 4][..], &[0, 0, 0, 1, 0, 0, 0, 15], b"base:allocation"].concat();
    let agreed =
        [3_u32.to_be_bytes().to_vec(), option(3, b""), option(8, b""), option(10, &map), option(6, &[0; 6])];
    let asked = [
        option(7, &[0; 6]),
        request(0, 0, 4096),
        request(7, 0, SIZE as u32),
        request(1, 512, 3),
        b"new".to_vec(),
        request(3, 0, 0),
        request(0, SIZE - 1, 1),
        request(2, 0, 0),
    ];
    [agreed.concat(), asked.concat()].concat()
}

fn said(served: &Served, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(served.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut speaking = stream.try_clone()?;
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // It may be let go before all is said.
            let _ = speaking.write_all(bytes);
            let _ = speaking.shutdown(Shutdown::Write);
        });
        match stream.read_to_end(&mut heard) {
            // What was said after the end was not listened to.
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error),
            _ => Ok(()),
        }
    })?;
    Ok(heard)
}

#[test]
fn whatever_a_client_says_it_is_answered_or_let_go() {
    let scratch = TempDir::new().unwrap();
    let path = disks::disk(scratch.path(), "disk", "raw", SIZE >> 20, 1, 3);
    let engine = Engine::find(Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"))).unwrap();
    let control = Control::new();
    let source = open_source(&path, SourceFormat::Raw, &OpenPolicy::default(), &engine, &control).unwrap();
    let served = source.serve(&control).unwrap();
    let (sound, before) = (conversation(), disks::sha256(&path));
    let expected = said(&served, &sound).unwrap();
    let content = std::fs::read(&path).unwrap();
    assert!(expected.windows(4096).any(|part| part == &content[..4096]));
    hold(1500, &steps(), |steps| {
        let heard =
            said(&served, &mutated(&sound, &steps)).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(heard.starts_with(b"NBDMAGICIHAVEOPT"));
        Ok(())
    });
    assert!(said(&served, &sound).unwrap() == expected);
    assert_eq!(disks::sha256(&path), before);
}
