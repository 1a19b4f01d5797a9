//! Running things as root: directly, or through sudo where the tests run as somebody else.

use std::process::{Command, Output};

/// A command that runs as root.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

/// Whether this is root already.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs it, expects success, gives what it printed.
#[track_caller]
pub fn text_of(command: &mut Command) -> String {
    let done = run(command);
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, said(&done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Runs it, whatever comes of it.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Both of its outputs.
pub fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}
