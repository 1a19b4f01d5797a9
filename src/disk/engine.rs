//! `qemu-img`, held on a short leash: found once, run under limits, in a sandbox, with explicit formats.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::control::Control;
use crate::disk::copy::{self, CopyOutcome, CopyProgress, Target};
use crate::disk::facts::SourceDisk;
use crate::disk::failure::Call;
use crate::disk::measure::{self, Measure};
use crate::disk::native::{self, Depth, ReadBack};
use crate::disk::nbd;
use crate::disk::node;
use crate::disk::read::{self, Reader};
use crate::disk::watch;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::OutputFormat;
use crate::sys::process::{ChildLimits, ChildSpec, Launcher, Output};
use crate::sys::sandbox::Rules;

/// Limits of looking at an image that somebody else made.
const INFO_MEMORY_BYTES: u64 = 1 << 30;
/// A split disk of 2 TiB has a thousand files, each with tables of its own.
const MEMORY_OF_A_FILE_BYTES: u64 = 1 << 20;
const INFO_CPU_S: u64 = 30;
const INFO_WALL_S: f64 = 60.0;
/// Limit of checking an image that we made: it reads all tables, which may be many.
const CHECK_WALL_S: f64 = 1800.0;
/// Address space of a child that copies, if nobody says otherwise. Its threads' stacks and arenas count too.
const COPY_MEMORY_BYTES: u64 = 4 << 30;
/// `qemu-img check`: leaked clusters waste room and harm nothing.
const ONLY_LEAKS: i32 = 3;
/// `qemu-img compare`: the contents differ.
const DIFFERENT: i32 = 1;

/// The tool and how it is started.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Where it is.
    pub qemu_img: PathBuf,
    /// What it calls itself: `10.0.2`.
    pub version: String,
    /// What opens for us what only QEMU reads; none: `qemu-img` copies it.
    pub storage_daemon: Option<PathBuf>,
    /// What starts it.
    pub launcher: Launcher,
    /// Address space of a child that copies, checks or compares.
    pub memory_bytes: u64,
    /// Work without any progress for this long is ended.
    pub stall_timeout_s: f64,
    /// Whether a sandbox that cannot be applied is an error.
    pub sandbox_required: bool,
    /// Whether what was written is looked at again at once.
    pub looks_again: bool,
}

impl Engine {
    /// Finds `qemu-img` on the path and asks its version.
    pub fn find(launcher: Launcher) -> Result<Engine> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let qemu_img = std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
            .map(|dir| dir.join("qemu-img"))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| {
                Error::new(Kind::Unsupported, "qemu-img is not there")
                    .advice("install it: `apt-get install qemu-utils` (Debian) or `dnf install qemu-img`")
            })?;
        Engine::at(qemu_img, launcher)
    }

    /// Uses this `qemu-img`.
    pub fn at(qemu_img: PathBuf, launcher: Launcher) -> Result<Engine> {
        let beside = qemu_img.with_file_name("qemu-storage-daemon");
        let mut engine = Engine {
            qemu_img,
            version: String::new(),
            storage_daemon: Some(beside).filter(|program| program.is_file()),
            launcher,
            memory_bytes: COPY_MEMORY_BYTES,
            stall_timeout_s: 600.0,
            sandbox_required: false,
            looks_again: true,
        };
        let spec = engine.spec(vec!["--version".to_owned()], Vec::new(), Vec::new(), short_limits());
        let call = Call { tool: "qemu-img --version", kind: Kind::Unsupported, source: None, target: None };
        let output = engine.run(&spec, &call, &Control::new())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.strip_prefix("qemu-img version ").and_then(|rest| rest.split_whitespace().next());
        engine.version = version
            .ok_or_else(|| {
                Error::new(
                    Kind::Unsupported,
                    format!("{} does not tell its version", engine.qemu_img.display()),
                )
                .advice("install QEMU's own qemu-img")
                .console_tail(text.clone())
            })?
            .to_owned();
        Ok(engine)
    }

    /// A reader of a source: one of our own, or the storage daemon's; `None` where there is neither, and only `qemu-img` copies it.
    ///
    /// To be called on a thread that lives as long as the reader.
    pub(crate) fn reader(&self, source: &SourceDisk, control: &Control) -> Result<Option<Box<dyn Reader>>> {
        match read::open(source, control)? {
            None => nbd::open(self, source, control),
            ours => Ok(ours),
        }
    }

    /// What the result may occupy, and how much has to be copied.
    pub fn measure(&self, source: &SourceDisk, target: &Target, control: &Control) -> Result<Measure> {
        measure::run(self, source, target, control)
    }

    /// Copies a source's content into a new file of the target's format; durable when it returns.
    ///
    /// The file must not be there yet. Whatever a failed or ended copy wrote stays, for the caller to remove.
    pub fn copy(
        &self,
        source: &SourceDisk,
        target: &Target,
        planned: &Measure,
        control: &Control,
        on_progress: &mut dyn FnMut(CopyProgress),
    ) -> Result<CopyOutcome> {
        copy::run(self, source, target, planned, control, on_progress)
    }

    /// Checks the structure of a result; formats without one (raw, VHD) have nothing to check.
    pub fn check(&self, path: &Path, format: OutputFormat, control: &Control) -> Result<()> {
        if !matches!(format, OutputFormat::Qcow2 | OutputFormat::Vmdk | OutputFormat::Vdi) {
            return Ok(());
        }
        let node = node::result(format, path)?;
        let args = vec!["check".to_owned(), "-q".to_owned(), node::name(&node)];
        let limits = ChildLimits { wall_s: Some(CHECK_WALL_S), ..self.long_limits() };
        let spec = self.spec(args, vec![path.to_owned()], Vec::new(), limits);
        let call =
            Call { tool: "qemu-img check", kind: Kind::Validation, source: None, target: Some((path, 0)) };
        let output = self.run_any(&spec, &call, control)?;
        match output.status.code() {
            Some(0 | ONLY_LEAKS) => Ok(()),
            Some(1 | 2) => {
                Err(Error::new(Kind::Validation, format!("the structure of {} is damaged", path.display()))
                    .advice("run the job again; if it repeats, check the storage that the result lies on")
                    .console_tail(output.complaint())
                    .output(path))
            }
            _ => Err(call.failed(&output)),
        }
    }

    /// Proves a result: it has to hold what was read of the source when it was copied, and what was changed of it since.
    ///
    /// `extents` is what the copy's journal became. `false`: it cannot be told this way, but only by [`Engine::compare`].
    pub fn read_back(
        &self,
        source: &SourceDisk,
        (path, format): (&Path, OutputFormat),
        extents: &Path,
        depth: Depth,
        control: &Control,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<bool> {
        let size = source.facts.virtual_size.max(1) as f64;
        let mut told = |done: u64| on_progress(done as f64 / size);
        if !self.looks_again {
            return Ok(false);
        }
        match native::read_back(self, source, (path, format), extents, depth, control, &mut told)? {
            ReadBack::Unknown => Ok(false),
            // What QEMU makes of the header counts for the guest.
            ReadBack::Same => self.check_size(source, path, format, control).map(|()| true),
            ReadBack::DiffersAt(at) => Err(differs_at(source, path, at)),
        }
    }

    /// Whether the guest would see as many bytes in a result as in its source.
    fn check_size(
        &self,
        source: &SourceDisk,
        path: &Path,
        format: OutputFormat,
        control: &Control,
    ) -> Result<()> {
        let size = self.virtual_size(&node::result(format, path)?, &[path.to_owned()], control)?;
        if size == source.facts.virtual_size {
            return Ok(());
        }
        let (here, there) = (source.facts.virtual_size, path.display());
        Err(differs(source, path, format!("the guest would see {size} bytes in {there} instead of {here}")))
    }

    /// Compares a result with its source: the same size for the guest, and the same content byte for byte. QEMU does it, unless it cannot read
    /// the source.
    pub fn compare(
        &self,
        source: &SourceDisk,
        path: &Path,
        format: OutputFormat,
        control: &Control,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<()> {
        self.check_size(source, path, format, control)?;
        if source.node.is_none() {
            let size = source.facts.virtual_size.max(1) as f64;
            let mut told = |done: u64| on_progress(done as f64 / size);
            match native::compare(self, source, (path, format), control, &mut told)? {
                ReadBack::Same => return Ok(()),
                ReadBack::DiffersAt(at) => return Err(differs_at(source, path, at)),
                // Then nobody can, and QEMU's part below says so.
                ReadBack::Unknown => {}
            }
        }
        let node = node::result(format, path)?;
        // Without caching pages: what is compared should be what the medium holds, and leave others' pages alone.
        let args = ["compare", "-p", &source.qemu_name()?, &node::name(&node)].map(str::to_owned).to_vec();
        let mut readable = source.paths();
        readable.push(path.to_owned());
        let spec = self.spec(args, readable, Vec::new(), self.long_limits());
        let call = Call {
            tool: "qemu-img compare",
            kind: Kind::Validation,
            source: Some(&source.path),
            target: Some((path, 0)),
        };
        let output = watch::run(self, &spec, &call, control, on_progress)?;
        match output.status.code() {
            Some(0) => Ok(()),
            Some(DIFFERENT) => {
                let what = format!("{} does not hold what {} holds", path.display(), source.path.display());
                Err(differs(source, path, what).console_tail(output.complaint()))
            }
            _ => Err(call.failed(&output)),
        }
    }

    /// The first bytes of a disk, whatever its format; `into` is written on the way, and removed.
    pub(crate) fn head(
        &self,
        source: &SourceDisk,
        bytes: u64,
        into: &Path,
        control: &Control,
    ) -> Result<Vec<u8>> {
        let file = copy::create(into)?;
        let bytes = bytes.min(source.facts.virtual_size);
        let args = ["dd", "-O", "raw", "bs=512", &format!("count={}", bytes.div_ceil(512))];
        let mut args = args.map(str::to_owned).to_vec();
        args.extend([format!("if={}", source.qemu_name()?), format!("of={}", into.display())]);
        // It writes with threads, whose arenas take more room for addresses than looking at a header does.
        let limits = ChildLimits {
            memory_bytes: Some(self.memory_bytes),
            file_size_bytes: Some(bytes.next_multiple_of(512)),
            ..short_limits()
        };
        let spec = self.spec(args, source.paths(), vec![into.to_owned()], limits);
        let call = Call { tool: "qemu-img dd", kind: Kind::Source, source: Some(&source.path), target: None };
        let done = self.run(&spec, &call, control);
        drop(file);
        let head = done
            .and_then(|_| std::fs::read(into).map_err(|error| Error::io(Kind::Output, "read", into, &error)));
        // A directory that vanishes takes it along where this fails.
        let _ = std::fs::remove_file(into);
        head
    }

    /// What the guest sees, as QEMU understands the image.
    pub(crate) fn virtual_size(&self, node: &Value, files: &[PathBuf], control: &Control) -> Result<u64> {
        let args = vec!["info".to_owned(), "--output=json".to_owned(), node::name(node)];
        let limits = ChildLimits {
            memory_bytes: Some(INFO_MEMORY_BYTES + files.len() as u64 * MEMORY_OF_A_FILE_BYTES),
            ..short_limits()
        };
        let spec = self.spec(args, files.to_vec(), Vec::new(), limits);
        let source = files.first().map(PathBuf::as_path);
        let call = Call { tool: "qemu-img info", kind: Kind::Source, source, target: None };
        let output = self.run(&spec, &call, control)?;
        serde_json::from_slice::<Value>(&output.stdout)
            .ok()
            .and_then(|answer| answer["virtual-size"].as_u64())
            .ok_or_else(|| Error::internal("qemu-img info did not tell a size"))
    }

    /// A call of `qemu-img` that may read and write just these files.
    pub(crate) fn spec(
        &self,
        args: Vec<String>,
        read: Vec<PathBuf>,
        write: Vec<PathBuf>,
        limits: ChildLimits,
    ) -> ChildSpec {
        self.spec_of(&self.qemu_img, args, read, write, limits)
    }

    /// The same of another of QEMU's tools.
    pub(crate) fn spec_of(
        &self,
        program: &Path,
        args: Vec<String>,
        read: Vec<PathBuf>,
        write: Vec<PathBuf>,
        limits: ChildLimits,
    ) -> ChildSpec {
        let execute = program.parent().map(Path::to_owned).into_iter().collect();
        ChildSpec {
            program: program.to_owned(),
            args,
            limits,
            sandbox: Some(Rules { read, write, execute, required: self.sandbox_required, network: false }),
            ..ChildSpec::default()
        }
    }

    /// Limits of work whose length depends on the image's size; it may write nothing unless told.
    pub(crate) fn long_limits(&self) -> ChildLimits {
        ChildLimits {
            memory_bytes: Some(self.memory_bytes),
            file_size_bytes: Some(0),
            ..ChildLimits::default()
        }
    }

    /// Runs a short call that has to succeed.
    pub(crate) fn run(&self, spec: &ChildSpec, call: &Call<'_>, control: &Control) -> Result<Output> {
        let output = self.run_any(spec, call, control)?;
        if output.status.success() { Ok(output) } else { Err(call.failed(&output)) }
    }

    fn run_any(&self, spec: &ChildSpec, call: &Call<'_>, control: &Control) -> Result<Output> {
        control.checkpoint()?;
        let mut attached = None;
        let result = self.launcher.run_short(spec, &mut |group| attached = Some(control.attach(group)));
        drop(attached);
        control.ended()?;
        result.map_err(|error| call.lost(&error))
    }
}

fn differs_at(source: &SourceDisk, path: &Path, at: u64) -> Error {
    let (result, source_path) = (path.display(), source.path.display());
    let what = format!("{result} does not hold what {source_path} holds, {at} bytes into the disk");
    differs(source, path, what)
}

fn differs(source: &SourceDisk, path: &Path, what: String) -> Error {
    Error::new(Kind::Validation, what)
        .advice("run the job again; if it repeats, check the memory and the storage of this machine")
        .source(source.path.display().to_string())
        .output(path)
}

pub(crate) fn short_limits() -> ChildLimits {
    ChildLimits {
        memory_bytes: Some(INFO_MEMORY_BYTES),
        cpu_s: Some(INFO_CPU_S),
        wall_s: Some(INFO_WALL_S),
        file_size_bytes: Some(0),
    }
}
