//! A child that is spoken with for as long as it lives: what it is told and what it says pass through one socket.
//!
//! It is started like every other child (through the stub), and like every other it dies with the thread that started it. What is not here: what is
//! said.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use super::supervise::{drain, keep_tail, set_nonblocking};
use super::{ChildSpec, Group, Launcher, ProcessError, StubOrder};

/// What has closed its side has said all that it says soon after.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// A child that is spoken with. Dropping it kills it.
#[derive(Debug)]
pub struct Conversation {
    socket: UnixStream,
    stderr: Option<ChildStderr>,
    tail: VecDeque<u8>,
    group: Group,
}

impl Launcher {
    /// Starts a child that is spoken with; its input is the socket that its output is.
    pub fn converse(&self, spec: &ChildSpec) -> Result<Conversation, ProcessError> {
        let fail = |error: io::Error| ProcessError::Start { program: spec.program.clone(), error };
        let spec = ChildSpec { converses: true, ..spec.clone() };
        let order = StubOrder { parent: std::process::id(), spec: spec.clone() };
        let order = serde_json::to_vec(&order).map_err(|error| fail(error.into()))?;
        let (socket, its_own) = UnixStream::pair().map_err(fail)?;
        let mut child = Command::new(self.stub())
            .arg0("hyper2kvm")
            .arg("stub")
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(its_own))
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let started = Conversation { socket, stderr, tail: VecDeque::new(), group: Group::of(child) };
        set_nonblocking(started.stderr.as_ref()).map_err(fail)?;
        // Of a stub that dies early its own words are worth more than EPIPE.
        if let Some(mut stdin) = stdin
            && let Err(error) = stdin.write_all(&order)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(fail(error));
        }
        Ok(started)
    }
}

impl Conversation {
    /// Tells it something, within a time in which it has to listen.
    pub fn tell(&mut self, bytes: &[u8], within: Duration) -> io::Result<()> {
        self.socket.set_write_timeout(Some(within))?;
        self.socket.write_all(bytes)
    }

    /// What it says next; `None` where it says nothing for so long, and nothing at all where it has ended.
    pub fn hear(&mut self, into: &mut [u8], within: Duration) -> io::Result<Option<usize>> {
        self.socket.set_read_timeout(Some(within))?;
        match self.socket.read(into) {
            Ok(count) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says no more to it, waits a moment for its end, and gives the end of what it complained.
    pub fn complaint(&mut self) -> String {
        let _ = self.socket.shutdown(Shutdown::Both);
        let deadline = Instant::now() + ENDS_WITHIN;
        while matches!(self.group.reap(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let Conversation { stderr, tail, .. } = self;
        // What it did not read is no complaint either.
        let _ = drain(stderr, &mut |bytes| {
            keep_tail(tail, bytes);
        });
        String::from_utf8_lossy(self.tail.make_contiguous()).trim().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.group.kill();
        let deadline = Instant::now() + ENDS_WITHIN;
        while matches!(self.group.reap(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
