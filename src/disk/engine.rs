//! `qemu-img`, held on a short leash: found once, run under limits, in a sandbox, with explicit formats.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::control::Control;
use crate::disk::copy::{self, CopyOutcome, CopyProgress, Target};
use crate::disk::facts::SourceDisk;
use crate::disk::node;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::OutputFormat;
use crate::sys::process::{ChildLimits, ChildSpec, Launcher, Output, ProcessError};
use crate::sys::sandbox::Rules;

/// Limits of looking at an image that somebody else made.
const INFO_MEMORY_BYTES: u64 = 1 << 30;
const INFO_CPU_S: u64 = 30;
const INFO_WALL_S: f64 = 60.0;
/// Limits of checking an image that we made: it reads all tables, which may be many.
const CHECK_WALL_S: f64 = 1800.0;
/// How often a long child is looked at.
pub(crate) const TICK: std::time::Duration = std::time::Duration::from_millis(250);

/// The tool and how it is started.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Where it is.
    pub qemu_img: PathBuf,
    /// What it calls itself: `10.0.2`.
    pub version: String,
    /// What starts it.
    pub launcher: Launcher,
    /// Address space of a child that copies, checks or compares.
    pub memory_bytes: u64,
    /// A copy without any progress for this long is ended.
    pub stall_timeout_s: f64,
    /// Whether a sandbox that cannot be applied is an error.
    pub sandbox_required: bool,
}

/// What a conversion will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Bytes that the result may occupy at most.
    pub required_bytes: u64,
    /// Bytes that have to be copied: what progress counts.
    pub bytes_to_copy: u64,
}

/// What `qemu-img info` said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) virtual_size: u64,
    pub(crate) subformat: Option<String>,
    pub(crate) compressed: bool,
}

impl Engine {
    /// Finds `qemu-img` on the path and asks its version.
    pub fn find(launcher: Launcher) -> Result<Engine> {
        let lacking = || {
            Error::new(Kind::Unsupported, "qemu-img is not there")
                .advice("install it: `apt-get install qemu-utils` (Debian) or `dnf install qemu-img`")
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let qemu_img = std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
            .map(|dir| dir.join("qemu-img"))
            .find(|candidate| candidate.is_file())
            .ok_or_else(lacking)?;
        Engine::at(qemu_img, launcher)
    }

    /// Uses this `qemu-img`.
    pub fn at(qemu_img: PathBuf, launcher: Launcher) -> Result<Engine> {
        let mut engine = Engine {
            qemu_img,
            version: String::new(),
            launcher,
            memory_bytes: 4 << 30,
            stall_timeout_s: 600.0,
            sandbox_required: false,
        };
        let spec = engine.spec(vec!["--version".to_owned()], Vec::new(), Vec::new(), short_limits());
        let output = engine.run(&spec, &Control::new())?;
        let text = String::from_utf8_lossy(&output.stdout);
        engine.version = text
            .strip_prefix("qemu-img version ")
            .and_then(|rest| rest.split_whitespace().next())
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

    /// What the result may occupy, and how much has to be copied.
    pub fn measure(&self, source: &SourceDisk, target: &Target, control: &Control) -> Result<Measure> {
        let args =
            ["measure", "--output=json", "-O", "qcow2", &source.qemu_name()].map(String::from).to_vec();
        let limits = ChildLimits { wall_s: Some(CHECK_WALL_S), ..self.long_limits() };
        let spec = self.spec(args, source.paths(), Vec::new(), limits);
        let answer = self.json(&spec, control).map_err(|e| e.source(source.path.display().to_string()))?;
        let required = number(&answer, "required")?;
        let data = required.min(source.facts.virtual_size);
        // Tables of the other formats are no larger than qcow2's; compression may not gain anything.
        let _ = target;
        Ok(Measure { required_bytes: required, bytes_to_copy: data })
    }

    /// Copies a source's content into a new file of the target's format; durable when it returns.
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

    /// Checks the structure of a result.
    pub fn check(&self, path: &Path, format: OutputFormat, control: &Control) -> Result<()> {
        if !matches!(format, OutputFormat::Qcow2 | OutputFormat::Vmdk | OutputFormat::Vdi) {
            return Ok(());
        }
        let node = node::result(format, path)?;
        let args = vec!["check".to_owned(), "-q".to_owned(), node::name(&node)];
        let limits = ChildLimits { wall_s: Some(CHECK_WALL_S), ..self.long_limits() };
        let spec = self.spec(args, vec![path.to_owned()], Vec::new(), limits);
        let output = self.run_any(&spec, control)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Validation,
            format!("{} is not consistent ({})", path.display(), output.ending()),
        )
        .advice("the result is thrown away: run the job again, and check the target's storage if it repeats")
        .console_tail(output.complaint())
        .output(path))
    }

    /// Compares a result's content with its source's, byte for byte.
    pub fn compare(
        &self,
        source: &SourceDisk,
        path: &Path,
        format: OutputFormat,
        control: &Control,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<()> {
        let node = node::result(format, path)?;
        let args = vec!["compare".to_owned(), "-p".to_owned(), source.qemu_name(), node::name(&node)];
        let mut readable = source.paths();
        readable.push(path.to_owned());
        let spec = self.spec(args, readable, Vec::new(), self.long_limits());
        let output = copy::watch(self, &spec, None, control, on_progress)?;
        match output.status.code() {
            Some(0) => Ok(()),
            Some(1) => Err(Error::new(
                Kind::Validation,
                format!("{} does not hold what {} holds", path.display(), source.path.display()),
            )
            .advice("the result is thrown away: run the job again, and check the memory and storage of this machine if it repeats")
            .console_tail(output.complaint())
            .output(path)),
            _ => Err(copy::child_failed(Kind::Validation, "compare", &output)
                .output(path)
                .source(source.path.display().to_string())),
        }
    }

    /// What an image says of itself.
    pub(crate) fn info(&self, node: &Value, files: &[PathBuf], control: &Control) -> Result<Told> {
        let args = vec!["info".to_owned(), "--output=json".to_owned(), node::name(node)];
        let spec = self.spec(args, files.to_vec(), Vec::new(), short_limits());
        let answer = self.json(&spec, control)?;
        let data = &answer["format-specific"]["data"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let extents = data["extents"].as_array().cloned().unwrap_or_default();
        Ok(Told {
            virtual_size: number(&answer, "virtual-size")?,
            subformat: text(&data["create-type"]).or_else(|| text(&data["compat"])),
            compressed: extents.iter().any(|extent| extent["compressed"].as_bool() == Some(true)),
        })
    }

    /// A call of `qemu-img` that may read and write just these files.
    pub(crate) fn spec(
        &self,
        args: Vec<String>,
        read: Vec<PathBuf>,
        write: Vec<PathBuf>,
        limits: ChildLimits,
    ) -> ChildSpec {
        let execute = self.qemu_img.parent().map(Path::to_owned).into_iter().collect();
        ChildSpec {
            program: self.qemu_img.clone(),
            args,
            env: Vec::new(),
            limits,
            sandbox: Some(Rules { read, write, execute, required: self.sandbox_required, network: false }),
        }
    }

    /// Limits of work whose length depends on the image's size.
    pub(crate) fn long_limits(&self) -> ChildLimits {
        ChildLimits { memory_bytes: Some(self.memory_bytes), ..ChildLimits::default() }
    }

    fn json(&self, spec: &ChildSpec, control: &Control) -> Result<Value> {
        let output = self.run(spec, control)?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::internal(format!("qemu-img printed something that is not JSON: {error}")))
    }

    /// Runs a short call that has to succeed.
    fn run(&self, spec: &ChildSpec, control: &Control) -> Result<Output> {
        let output = self.run_any(spec, control)?;
        if output.status.success() {
            return Ok(output);
        }
        let verb = spec.args.first().map_or("", String::as_str);
        Err(copy::child_failed(Kind::Source, verb, &output))
    }

    fn run_any(&self, spec: &ChildSpec, control: &Control) -> Result<Output> {
        let mut attached = None;
        let result = self.launcher.run_short(spec, &mut |group| attached = Some(control.attach(group)));
        drop(attached);
        control.ended()?;
        result.map_err(|error| process_failed(&error))
    }
}

/// The error of a child that gave no result of its own.
pub(crate) fn process_failed(error: &ProcessError) -> Error {
    match error {
        ProcessError::TimedOut { .. } => Error::new(Kind::Source, error.to_string())
            .advice("the image asks for more work than any sound image does: check where it comes from"),
        ProcessError::Stub { detail, .. } if detail.contains("landlock") => {
            Error::new(Kind::Unsupported, error.to_string())
                .advice("enable landlock in the kernel (`lsm=landlock,…`), and allow its calls in the unit")
        }
        ProcessError::Start { .. }
        | ProcessError::Stub { .. }
        | ProcessError::Watch { .. }
        | ProcessError::Ended { .. } => Error::new(Kind::Internal, error.to_string())
            .advice("it is tried again; if it repeats, see `hyper2kvm doctor`"),
    }
}

fn short_limits() -> ChildLimits {
    ChildLimits {
        memory_bytes: Some(INFO_MEMORY_BYTES),
        cpu_s: Some(INFO_CPU_S),
        wall_s: Some(INFO_WALL_S),
        file_size_bytes: Some(0),
    }
}

fn number(answer: &Value, key: &str) -> Result<u64> {
    answer[key].as_u64().ok_or_else(|| Error::internal(format!("qemu-img did not tell `{key}`")))
}
