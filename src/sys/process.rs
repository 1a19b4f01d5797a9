//! Child processes that cannot outlive us, outgrow their limits or open what they were not given.
//!
//! Every child is started through the stub (see [`crate::sys::stub`]): this program again, which
//! binds itself with a death signal, limits and the sandbox, and then becomes the real program. The
//! order travels through the stub's standard input, so nothing of it shows in `/proc`.
//!
//! **The thread that starts a child has to live as long as the child**: the kernel sends the death
//! signal when the starting *thread* ends. A worker therefore starts its children on its main thread,
//! and everything here runs on the caller's thread: there are no helper threads, one `poll` watches
//! both outputs and the process. Another thread may stop, continue or kill a child through its
//! [`Group`], which is safe against reused process ids because the child is only reaped under its lock.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::sys::sandbox::Rules;

/// How the stub begins the one line that it writes when it cannot become the program.
pub(crate) const STUB_FAILURE: &str = "hyper2kvm-stub: ";
/// The stub's exit code then.
pub(crate) const STUB_FAILURE_CODE: u8 = 125;
/// Bytes kept of each output of a short child.
const CAPTURE_BYTES: usize = 16 << 20;
/// Bytes kept of a long child's standard error, from its end.
const TAIL_BYTES: usize = 16 << 10;
/// A line longer than this is given in pieces.
const LINE_BYTES: usize = 64 << 10;
/// How long a killed process may take to go before it is left to the kernel (uninterruptible I/O).
const REAP_S: f64 = 10.0;

/// What to start and how to bind it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// Absolute path.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Added to the small environment that every child gets.
    pub env: Vec<(String, String)>,
    /// Limits.
    pub limits: ChildLimits,
    /// What it may open; none: whatever its user may.
    pub sandbox: Option<Rules>,
}

/// What a child may use; none: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ChildLimits {
    /// Address space.
    pub memory_bytes: Option<u64>,
    /// Processor time.
    pub cpu_s: Option<u64>,
    /// Size of every file it writes.
    pub file_size_bytes: Option<u64>,
    /// Time from start to end; not counted while [`Group::pause`]d.
    pub wall_s: Option<f64>,
}

impl ChildSpec {
    /// A program with these arguments, unbound.
    pub fn new<S: Into<String>>(program: impl Into<PathBuf>, args: impl IntoIterator<Item = S>) -> ChildSpec {
        ChildSpec {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..ChildSpec::default()
        }
    }

    /// The command line, for logs.
    #[must_use]
    pub fn command_line(&self) -> String {
        let mut line = self.program.display().to_string();
        for arg in &self.args {
            line.push(' ');
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                line.push_str(arg);
            } else {
                line.push_str(&format!("'{}'", arg.replace('\'', r"'\''")));
            }
        }
        line
    }
}

/// What travels to the stub.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StubOrder {
    /// Who has to be the stub's parent.
    pub(crate) parent: u32,
    /// What to become.
    pub(crate) spec: ChildSpec,
}

/// Why a child gave no result of its own.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {}: {error}", program.display())]
    Start {
        /// What.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It could not be bound as it has to be, or is not there.
    #[error("cannot start {}: {detail}", program.display())]
    Stub {
        /// What.
        program: PathBuf,
        /// Why.
        detail: String,
    },
    /// It took longer than it may and was killed.
    #[error("{} did not end within {wall_s} s and was killed", program.display())]
    TimedOut {
        /// What.
        program: PathBuf,
        /// Its limit.
        wall_s: f64,
    },
    /// The caller's watch ended it.
    #[error("{} was ended: {reason}", program.display())]
    Ended {
        /// What.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// It cannot be watched.
    #[error("cannot watch {}: {error}", program.display())]
    Watch {
        /// What.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// How a child ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed (of a long child: nothing, its lines were handed over).
    pub stdout: Vec<u8>,
    /// What it complained (of a long child: the end of it).
    pub stderr: Vec<u8>,
    /// Whether it said more than is kept.
    pub truncated: bool,
    /// How long it ran.
    pub seconds: f64,
}

impl Output {
    /// The end of what it complained, for an error message.
    #[must_use]
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// `exit code 1`, `killed by signal 9`.
    #[must_use]
    pub fn ending(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "unknown end".to_owned(),
        }
    }
}

/// Starts children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    stub: PathBuf,
}

impl Default for Launcher {
    fn default() -> Self {
        Launcher::this_program()
    }
}

impl Launcher {
    /// The running program is its own stub: right in every process whose `main` dispatches `stub`.
    #[must_use]
    pub fn this_program() -> Launcher {
        Launcher { stub: PathBuf::from("/proc/self/exe") }
    }

    /// Another build of this program is the stub: for tests and for users of the library.
    pub fn with_stub(stub: impl Into<PathBuf>) -> Launcher {
        Launcher { stub: stub.into() }
    }

    /// The program that is started first.
    #[must_use]
    pub fn stub(&self) -> &Path {
        &self.stub
    }

    /// Runs a short child to its end, within its limits, and gives what it said. `watch` gets its [`Group`] at once.
    pub fn run_short(&self, spec: &ChildSpec, watch: &mut dyn FnMut(&Group)) -> Result<Output, ProcessError> {
        let mut child = self.start(spec)?;
        watch(&child.group());
        let mut stdout = Vec::new();
        let mut truncated = false;
        let mut output = child.supervise(
            Capture::Bytes(&mut |bytes| {
                let room = CAPTURE_BYTES - stdout.len().min(CAPTURE_BYTES);
                truncated |= bytes.len() > room;
                stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }),
            Duration::from_secs(1),
            &mut || Watch::GoOn,
        )?;
        output.stdout = stdout;
        output.truncated |= truncated;
        Ok(output)
    }

    /// Starts a child whose end nobody can foretell.
    pub fn start(&self, spec: &ChildSpec) -> Result<LongChild, ProcessError> {
        let fail = |error: io::Error| ProcessError::Start { program: spec.program.clone(), error };
        let order = StubOrder { parent: std::process::id(), spec: spec.clone() };
        let order = serde_json::to_vec(&order).map_err(|error| fail(error.into()))?;
        let mut child = Command::new(&self.stub)
            .arg0("hyper2kvm")
            .arg("stub")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let pid = Pid::from_child(&child);
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let group = Group(Arc::new(Mutex::new(Member { pid: Some(pid), child, paused_since: None })));
        let mut started = LongChild {
            program: spec.program.clone(),
            wall_s: spec.limits.wall_s,
            pidfd: None,
            stdout,
            stderr,
            started: Instant::now(),
            group,
        };
        // A stub that dies early closes its end; its own words about why are worth more than EPIPE.
        if let Some(mut stdin) = stdin
            && let Err(error) = stdin.write_all(&order)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            started.end();
            return Err(fail(error));
        }
        let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        match opened {
            Ok(pidfd) => started.pidfd = Some(pidfd),
            Err(error) => {
                started.end();
                return Err(fail(error.into()));
            }
        }
        Ok(started)
    }
}

#[derive(Debug)]
struct Member {
    pid: Option<Pid>,
    child: Child,
    paused_since: Option<Instant>,
}

/// A running child and everything it started: its process group, which other threads may act on.
#[derive(Debug, Clone)]
pub struct Group(Arc<Mutex<Member>>);

impl Group {
    /// Lets it stand still.
    pub fn pause(&self) {
        let mut member = self.lock();
        if member.paused_since.is_none() {
            member.paused_since = Some(Instant::now());
        }
        member.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let mut member = self.lock();
        member.paused_since = None;
        member.signal(Signal::CONT);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.lock().signal(Signal::KILL);
    }

    /// Its process id, while it is there.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Whether it was paused through this handle.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.lock().paused_since.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Member> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exit status once it has ended. Whatever the leader left in its group is killed with it.
    fn reap(&self) -> io::Result<Option<ExitStatus>> {
        let mut member = self.lock();
        if member.pid.is_none() {
            return member.child.try_wait();
        }
        // As long as the leader is not reaped its id, and so the group's, cannot be given away.
        let gone = rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_child(&member.child)),
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT,
        )?;
        if gone.is_none() {
            return Ok(None);
        }
        member.signal(Signal::KILL);
        member.pid = None;
        member.child.try_wait()
    }
}

impl Member {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // It may have ended already: then there is nothing left to be told.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

/// What a supervisor's watch wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// All is well.
    GoOn,
    /// Kill it, for this reason.
    End(String),
}

/// What to do with a child's standard output.
pub enum Capture<'a> {
    /// Hand over bytes as they come.
    Bytes(&'a mut dyn FnMut(&[u8])),
    /// Hand over lines; a carriage return ends one too (progress displays use it).
    Lines(&'a mut dyn FnMut(&str)),
}

/// A child that runs as long as it makes progress. Dropping it kills it.
#[derive(Debug)]
pub struct LongChild {
    program: PathBuf,
    wall_s: Option<f64>,
    pidfd: Option<OwnedFd>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    started: Instant,
    group: Group,
}

impl LongChild {
    /// For other threads.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group.clone()
    }

    /// Watches it to its end. `watch` is asked at least every `tick`.
    pub fn supervise(
        &mut self,
        capture: Capture<'_>,
        tick: Duration,
        watch: &mut dyn FnMut() -> Watch,
    ) -> Result<Output, ProcessError> {
        let result = self.supervise_inner(capture, tick, watch);
        if result.is_err() {
            self.end();
        }
        result
    }

    fn supervise_inner(
        &mut self,
        mut capture: Capture<'_>,
        tick: Duration,
        watch: &mut dyn FnMut() -> Watch,
    ) -> Result<Output, ProcessError> {
        let program = self.program.clone();
        let fail = |error: io::Error| ProcessError::Watch { program: program.clone(), error };
        let mut line = Vec::new();
        let mut tail = VecDeque::new();
        let mut truncated = false;
        let mut clock = Clock::new(self.wall_s);
        let mut next_tick = Instant::now() + tick;
        set_nonblocking(self.stdout.as_ref()).map_err(fail)?;
        set_nonblocking(self.stderr.as_ref()).map_err(fail)?;
        let status = loop {
            self.await_something(next_tick).map_err(fail)?;
            // Asked before draining: what it said until then is in the pipes.
            let status = self.group.reap().map_err(fail)?;
            drain(&mut self.stdout, &mut |bytes| match &mut capture {
                Capture::Bytes(take) => take(bytes),
                Capture::Lines(take) => split_lines(&mut line, bytes, take),
            })
            .map_err(fail)?;
            drain(&mut self.stderr, &mut |bytes| truncated |= keep_tail(&mut tail, bytes)).map_err(fail)?;
            if let Some(status) = status {
                break status;
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + tick;
                if let Watch::End(reason) = watch() {
                    return Err(ProcessError::Ended { program, reason });
                }
            }
            if clock.is_over(self.group.is_paused()) {
                return Err(ProcessError::TimedOut { program, wall_s: self.wall_s.unwrap_or_default() });
            }
        };
        if let Capture::Lines(take) = &mut capture
            && !line.is_empty()
        {
            take(&String::from_utf8_lossy(&line));
        }
        let stderr: Vec<u8> = tail.into();
        if status.code() == Some(i32::from(STUB_FAILURE_CODE))
            && let Some(detail) = String::from_utf8_lossy(&stderr).trim().strip_prefix(STUB_FAILURE)
        {
            return Err(ProcessError::Stub { program, detail: detail.to_owned() });
        }
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(Output { status, stdout: Vec::new(), stderr, truncated, seconds })
    }

    fn await_something(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let fds = [
            self.pidfd.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it and waits until it is gone.
    fn end(&mut self) {
        self.group.kill();
        let deadline = Instant::now() + Duration::from_secs_f64(REAP_S);
        while matches!(self.group.reap(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for LongChild {
    fn drop(&mut self) {
        if self.group.pid().is_some() {
            self.end();
        }
    }
}

/// Counts the time in which a child was allowed to run.
struct Clock {
    limit: Option<Duration>,
    used: Duration,
    last: Instant,
}

impl Clock {
    fn new(wall_s: Option<f64>) -> Clock {
        let limit = wall_s.map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
        Clock { limit, used: Duration::ZERO, last: Instant::now() }
    }

    fn is_over(&mut self, paused: bool) -> bool {
        let now = Instant::now();
        if !paused {
            self.used += now - self.last;
        }
        self.last = now;
        self.limit.is_some_and(|limit| self.used > limit)
    }
}

fn set_nonblocking(pipe: Option<&impl AsFd>) -> io::Result<()> {
    if let Some(pipe) = pipe {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Reads what is there; a pipe that has ended is closed, so that it is not polled again.
fn drain<R: Read>(pipe: &mut Option<R>, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0u8; 16 << 10];
    // Bounded, so that a child that never stops talking cannot keep the clock from being looked at.
    for _ in 0..64 {
        let Some(reader) = pipe else { return Ok(()) };
        match reader.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn split_lines(line: &mut Vec<u8>, bytes: &[u8], take: &mut dyn FnMut(&str)) {
    for &byte in bytes {
        let ends = byte == b'\n' || byte == b'\r';
        if !line.is_empty() && (ends || line.len() >= LINE_BYTES) {
            take(&String::from_utf8_lossy(line));
            line.clear();
        }
        if !ends {
            line.push(byte);
        }
    }
}

fn keep_tail(tail: &mut VecDeque<u8>, bytes: &[u8]) -> bool {
    tail.extend(bytes);
    let excess = tail.len().saturating_sub(TAIL_BYTES);
    tail.drain(..excess);
    excess > 0
}
