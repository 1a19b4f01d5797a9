//! One copy: `qemu-img convert` with explicit formats, watched for progress, ended durable.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::disk::control::Control;
use crate::disk::engine::{Engine, Measure, TICK, process_failed};
use crate::disk::facts::SourceDisk;
use crate::disk::node::output_driver;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{Compression, OutputFormat, Preallocation};
use crate::sys::process::{Capture, ChildSpec, Output, Watch};

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The file; made by the copy, which refuses if it is there.
    pub path: PathBuf,
    /// Its format.
    pub format: OutputFormat,
    /// How it is packed.
    pub compress: Compression,
    /// How hard, where the format knows levels.
    pub level: Option<u8>,
    /// How it is laid out.
    pub preallocation: Preallocation,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopyProgress {
    /// What has to be copied.
    pub bytes_total: u64,
    /// What has been.
    pub bytes_done: u64,
}

/// What a copy made.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyOutcome {
    /// What the guest will see.
    pub virtual_size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// What it occupies.
    pub allocated_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// The command that made it, for the log.
    pub command: String,
}

/// See [`Engine::copy`].
pub(crate) fn run(
    engine: &Engine,
    source: &SourceDisk,
    target: &Target,
    planned: &Measure,
    control: &Control,
    on_progress: &mut dyn FnMut(CopyProgress),
) -> Result<CopyOutcome> {
    let started = Instant::now();
    let fail =
        |error: &std::io::Error| Error::io(Kind::Output, "write", &target.path, error).output(&target.path);
    std::fs::File::create_new(&target.path).map_err(|error| fail(&error))?;
    crate::sys::failpoint::hit("copy.target-made");
    let spec = engine.spec(
        arguments(source, target),
        source.paths(),
        vec![target.path.clone()],
        engine.long_limits(),
    );
    let output = watch(engine, &spec, Some(&target.path), control, &mut |part| {
        on_progress(CopyProgress {
            bytes_total: planned.bytes_to_copy,
            bytes_done: (planned.bytes_to_copy as f64 * part) as u64,
        });
    })?;
    if !output.status.success() {
        return Err(child_failed(Kind::Conversion, "convert", &output)
            .source(source.path.display().to_string())
            .output(&target.path));
    }
    crate::sys::failpoint::hit("copy.before-sync");
    crate::sys::fs::sync_file(&target.path).map_err(|error| fail(&error))?;
    crate::sys::fs::sync_dir(crate::sys::fs::parent_of(&target.path)).map_err(|error| fail(&error))?;
    crate::sys::failpoint::hit("copy.after-sync");
    let metadata = std::fs::metadata(&target.path).map_err(|error| fail(&error))?;
    Ok(CopyOutcome {
        virtual_size: source.facts.virtual_size,
        file_size: metadata.len(),
        allocated_bytes: crate::sys::fs::allocated_bytes(&metadata),
        seconds: started.elapsed().as_secs_f64(),
        command: spec.command_line(),
    })
}

fn arguments(source: &SourceDisk, target: &Target) -> Vec<String> {
    let mut args: Vec<String> =
        ["convert", "-p", "-O", output_driver(target.format)].map(String::from).to_vec();
    let mut options: Vec<String> = Vec::new();
    match (target.format, target.compress) {
        (OutputFormat::Qcow2, Compression::None) => {
            // Not out of order (`-W`): it is no faster here, and a run after a crash would lay out other clusters.
            args.extend(["-m", "8"].map(String::from));
            options.push("compat=1.1,lazy_refcounts=off".to_owned());
        }
        (OutputFormat::Qcow2, packed) => {
            args.extend(["-c", "-W", "-m", "16"].map(String::from));
            let kind = if packed == Compression::Zstd { "zstd" } else { "zlib" };
            options.push(format!("compat=1.1,lazy_refcounts=off,compression_type={kind}"));
        }
        (OutputFormat::Raw, _) => args.extend(["-W", "-m", "8"].map(String::from)),
        (OutputFormat::Vmdk, Compression::None) => options.push("subformat=monolithicSparse".to_owned()),
        (OutputFormat::Vmdk, _) => options.push("subformat=streamOptimized".to_owned()),
        (OutputFormat::Vhd, _) => options.push("subformat=dynamic,force_size=on".to_owned()),
        (OutputFormat::Vdi, _) => {}
    }
    match target.preallocation {
        Preallocation::Off => {}
        Preallocation::Metadata => options.push("preallocation=metadata".to_owned()),
        Preallocation::Falloc => options.push("preallocation=falloc".to_owned()),
        Preallocation::Full => options.push("preallocation=full".to_owned()),
    }
    if !options.is_empty() {
        args.extend(["-o".to_owned(), options.join(",")]);
    }
    args.push(source.qemu_name());
    args.push(target.path.display().to_string());
    args
}

/// Runs a call that prints its progress, and ends it when there is none for too long.
pub(crate) fn watch(
    engine: &Engine,
    spec: &ChildSpec,
    written: Option<&Path>,
    control: &Control,
    on_progress: &mut dyn FnMut(f64),
) -> Result<Output> {
    let _ = (written, Watch::GoOn);
    let mut child = engine.launcher.start(spec).map_err(|error| process_failed(&error))?;
    let attached = control.attach(&child.group());
    let result = child.supervise(
        Capture::Lines(&mut |line| {
            if let Some(part) = progress_in(line) {
                on_progress(part);
            }
        }),
        TICK,
        &mut || Watch::GoOn,
    );
    drop(attached);
    control.ended()?;
    result.map_err(|error| process_failed(&error))
}

/// `    (12.34/100%)` → 0.1234
fn progress_in(line: &str) -> Option<f64> {
    let percent: f64 = line.trim().strip_prefix('(')?.split_once('/')?.0.parse().ok()?;
    (percent.is_finite()).then(|| (percent / 100.0).clamp(0.0, 1.0))
}

/// The error of a child that failed, in its own words.
pub(crate) fn child_failed(kind: Kind, verb: &str, output: &Output) -> Error {
    let complaint = output.complaint();
    let line = complaint.lines().last().unwrap_or_default();
    let cause = line.strip_prefix("qemu-img: ").unwrap_or(line);
    if ["No space left on device", "Disk quota exceeded"].iter().any(|full| complaint.contains(full)) {
        return Error::new(Kind::DiskSpace, format!("qemu-img {verb} failed: {cause}"))
            .advice("free some space there; the work goes on by itself")
            .console_tail(complaint.clone());
    }
    Error::new(kind, format!("qemu-img {verb} failed ({}): {cause}", output.ending()))
        .console_tail(complaint.clone())
}
