//! The small program between us and every child: binds itself, then becomes the child.
//!
//! Started as `hyper2kvm stub` with its order on standard input. It does what can only be done from
//! inside the new process and would need `unsafe` between fork and exec otherwise: a death signal for
//! when its parent ends (checked against the parent having ended already), limits, a low standing with
//! the kernel's memory killer, no new privileges, the sandbox, a clean environment. Then it calls exec.
//! It never returns: on failure it writes one line and exits with a code of its own.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, Signal};

use crate::sys::process::{ChildLimits, ChildSpec, Foreign, STUB_FAILURE, STUB_FAILURE_CODE, StubOrder};
use crate::sys::sandbox;
use crate::sys::trusted::{self, Kind, Use};

/// An order is a command line and a few paths; more than this is not one of ours.
const ORDER_BYTES: u64 = 4 << 20;
/// How willingly the kernel ends a child when memory is short (0 to 1000): before the service and its workers.
const OOM_SCORE_ADJ: &str = "500";
/// Open files: images of many extents need some.
const OPEN_FILES: u64 = 4096;
/// Between the signal that tells a child that its processor time is used up and the one that ends it.
const CPU_GRACE_S: u64 = 5;
/// What a child may keep of our environment.
const KEPT_ENVIRONMENT: [&str; 4] = ["PATH", "HOME", "TMPDIR", "USER"];

/// What `main` calls for the hidden subcommand `stub`; returns only if it failed.
#[must_use]
pub fn main() -> ExitCode {
    // Before any descriptor of our own is opened.
    let inherited = descriptors();
    // A child whose outputs are one has no standard error of ours any more when it cannot become what it should.
    let complaints = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let detail = become_the_child(&inherited);
    if let Ok(mut complaints) = complaints {
        let _ = writeln!(complaints, "{STUB_FAILURE}{detail}");
    }
    ExitCode::from(STUB_FAILURE_CODE)
}

/// Says why it could not.
fn become_the_child(inherited: &[RawFd]) -> String {
    let order = match read_order() {
        Ok(order) => order,
        Err(detail) => return detail,
    };
    if let Err(detail) = bind(&order) {
        return detail;
    }
    let spec = order.spec;
    let made = match &spec.foreign {
        Some(foreign) => {
            // Whatever whoever started the service forgot to close is no business of a program that others wrote.
            for fd in inherited {
                let _ = nix::unistd::close(*fd);
            }
            foreign_command(&spec, foreign)
        }
        None => command(&spec).map_err(|error| format!("standard input: {error}")),
    };
    match made {
        Ok(mut command) => format!("exec: {}", command.exec()),
        Err(detail) => detail,
    }
}

/// What is open besides standard input and outputs.
fn descriptors() -> Vec<RawFd> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The directory that was just read is among them, and closed by now.
    numbers.retain(|fd| {
        *fd > rustix::stdio::raw_stderr() && std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()
    });
    numbers
}

fn read_order() -> Result<StubOrder, String> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(ORDER_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read the order: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("cannot understand the order: {error}"))
}

fn bind(order: &StubOrder) -> Result<(), String> {
    let told = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(told("death signal"))?;
    // If the parent ended before the signal was set, nobody will ever send it.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(order.parent) {
        return Err("the parent has ended".to_owned());
    }
    // Where it cannot be set (another user's process name space), the default is good enough.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    limit(&order.spec.limits)?;
    match &order.spec.sandbox {
        Some(rules) => sandbox::apply(rules).map(drop).map_err(|error| error.to_string()),
        None => rustix::thread::set_no_new_privs(true).map_err(told("no_new_privs")),
    }
}

fn limit(limits: &ChildLimits) -> Result<(), String> {
    let set = |resource: Resource, soft: u64, hard: u64| {
        let inherited = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let new = Rlimit { current: Some(soft.min(inherited)), maximum: Some(hard.min(inherited)) };
        rustix::process::setrlimit(resource, new).map_err(|error| format!("limit {resource:?}: {error}"))
    };
    set(Resource::Core, 0, 0)?;
    set(Resource::Nofile, OPEN_FILES, OPEN_FILES)?;
    if let Some(bytes) = limits.memory_bytes {
        set(Resource::As, bytes, bytes)?;
    }
    if let Some(seconds) = limits.cpu_s {
        set(Resource::Cpu, seconds, seconds + CPU_GRACE_S)?;
    }
    if let Some(bytes) = limits.file_size_bytes {
        set(Resource::Fsize, bytes, bytes)?;
    }
    Ok(())
}

fn command(spec: &ChildSpec) -> io::Result<Command> {
    let mut command = Command::new(&spec.program);
    let stdin =
        if spec.converses { io::stdout().as_fd().try_clone_to_owned()?.into() } else { input(&spec.input)? };
    command.args(&spec.args).env_clear().stdin(stdin);
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    for name in KEPT_ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Messages are parsed and shown: one language for all machines.
    command.env("LC_ALL", "C").envs(spec.env.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// The same around a file that others wrote: by its descriptor, so that what is run is what was looked at.
fn foreign_command(spec: &ChildSpec, foreign: &Foreign) -> Result<Command, String> {
    let wanted = if foreign.is_argument { Use::Text } else { Use::Program };
    let (file, kind) =
        trusted::open(&foreign.file, &foreign.roots, wanted).map_err(|error| error.to_string())?;
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    if foreign.is_argument || kind == Kind::Script {
        // Its reader opens it by that name.
        rustix::io::fcntl_setfd(&file, FdFlags::empty())
            .map_err(|error| format!("the file cannot be handed on: {error}"))?;
    }
    let mut command = match foreign.is_argument {
        true => Command::new(&spec.program),
        false => Command::new(&opened),
    };
    command.args(&spec.args);
    match foreign.is_argument {
        true => command.arg(&opened),
        false => command.arg0(&foreign.file),
    };
    command
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(input(&spec.input).map_err(|error| format!("standard input: {error}"))?);
    if !foreign.apart {
        let one_output = io::stdout().as_fd().try_clone_to_owned();
        command.stderr(one_output.map_err(|error| format!("standard error: {error}"))?);
    }
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    // It stays open until it is executed.
    let _ = file.into_raw_fd();
    Ok(command)
}

/// A file in memory, without a name that anybody could open it by; nobody has to keep on writing a pipe.
fn input(text: &str) -> io::Result<Stdio> {
    if text.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}
