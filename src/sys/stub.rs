//! The small program between us and every child: binds itself, then becomes the child.
//!
//! Started as `hyper2kvm stub` with its order on standard input. It does what can only be done from
//! inside the new process and would need `unsafe` between fork and exec otherwise: a death signal for
//! when its parent ends (checked against the parent having ended already), limits, a low standing with
//! the kernel's memory killer, no new privileges, the sandbox, a clean environment. Then it calls exec.
//! It never returns: on failure it writes one line and exits with a code of its own.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, Signal};

use crate::sys::process::{ChildLimits, ChildSpec, STUB_FAILURE, STUB_FAILURE_CODE, StubOrder};
use crate::sys::sandbox;

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
    let detail = become_the_child();
    eprintln!("{STUB_FAILURE}{detail}");
    ExitCode::from(STUB_FAILURE_CODE)
}

/// Says why it could not.
fn become_the_child() -> String {
    let order = match read_order() {
        Ok(order) => order,
        Err(detail) => return detail,
    };
    if let Err(detail) = bind(&order) {
        return detail;
    }
    let spec = order.spec;
    match command(&spec) {
        Ok(mut command) => format!("exec: {}", command.exec()),
        Err(error) => format!("standard input: {error}"),
    }
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
    command.args(&spec.args).env_clear().stdin(input(&spec.input)?);
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
