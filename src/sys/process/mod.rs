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

mod converse;
mod group;
pub mod strays;
mod supervise;

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

pub use converse::Conversation;
pub use group::Group;
pub use supervise::{Capture, LongChild, Watch};

use crate::sys::sandbox::Rules;

/// How the stub begins the one line that it writes when it cannot become the program.
pub(crate) const STUB_FAILURE: &str = "hyper2kvm-stub: ";
/// The stub's exit code then.
pub(crate) const STUB_FAILURE_CODE: u8 = 125;
/// Bytes kept of each output of a short child.
const CAPTURE_BYTES: usize = 16 << 20;

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
    /// What it reads on its standard input, which else is empty. Shows nowhere: it may hold secrets.
    #[serde(default)]
    pub input: String,
    /// What others wrote, and is run or read all the same.
    #[serde(default)]
    pub foreign: Option<Foreign>,
    /// Where it works: relative names count from there, sockets too (whose paths are short). None: where we work.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Whether it is spoken with: its input is the other side of its output (see [`Launcher::converse`]).
    #[serde(default)]
    pub converses: bool,
}

/// A file that only root can have put where it is (see [`crate::sys::trusted`]), looked at and opened by the child itself.
///
/// Such a child gets no variables but those of its [`ChildSpec`], and both its outputs are one unless they are to be apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Which.
    pub file: PathBuf,
    /// Below one of these.
    pub roots: Vec<PathBuf>,
    /// Whether it is the program's last argument, and not the program.
    pub is_argument: bool,
    /// Whether its outputs are kept apart: one of them is read by a program.
    #[serde(default)]
    pub apart: bool,
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

/// Where programs are besides `PATH`.
const FURTHER_DIRECTORIES: [&str; 4] = ["/usr/libexec", "/usr/sbin", "/sbin", "/usr/bin"];

/// The program of this name, if there is one.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FURTHER_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
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
        let group = Group::of(child);
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
