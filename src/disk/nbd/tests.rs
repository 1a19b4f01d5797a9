//! Both sides of the protocol against each other, the client against answers that nobody sends, and which sources are served.

use std::io::{self, Cursor, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use proptest::prelude::*;

use super::client::{Connection, Trouble};
use super::session::converse;
use crate::disk::control::Control;
use crate::disk::facts::{FileIdentity, ImageFacts, LayerFile, SourceDisk};
use crate::disk::format::Format;
use crate::disk::read::{Holds, Range, Reader, Room};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;

const BLOCK: u64 = 1 << 16;
/// Longer than one answer's worth of bytes.
const SIZE: u64 = 40 * BLOCK + 512;
/// What of it cannot be read.
const BROKEN: u64 = 39 * BLOCK;

/// Every third block holds something.
#[derive(Debug)]
struct Model;

impl Reader for Model {
    fn size(&self) -> u64 {
        SIZE
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        let holds = if (at / BLOCK).is_multiple_of(3) { Holds::Data } else { Holds::Zeros };
        Ok(Range { start: at, length: (BLOCK - at % BLOCK).min(SIZE - at), holds })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        if at <= BROKEN && BROKEN < at + buffer.len() as u64 {
            return Err(Error::new(Kind::Source, "a bad sector"));
        }
        for (byte, at) in buffer.iter_mut().zip(at..) {
            *byte = if (at / BLOCK).is_multiple_of(3) { at as u8 | 1 } else { 0 };
        }
        Ok(())
    }
}

/// A stream that keeps what comes in.
struct Kept<S>(S, Vec<u8>);

impl<S: Read> Read for Kept<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.extend(&buffer[..count]);
        Ok(count)
    }
}

impl<S: Write> Write for Kept<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What a client got to know.
#[derive(Debug, Default, PartialEq)]
struct Learned {
    map: Vec<(u64, u64, bool)>,
    bytes: Vec<u8>,
    refused: Option<i32>,
}

/// Everything that a client does, on a stream.
fn converse_as_client(stream: &mut (impl Read + Write)) -> std::result::Result<Learned, Trouble> {
    let mut connection = Connection::open(stream)?;
    let size = connection.size();
    let mut learned = Learned::default();
    let mut at = 0;
    while at < size.min(SIZE) {
        for range in connection.map(at)? {
            assert_eq!(range.start, at, "a map without gaps");
            assert!(range.length > 0 && range.end() <= size);
            learned.map.push((range.start, range.length, range.holds == Holds::Data));
            at = range.end();
        }
    }
    learned.bytes = vec![0xaa; BROKEN as usize];
    connection.read(0, &mut learned.bytes)?;
    match connection.read(BROKEN, &mut [0; 512]) {
        Err(Trouble::Refused(number)) => learned.refused = Some(number),
        other => other?,
    }
    // The connection is as good as before.
    connection.read(SIZE.min(size) - 512, &mut [0; 512])?;
    Ok(learned)
}

/// What a client learned of a server of ours, and all that it heard.
fn conversation() -> (Learned, Vec<u8>) {
    let (client, mut server) = UnixStream::pair().unwrap();
    let serving = thread::spawn(move || converse(&mut server, &Model));
    let mut kept = Kept(client, Vec::new());
    let learned = converse_as_client(&mut kept).unwrap();
    drop(kept.0);
    assert!(serving.join().unwrap().is_err(), "it is not asked to end");
    (learned, kept.1)
}

#[test]
fn a_client_gets_the_map_the_bytes_and_the_errors_of_the_disk() {
    let (learned, _) = conversation();
    let mut expected = vec![0; BROKEN as usize];
    Model.read(0, &mut expected, &mut Room::default()).unwrap();
    assert!(learned.bytes == expected);
    assert_eq!(learned.refused, Some(5));
    assert_eq!(learned.map[..2], [(0, BLOCK, true), (BLOCK, 2 * BLOCK, false)]);
    assert_eq!(learned.map.last(), Some(&(40 * BLOCK, 512, false)));
}

/// What somebody says who does not listen.
struct Monologue(Cursor<Vec<u8>>);

impl Read for Monologue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Monologue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn spoiled_answers_are_noticed_or_taken_for_what_they_say_and_never_more() {
    let (_, heard) = conversation();
    // Answers begin where the bytes of the disk do not: there is where numbers are.
    let places = (0..700_usize, any::<u8>()).boxed();
    let anywhere = (0..heard.len(), any::<u8>()).boxed();
    let changes = prop::collection::vec(prop_oneof![3 => places, 1 => anywhere], 1..4);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let spoiled = (changes, prop_oneof![2 => Just(heard.len()), 1 => 0..heard.len()]);
    let tried = runner.run(&spoiled, |(changes, length)| {
        let mut said = heard.clone();
        for (at, byte) in changes {
            said[at] = byte;
        }
        said.truncate(length);
        // None may panic, and none may take what was not said.
        if let Ok(learned) = converse_as_client(&mut Monologue(Cursor::new(said))) {
            prop_assert!(length == heard.len() && learned.bytes.len() == BROKEN as usize);
        }
        Ok(())
    });
    tried.unwrap();
}

proptest! {
    #[test]
    fn noise_is_no_server(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let said = [b"NBDMAGICIHAVEOPT\0\x03".as_slice(), &noise].concat();
        prop_assert!(matches!(converse_as_client(&mut Monologue(Cursor::new(said))), Err(Trouble::Lost(_))));
    }
}

/// A raw disk that QEMU opens by this node.
fn source(path: &Path, node: Option<serde_json::Value>) -> SourceDisk {
    let (found, declared) = (Format::Raw, SourceFormat::Raw);
    let facts = ImageFacts {
        format: found,
        subformat: None,
        virtual_size: BLOCK,
        file_size: BLOCK,
        allocated_bytes: BLOCK,
        compressed: false,
        extents: Vec::new(),
        backing: Vec::new(),
    };
    SourceDisk {
        path: path.to_owned(),
        place: path.into(),
        format: declared,
        facts,
        warnings: Vec::new(),
        files: vec![FileIdentity::read(path).unwrap()],
        layers: vec![LayerFile { place: path.into(), declared, found, extents: Vec::new() }],
        node,
        own_files: 0,
        remote: None,
    }
}

#[test]
fn a_source_is_served_to_qemu_where_it_has_no_node_of_its_own_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, vec![7; BLOCK as usize]).unwrap();
    let own = Some(serde_json::json!({ "driver": "raw" }));
    let (seen, served) = source(&path, own.clone()).for_qemu(&Control::new()).unwrap();
    assert!(served.is_none() && seen.node == own);
    let only_ours = source(&path, None);
    assert_eq!(only_ours.qemu_name().unwrap_err().kind(), Kind::Unsupported);
    let (seen, served) = only_ours.for_qemu(&Control::new()).unwrap();
    let served = served.unwrap();
    let node = seen.qemu_node().unwrap();
    assert_eq!(node["file"]["server"]["path"].as_str().map(Path::new), Some(served.socket()));
    assert_eq!(seen.lasting_identity(), only_ours.lasting_identity());
    let mut connection = Connection::open(UnixStream::connect(served.socket()).unwrap()).unwrap();
    let mut bytes = [0; 512];
    connection.read(BLOCK - 512, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 512]);
}
