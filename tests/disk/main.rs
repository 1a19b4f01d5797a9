//! Disks for real: every format in and out through `qemu-img`, hostile images, limits, the sandbox.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod children;
mod copies;
mod differing;
mod hostile;
mod native;
mod overlays;
mod rates;
mod readback;
mod remote;
mod resume;
mod served;
mod sources;
mod vhd_footers;
mod vhdx_log;

use std::path::Path;

use hyper2kvm::disk::{Control, Engine, OpenPolicy, SourceDisk, open_source};
use hyper2kvm::model::error::Result;
use hyper2kvm::model::plan::SourceFormat;
use hyper2kvm::sys::process::Launcher;

/// The program under test is the stub of its own children; a test binary cannot be.
fn launcher() -> Launcher {
    Launcher::with_stub(env!("CARGO_BIN_EXE_hyper2kvm"))
}

/// An engine whose sandbox has to hold.
fn engine() -> Engine {
    let mut engine = Engine::find(launcher()).expect("qemu-img is installed by set-up");
    engine.sandbox_required = true;
    engine
}

/// Opens a source that may be made of nothing but itself.
fn open(path: &Path, format: SourceFormat) -> Result<SourceDisk> {
    open_source(path, format, &OpenPolicy::default(), &engine(), &Control::new())
}
