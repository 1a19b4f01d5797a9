//! Watching one child to its end on the caller's thread: outputs, ending, limits of time.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;

use super::{Group, Output, ProcessError, STUB_FAILURE, STUB_FAILURE_CODE};

/// Bytes kept of a child's standard error, from its end.
const TAIL_BYTES: usize = 16 << 10;
/// A line longer than this is given in pieces.
const LINE_BYTES: usize = 64 << 10;
/// How long a killed process may take to go before it is left to the kernel (uninterruptible I/O).
const REAP_S: f64 = 10.0;

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
    pub(super) program: PathBuf,
    pub(super) wall_s: Option<f64>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
    pub(super) started: Instant,
    pub(super) group: Group,
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
            if clock.is_over(self.group.stands_still()) {
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
    pub(super) fn end(&mut self) {
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

pub(super) fn set_nonblocking(pipe: Option<&impl AsFd>) -> io::Result<()> {
    if let Some(pipe) = pipe {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Reads what is there; a pipe that has ended is closed, so that it is not polled again.
pub(super) fn drain<R: Read>(pipe: &mut Option<R>, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
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

pub(super) fn keep_tail(tail: &mut VecDeque<u8>, bytes: &[u8]) -> bool {
    tail.extend(bytes);
    let excess = tail.len().saturating_sub(TAIL_BYTES);
    tail.drain(..excess);
    excess > 0
}
