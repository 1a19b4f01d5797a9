//! One copy, ended durable: by ourselves where we read the one format and write the other, else by `qemu-img convert`.
//!
//! QEMU is given explicit formats and watched for progress. The target is made by us, empty, and is the only file that the child may
//! write: it cannot even make another beside it. It is kept flowing to the medium while the child writes, so that the last fsync has
//! little left to do. A copy by QEMU that was cut begins anew. What is not here: our own copying (see [`super::native`]).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::disk::failure::Call;
use crate::disk::measure::Measure;
use crate::disk::node::output_driver;
use crate::disk::watch;
use crate::disk::{native, read, write};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{Compression, OutputFormat, Preallocation};
use crate::sys::failpoint;
use crate::sys::fs::{allocated_bytes, free_bytes, parent_of, sync_dir};
use crate::sys::process::ChildLimits;

/// How often written pages are sent to the medium during a copy.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// Requests in flight: more did not help where it was measured, and each holds a buffer of 2 MiB.
const PARALLEL: &str = "8";
/// The same for compressing, where each request is also a thread's work.
const PARALLEL_COMPRESSING: &str = "16";
/// Tables and alignment beyond what was planned, before a result counts as running away.
const FILE_SIZE_SLACK: u64 = 64 << 20;

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The file; made by the copy.
    pub path: PathBuf,
    /// Its format.
    pub format: OutputFormat,
    /// How it is packed.
    pub compress: Compression,
    /// How hard, where the format knows levels; QEMU, where it copies, knows none.
    pub level: Option<u8>,
    /// How it is laid out.
    pub preallocation: Preallocation,
    /// Where it is written down how far the copy is, so that a run that was cut is gone on from. Without one, a file that is there is
    /// refused. It stays when the copy is finished, for whoever has recorded that to remove.
    pub journal: Option<PathBuf>,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// How long it took, until durable.
    pub seconds: f64,
    /// Who made it: `hyper2kvm 0.1.0`, `hyper2kvm 0.1.0, qemu-storage-daemon 10.0.2`, `qemu-img 10.0.2`.
    pub engine: String,
    /// What an earlier run that was cut had done of it already.
    pub kept_bytes: u64,
    /// Why what an earlier run had done was of no use, if there was something.
    pub restarted: Option<String>,
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
    let path = &target.path;
    let virtual_size = source.facts.virtual_size;
    let fail = |what: &str, error: &std::io::Error| Error::io(Kind::Output, what, path, error).output(path);
    let total = planned.bytes_to_copy;
    let reader = match write::is_ours(target, virtual_size) {
        true => engine.reader(source, control)?,
        false => None,
    };
    let reader = match target.preallocation {
        Preallocation::Full => reader.map(read::with_zeros_as_data),
        _ => reader,
    };
    control.may_write()?;
    let (file, copied_by, copied) = match reader {
        Some(reader) => {
            let begun = native::begin(source, target, engine.looks_again)?;
            let ourselves = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
            let shared = begun.is_shared.then_some("reflink");
            let names = [Some(ourselves), reader.helper(), shared];
            let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
            let file = begun.file.try_clone().map_err(|error| fail("open", &error))?;
            failpoint::hit("copy.target-made");
            let manner = native::Manner {
                stall_timeout_s: engine.stall_timeout_s,
                looks_again: engine.looks_again,
                is_remote: source.is_remote(),
                is_read_once: source.is_read_once(),
            };
            let copied = native::copy(reader, begun, path, manner, control, &mut |done| {
                on_progress(CopyProgress { bytes_total: total, bytes_done: done.min(total) });
            });
            (file, names, copied.map_err(|error| with_room(error, path, planned))?)
        }
        None => {
            let arguments = arguments(source, target)?;
            let file = native::make_anew(target)?;
            failpoint::hit("copy.target-made");
            let name = by_qemu(engine, source, target, planned, control, (arguments, &file, on_progress))?;
            (file, name, native::Copied { kept_bytes: 0, restarted: None })
        }
    };
    failpoint::hit("copy.before-sync");
    file.sync_all().map_err(|error| fail("make durable", &error))?;
    sync_dir(parent_of(path)).map_err(|error| fail("make durable", &error))?;
    failpoint::hit("copy.after-sync");
    let metadata = file.metadata().map_err(|error| fail("look at", &error))?;
    Ok(CopyOutcome {
        virtual_size,
        file_size: metadata.len(),
        allocated_bytes: allocated_bytes(&metadata),
        seconds: started.elapsed().as_secs_f64(),
        engine: copied_by,
        kept_bytes: copied.kept_bytes,
        restarted: copied.restarted,
    })
}

/// How much is needed, where there is not enough.
fn with_room(error: Error, path: &Path, planned: &Measure) -> Error {
    match free_bytes(path) {
        Ok(space) if error.kind() == Kind::DiskSpace => error.space(planned.required_bytes, space.free),
        _ => error,
    }
}

/// What we cannot read or write ourselves, QEMU does.
fn by_qemu(
    engine: &Engine,
    source: &SourceDisk,
    target: &Target,
    planned: &Measure,
    control: &Control,
    (arguments, file, on_progress): (Vec<String>, &File, &mut dyn FnMut(CopyProgress)),
) -> Result<String> {
    let path = &target.path;
    let virtual_size = source.facts.virtual_size;
    let limits = ChildLimits {
        file_size_bytes: Some(file_size_limit(target, planned, virtual_size)),
        ..engine.long_limits()
    };
    let spec = engine.spec(arguments, source.paths(), vec![path.clone()], limits);
    tracing::info!(command = %spec.command_line(), "copied by QEMU");
    let call = Call {
        tool: "qemu-img convert",
        kind: Kind::Conversion,
        source: Some(&source.path),
        target: Some((path, planned.required_bytes)),
    };
    let total = planned.bytes_to_copy;
    let output = flushing(file, || {
        let mut on_progress = |part: f64| {
            let done = (total as f64 * part) as u64;
            on_progress(CopyProgress { bytes_total: total, bytes_done: done.min(total) });
        };
        watch::run_at_rate(engine, &spec, &call, control, (total, &mut on_progress))
    })?;
    if !output.status.success() {
        return Err(call.failed(&output));
    }
    Ok(format!("qemu-img {}", engine.version))
}

pub(crate) fn create(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| {
        let made = Error::io(Kind::Output, "make", path, &error).output(path);
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => made.advice("remove it, or choose another output directory"),
            std::io::ErrorKind::PermissionDenied => {
                made.advice("let the service's user write to the output directory")
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => made,
            _ => made.advice("check the output directory and its storage"),
        }
    })
}

/// Does `work` while a thread sends what is written to the medium.
///
/// Left alone, the kernel would keep gigabytes of dirty pages until the last fsync, which then waits
/// for all of them. The thread starts no children, so it may end before they do.
pub(crate) fn flushing<T>(file: &File, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        scope.spawn(move || {
            while end.recv_timeout(FLUSH_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A failure shows again in the fsync that counts.
                let _ = file.sync_data();
            }
        });
        let result = work();
        drop(ended);
        result
    })
}

/// How large the file may become, holes included.
fn file_size_limit(target: &Target, planned: &Measure, virtual_size: u64) -> u64 {
    let content = match target.format {
        // Sparse files are as long as the disk, whatever they occupy.
        OutputFormat::Raw => virtual_size,
        _ => planned.required_bytes,
    };
    // Data that does not compress grows by a little.
    content.saturating_add(content / 64).saturating_add(FILE_SIZE_SLACK)
}

fn arguments(source: &SourceDisk, target: &Target) -> Result<Vec<String>> {
    let packed = target.compress != Compression::None;
    let mut options: Vec<String> = Vec::new();
    // Out of order (`-W`) only where pieces may lie anywhere; a stream has to be written from its beginning.
    let mut order: Vec<&str> = Vec::new();
    match target.format {
        OutputFormat::Qcow2 => {
            options.push("compat=1.1,lazy_refcounts=off".to_owned());
            // In order where that costs nothing: a run after a crash then lays out the same clusters again.
            // Compressing in order would use one core.
            order.extend(if packed { vec!["-W", "-m", PARALLEL_COMPRESSING] } else { vec!["-m", PARALLEL] });
            match target.compress {
                Compression::None => {}
                Compression::Zstd => options.push("compression_type=zstd".to_owned()),
                Compression::Zlib => options.push("compression_type=zlib".to_owned()),
            }
        }
        OutputFormat::Raw => order.extend(["-W", "-m", PARALLEL]),
        OutputFormat::Vmdk if packed => options.push("subformat=streamOptimized".to_owned()),
        OutputFormat::Vmdk => options.push("subformat=monolithicSparse".to_owned()),
        OutputFormat::Vhd if source.facts.virtual_size > write::VHD_MOST_BYTES => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("a VHD holds at most 2040 GiB, and the disk has {} bytes", source.facts.virtual_size),
            )
            .advice("choose another `output.format`")
            .field("output.format")
            .source(source.path.display().to_string()));
        }
        OutputFormat::Vhd => options.push("subformat=dynamic,force_size=on".to_owned()),
        OutputFormat::Vdi => {}
    }
    options.extend(preallocation(target)?);
    let mut args = vec!["convert", "-p"];
    args.extend(order);
    // Both of VMware's compressed format and qcow2's need to be asked for; others have none.
    if packed && matches!(target.format, OutputFormat::Qcow2 | OutputFormat::Vmdk) {
        args.push("-c");
    }
    args.extend(["-O", output_driver(target.format)]);
    let mut args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    if !options.is_empty() {
        args.extend(["-o".to_owned(), options.join(",")]);
    }
    let name = target.path.to_str().ok_or_else(|| {
        Error::new(Kind::Output, "the path of the result is not UTF-8")
            .advice("choose another output directory")
            .output(&target.path)
    })?;
    // A relative name could be taken for an option or a protocol.
    if !target.path.is_absolute() {
        return Err(Error::internal("the path of a result is not absolute").output(&target.path));
    }
    args.extend([source.qemu_name()?, name.to_owned()]);
    Ok(args)
}

fn preallocation(target: &Target) -> Result<Option<String>> {
    let name = match target.preallocation {
        Preallocation::Off => return Ok(None),
        Preallocation::Metadata => "metadata",
        Preallocation::Falloc => "falloc",
        Preallocation::Full => "full",
    };
    let possible = match target.format {
        OutputFormat::Qcow2 => target.compress == Compression::None,
        OutputFormat::Raw => target.preallocation != Preallocation::Metadata,
        OutputFormat::Vmdk | OutputFormat::Vhd | OutputFormat::Vdi => false,
    };
    if !possible {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{} of this kind cannot be laid out with preallocation `{name}`", target.format.name()),
        )
        .advice("leave `output.preallocation` out, or choose uncompressed qcow2 or raw")
        .field("output.preallocation"));
    }
    Ok(Some(format!("preallocation={name}")))
}
