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
mod room;
mod served;
mod sources;
mod vhd_footers;
mod vhdx_log;

use std::path::{Path, PathBuf};

use hyper2kvm::disk::{Control, CopyOutcome, Engine, OpenPolicy, SourceDisk, Target, open_source};
use hyper2kvm::model::error::Result;
use hyper2kvm::model::plan::{Compression, OutputFormat, Preallocation, SourceFormat};
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

/// Opens one that may stand on others, beside it and in these directories.
fn open_chain(path: &Path, format: SourceFormat, allowed: &[PathBuf]) -> Result<SourceDisk> {
    let policy = OpenPolicy { backing_chain: true, allowed_paths: allowed, ..OpenPolicy::default() };
    open_source(path, format, &policy, &engine(), &Control::new())
}

/// A result of this format, as it is made if nobody says more.
fn target(path: impl Into<PathBuf>, format: OutputFormat) -> Target {
    Target {
        path: path.into(),
        format,
        compress: Compression::None,
        level: None,
        preallocation: Preallocation::Off,
        journal: None,
    }
}

/// Copies a source into it.
fn copy_to(engine: &Engine, source: &SourceDisk, target: &Target) -> Result<CopyOutcome> {
    let control = Control::new();
    let measure = engine.measure(source, target, &control)?;
    engine.copy(source, target, &measure, &control, &mut |_| ())
}
