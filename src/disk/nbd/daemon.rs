//! A disk that only QEMU reads, as a reader like the others: QEMU's storage daemon opens it and serves it to us.
//!
//! The daemon is a child like any other: it opens just the source's files and its own directory, has limits, and ends with the reader or
//! with us. Each thread that reads has a connection of its own. The daemon never probes: it is given the source's nodes. Where it is not
//! installed there is no reader, and `qemu-img` copies. What is not here: the protocol (see [`super::client`]).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Connection, Trouble};
use crate::disk::control::{Attached, Control};
use crate::disk::engine::{Engine, short_limits};
use crate::disk::facts::SourceDisk;
use crate::disk::failure::Call;
use crate::disk::read::{Range, Reader, Room, read_failed};
use crate::model::error::{Error, Kind, Result};
use crate::sys::process::{Capture, ChildSpec, Group, Launcher, Output, ProcessError, Watch};
use crate::sys::scratch::Scratch;

/// The daemon's name, as it calls itself too.
pub(super) const NAME: &str = "qemu-storage-daemon";
/// How its socket is called in its directory, in which it works.
const SOCKET: &str = "disk";
/// Until a disk is opened: one of 2 TiB may have a thousand files.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(250);
/// A read that waits looks this often whether it still has to.
const WAKE_EVERY: Duration = Duration::from_millis(250);
/// Answers about the map that are kept: some threads ask about different parts of the disk at a time.
const MOST_KNOWN: usize = 16;
/// One whose connection broke has ended, or does so now.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Lets the storage daemon open a source; `None` where there is none.
///
/// To be called on a thread that lives as long as the reader.
pub(crate) fn open(
    engine: &Engine,
    source: &SourceDisk,
    control: &Control,
) -> Result<Option<Box<dyn Reader>>> {
    let Some(program) = &engine.storage_daemon else { return Ok(None) };
    let call = Call { tool: NAME, kind: Kind::Source, source: Some(&source.path), target: None };
    let helper = format!("{NAME} {}", version(engine, program, &call, control)?);
    let daemon = Daemon::start(engine, program, source, &call, control)?;
    let limit = Duration::try_from_secs_f64(engine.stall_timeout_s).unwrap_or(Duration::MAX);
    let told =
        Told { tool: NAME, helper, source: source.path.clone(), size: source.facts.virtual_size, limit };
    Ok(Some(Box::new(told.read(daemon, control)?)))
}

/// What is known of a disk that a program is to serve, before it does.
#[derive(Debug)]
pub(super) struct Told {
    /// The program's name.
    pub(super) tool: &'static str,
    /// The same with its version, for people.
    pub(super) helper: String,
    /// The disk.
    pub(super) source: PathBuf,
    /// Bytes that the guest sees.
    pub(super) size: u64,
    /// A read that takes longer hangs.
    pub(super) limit: Duration,
}

impl Told {
    /// Waits until the disk is served.
    pub(super) fn read(self, daemon: Daemon, control: &Control) -> Result<Remote> {
        let (tool, source) = (self.tool, self.source.clone());
        let remote = Remote {
            daemon,
            told: self,
            control: control.clone(),
            idle: Mutex::default(),
            known: Mutex::default(),
        };
        let call = Call { tool, kind: Kind::Source, source: Some(&source), target: None };
        match remote.await_begin(&call) {
            Ok(()) => Ok(remote),
            // One that still runs says why only to whoever ends it.
            Err(error) => Err(match remote.last_words() {
                Some(words) => error.console_tail(words),
                None => error,
            }),
        }
    }
}

fn version(engine: &Engine, program: &Path, call: &Call<'_>, control: &Control) -> Result<String> {
    let args = vec!["--version".to_owned()];
    let spec = engine.spec_of(program, args, Vec::new(), Vec::new(), short_limits());
    let output = engine.run(&spec, call, control)?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `qemu-storage-daemon version 10.0.2 (Debian …)`
    Ok(text.split_whitespace().nth(2).unwrap_or("of unknown version").to_owned())
}

/// The running child. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Daemon {
    scratch: Scratch,
    group: Group,
    ended: Mutex<Receiver<Result<Output, ProcessError>>>,
    listener: Option<JoinHandle<()>>,
    obeys: Option<Attached>,
}

impl Daemon {
    fn start(
        engine: &Engine,
        program: &Path,
        source: &SourceDisk,
        call: &Call<'_>,
        control: &Control,
    ) -> Result<Daemon> {
        control.checkpoint()?;
        let temp = std::env::temp_dir();
        let scratch = Scratch::make(&temp, "nbd").map_err(|error| {
            Error::io(Kind::Output, "make a directory in", &temp, &error)
                .advice("TMPDIR names the directory for temporary files; it has to be writable")
        })?;
        let mut node = source.qemu_node()?.clone();
        node["node-name"] = json!("disk");
        node["read-only"] = json!(true);
        let export =
            json!({ "type": "nbd", "id": "disk", "node-name": "disk", "name": "", "writable": false });
        let args = [
            "--blockdev",
            &node.to_string(),
            "--nbd-server",
            &format!("addr.type=unix,addr.path={SOCKET}"),
            "--export",
            &export.to_string(),
        ];
        let (args, write) = (args.map(str::to_owned).to_vec(), vec![scratch.path().to_owned()]);
        let mut spec = engine.spec_of(program, args, source.paths(), write, engine.long_limits());
        spec.directory = Some(scratch.path().to_owned());
        Ok(Daemon::begin(&engine.launcher, &spec, scratch, call)?.obeying(control))
    }

    /// Starts it as it is told to; nobody's pause or end reaches it but by its end here.
    ///
    /// The thread that listens to it starts it, too: it lives as long as its starter does, and may be started on a thread that ends sooner.
    pub(super) fn begin(
        launcher: &Launcher,
        spec: &ChildSpec,
        scratch: Scratch,
        call: &Call<'_>,
    ) -> Result<Daemon> {
        tracing::info!(command = %spec.command_line(), "a disk is served by another program");
        let (begun, begins) = mpsc::channel();
        let (tell, ended) = mpsc::channel();
        let (launcher, spec) = (launcher.clone(), spec.clone());
        let work = move || {
            let mut child = match launcher.start(&spec) {
                Ok(child) => child,
                Err(error) => return drop(begun.send(Err(error))),
            };
            let _ = begun.send(Ok(child.group()));
            let mut heard = |line: &str| tracing::debug!(line, "who serves a disk said");
            let _ = tell.send(child.supervise(Capture::Lines(&mut heard), TICK, &mut || Watch::GoOn));
        };
        let listener = thread::Builder::new()
            .name("nbd daemon".to_owned())
            .spawn(work)
            .map_err(|error| Error::internal(format!("nobody can watch who serves a disk: {error}")))?;
        let group = begins.recv().map_err(|_| Error::internal("who serves a disk was never started"))?;
        let group = group.map_err(|error| call.lost(&error))?;
        Ok(Daemon { scratch, group, ended: Mutex::new(ended), listener: Some(listener), obeys: None })
    }

    /// From now on a pause and an end from outside are its own.
    pub(super) fn obeying(mut self, control: &Control) -> Daemon {
        self.obeys = Some(control.attach(&self.group));
        self
    }

    /// Takes the name of a file in its directory that it has open: now it is gone with it, however it ends.
    pub(super) fn forget(&self, file: &str) {
        let _ = std::fs::remove_file(self.scratch.file(file));
    }

    /// Connects to a socket in its directory.
    pub(super) fn connect(&self, socket: &str) -> io::Result<UnixStream> {
        self.scratch.connect(socket)
    }

    /// What it ended with, if it does within this time.
    pub(super) fn ending(&self, within: Duration, call: &Call<'_>) -> Option<Error> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(within).ok().map(|ended| match ended {
            Ok(output) => call.failed(&output),
            Err(error) => call.lost(&error),
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.group.kill();
        self.obeys = None;
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// The disk that the daemon serves.
#[derive(Debug)]
pub(super) struct Remote {
    daemon: Daemon,
    told: Told,
    control: Control,
    /// Connections that nobody uses just now.
    idle: Mutex<Vec<Connection<Patient>>>,
    /// What of the map was told last: each answer is in order.
    known: Mutex<VecDeque<Vec<Range>>>,
}

impl Remote {
    /// Waits until the disk is open and served, or it is clear that it will not be.
    fn await_begin(&self, call: &Call<'_>) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.control.checkpoint()?;
            if let Ok(stream) = self.daemon.scratch.connect(SOCKET) {
                let connection = self.talk(stream).map_err(|error| self.lost(&error))?;
                if connection.size() != self.told.size {
                    let (here, there, tool) = (self.told.size, connection.size(), self.told.tool);
                    return Err(Error::internal(format!("{tool} shows {there} bytes of a disk of {here}")));
                }
                self.idle().push(connection);
                return Ok(());
            }
            if let Some(error) = self.daemon.ending(LOOK_EVERY, call) {
                self.control.ended()?;
                return Err(error);
            }
            if begun.elapsed() > OPEN_LIMIT && !self.control.stands_still() {
                return Err(self.hangs(OPEN_LIMIT));
            }
        }
    }

    /// Ends the program, and gives what it complained of, if nobody was told yet.
    pub(super) fn last_words(&self) -> Option<String> {
        self.daemon.group.kill();
        let ended = self.daemon.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let output = ended.recv_timeout(LAST_WORDS).ok()?.ok()?;
        Some(output.complaint()).filter(|words| !words.is_empty())
    }

    fn connect(&self) -> io::Result<Connection<Patient>> {
        self.talk(self.daemon.scratch.connect(SOCKET)?)
    }

    fn talk(&self, stream: UnixStream) -> io::Result<Connection<Patient>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(WAKE_EVERY))?;
        Connection::open(Patient { stream, control: self.control.clone(), limit: self.told.limit })
    }

    /// Asks over a connection that nobody else uses meanwhile. One that broke is not used again.
    fn ask<T>(
        &self,
        at: u64,
        question: impl FnOnce(&mut Connection<Patient>) -> Result<T, Trouble>,
    ) -> Result<T> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().map_err(|error| self.lost(&error))?,
        };
        let answer = question(&mut connection);
        if !matches!(answer, Err(Trouble::Lost(_))) {
            self.idle().push(connection);
        }
        answer.map_err(|trouble| match trouble {
            Trouble::Refused(number) => {
                read_failed(&self.told.source, at, &io::Error::from_raw_os_error(number))
            }
            Trouble::Lost(error) => self.lost(&error),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection<Patient>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a connection broke: because the work was ended, because the daemon was, or because of what was said on it.
    fn lost(&self, error: &io::Error) -> Error {
        if let Err(ended) = self.control.ended() {
            return ended;
        }
        if error.kind() == io::ErrorKind::TimedOut {
            return self.hangs(self.told.limit);
        }
        let (tool, source) = (self.told.tool, &self.told.source);
        let call = Call { tool, kind: Kind::Source, source: Some(source), target: None };
        match self.daemon.ending(LAST_WORDS, &call) {
            Some(ending) => ending,
            None => {
                Error::new(Kind::Internal, format!("{tool} does not serve the disk as it has to: {error}"))
                    .advice("it is tried again; if it repeats, see the job's log")
                    .source(source.display().to_string())
                    .transient()
            }
        }
    }

    fn hangs(&self, limit: Duration) -> Error {
        let waited = limit.as_secs_f64();
        Error::new(Kind::Source, format!("{} did not answer for {waited:.0} s", self.told.tool))
            .advice("check the storage that the source lies on; it is not answering")
            .source(self.told.source.display().to_string())
            .transient()
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<Vec<Range>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_at(&self, at: u64) -> Option<Range> {
        self.known().iter().rev().find_map(|answer| {
            let range = answer.get(answer.partition_point(|range| range.end() <= at))?;
            (range.start <= at).then(|| Range { start: at, length: range.end() - at, holds: range.holds })
        })
    }
}

impl Reader for Remote {
    fn size(&self) -> u64 {
        self.told.size
    }

    fn range(&self, at: u64, _: &mut Room) -> Result<Range> {
        if let Some(range) = self.known_at(at) {
            return Ok(range);
        }
        let ranges = self.ask(at, |connection| connection.map(at))?;
        let first = ranges.first().copied();
        let mut known = self.known();
        if known.len() == MOST_KNOWN {
            known.pop_front();
        }
        known.push_back(ranges);
        first.ok_or_else(|| Error::internal("a map is empty"))
    }

    fn read(&self, at: u64, buffer: &mut [u8], _: &mut Room) -> Result<()> {
        self.ask(at, |connection| connection.read(at, buffer))
    }

    fn helper(&self) -> Option<&str> {
        Some(&self.told.helper)
    }
}

/// A stream whose reader waits, but not for ever, and not for somebody whose work was ended.
#[derive(Debug)]
struct Patient {
    stream: UnixStream,
    control: Control,
    limit: Duration,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut since = Instant::now();
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.control.ended().is_err() {
                return Err(io::Error::other("the work was ended"));
            }
            if self.control.stands_still() {
                since = Instant::now();
            }
            if since.elapsed() > self.limit {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
