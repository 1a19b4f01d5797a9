//! Starting a worker process and talking with it: typed events out, commands in.
//!
//! ```text
//!   spawner thread ──fork──▶ hyper2kvm worker ──stdout──▶ pump task ──▶ WorkerProcess::next
//!   (lives for ever)                          ◀──stdin───            ◀── WorkerHandle::send
//!                                             ──stderr──▶ the attempt's log file
//! ```
//!
//! The kernel sends a child its parent-death signal when the *thread* that forked it ends, so all
//! workers are forked by one thread that never does. Whatever becomes of the process, the stream of
//! events ends with exactly one [`WorkerEvent::Finished`]: a crash is told as a failure. What is not
//! here: what a worker does, and whether a failed job is tried again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc as std_mpsc};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};

use super::boot_test;
use crate::disk::remove_leavings;
use crate::model::error::{Error, Kind, Result};
use crate::model::protocol::{WorkOrder, WorkerCommand, WorkerEvent, WorkerOutcome};

/// Logs are read by the operators' group.
const LOG_MODE: u32 = 0o640;
/// How much of the log an error about a crash quotes.
const LOG_TAIL_BYTES: u64 = 4 * 1024;
/// How long a worker that has told its outcome may take to end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long the last lines of a worker that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where the appliance of an attempt logs: beside the attempt's own log.
#[must_use]
pub fn appliance_log(log: &Path) -> PathBuf {
    log.with_extension("appliance.log")
}

/// A running worker process. Dropping it tells the worker to stop (what is finished is kept).
#[derive(Debug)]
pub struct WorkerProcess {
    pid: u32,
    events: mpsc::Receiver<WorkerEvent>,
    handle: WorkerHandle,
    finished: bool,
}

/// Tells a worker what to do; may be cloned and kept by whoever decides.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    orders: mpsc::UnboundedSender<Told>,
}

#[derive(Debug)]
enum Told {
    Command(WorkerCommand),
    Kill,
}

impl WorkerProcess {
    /// Starts this very program as a worker. What it writes for people is appended to `log`.
    pub async fn spawn(order: &WorkOrder, log: &Path) -> Result<WorkerProcess> {
        // Not the path of the program: an upgrade may have replaced the file, and the old service needs the old worker.
        WorkerProcess::spawn_program(Path::new("/proc/self/exe"), order, log).await
    }

    /// Starts another copy of the program as a worker.
    pub async fn spawn_program(program: &Path, order: &WorkOrder, log: &Path) -> Result<WorkerProcess> {
        let (log_file, log_start) = open_log(log)?;
        let mut command = std::process::Command::new(program);
        command
            .arg("worker")
            .arg(format!("--parent={}", std::process::id()))
            .env("TMPDIR", &order.limits.work_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .process_group(0);
        let mut child = fork(command).await.map_err(|error| {
            Error::internal(format!("cannot start the worker {}: {error}", program.display())).transient()
        })?;
        let pid = child.id().unwrap_or_default();
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("a worker was started without its pipes"));
        };
        let (orders, told) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(64);
        let mut order = order.clone();
        order.limits.log = Some(log.to_owned());
        let first = line_of(&order)?;
        let pump = Pump {
            child,
            pid,
            stdin: Some(stdin),
            lines: BufReader::new(stdout).lines(),
            events,
            told,
            unwritten: VecDeque::from([first]),
            work_dir: order.limits.work_dir.clone(),
            log: log.to_owned(),
            log_start,
            outcome_told: false,
            killed: false,
        };
        tokio::spawn(pump.run());
        Ok(WorkerProcess { pid, events: receiver, handle: WorkerHandle { orders }, finished: false })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The end that commands go in at.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// The next event; `None` once the process is gone. The last one is always [`WorkerEvent::Finished`].
    ///
    /// Asking on after `Finished` says that the outcome is recorded: only then does the worker remove
    /// the journal that lets a next start see that all is done. So record first, then ask on; and
    /// start no other worker of the same job before this has answered `None`.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        if self.finished {
            self.handle.send(WorkerCommand::Recorded);
        }
        let event = self.events.recv().await;
        self.finished |= matches!(event, Some(WorkerEvent::Finished(_)));
        event
    }
}

impl WorkerHandle {
    /// Sends a command. A worker that has ended does not hear it; its outcome tells what came first.
    pub fn send(&self, command: WorkerCommand) {
        let _ = self.orders.send(Told::Command(command));
    }

    /// Ends the worker and everything it started, at once. Told as [`WorkerOutcome::Stopped`].
    pub fn kill(&self) {
        let _ = self.orders.send(Told::Kill);
    }
}

/// The task between one worker's pipes and the channels.
struct Pump {
    child: Child,
    pid: u32,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    events: mpsc::Sender<WorkerEvent>,
    told: mpsc::UnboundedReceiver<Told>,
    unwritten: VecDeque<Vec<u8>>,
    work_dir: PathBuf,
    log: PathBuf,
    log_start: u64,
    outcome_told: bool,
    killed: bool,
}

impl Pump {
    async fn run(mut self) {
        let status = self.talk().await;
        // What it wrote before it ended is still in the pipe. Only what the pipe takes is bounded, so that nobody who has it, too, goes on for ever:
        // who listens may be busy for longer.
        let mut left = LAST_WORDS;
        while !self.outcome_told && !left.is_zero() {
            let asked = tokio::time::Instant::now();
            let read = tokio::time::timeout(left, self.lines.next_line()).await;
            let Ok(Ok(Some(line))) = read else { break };
            left = left.saturating_sub(asked.elapsed());
            self.pass_on(&line).await;
        }
        boot_test::remove_leavings(&self.work_dir);
        if self.outcome_told {
            // It emptied its working directory; its sandbox did not let it remove the directory itself.
            let _ = std::fs::remove_dir(&self.work_dir);
        } else {
            remove_leavings(&self.work_dir);
            let _ = std::fs::remove_dir_all(&self.work_dir);
            let outcome = if self.killed {
                WorkerOutcome::Stopped
            } else {
                WorkerOutcome::Failed { error: crash(status, &self.log, self.log_start) }
            };
            let _ = self.events.send(WorkerEvent::Finished(outcome)).await;
        }
    }

    /// Carries lines both ways until the process is gone.
    async fn talk(&mut self) -> io::Result<ExitStatus> {
        let mut listening = true;
        let mut farewell = None;
        loop {
            let deadline = async {
                match farewell {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = self.child.wait() => return status,
                () = deadline => {
                    tracing::warn!(pid = self.pid, "a worker that was done did not end: it is killed");
                    farewell = None;
                    self.kill();
                }
                line = self.lines.next_line(), if listening => match line {
                    Ok(Some(line)) => self.pass_on(&line).await,
                    Ok(None) | Err(_) => listening = false,
                },
                told = self.told.recv(), if self.stdin.is_some() || !self.told.is_closed() => match told {
                    Some(Told::Command(command)) => {
                        if command == WorkerCommand::Recorded {
                            farewell.get_or_insert(tokio::time::Instant::now() + FAREWELL);
                        }
                        if let Ok(line) = line_of(&command) {
                            self.unwritten.push_back(line);
                        }
                    }
                    Some(Told::Kill) => self.kill(),
                    // Nobody is left to command it: it loses its standard input and stops.
                    None => {
                        self.stdin = None;
                        farewell.get_or_insert(tokio::time::Instant::now() + FAREWELL);
                    }
                },
                written = write_first(&mut self.stdin, &self.unwritten), if !self.unwritten.is_empty() => {
                    match written {
                        Ok(count) => advance(&mut self.unwritten, count),
                        // It has ended or closed its input; its exit tells the rest.
                        Err(_) => self.unwritten.clear(),
                    }
                }
            }
        }
    }

    async fn pass_on(&mut self, line: &str) {
        match serde_json::from_str::<WorkerEvent>(line) {
            Ok(_) if self.outcome_told => {}
            Ok(event) => {
                self.outcome_told = matches!(event, WorkerEvent::Finished(_));
                if self.events.send(event).await.is_err() {
                    // Nobody listens any more: the worker loses its standard input and stops.
                    self.stdin = None;
                }
            }
            Err(error) => tracing::warn!(pid = self.pid, %error, "a worker wrote a line that is no event"),
        }
    }

    /// The worker's group; its descendants die by their parent-death signal.
    fn kill(&mut self) {
        self.killed = true;
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Writes what fits of the oldest line. Cancelled between writes at the worst, never within one.
async fn write_first(stdin: &mut Option<ChildStdin>, unwritten: &VecDeque<Vec<u8>>) -> io::Result<usize> {
    match (stdin, unwritten.front()) {
        (Some(stdin), Some(line)) => stdin.write(line).await,
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn advance(unwritten: &mut VecDeque<Vec<u8>>, count: usize) {
    if let Some(line) = unwritten.front_mut() {
        line.drain(..count.min(line.len()));
        if line.is_empty() {
            unwritten.pop_front();
        }
    }
}

fn line_of(message: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)
        .map_err(|error| Error::internal(format!("a message to a worker cannot be written: {error}")))?;
    line.push(b'\n');
    Ok(line)
}

/// Opens the log for appending; also says where this attempt's part begins.
fn open_log(path: &Path) -> Result<(File, u64)> {
    let failed = |error: io::Error| Error::io(Kind::Output, "open the log", path, &error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(LOG_MODE).open(path).map_err(failed)?;
    file.set_permissions(PermissionsExt::from_mode(LOG_MODE)).map_err(failed)?;
    let start = file.metadata().map_err(failed)?.len();
    Ok((file, start))
}

/// What an end without an outcome means.
fn crash(status: io::Result<ExitStatus>, log: &Path, log_start: u64) -> Error {
    let (cause, advice) = match status {
        Err(error) => (format!("the end of the worker cannot be told: {error}"), None),
        Ok(status) => match (status.signal(), status.code()) {
            (Some(9), _) => (
                "the worker was killed (SIGKILL), most likely because memory ran out".to_owned(),
                Some(
                    "see the kernel's log for the reason; give the service more memory or run fewer jobs at a time",
                ),
            ),
            (Some(signal), _) => (format!("the worker crashed (signal {signal})"), None),
            (None, code) => (
                format!("the worker ended without an outcome (exit code {})", code.unwrap_or_default()),
                None,
            ),
        },
    };
    Error::internal(cause)
        .advice(advice.unwrap_or("it is tried again; if it happens again, report it with `hyper2kvm bundle`"))
        .console_tail(log_tail(log, log_start).unwrap_or_default())
        .transient()
}

/// The last lines that an attempt logged.
fn log_tail(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct ForkRequest {
    command: std::process::Command,
    runtime: tokio::runtime::Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Forks on the one thread that lives as long as the program.
async fn fork(command: std::process::Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<std_mpsc::Sender<ForkRequest>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts workers is gone");
    let spawner = match SPAWNER.get() {
        Some(spawner) => spawner,
        None => {
            let (sender, requests) = std_mpsc::channel::<ForkRequest>();
            std::thread::Builder::new()
                .name("spawner".to_owned())
                .spawn(move || requests.into_iter().for_each(ForkRequest::carry_out))?;
            // Two first callers at once: the loser's thread ends unused, having forked nothing.
            SPAWNER.get_or_init(|| sender)
        }
    };
    let (reply, child) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    spawner.send(ForkRequest { command, runtime, reply }).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

impl ForkRequest {
    fn carry_out(self) {
        let _inside = self.runtime.enter();
        let child = tokio::process::Command::from(self.command).kill_on_drop(true).spawn();
        let _ = self.reply.send(child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_by_the_kernel_names_memory_and_quotes_the_log() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("x.log");
        std::fs::write(&log, "old attempt\nnew attempt: reading\n").unwrap();
        let error = crash(Ok(ExitStatus::from_raw(9)), &log, 12);
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.to_string().contains("memory"), "{error}");
        assert_eq!(error.details().console_tail.as_deref(), Some("new attempt: reading\n"));
        assert_eq!(error.disposition(), crate::model::error::Disposition::Transient);
    }

    #[test]
    fn an_end_without_an_outcome_names_the_exit_code() {
        let error = crash(Ok(ExitStatus::from_raw(3 << 8)), Path::new("/nonexistent"), 0);
        assert!(error.to_string().contains("exit code 3"), "{error}");
    }
}
