//! The process that runs a VM's hooks: `hyper2kvm hooks`, hidden, started by the worker before its sandbox closes.
//!
//! ```text
//!   worker (confined) ──commands──▶ hyper2kvm hooks ──▶ stub ──▶ script, or python3
//!                     ◀──events───  (not confined)  ──▶ http
//! ```
//!
//! What an administrator has written needs more than a worker may: other directories, the network. So it runs beside the worker and not below it. It is
//! bound all the same: a group of its own, limits, no descriptors and no variables but those that are given, and no way to outlive the job. This
//! process is the parent of every orphan below it, ends all of them after each hook, and ends with everything below it as soon as the worker's end
//! of the pipe is closed, whatever closed it. What is not here: which hooks run, and when again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::request::{self, HttpError};
use super::wire::{Bounds, Call, Command, Ended, Event};
use crate::sys::process::{
    Capture, ChildLimits, ChildSpec, Foreign, Group, Launcher, Output, ProcessError, Watch, strays,
};

/// Of what an attempt says so much is kept; the rest is read and thrown away.
const OUTPUT_BYTES: usize = 64 << 10;
/// A longer line is told in pieces.
const LINE_BYTES: usize = 4 << 10;
/// How often one that runs is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long hooks that were killed may take to go.
const PATIENCE: Duration = Duration::from_secs(6);
/// Makes a function of a file an exit code.
const PYTHON: &str = include_str!("call.py");
/// Where hooks find programs, and we their interpreter. Nothing of our own environment reaches them.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Debian and others call it so.
pub(super) const INTERPRETER: &str = "python3";

/// What runs Python functions, if it is here: the system's, whatever the service's own environment says.
#[must_use]
pub fn interpreter() -> Option<PathBuf> {
    let mut places = PATH.split(':').map(|directory| Path::new(directory).join(INTERPRETER));
    places.find(|place| place.is_file())
}

/// The hidden subcommand `hooks`.
#[must_use]
pub fn process_main() -> ExitCode {
    if let Err(error) = strays::adopt() {
        eprintln!("hyper2kvm hooks: what hooks leave behind cannot be found: {error}");
        return ExitCode::FAILURE;
    }
    let runner = Runner::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(command) => runner.obey(command),
            Err(error) => eprintln!("hyper2kvm hooks: a line that is no command: {error}"),
        }
    }
    runner.end();
    ExitCode::SUCCESS
}

/// What runs now.
#[derive(Debug)]
enum Running {
    /// It is about to be started; what it was told meanwhile counts.
    Coming(Told),
    Child(Group),
    Request(CancellationToken),
}

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    paused: bool,
    killed: bool,
}

impl Running {
    fn kill(&mut self) {
        match self {
            Running::Coming(told) => told.killed = true,
            Running::Child(group) => group.kill(),
            Running::Request(token) => token.cancel(),
        }
    }

    fn pause(&mut self, paused: bool) {
        match self {
            Running::Coming(told) => told.paused = paused,
            Running::Child(group) if paused => group.pause(),
            Running::Child(group) => group.resume(),
            // The other side does not stand still.
            Running::Request(_) => {}
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Runner {
    running: Arc<Mutex<BTreeMap<u64, Running>>>,
}

impl Runner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn obey(&self, command: Command) {
        match command {
            // A thread of its own, which lives as long as the hook: a child dies with the thread that started it.
            Command::Run { id, call, bounds } => {
                let runner = self.clone();
                self.lock().insert(id, Running::Coming(Told::default()));
                let started = std::thread::Builder::new().name("hook".to_owned()).spawn(move || {
                    let begun = Instant::now();
                    let ended = runner.carry_out(id, *call, bounds);
                    tell(&Event::Ended {
                        id,
                        ended: Ended { seconds: begun.elapsed().as_secs_f64(), ..ended },
                    });
                });
                if let Err(error) = started {
                    self.lock().remove(&id);
                    let status = format!("cannot be started: {error}");
                    tell(&Event::Ended { id, ended: Ended { status, ..Ended::default() } });
                }
            }
            Command::Pause { id } => self.running(id, |running| running.pause(true)),
            Command::Resume { id } => self.running(id, |running| running.pause(false)),
            Command::Kill { id } => self.running(id, Running::kill),
        }
    }

    fn running(&self, id: u64, act: impl FnOnce(&mut Running)) {
        if let Some(running) = self.lock().get_mut(&id) {
            act(running);
        }
    }

    /// What it was told before it was started.
    fn told_before(running: &BTreeMap<u64, Running>, id: u64) -> Told {
        match running.get(&id) {
            Some(Running::Coming(told)) => *told,
            _ => Told::default(),
        }
    }

    fn carry_out(&self, id: u64, call: Call, bounds: Bounds) -> Ended {
        let ended = self.call(id, call, bounds);
        self.lock().remove(&id);
        ended
    }

    fn call(&self, id: u64, call: Call, bounds: Bounds) -> Ended {
        match call {
            Call::Http { url, method, headers, body } => {
                let request = request::Request {
                    method,
                    url,
                    headers,
                    body,
                    timeout: Duration::try_from_secs_f64(bounds.timeout_s).unwrap_or(Duration::MAX),
                    policy: bounds.network,
                };
                self.request(id, &request)
            }
            Call::Script { file, args, env, directory } => {
                let foreign =
                    Foreign { file: file.clone(), roots: bounds.roots, is_argument: false, apart: false };
                let spec = ChildSpec {
                    env,
                    directory: Some(directory),
                    foreign: Some(foreign),
                    limits: limits(bounds.timeout_s, bounds.memory_bytes),
                    ..ChildSpec::new(file, args)
                };
                self.run(id, &spec)
            }
            Call::Validator { file, input, env } => {
                let foreign =
                    Foreign { file: file.clone(), roots: bounds.roots, is_argument: false, apart: true };
                let spec = ChildSpec {
                    env,
                    input,
                    directory: Some("/".into()),
                    foreign: Some(foreign),
                    limits: limits(bounds.timeout_s, bounds.memory_bytes),
                    ..ChildSpec::new(file, [""; 0])
                };
                self.ask(id, &spec)
            }
            Call::Python { file, function, args, env } => {
                let Some(interpreter) = interpreter() else {
                    let status = format!("there is no `{INTERPRETER}` on this machine");
                    return Ended { status, hopeless: true, ..Ended::default() };
                };
                let order = serde_json::json!({ "file": &file, "function": function, "args": args });
                let foreign = Foreign { file, roots: bounds.roots, is_argument: true, apart: false };
                let spec = ChildSpec {
                    env,
                    input: order.to_string(),
                    directory: Some("/".into()),
                    foreign: Some(foreign),
                    limits: limits(bounds.timeout_s, bounds.memory_bytes),
                    // Isolated, unbuffered, and leaving no compiled files behind.
                    ..ChildSpec::new(interpreter, ["-I", "-u", "-B", "-c", PYTHON])
                };
                self.run(id, &spec)
            }
        }
    }

    fn run(&self, id: u64, spec: &ChildSpec) -> Ended {
        let mut said = Said::new(id);
        let (ended, left) =
            self.child_to_its_end(id, spec, &mut |bytes| said.take(bytes), &mut || Watch::GoOn);
        if left > 0 {
            said.note(&format!("it left {left} processes behind, which were ended"));
        }
        said.finish();
        judged(ended)
    }

    /// Runs one whose output is an answer: it is whole, or there is none.
    fn ask(&self, id: u64, spec: &ChildSpec) -> Ended {
        let (answer, is_flood) = (RefCell::new(Vec::new()), Cell::new(false));
        let mut take = |bytes: &[u8]| {
            let mut answer = answer.borrow_mut();
            is_flood.set(is_flood.get() || answer.len() + bytes.len() > OUTPUT_BYTES);
            if !is_flood.get() {
                answer.extend_from_slice(bytes);
            }
        };
        let mut watch = || match is_flood.get() {
            true => Watch::End(format!("it said more than {} KiB", OUTPUT_BYTES >> 10)),
            false => Watch::GoOn,
        };
        let (ended, _) = self.child_to_its_end(id, spec, &mut take, &mut watch);
        let ended = judged(ended);
        if is_flood.get() {
            let status = format!("it said more than {} KiB", OUTPUT_BYTES >> 10);
            return Ended { success: false, status, ..ended };
        }
        Ended { answer: String::from_utf8(answer.into_inner()).ok(), ..ended }
    }

    /// Runs a child, and ends what it has left behind; says how many processes that were.
    fn child_to_its_end(
        &self,
        id: u64,
        spec: &ChildSpec,
        take: &mut dyn FnMut(&[u8]),
        watch: &mut dyn FnMut() -> Watch,
    ) -> (Result<Output, ProcessError>, usize) {
        let started = {
            let mut running = self.lock();
            let told = Runner::told_before(&running, id);
            if told.killed {
                let reason = "it was cut before it began".to_owned();
                return (Err(ProcessError::Ended { program: spec.program.clone(), reason }), 0);
            }
            let started = Launcher::this_program().start(spec);
            if let Ok(child) = &started {
                let mut child = Running::Child(child.group());
                if told.paused {
                    child.pause(true);
                }
                running.insert(id, child);
            }
            started
        };
        let ended = started.and_then(|mut child| child.supervise(Capture::Bytes(take), LOOK_AGAIN, watch));
        let mut running = self.lock();
        running.remove(&id);
        let alone = !running.values().any(|other| matches!(other, Running::Child(_)));
        // What another hook has below it cannot be told from what this one left.
        let left = if alone { strays::end_all() } else { 0 };
        (ended, left)
    }

    fn request(&self, id: u64, request: &request::Request) -> Ended {
        let token = CancellationToken::new();
        {
            let mut running = self.lock();
            if Runner::told_before(&running, id).killed {
                token.cancel();
            }
            running.insert(id, Running::Request(token.clone()));
        }
        let told = |why: &str| tell(&Event::Said { id, line: format!("({why})") });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answered = match runtime {
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    answered = request::send(request, &told) => answered,
                    () = token.cancelled() => Err(HttpError::Failed("cut".to_owned())),
                }
            }),
            Err(error) => Err(HttpError::Failed(error.to_string())),
        };
        match answered {
            Ok(answer) => {
                let mut said = Said::new(id);
                said.take(answer.body.as_bytes());
                said.finish();
                Ended {
                    success: (200..300).contains(&answer.status),
                    status: format!("HTTP status {}", answer.status),
                    http_status: Some(answer.status),
                    ..Ended::default()
                }
            }
            Err(error) => Ended {
                status: error.to_string(),
                timed_out: matches!(error, HttpError::TimedOut(_)),
                hopeless: matches!(error, HttpError::Refused(_)),
                ..Ended::default()
            },
        }
    }

    /// Nobody hears us any more: nothing stays.
    fn end(&self) {
        self.lock().values_mut().for_each(Running::kill);
        let begun = Instant::now();
        while !self.lock().is_empty() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        strays::end_all();
    }
}

fn limits(timeout_s: f64, memory_bytes: u64) -> ChildLimits {
    ChildLimits { memory_bytes: Some(memory_bytes), wall_s: Some(timeout_s), ..ChildLimits::default() }
}

fn judged(ended: Result<Output, ProcessError>) -> Ended {
    match ended {
        Ok(output) => Ended {
            success: output.status.success(),
            status: output.ending(),
            exit_code: output.status.code(),
            ..Ended::default()
        },
        Err(ProcessError::TimedOut { wall_s, .. }) => Ended {
            status: format!("it did not end within {wall_s} s and was killed"),
            timed_out: true,
            ..Ended::default()
        },
        Err(ProcessError::Stub { detail, .. }) => {
            Ended { status: format!("it cannot be run: {detail}"), hopeless: true, ..Ended::default() }
        }
        Err(error) => Ended { status: error.to_string(), ..Ended::default() },
    }
}

/// What a hook says, line by line, up to a limit.
struct Said {
    id: u64,
    line: Vec<u8>,
    left: usize,
    dropped: u64,
}

impl Said {
    fn new(id: u64) -> Said {
        Said { id, line: Vec::new(), left: OUTPUT_BYTES, dropped: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.left);
        self.left -= kept;
        self.dropped += (bytes.len() - kept) as u64;
        for &byte in &bytes[..kept] {
            if byte == b'\n' || self.line.len() >= LINE_BYTES {
                self.flush();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            tell(&Event::Said { id: self.id, line });
        }
    }

    fn note(&mut self, text: &str) {
        self.flush();
        tell(&Event::Said { id: self.id, line: format!("({text})") });
    }

    fn finish(&mut self) {
        self.flush();
        if self.dropped > 0 {
            self.note(&format!("it said {} bytes more, which are not kept", self.dropped));
        }
    }
}

/// One line, from several threads. Nobody hearing it is found out by the other pipe.
fn tell(event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}
