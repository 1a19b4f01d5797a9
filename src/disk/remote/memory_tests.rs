//! What is kept of a disk elsewhere while it is looked into, and what the copy gets of that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB + 512;

/// A disk that counts what is asked of it. The second MiB of each two is said to hold zeros.
#[derive(Debug)]
struct Server {
    file: File,
    asked: AtomicU64,
    is_away: AtomicBool,
}

#[derive(Debug, Clone)]
struct Client(Arc<Server>);

impl Client {
    fn new() -> Client {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        for at in (0..SIZE).step_by(512).filter(|at| is_data(*at)) {
            file.write_all_at(&[(at / 512 % 251) as u8 | 1; 512], at).unwrap();
        }
        Client(Arc::new(Server { file, asked: AtomicU64::new(0), is_away: AtomicBool::new(false) }))
    }

    fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::SeqCst)
    }

    fn reader(&self, memory: &Arc<Memory>) -> Box<dyn Reader> {
        let disk = SourceDisk::remote(Arc::new(self.clone())).unwrap().remembered(0, memory);
        disk.remote.unwrap().reader(&Control::new()).unwrap()
    }

    /// What is read there is what is there.
    #[track_caller]
    fn assert_read(&self, reader: &dyn Reader, at: u64, length: usize) {
        let (mut read, mut is) = (vec![7; length], vec![0; length]);
        reader.read(at, &mut read, &mut Room::default()).unwrap();
        self.0.file.read_exact_at(&mut is, at).unwrap();
        assert!(read == is, "{length} bytes at {at} are others");
    }
}

fn is_data(at: u64) -> bool {
    (at / MIB).is_multiple_of(2)
}

impl Remote for Client {
    fn name(&self) -> String {
        "[ds1] web/web.vmdk".to_owned()
    }

    fn size(&self) -> u64 {
        SIZE
    }

    fn identity(&self) -> String {
        "disk 1".to_owned()
    }

    fn reader(&self, _: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(self.clone()))
    }

    fn check_unchanged(&self, _: &Control) -> Result<()> {
        Ok(())
    }
}

impl Reader for Client {
    fn size(&self) -> u64 {
        SIZE
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        let length = (MIB - at % MIB).min(SIZE - at);
        Ok(Range { start: at, length, holds: if is_data(at) { Holds::Data } else { Holds::Zeros } })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        if self.0.is_away.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Network, "connection reset by peer"));
        }
        self.0.asked.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        self.0.file.read_exact_at(buffer, at).map_err(|error| Error::internal(error.to_string()))
    }
}

#[test]
fn what_a_look_reads_is_asked_for_once_and_what_holds_zeros_not_at_all() {
    let (disk, memory) = (Client::new(), Memory::new(Bounds::default()));
    let reader = disk.reader(&memory);
    disk.assert_read(&*reader, 1000, 4096);
    assert_eq!(disk.asked(), BLOCK);
    disk.assert_read(&*reader, 0, 100_000);
    assert_eq!((disk.asked(), memory.bytes_read()), (BLOCK, BLOCK));
    // Over the border of a block: whoever reads on is a step ahead, as far as there is data.
    disk.assert_read(&*reader, BLOCK - 10, 20);
    assert_eq!(disk.asked(), MIB);
    disk.assert_read(&*reader, MIB - 512, 4096);
    disk.assert_read(&*reader, MIB + 4096, 4096);
    assert_eq!(disk.asked(), MIB, "zeros were asked for");
    disk.assert_read(&*reader, SIZE - 700, 700);
    assert_eq!(disk.asked(), MIB + 512);
    assert!(memory.failure().is_none());
}

#[test]
fn the_copy_asks_only_for_what_the_look_has_not_read_and_nothing_is_kept_behind_it() {
    let (disk, memory) = (Client::new(), Memory::new(Bounds::default()));
    let reader = disk.reader(&memory);
    for at in [0, 2 * MIB + 5000, 4 * MIB + BLOCK, SIZE - 512] {
        disk.assert_read(&*reader, at, 512);
    }
    memory.is_enough();
    let (looked, piece) = (disk.asked(), MIB as usize);
    assert_eq!(looked, 3 * BLOCK + 512);
    for at in (0..8 * MIB).step_by(piece) {
        disk.assert_read(&*reader, at, piece);
    }
    disk.assert_read(&*reader, 8 * MIB, 512);
    assert_eq!(disk.asked(), SIZE, "each byte was asked for once");
    let kept = memory.state().blocks.len();
    assert_eq!((kept, memory.state().held), (0, 0));
    // What is read once more comes from where it lies.
    disk.assert_read(&*reader, 0, 512);
    assert_eq!(disk.asked(), SIZE + 512);
    assert_eq!(memory.bytes_read(), looked);
}

#[test]
fn no_more_is_kept_than_may_be_and_a_look_that_takes_too_much_has_told_nothing() {
    let bounds = Bounds { held: MIB, read: 3 * MIB, ..Bounds::default() };
    let (disk, memory) = (Client::new(), Memory::new(bounds));
    let reader = disk.reader(&memory);
    for at in (0..MIB).chain(2 * MIB..3 * MIB).step_by(BLOCK as usize) {
        disk.assert_read(&*reader, at, 512);
        assert!(memory.state().held <= MIB);
    }
    // The first ones had to go.
    disk.assert_read(&*reader, 0, 512);
    assert_eq!(disk.asked(), 2 * MIB + BLOCK);
    let mut buffer = vec![0; MIB as usize];
    let error = reader.read(4 * MIB, &mut buffer, &mut Room::default()).unwrap_err();
    assert_eq!(error.details().rule.as_deref(), Some(NOT_OPENED_RULE), "{error}");
    assert!(disk.asked() <= 3 * MIB);
    assert_eq!(memory.failure(), Some(error));

    let memory = Memory::new(Bounds { waited: Duration::ZERO, ..Bounds::default() });
    let reader = disk.reader(&memory);
    disk.assert_read(&*reader, 0, 512);
    let error = reader.read(4 * MIB, &mut [0], &mut Room::default()).unwrap_err();
    assert!(error.to_string().contains("waiting for the server"), "{error}");
}

#[test]
fn a_read_that_failed_is_remembered_however_it_looks_through_qemu() {
    let (disk, memory) = (Client::new(), Memory::new(Bounds::default()));
    let reader = disk.reader(&memory);
    disk.assert_read(&*reader, 0, 512);
    disk.0.is_away.store(true, Ordering::SeqCst);
    assert!(reader.read(4 * MIB, &mut [0], &mut Room::default()).is_err());
    disk.0.is_away.store(false, Ordering::SeqCst);
    disk.assert_read(&*reader, 4 * MIB, 512);
    assert_eq!(memory.failure().unwrap().kind(), Kind::Network);
}
