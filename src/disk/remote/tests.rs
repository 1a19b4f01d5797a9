//! Copies of a disk elsewhere, from a file that is read as a server's would be: with cuts, silence, and another disk under the same name.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::disk::copy::{CopyOutcome, Target};
use crate::disk::engine::Engine;
use crate::disk::native::{Depth, ReadBack, read_back};
use crate::disk::read::{Holds, Range, Room};
use crate::model::plan::{Compression, OutputFormat, Preallocation};
use crate::sys::process::Launcher;

pub(super) const MIB: u64 = 1 << 20;
/// More than the copier has in hand at a time, several times.
const SIZE: u64 = 96 * MIB + 512;
/// What may be read again after a cut: what the threads had in their hands, and what nobody had written down yet.
const READ_AGAIN: u64 = 8 * MIB;

/// The server: one file, how much of it was read, and what is wrong with the network.
#[derive(Debug)]
struct Server {
    file: File,
    size: u64,
    identity: String,
    read: AtomicU64,
    /// The network is cut when so much was read.
    cut_after: AtomicU64,
    /// Nothing is answered any more.
    is_silent: AtomicBool,
    is_changed: AtomicBool,
}

impl Server {
    /// A disk of which each second MiB holds something.
    fn of(size: u64) -> Arc<Server> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for at in (0..size).step_by(2 * MIB as usize) {
            let mut bytes = vec![0; (size - at).min(MIB) as usize];
            for (sector, number) in bytes.chunks_mut(512).zip(at / 512..) {
                sector.fill((number % 251) as u8 | 1);
            }
            file.write_all_at(&bytes, at).unwrap();
        }
        Arc::new(Server {
            file,
            size,
            identity: "disk 1".to_owned(),
            read: AtomicU64::new(0),
            cut_after: AtomicU64::new(u64::MAX),
            is_silent: AtomicBool::new(false),
            is_changed: AtomicBool::new(false),
        })
    }

    /// The same disk at the same server, of which is said that it is another one.
    fn called(&self, identity: &str) -> Arc<Server> {
        Arc::new(Server {
            file: self.file.try_clone().unwrap(),
            size: self.size,
            identity: identity.to_owned(),
            read: AtomicU64::new(0),
            cut_after: AtomicU64::new(u64::MAX),
            is_silent: AtomicBool::new(false),
            is_changed: AtomicBool::new(false),
        })
    }

    fn has_read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }

    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.size as usize];
        self.file.read_exact_at(&mut content, 0).unwrap();
        content
    }
}

/// Somebody who asks it.
#[derive(Debug)]
struct Client(Arc<Server>);

impl Remote for Client {
    fn name(&self) -> String {
        "[ds1] web/web.vmdk on vc.example".to_owned()
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn identity(&self) -> String {
        self.0.identity.clone()
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Asking(Arc::clone(&self.0), control.clone())))
    }

    fn check_unchanged(&self, _: &Control) -> Result<()> {
        match self.0.is_changed.load(Ordering::SeqCst) {
            true => Err(Error::new(Kind::Source, "it was written")),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Asking(Arc<Server>, Control);

impl Reader for Asking {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        Ok(Range { start: at, length: self.0.size - at, holds: Holds::Data })
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        while self.0.is_silent.load(Ordering::SeqCst) {
            self.1.checkpoint()?;
            thread::sleep(Duration::from_millis(5));
        }
        let read = self.0.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        if read >= self.0.cut_after.load(Ordering::SeqCst) {
            self.0.read.fetch_sub(buffer.len() as u64, Ordering::SeqCst);
            return Err(Error::new(Kind::Network, "connection reset by peer"));
        }
        self.0.file.read_exact_at(buffer, at).map_err(|error| Error::internal(error.to_string()))
    }
}

/// A place to copy to, and who does it.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) engine: Engine,
    pub(super) control: Control,
}

impl Bench {
    pub(super) fn new() -> Bench {
        // No child has a part in this.
        let engine = Engine {
            qemu_img: PathBuf::from("/not/there"),
            version: String::new(),
            storage_daemon: None,
            launcher: Launcher::default(),
            memory_bytes: 0,
            stall_timeout_s: 60.0,
            sandbox_required: false,
            looks_again: true,
        };
        Bench { dir: tempfile::tempdir().unwrap(), engine, control: Control::new() }
    }

    pub(super) fn target(&self, format: OutputFormat) -> Target {
        Target {
            path: self.dir.path().join("result"),
            format,
            compress: Compression::None,
            level: None,
            preallocation: Preallocation::Off,
            journal: Some(self.dir.path().join("journal")),
        }
    }

    fn copy(&self, server: &Arc<Server>, format: OutputFormat) -> Result<CopyOutcome> {
        let (source, target) = (source(server), self.target(format));
        let measure = self.engine.measure(&source, &target, &self.control)?;
        assert!(measure.bytes_to_copy == server.size && measure.required_bytes >= server.size);
        self.engine.copy(&source, &target, &measure, &self.control, &mut |_| {})
    }

    /// What the finished copy turns out to be, and how much of the source was read for that.
    fn proved(&self, server: &Arc<Server>, format: OutputFormat, depth: Depth) -> (ReadBack, u64) {
        let (source, target, before) = (source(server), self.target(format), server.has_read());
        let (result, extents) = ((target.path.as_path(), format), self.dir.path().join("journal"));
        let proved =
            read_back(&self.engine, &source, result, &extents, depth, &self.control, &mut |_| {}).unwrap();
        (proved, server.has_read() - before)
    }
}

fn source(server: &Arc<Server>) -> SourceDisk {
    SourceDisk::remote(Arc::new(Client(Arc::clone(server)))).unwrap()
}

#[test]
fn a_copy_reads_every_byte_once_and_the_result_is_proved_without_reading_it_again() {
    for format in [OutputFormat::Qcow2, OutputFormat::Raw, OutputFormat::Vdi] {
        let (bench, server) = (Bench::new(), Server::of(SIZE));
        bench.copy(&server, format).unwrap();
        assert_eq!(server.has_read(), SIZE, "{format:?}");
        for depth in [Depth::Tables, Depth::Medium] {
            assert_eq!(bench.proved(&server, format, depth), (ReadBack::Same, 0), "{format:?} {depth:?}");
        }
        let result = File::options().read(true).write(true).open(bench.dir.path().join("result")).unwrap();
        let stored = result.metadata().unwrap().blocks() * 512;
        assert!(stored < SIZE * 2 / 3, "{format:?}: {stored} bytes for half of it, which is zeros");
        if format == OutputFormat::Raw {
            assert!(std::fs::read(bench.dir.path().join("result")).unwrap() == server.content());
            result.write_all_at(&[0xff], 8 * MIB + 77).unwrap();
            let (proved, read) = bench.proved(&server, format, Depth::Medium);
            assert_eq!((proved, read), (ReadBack::DiffersAt(8 * MIB), 0));
        }
    }
}

#[test]
fn a_copy_that_the_network_cut_is_for_another_attempt_which_reads_only_what_is_left() {
    for format in [OutputFormat::Raw, OutputFormat::Qcow2] {
        let (bench, server) = (Bench::new(), Server::of(SIZE));
        server.cut_after.store(SIZE / 2, Ordering::SeqCst);
        let error = bench.copy(&server, format).unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error:?}");
        let before = server.has_read();
        server.cut_after.store(u64::MAX, Ordering::SeqCst);
        let outcome = bench.copy(&server, format).unwrap();
        assert!(outcome.kept_bytes > 0 && outcome.restarted.is_none(), "{outcome:?}");
        let again = server.has_read() - SIZE;
        assert!(again <= READ_AGAIN, "{again} bytes of {before} were read twice");
        assert_eq!(outcome.kept_bytes, before - again);
        assert_eq!(bench.proved(&server, format, Depth::Medium), (ReadBack::Same, 0));
        // As one that was never cut.
        let whole = Bench::new();
        whole.copy(&server, format).unwrap();
        let [cut, whole] = [&bench, &whole].map(|bench| std::fs::read(bench.dir.path().join("result")));
        assert!(cut.unwrap() == whole.unwrap(), "{format:?}");
    }
}

#[test]
fn a_disk_that_is_another_one_by_now_is_copied_from_its_beginning_and_that_is_told() {
    let (bench, server) = (Bench::new(), Server::of(SIZE));
    server.cut_after.store(SIZE / 2, Ordering::SeqCst);
    bench.copy(&server, OutputFormat::Qcow2).unwrap_err();
    let changed = server.called("disk 1, written since");
    let outcome = bench.copy(&changed, OutputFormat::Qcow2).unwrap();
    assert_eq!((changed.has_read(), outcome.kept_bytes), (SIZE, 0));
    assert_eq!(outcome.restarted.as_deref(), Some("its source was changed since the earlier attempt"));
    assert!(bench.proved(&server, OutputFormat::Qcow2, Depth::Tables).0 == ReadBack::Unknown);
}

#[test]
fn a_server_that_says_nothing_fails_the_attempt_as_the_network_does() {
    let (mut bench, server) = (Bench::new(), Server::of(SIZE));
    bench.engine.stall_timeout_s = 2.0;
    server.is_silent.store(true, Ordering::SeqCst);
    let error = bench.copy(&server, OutputFormat::Qcow2).unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error:?}");
    assert!(error.details().advice.as_ref().is_some_and(|advice| advice.contains("server")), "{error:?}");
    // What is paused is not silent.
    bench.control.pause();
    let paused = thread::scope(|scope| {
        let copy = scope.spawn(|| bench.copy(&server, OutputFormat::Qcow2));
        thread::sleep(Duration::from_millis(3000));
        server.is_silent.store(false, Ordering::SeqCst);
        let is_over = copy.is_finished();
        bench.control.resume();
        copy.join().unwrap().unwrap();
        !is_over
    });
    assert!(paused, "it was given up while it was paused");
}

#[test]
fn a_copy_from_a_silent_server_can_be_ended_and_one_that_is_held_back_keeps_its_rate() {
    let (bench, server) = (Bench::new(), Server::of(SIZE));
    server.is_silent.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let copy = scope.spawn(|| bench.copy(&server, OutputFormat::Qcow2));
        thread::sleep(Duration::from_millis(100));
        let begun = Instant::now();
        bench.control.stop();
        assert_eq!(copy.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
    let (bench, server) = (Bench::new(), Server::of(16 * MIB));
    bench.control.limit_reading(std::num::NonZeroU64::new(16 * MIB));
    let begun = Instant::now();
    bench.copy(&server, OutputFormat::Qcow2).unwrap();
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[test]
fn a_disk_elsewhere_has_no_files_and_is_asked_itself_whether_it_was_changed() {
    let server = Server::of(SIZE);
    let source = source(&server);
    assert!(source.is_remote() && source.paths().is_empty() && source.member().is_none());
    assert_eq!((source.facts.virtual_size, source.stored_bytes()), (SIZE, SIZE));
    assert_eq!(source.qemu_node().unwrap_err().kind(), Kind::Unsupported);
    source.check_unchanged(&Control::new()).unwrap();
    server.is_changed.store(true, Ordering::SeqCst);
    assert_eq!(source.check_unchanged(&Control::new()).unwrap_err().kind(), Kind::Source);
}

#[test]
fn what_is_written_down_of_it_is_the_same_for_another_host_and_by_another_name() {
    let of = |server: &Arc<Server>| source(server).identity()[0].clone();
    let server = Server::of(SIZE);
    let written = serde_json::to_string(&of(&server)).unwrap();
    let read: FileIdentity = serde_json::from_str(&written).unwrap();
    let renamed = FileIdentity { path: PathBuf::from("[ds1] web/web.vmdk on 10.0.0.1"), ..read.clone() };
    assert!(read == of(&server) && renamed.is_same_elsewhere(&read));
    assert!(!read.is_same_elsewhere(&of(&server.called("disk 2"))));
    assert!(!FileIdentity { size: SIZE + 512, ..read.clone() }.is_same_elsewhere(&read));
    let file = FileIdentity { elsewhere: None, ..read.clone() };
    assert!(!file.is_same_elsewhere(&read) && !read.is_same_elsewhere(&file));
}

#[test]
fn sizes_that_no_disk_has_are_refused_and_so_is_another_one_than_was_told() {
    for size in [0, 511, 513, u64::MAX, u64::MAX - 511] {
        let server = Server { size, ..Arc::into_inner(Server::of(512)).unwrap() };
        let error = SourceDisk::remote(Arc::new(Client(Arc::new(server)))).unwrap_err();
        assert_eq!((error.kind(), error.details().rule.as_deref()), (Kind::Source, Some("disk.corrupt")));
    }

    #[derive(Debug)]
    struct Liar(Client);
    impl Remote for Liar {
        fn name(&self) -> String {
            self.0.name()
        }
        fn size(&self) -> u64 {
            self.0.size() + 512
        }
        fn identity(&self) -> String {
            self.0.identity()
        }
        fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
            self.0.reader(control)
        }
        fn check_unchanged(&self, control: &Control) -> Result<()> {
            self.0.check_unchanged(control)
        }
    }
    let source = SourceDisk::remote(Arc::new(Liar(Client(Server::of(SIZE))))).unwrap();
    let bench = Bench::new();
    let error = bench.engine.measure(&source, &bench.target(OutputFormat::Raw), &bench.control).unwrap_err();
    assert_eq!(error.kind(), Kind::Source, "{error:?}");
}

#[test]
fn qemu_is_served_what_lies_elsewhere_where_it_has_to_see_it() {
    let server = Server::of(SIZE);
    let (seen, served) = source(&server).for_qemu(&Control::new()).unwrap();
    let served = served.unwrap();
    assert_eq!(
        seen.qemu_node().unwrap()["file"]["server"]["path"].as_str().map(Path::new),
        Some(served.socket())
    );
    assert!(seen.paths().is_empty() && seen.identity() == source(&server).identity());
    assert_eq!(server.has_read(), 0, "nobody has asked for anything yet");
}
