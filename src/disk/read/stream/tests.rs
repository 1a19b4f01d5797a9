//! Streams as hosts and QEMU send them, whole, cut and spoiled, held against what went into them.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::write::ZlibEncoder;

use super::*;
use crate::disk::read::Room;
use crate::model::error::Disposition;

const SECTOR: usize = 512;
const GRAIN: usize = 64 << 10;
const GRAINS: usize = 16 * 33;
const SIZE: usize = GRAINS * GRAIN + 3 * SECTOR;

/// Bytes that are sent in pieces of odd lengths.
#[derive(Debug)]
struct Bytes {
    all: Arc<Vec<u8>>,
    is_finished: Arc<AtomicBool>,
}

struct Going(Arc<Vec<u8>>, usize, Arc<AtomicBool>);

impl Sender for Bytes {
    fn name(&self) -> String {
        "disk-0.vmdk on vc".to_owned()
    }

    fn send(&self, _: &Control) -> Result<Box<dyn Sent>> {
        Ok(Box::new(Going(Arc::clone(&self.all), 0, Arc::clone(&self.is_finished))))
    }
}

impl Sent for Going {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let rest = &self.0[self.1..];
        let count = rest.len().min(buffer.len()).min(1 + self.1 % 70_001);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.1 += count;
        Ok(count)
    }

    fn reached(&mut self, bytes: u64, of: u64) {
        assert!(bytes <= of);
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.2.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn streamed(all: Vec<u8>) -> (Streamed, Arc<AtomicBool>) {
    let is_finished = Arc::new(AtomicBool::new(false));
    let sender = Bytes { all: Arc::new(all), is_finished: Arc::clone(&is_finished) };
    (Streamed::new(Arc::new(sender), SIZE as u64, &Control::new()), is_finished)
}

/// What a reader gives who goes through it from an offset on, and who expects its map to be the same every time.
fn through(reader: &dyn Reader, from: u64) -> Result<(Vec<u8>, Vec<Range>)> {
    let (mut at, mut room) = (from, Room::default());
    let (mut content, mut map) = (vec![0; SIZE - from as usize], Vec::new());
    while at < reader.size() {
        let range = reader.next_range(at, &mut room)?;
        if range.holds == Holds::Data {
            let begin = (at - from) as usize;
            reader.read(at, &mut content[begin..begin + range.length as usize], &mut room)?;
        }
        map.push(range);
        at = range.end();
    }
    Ok((content, map))
}

/// What is told of a stream that is not sound.
fn failure(stream: Vec<u8>) -> Error {
    through(&streamed(stream).0, 0).map(|_| "it was read").unwrap_err()
}

/// A disk with data here and there; its last grain is not whole.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    let mut state = 7_u64;
    for grain in (0..=GRAINS).filter(|grain| grain % 64 < 3 || (200..240).contains(grain) || *grain == GRAINS)
    {
        let begin = grain * GRAIN;
        for byte in &mut disk[begin..SIZE.min(begin + GRAIN)] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = if grain % 5 == 0 { (state >> 56) as u8 } else { (state >> 62) as u8 };
        }
    }
    disk
}

fn sectors(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

fn header(directory: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    header.extend([3_u32, 3 << 16].iter().flat_map(|number| number.to_le_bytes()));
    let numbers = [(SIZE / SECTOR) as u64, (GRAIN / SECTOR) as u64, 1, 1];
    header.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    header.extend(512_u32.to_le_bytes());
    header.extend([0, directory, 2].iter().flat_map(|number| number.to_le_bytes()));
    header.extend(b"\0\n \r\n\x01\0");
    sectors(header)
}

fn marker(kind: u32, sectors_behind: u64) -> Vec<u8> {
    let mut marker = sectors_behind.to_le_bytes().to_vec();
    marker.extend([0, kind].iter().flat_map(|number: &u32| number.to_le_bytes()));
    sectors(marker)
}

fn grain(at: usize, data: &[u8]) -> Vec<u8> {
    let mut packer = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(data).unwrap();
    let packed = packer.finish().unwrap();
    let mut grain = ((at / SECTOR) as u64).to_le_bytes().to_vec();
    grain.extend((packed.len() as u32).to_le_bytes());
    grain.extend(packed);
    sectors(grain)
}

/// A stream as hosts send it, part by part: header, descriptor, grains with a table behind each 512, directory, footer, end.
fn parts(disk: &[u8]) -> Vec<Vec<u8>> {
    let text = b"# Disk DescriptorFile\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n";
    let mut parts = vec![header(u64::MAX), sectors(text.to_vec())];
    for (number, data) in disk.chunks(GRAIN).enumerate() {
        if number > 0 && number % 512 == 0 {
            parts.push([marker(1, 4), vec![1; 4 * SECTOR]].concat());
        }
        if data.iter().any(|byte| *byte != 0) {
            let whole = [data, &vec![0; GRAIN - data.len()]].concat();
            parts.push(grain(number * GRAIN, &whole));
        }
    }
    parts.push([marker(1, 4), vec![1; 4 * SECTOR]].concat());
    parts.push([marker(2, 1), vec![1; SECTOR]].concat());
    parts.push([marker(3, 1), header(99)].concat());
    parts.push(marker(0, 0));
    parts
}

#[test]
fn a_stream_as_hosts_send_it_gives_the_disk_and_the_same_map_every_time() {
    let disk = disk();
    let stream = parts(&disk).concat();
    let (reader, is_finished) = streamed(stream.clone());
    let (content, map) = through(&reader, 0).unwrap();
    assert!(content == disk);
    assert!(is_finished.load(Ordering::Relaxed), "who sent it is told that all of it came");
    let (reader, _) = streamed(stream);
    assert_eq!(through(&reader, 0).unwrap().1, map);
    assert!(map.iter().any(|range| range.holds == Holds::Zeros && range.length > STEP_BYTES / 2));
}

#[test]
fn what_a_copy_has_already_is_skipped_and_the_rest_is_the_same() {
    let disk = disk();
    let stream = parts(&disk).concat();
    for from in [BLOCK_BYTES as u64, 203 * GRAIN as u64, (GRAINS * GRAIN) as u64] {
        let (reader, is_finished) = streamed(stream.clone());
        assert!(through(&reader, from).unwrap().0 == disk[from as usize..]);
        assert!(is_finished.load(Ordering::Relaxed));
    }
}

#[test]
fn streams_of_qemus_have_their_tables_first_and_are_read_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let (flat, packed) = (dir.path().join("a.raw"), dir.path().join("a.vmdk"));
    let disk = disk();
    std::fs::write(&flat, &disk).unwrap();
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"])
        .args([&flat, &packed])
        .status();
    assert!(made.unwrap().success());
    let stream = std::fs::read(&packed).unwrap();
    let (reader, _) = streamed(stream.clone());
    assert!(through(&reader, 0).unwrap().0 == disk);

    for cut in [1000, 64 << 10, stream.len() / 2 / SECTOR * SECTOR, stream.len() / 2] {
        let error = failure(stream[..cut].to_vec());
        assert_eq!(
            (error.kind(), error.disposition()),
            (Kind::Network, Disposition::Transient),
            "{cut}: {error}"
        );
    }
}

#[test]
fn one_thread_after_the_other_may_read_what_lies_ahead() {
    let disk = disk();
    let (reader, _) = streamed(parts(&disk).concat());
    let (mut at, mut room, mut ranges) = (0, Room::default(), Vec::new());
    while at < reader.size() {
        let range = reader.next_range(at, &mut room).unwrap();
        ranges.extend(Some(range).filter(|range| range.holds == Holds::Data));
        at = range.end();
    }
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (reader, ranges, disk) = (&reader, &ranges, &disk);
            scope.spawn(move || {
                let mut room = Room::default();
                for range in ranges.iter().skip(first).step_by(4).rev() {
                    let mut buffer = vec![1; range.length as usize];
                    reader.read(range.start, &mut buffer, &mut room).unwrap();
                    assert!(buffer == disk[range.start as usize..range.end() as usize]);
                }
            });
        }
    });
    let error = reader.read(0, &mut [0; SECTOR], &mut room).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("come and gone"), "{error}");
}

#[test]
fn a_stream_that_ends_early_is_told_wherever_it_does_and_may_come_whole_another_time() {
    let disk = disk();
    let parts = parts(&disk);
    let ends: Vec<usize> =
        parts.iter().scan(0, |end, part| Some(std::mem::replace(end, *end + part.len()))).collect();
    let stream = parts.concat();
    let near = |end: &usize| [*end, end + 14, end + SECTOR - 1];
    let few = ends.iter().take(4).chain(ends.iter().rev().take(6)).flat_map(near);
    for cut in few.filter(|cut| *cut < stream.len()) {
        let (reader, is_finished) = streamed(stream[..cut].to_vec());
        let error = through(&reader, 0).map(|_| cut).unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (Kind::Network, Disposition::Transient),
            "{cut}: {error}"
        );
        assert!(error.details().advice.is_some());
        drop(reader);
        assert!(!is_finished.load(Ordering::Relaxed), "{cut}");
    }
}

#[test]
fn a_stream_that_makes_no_sense_is_refused_for_good() {
    let disk = disk();
    let good = parts(&disk);
    let last = good.len() - 1;
    let whole = vec![1; GRAIN];
    let put = |at: usize, bytes: Vec<u8>| {
        let mut parts = good.clone();
        parts.insert(at, bytes);
        parts
    };
    let changed = |at: usize, byte: usize, to: &[u8]| {
        let mut parts = good.clone();
        parts[at][byte..byte + to.len()].copy_from_slice(to);
        parts
    };
    let descriptor = b"CID=1\nparentCID=0123abcd\ncreateType=\"streamOptimized\"\n";
    let mut delta = good.clone();
    delta[1] = sectors(descriptor.to_vec());
    let flat = vec![vec![0; SIZE]];
    for (what, parts) in [
        ("no VMDK", flat),
        ("not made to be streamed", changed(0, 8, &[0; 4])),
        ("no disk has the size", changed(0, 12, &[0xff; 8])),
        ("sectors into it", changed(0, 64, &[0; 8])),
        ("sectors into it", changed(0, 64, &[0xff; 7])),
        ("directory does not lie", changed(0, 56, &[0xfe; 8])),
        ("descriptor is larger", changed(0, 36, &[9; 1])),
        ("stands on another disk", delta),
        ("goes back", put(5, grain(0, &whole))),
        ("where none can be", put(last - 3, grain(SIZE.next_multiple_of(GRAIN), &whole))),
        ("where none can be", changed(2, 0, &[1])),
        ("can be packed to", changed(2, 8, &[0xff; 4])),
        ("cannot be unpacked", changed(3, 40, &[0xaa; 64])),
        ("kind 9", put(6, marker(9, 1))),
        ("kind 0", put(6, marker(0, 1))),
        ("sectors is announced", put(6, marker(1, 5))),
        ("sectors is announced", put(6, marker(2, 1 << 40))),
        ("footer disagree", changed(last - 1, SECTOR + 12, &[0; 3])),
        ("footer", put(last, [marker(3, 1), header(99)].concat())),
        ("behind its footer", put(last, grain(SIZE - 3 * SECTOR, &whole))),
        ("behind its end", put(last + 1, vec![1; SECTOR])),
        ("behind its end", put(last + 1, vec![0; 4 << 20])),
    ] {
        let error = failure(parts.concat());
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!((error.kind(), error.disposition()), (Kind::Source, Disposition::Permanent), "{what}");
        assert!(error.details().advice.is_some(), "{what}");
    }
}

#[test]
fn a_disk_that_became_larger_is_not_the_one_that_was_meant() {
    let sender = Bytes { all: Arc::new(parts(&disk()).concat()), is_finished: Arc::default() };
    let reader = Streamed::new(Arc::new(sender), SIZE as u64 + 512, &Control::new());
    let error = reader.range(0, &mut Room::default()).unwrap_err();
    assert_eq!(error.details().rule.as_deref(), Some("disk.changed"), "{error}");
}

/// A sender from whom nothing comes, until its reader has gone.
#[derive(Debug)]
struct Silent(Arc<AtomicBool>);

struct Stalled(Control, Arc<AtomicBool>);

impl Sender for Silent {
    fn name(&self) -> String {
        "silent".to_owned()
    }

    fn send(&self, control: &Control) -> Result<Box<dyn Sent>> {
        Ok(Box::new(Stalled(control.clone(), Arc::clone(&self.0))))
    }
}

impl Sent for Stalled {
    fn read(&mut self, _: &mut [u8]) -> Result<usize> {
        loop {
            self.0.ended()?;
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn reached(&mut self, _: u64, _: u64) {}

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_waits_for_a_stream_obeys_and_the_sender_is_told_that_it_is_over() {
    let (control, is_over) = (Control::new(), Arc::new(AtomicBool::new(false)));
    let reader = Streamed::new(Arc::new(Silent(Arc::clone(&is_over))), SIZE as u64, &control);
    let waiting = thread::spawn(move || reader.range(0, &mut Room::default()).map(|_| drop(reader)));
    thread::sleep(Duration::from_millis(50));
    control.stop();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
    assert!(is_over.load(Ordering::Relaxed));
}
