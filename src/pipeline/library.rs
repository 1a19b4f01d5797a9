//! The high level of the library: one VM, or one disk, without a daemon and without a process of its own.
//!
//! Everything here is put together from the levels below and can be put together otherwise: a
//! [`Migration`] is a plan and [`super::worker::run`]; a [`DiskProcessor`] is a [`crate::disk::Engine`]
//! with the order of steps that never leaves half a file. What is not here: threads; whoever wants to
//! pause or end the work shares its [`Control`] with a thread of theirs.

use std::path::{Path, PathBuf};

use super::described;
use super::publish;
use super::worker::{self, Bench};
use crate::disk::{Control, Engine, OpenPolicy, SourceDisk, Target, detect, open_source};
use crate::model::acts::Acts;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::FoundDisk;
use crate::model::plan::{Compression, OutputFormat, Plan, Preallocation};
use crate::model::planner::BatchName;
use crate::model::protocol::{Published, WorkLimits, WorkOrder, WorkerEvent, WorkerOutcome};
use crate::source;
use crate::sys::dir::Dir;
use crate::sys::process::Launcher;

/// One VM, from a manifest to a published result.
///
/// ```standalone_crate
/// # hyper2kvm::init();
/// # let temp = tempfile::tempdir()?;
/// # let dir = temp.path();
/// # std::fs::File::create(dir.join("web.img"))?.set_len(1 << 20)?;
/// let manifest = "
/// manifest_version: '1.0'
/// name: web
/// profile: none            # bytes only; without it the guest is repaired and booted, too
/// disks:
///   - {id: boot, source_format: raw, local_path: web.img}
/// output: {directory: result, format: qcow2}
/// ";
/// let mut percent = 0.0;
/// let published = hyper2kvm::Migration::of_manifest(manifest, dir)?.run(|event| {
///     if let hyper2kvm::model::protocol::WorkerEvent::Progress { percentage } = event {
///         percent = percentage;
///     }
/// })?;
/// assert_eq!(percent, 100.0);
/// assert!(published.directory.join("boot.qcow2").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Migration {
    order: WorkOrder,
    bench: Bench,
    control: Control,
}

impl Migration {
    /// Understands a manifest (YAML or JSON). Relative paths count from `directory`.
    pub fn of_manifest(text: &str, directory: &Path) -> Result<Migration> {
        let directory = std::path::absolute(directory)
            .map_err(|error| Error::io(Kind::Manifest, "resolve", directory, &error))?;
        let settings = Settings::defaults(&directory.join(".hyper2kvm"), 1).for_a_person();
        let submission = described::submission(text.as_bytes(), "manifest.yaml", &directory, &settings)?;
        let batch_id = match &submission.name {
            BatchName::Named(name) | BatchName::Stem(name) => name.clone(),
        };
        let mut plans = submission.plans(&batch_id, "", &settings)?;
        match (plans.pop(), plans.is_empty()) {
            (Some(plan), true) => {
                described::completed(plan, &settings, &Control::new()).map(Migration::of_plan)
            }
            _ => Err(Error::new(Kind::Unsupported, "the manifest names several VMs")
                .advice("make a migration of each of its plans")),
        }
    }

    /// Carries out a plan that was made elsewhere.
    #[must_use]
    pub fn of_plan(plan: Plan) -> Migration {
        let work_dir = plan.output.directory.join(".hyper2kvm").join(&plan.vm_id);
        let order = WorkOrder {
            job_id: 0,
            batch_id: plan.vm_id.clone(),
            attempt: 1,
            plan,
            limits: WorkLimits::unbound(work_dir, 600.0),
            acts: Acts::default(),
            settle: None,
            cuts_over: false,
        };
        Migration { order, bench: Bench::default(), control: Control::new() }
    }

    /// Starts children through this hyper2kvm binary, for programs that do not call [`crate::init`].
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Migration {
        self.bench.launcher = Launcher::with_stub(program);
        self
    }

    /// What will be done.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.order.plan
    }

    /// The hand that pauses, resumes, stops or cancels it, from another thread.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Does it, on this thread. What an earlier run finished is not done again.
    pub fn run(&self, mut on_event: impl FnMut(WorkerEvent)) -> Result<Published> {
        let outcome = worker::run(&self.order, &self.bench, &self.control, &mut on_event);
        // Empty by now, and made by this program.
        if let Some(scratch) = self.order.limits.work_dir.parent() {
            let _ = std::fs::remove_dir(scratch);
        }
        match outcome {
            WorkerOutcome::Succeeded(published) => {
                publish::forget(&self.order.plan, self.order.limits.lock.clone())?;
                Ok(published)
            }
            WorkerOutcome::Failed { error } => Err(error),
            WorkerOutcome::Cancelled => Err(Error::new(Kind::Cancelled, "cancelled")),
            WorkerOutcome::Stopped => {
                Err(Error::new(Kind::Cancelled, "stopped").advice("run it again to go on"))
            }
        }
    }
}

/// Looks at single disks and converts them.
///
/// ```standalone_crate
/// # hyper2kvm::init();
/// # let temp = tempfile::tempdir()?;
/// # let dir = temp.path();
/// # std::fs::File::create(dir.join("data.img"))?.set_len(1 << 20)?;
/// use hyper2kvm::model::plan::OutputFormat;
///
/// let processor = hyper2kvm::DiskProcessor::new()?;
/// let disk = processor.inspect(&dir.join("data.img"))?;
/// assert_eq!(disk.facts.virtual_size, 1 << 20);
/// processor.convert(&disk, &dir.join("data.qcow2"), OutputFormat::Qcow2, |_part| {})?;
/// assert!(dir.join("data.qcow2").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct DiskProcessor {
    pub(super) engine: Engine,
    pub(super) control: Control,
}

impl DiskProcessor {
    /// Finds the tools, for a program that calls [`crate::init`].
    pub fn new() -> Result<DiskProcessor> {
        Ok(DiskProcessor { engine: Engine::find(Launcher::this_program())?, control: Control::new() })
    }

    /// Starts children through this hyper2kvm binary, for programs that do not call [`crate::init`].
    pub fn with_program(program: impl Into<PathBuf>) -> Result<DiskProcessor> {
        Ok(DiskProcessor { engine: Engine::find(Launcher::with_stub(program))?, control: Control::new() })
    }

    /// The hand that pauses or ends its work, from another thread.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Finds out what a disk is, by its content, and refuses what must not be opened.
    pub fn inspect(&self, path: &Path) -> Result<SourceDisk> {
        self.inspect_by(path, &OpenPolicy::default())
    }

    /// The same of a disk that may stand on others, which lie beside it.
    pub fn inspect_chain(&self, path: &Path) -> Result<SourceDisk> {
        self.inspect_by(path, &OpenPolicy { backing_chain: true, ..OpenPolicy::default() })
    }

    fn inspect_by(&self, path: &Path, policy: &OpenPolicy<'_>) -> Result<SourceDisk> {
        let detected = detect(path)?;
        let format = detected.format.source_format().ok_or_else(|| {
            Error::new(Kind::Source, format!("{} is {}", path.display(), detected.format.name()))
                .source(path.display().to_string())
                .advice("name a disk image")
        })?;
        open_source(path, format, policy, &self.engine, &self.control)
    }

    /// What a disk is that belongs to a machine that is described somewhere (see [`source::machines`]).
    pub fn inspect_found(&self, disk: &FoundDisk) -> Result<SourceDisk> {
        let place = source::place_found(disk)?;
        let policy = OpenPolicy {
            backing_chain: disk.is_chain,
            allowed_paths: &disk.allowed_paths,
            ..OpenPolicy::default()
        };
        open_source(place, disk.format, &policy, &self.engine, &self.control)
    }

    /// Copies a disk into a new file and compares the two. The file is there when all is well, or not at all;
    /// `on_progress` hears which part (0 to 1) of the copy is done.
    pub fn convert(
        &self,
        source: &SourceDisk,
        path: &Path,
        format: OutputFormat,
        mut on_progress: impl FnMut(f64),
    ) -> Result<()> {
        let failed = |error: std::io::Error| Error::io(Kind::Output, "write", path, &error).output(path);
        let absolute = std::path::absolute(path).map_err(failed)?;
        let (Some(directory), Some(name)) =
            (absolute.parent(), absolute.file_name().and_then(|name| name.to_str()))
        else {
            return Err(Error::new(Kind::Output, format!("{} names no file", path.display()))
                .advice("name the file to be made"));
        };
        let dir = Dir::open(directory).map_err(failed)?;
        let partial = format!(".{name}.partial");
        dir.remove(&partial).map_err(failed)?;
        let target = Target {
            path: directory.join(&partial),
            format,
            compress: Compression::None,
            level: None,
            preallocation: Preallocation::Off,
            journal: None,
        };
        let (source, _served) = source.for_qemu(&self.control)?;
        let done = self.copy_and_compare(&source, &target, &mut on_progress).and_then(|()| {
            dir.rename_noreplace(&partial, name).and_then(|()| dir.sync()).map_err(|error| {
                match error.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        Error::new(Kind::Exists, format!("{} is already there", path.display()))
                            .output(path)
                            .advice("remove it or choose another name")
                    }
                    _ => failed(error),
                }
            })
        });
        if done.is_err() {
            let _ = dir.remove(&partial);
        }
        done
    }

    fn copy_and_compare(
        &self,
        source: &SourceDisk,
        target: &Target,
        on_progress: &mut dyn FnMut(f64),
    ) -> Result<()> {
        let measure = self.engine.measure(source, target, &self.control)?;
        self.engine.copy(source, target, &measure, &self.control, &mut |progress| {
            on_progress(progress.bytes_done as f64 / progress.bytes_total.max(1) as f64);
        })?;
        self.engine.compare(source, &target.path, target.format, &self.control, &mut |_| {})?;
        source.check_unchanged(&self.control)
    }
}
