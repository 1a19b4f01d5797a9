//! The program: the hidden children first, then the command line.
//!
//! `stub`, `worker`, `guest` and `hooks` are how this binary starts itself. They are looked at before the command line
//! is parsed, because they have to be cheap, and because they are nobody's interface.

use std::process::ExitCode;

fn main() -> ExitCode {
    hyper2kvm::sys::failpoint::arm();
    match std::env::args_os().nth(1) {
        Some(word) if word == "stub" => hyper2kvm::sys::stub::main(),
        Some(word) if word == "worker" => hyper2kvm::pipeline::worker::process_main(),
        Some(word) if word == "hooks" => hyper2kvm::pipeline::hooks::process_main(),
        Some(word) if word == "guest" => hyper2kvm::pipeline::guest_child::process_main(),
        _ => hyper2kvm::cli::main(),
    }
}
