//! Disks that come as a stream: copied and proved by one, and what is done where it is not known any more that it was all of it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tests::{Bench, MIB};
use super::*;
use crate::disk::native::{Depth, ReadBack, compare, read_back};
use crate::disk::read::{Sender, Sent, Streamed};
use crate::model::plan::OutputFormat;

/// More than there are threads, in pieces.
const SIZE: u64 = 48 * MIB;
/// Where nothing lies.
const HOLE: u64 = 5 * MIB + 4096;

/// Who sends it, and how often that was.
#[derive(Debug)]
struct Host {
    stream: PathBuf,
    sent: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Once(Arc<Host>);

struct Going(File);

impl Sender for Once {
    fn name(&self) -> String {
        Remote::name(self)
    }

    fn send(&self, _: &Control) -> Result<Box<dyn Sent>> {
        self.0.sent.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Going(File::open(&self.0.stream).unwrap())))
    }
}

impl Sent for Going {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.0.read(buffer).unwrap())
    }

    fn reached(&mut self, bytes: u64, of: u64) {
        assert!(bytes <= of);
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Remote for Once {
    fn name(&self) -> String {
        "disk-0 of web".to_owned()
    }

    fn size(&self) -> u64 {
        SIZE
    }

    fn identity(&self) -> String {
        "disk 1".to_owned()
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Streamed::new(Arc::new(self.clone()), SIZE, control)))
    }

    fn check_unchanged(&self, _: &Control) -> Result<()> {
        Ok(())
    }

    fn most_data(&self) -> Option<u64> {
        Some(SIZE)
    }
}

/// A disk of which each second MiB holds something, packed as it is sent.
fn host(dir: &Path) -> Arc<Host> {
    let (flat, stream) = (dir.join("flat"), dir.join("stream"));
    let file = File::create(&flat).unwrap();
    file.set_len(SIZE).unwrap();
    for at in (0..SIZE).step_by(2 * MIB as usize) {
        file.write_all_at(&vec![(at / MIB) as u8 | 1; MIB as usize], at).unwrap();
    }
    let pack = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    assert!(Command::new("qemu-img").args(pack).arg(&flat).arg(&stream).status().unwrap().success());
    Arc::new(Host { stream, sent: AtomicUsize::new(0) })
}

/// A copy that was made, and how it is proved.
struct Copied {
    bench: Bench,
    host: Arc<Host>,
    source: SourceDisk,
    format: OutputFormat,
}

impl Copied {
    fn new(format: OutputFormat) -> Copied {
        let bench = Bench::new();
        let host = host(bench.dir.path());
        let source = SourceDisk::remote(Arc::new(Once(Arc::clone(&host)))).unwrap();
        let target = bench.target(format);
        let measure = bench.engine.measure(&source, &target, &bench.control).unwrap();
        bench.engine.copy(&source, &target, &measure, &bench.control, &mut |_| {}).unwrap();
        Copied { bench, host, source, format }
    }

    fn result(&self) -> PathBuf {
        self.bench.target(self.format).path
    }

    /// What it turns out to be, and how often all of it was sent by then.
    fn proved(&self, depth: Depth) -> (ReadBack, usize) {
        let Bench { engine, control, .. } = &self.bench;
        let (result, journal) = (self.result(), self.bench.dir.path().join("journal"));
        let result = (result.as_path(), self.format);
        let proved = read_back(engine, &self.source, result, &journal, depth, control, &mut |_| {});
        (proved.unwrap(), self.host.sent.load(Ordering::SeqCst))
    }

    /// The same without anything that is known of the copy.
    fn compared(&self) -> (ReadBack, usize) {
        let Bench { engine, control, .. } = &self.bench;
        let compared =
            compare(engine, &self.source, (&self.result(), self.format), control, &mut |_| {}).unwrap();
        (compared, self.host.sent.load(Ordering::SeqCst))
    }

    /// Something comes to lie where nothing did.
    fn spoil(&self) {
        let result = File::options().write(true).open(self.result()).unwrap();
        result.write_all_at(&[1], HOLE).unwrap();
    }
}

#[test]
fn it_is_sent_once_to_be_copied_and_to_be_proved() {
    for format in [OutputFormat::Qcow2, OutputFormat::Raw] {
        let copied = Copied::new(format);
        for depth in [Depth::Tables, Depth::Medium] {
            assert_eq!(copied.proved(depth), (ReadBack::Same, 1), "{format:?} {depth:?}");
        }
    }
    let copied = Copied::new(OutputFormat::Raw);
    copied.spoil();
    assert_eq!(copied.proved(Depth::Tables), (ReadBack::DiffersAt(HOLE), 1));
}

#[test]
fn where_the_journal_does_not_say_that_it_was_all_it_is_sent_again_and_compared_in_its_order() {
    for format in [OutputFormat::Qcow2, OutputFormat::Raw] {
        let copied = Copied::new(format);
        let journal = File::options().write(true).open(copied.bench.dir.path().join("journal")).unwrap();
        journal.set_len(journal.metadata().unwrap().len() - 1).unwrap();
        assert_eq!(copied.proved(Depth::Tables), (ReadBack::Same, 2), "{format:?}");
        assert_eq!(copied.compared(), (ReadBack::Same, 3), "{format:?}");
    }
    let copied = Copied::new(OutputFormat::Raw);
    copied.spoil();
    assert_eq!(copied.compared(), (ReadBack::DiffersAt(HOLE), 2));
}
