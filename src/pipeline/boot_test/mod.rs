//! The boot test: starts an overlay of the result, and says whether the guest came up. QEMU is a child of ours, or
//! libvirt runs it ([`through_libvirt`]).
//!
//! ```text
//!   disks ──(only read)──▶ overlays ─┐
//!   firmware's variables ──(copy)────┤        console ─▶ lines ─▶ judge ─┐
//!   swtpm, empty ────────────────────┼─▶ QEMU  agent ────────────────────┼─▶ verdict
//!   network cards, each in a hub ────┘  (-S)   screen ───────────────────┘
//! ```
//!
//! Nothing that a guest does in here reaches anything: disks are opened for reading in a sandbox that knows no other
//! file, changes go into files without a name, the firmware's variables and the TPM are the test's own, and
//! the network cards lead nowhere. When it is over, the process and the directory are gone. What is not here:
//! what becomes of a job whose guest fails.

mod child;
mod console;
pub(super) mod firmware;
mod hands;
mod judge;
mod line;
mod observer;
mod place;
mod qemu;
mod record;
mod screen;
mod serial;
#[cfg(feature = "libvirt")]
mod through_libvirt;
mod tpm;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use observer::Moment;
pub use place::Place;
pub(super) use place::remove_leavings;

use crate::disk::{Control, Engine, OpenPolicy, Served, SourceDisk, boot_traces, open_source};
use crate::model::boot::{BootOptions, BootVerdict, EMULATION_FACTOR};
use crate::model::error::{Error, Kind, Result};
use crate::model::machine::{Firmware, Machine};
use crate::model::manifest::{Accelerator, BootMethod};
use crate::sys::kvm;
use crate::sys::process::{Capture, ChildLimits, ChildSpec, ProcessError};
use crate::sys::sandbox::Rules;
use crate::sys::scratch::Scratch;
use child::Child;
use firmware::UefiFirmware;
use judge::Judge;
use observer::{Observer, Outcome, TICK, Watched};
use record::Record;
use screen::Screen;
use serial::Serial;

/// Memory of a test machine of which nobody says how much it needs: the machine's own, up to this, MiB.
const MOST_MEMORY_MIB: u64 = 2048;
/// Processors likewise. Emulated ones that wait for each other take longer than one does, and on a busy host some guests stand still.
fn most_vcpus(accel: &str) -> u32 {
    if accel == "kvm" { 2 } else { 1 }
}
/// Address space of QEMU beyond the guest's memory: its code, its threads, what it translates.
const QEMU_BYTES: u64 = 6 << 30;
/// What a guest may write while it starts: enough for its logs and swap, too little to fill a disk unseen.
const OVERLAY_BYTES: u64 = 8 << 30;
/// QEMU is ended for certain this long after the guest's time is over.
const GRACE_S: f64 = 120.0;

/// One guest to be tried.
#[derive(Debug, Clone)]
pub struct BootTestOrder {
    /// The machine; its disks are the images that are tried, wherever they lie now.
    pub machine: Machine,
    /// How.
    pub options: BootOptions,
    /// Passphrases to type where the guest asks for one, in this order.
    pub passphrases: Vec<String>,
    /// Whether the disks may be chains of images.
    pub backing_chain: bool,
    /// A directory in which the test may work; what it makes there is gone when it ends.
    pub work_dir: PathBuf,
    /// Where the console is kept.
    pub console: Option<PathBuf>,
    /// Where the last picture of the screen is kept.
    pub screenshot: Option<PathBuf>,
    /// Where that libvirt's QEMU finds the test; none: a place is looked for.
    pub place: Option<Arc<Place>>,
}

impl BootTestOrder {
    /// A test of this machine, with defaults.
    pub fn new(machine: Machine, work_dir: impl Into<PathBuf>) -> BootTestOrder {
        BootTestOrder {
            machine,
            options: BootOptions::default(),
            passphrases: Vec::new(),
            backing_chain: false,
            work_dir: work_dir.into(),
            console: None,
            screenshot: None,
            place: None,
        }
    }
}

/// What this host lacks to run that machine, and with `tried` to test it in that way: asked before hours are spent on a result that could not be tried.
pub(super) fn objections(machine: &Machine, tried: Option<&BootOptions>) -> Vec<Error> {
    let firmware = (machine.starts_with() == Firmware::Uefi).then(|| firmware::find(machine.secure_boot));
    let of_firmware = firmware.and_then(Result::err);
    let tpm = machine.tpm.then(tpm::program).and_then(Result::err);
    let of_method = match tried.map(|options| (options.method, options.libvirt())) {
        None => Vec::new(),
        Some((BootMethod::Qemu, _)) => program().err().into_iter().collect(),
        Some((BootMethod::Libvirt, uri)) => libvirt_objections(machine, uri),
    };
    of_method.into_iter().chain(of_firmware).chain(tpm).collect()
}

#[cfg(feature = "libvirt")]
fn libvirt_objections(machine: &Machine, uri: &str) -> Vec<Error> {
    through_libvirt::objections(machine, uri)
}

#[cfg(not(feature = "libvirt"))]
fn libvirt_objections(_: &Machine, _: &str) -> Vec<Error> {
    vec![not_built()]
}

#[cfg(not(feature = "libvirt"))]
fn not_built() -> Error {
    Error::new(Kind::Unsupported, "no machine can be tried through libvirt: this build knows nothing of it")
        .rule("host.libvirt")
        .advice("build it with the feature `libvirt`, or use `method: qemu`")
}

fn program() -> Result<PathBuf> {
    kvm::find_qemu().ok_or_else(|| {
        Error::new(Kind::Unsupported, "qemu-system-x86_64 is not here, and nothing else can try whether a guest boots")
            .advice("install it (`apt-get install qemu-system-x86`, `dnf install qemu-kvm`), or do without the test: `pipeline.boot_test.enabled: false`, `convert --no-boot-test`")
    })
}

/// Tries whether a guest comes up, on this thread; `progress` hears of it about once a second.
///
/// That it does not come up is a verdict; an error is what kept the test from being made, or ended it.
pub fn run(
    order: &BootTestOrder,
    engine: &Engine,
    control: &Control,
    progress: &mut dyn FnMut(&Moment),
) -> Result<BootVerdict> {
    match order.options.method {
        BootMethod::Qemu => run_qemu(order, engine, control, progress),
        #[cfg(feature = "libvirt")]
        BootMethod::Libvirt => through_libvirt::run(order, engine, control, progress),
        #[cfg(not(feature = "libvirt"))]
        BootMethod::Libvirt => Err(not_built()),
    }
}

/// What every test has before somebody runs the machine.
struct Ready {
    expect: Option<regex::Regex>,
    machine: Machine,
    starts_with: Firmware,
    accel: &'static str,
    limit: Duration,
    memory_mib: u64,
    vcpus: u32,
    disks: Vec<SourceDisk>,
    _served: Vec<Served>,
    scratch: Scratch,
}

fn prepare(order: &BootTestOrder, engine: &Engine, control: &Control) -> Result<Ready> {
    let expect = order.options.expectation()?;
    if order.machine.disks.is_empty() {
        return Err(Error::new(Kind::Manifest, "there is no disk to boot from").advice("name one"));
    }
    let accel = accelerator(order.options.accel, engine)?;
    control.checkpoint()?;
    let policy = OpenPolicy { backing_chain: order.backing_chain, ..OpenPolicy::default() };
    let (mut disks, mut served) = (Vec::new(), Vec::new());
    for disk in &order.machine.disks {
        let opened = open_source(&disk.path, disk.format, &policy, engine, control)?;
        let (seen, for_now) = opened.for_qemu(control)?;
        disks.push(seen);
        served.extend(for_now);
    }
    let scratch = Scratch::make(&order.work_dir, "boot-test").map_err(|error| {
        Error::io(Kind::Output, "make a directory in", &order.work_dir, &error)
            .advice("let this user write there, or name another place with TMPDIR")
    })?;
    let mut machine = order.machine.clone();
    machine.firmware = order.options.firmware.or(machine.firmware);
    if machine.firmware.is_none() && !machine.secure_boot {
        let traces = boot_traces(engine, &disks[0], scratch.path(), control)?;
        machine.firmware = Some(if traces.only_uefi() { Firmware::Uefi } else { Firmware::Bios });
    }
    let starts_with = machine.starts_with();
    if starts_with == Firmware::Bios && machine.secure_boot {
        return Err(Error::new(Kind::Manifest, "secure boot exists only with UEFI")
            .advice("set `firmware: uefi`, or `secureboot: false`"));
    }
    let factor = if accel == "tcg" { EMULATION_FACTOR } else { 1.0 };
    Ok(Ready {
        expect,
        starts_with,
        accel,
        limit: Duration::try_from_secs_f64(order.options.timeout_s * factor).unwrap_or(Duration::MAX),
        memory_mib: order.options.memory_mib.unwrap_or(machine.memory_mib.min(MOST_MEMORY_MIB)),
        vcpus: order.options.vcpus.unwrap_or(machine.vcpus.min(most_vcpus(accel))),
        machine,
        disks,
        _served: served,
        scratch,
    })
}

impl Ready {
    fn judge(&self) -> Judge {
        Judge::new(self.expect.clone())
    }

    /// What was found, where the disks are still what they were.
    fn verdict(
        &self,
        order: &BootTestOrder,
        outcome: Outcome,
        seconds: f64,
        tail: String,
        picture: Option<Vec<u8>>,
        control: &Control,
    ) -> Result<BootVerdict> {
        for disk in &self.disks {
            disk.check_unchanged(control)?;
        }
        let Outcome { verdict, evidence, error } = outcome;
        tracing::info!(verdict = verdict.name(), seconds, %evidence, "boot test ended");
        Ok(BootVerdict {
            verdict,
            booted: verdict == crate::model::boot::Verdict::Booted,
            seconds: (seconds * 10.0).round() / 10.0,
            accel: self.accel.to_owned(),
            firmware: self.starts_with.name().to_owned(),
            evidence,
            screenshot: keep(picture, order.screenshot.as_deref())?,
            console_tail: Some(tail).filter(|tail| !tail.is_empty()),
            error,
        })
    }
}

fn run_qemu(
    order: &BootTestOrder,
    engine: &Engine,
    control: &Control,
    progress: &mut dyn FnMut(&Moment),
) -> Result<BootVerdict> {
    let program = program()?;
    let ready = prepare(order, engine, control)?;
    let (machine, scratch) = (&ready.machine, &ready.scratch);
    let is_uefi = ready.starts_with == Firmware::Uefi;
    let uefi = is_uefi.then(|| firmware::find(machine.secure_boot)).transpose()?;
    furnish(scratch, uefi.as_ref())?;
    let serial = Serial::make(scratch.path())?;
    let record = Record::begin(order.console.as_deref())?;
    let tpm = machine
        .tpm
        .then(|| tpm::start(&engine.launcher, scratch, engine.sandbox_required, control))
        .transpose()?;
    let spec = child(order, &ready, uefi.as_ref(), &program, engine)?;
    tracing::info!(command = %spec.command_line(), "boot test");
    let mut child = engine.launcher.start(&spec).map_err(|error| not_started(&error))?;
    let group = child.group();
    let attached = control.attach(&group);
    let mut observer = Observer::new(Watched {
        hands: Child::new(scratch, group),
        judge: ready.judge(),
        passphrases: order.passphrases.clone(),
        serial,
        record,
        screen: order.options.display.then(Screen::default),
        limit: ready.limit,
        progress,
    });
    let ended = child.supervise(Capture::Bytes(&mut |_| ()), TICK, &mut || observer.tick());
    drop(attached);
    // The TPM goes with its machine, and before the directory in which it keeps its state.
    drop((child, tpm));
    control.ended()?;
    let (seconds, tail) = (observer.seconds(), observer.tail());
    let (outcome, picture) = observer.finish();
    let outcome = match (outcome, ended) {
        (Some(outcome), _) => outcome,
        (None, Ok(output)) => return Err(ended_early(&output.complaint(), &output.ending())),
        (None, Err(error)) => return Err(not_started(&error)),
    };
    ready.verdict(order, outcome, seconds, tail, picture, control)
}

/// What runs the guest: KVM where guests really run under it, else emulation.
fn accelerator(asked: Accelerator, engine: &Engine) -> Result<&'static str> {
    if asked == Accelerator::Tcg {
        return Ok("tcg");
    }
    let probe = kvm::probe(&engine.launcher);
    match (probe.works, asked) {
        (true, _) => Ok("kvm"),
        (false, Accelerator::Kvm) => {
            Err(Error::new(Kind::Unsupported, format!("KVM does not work here: {}", probe.detail))
                .advice("see `hyper2kvm doctor`, or let the guest be emulated with `accel: auto`"))
        }
        (false, _) => {
            tracing::info!(why = probe.detail, "the guest is emulated");
            Ok("tcg")
        }
    }
}

/// Puts what the machine needs into its directory.
fn furnish(scratch: &Scratch, uefi: Option<&UefiFirmware>) -> Result<()> {
    let (name, done) = match uefi {
        // A copy: a guest writes its boot entries there.
        Some(uefi) => {
            let path = scratch.file(qemu::VARIABLES);
            (path.clone(), fs::read(&uefi.variables).and_then(|variables| fs::write(path, variables)))
        }
        None => {
            let path = scratch.file(qemu::BIOS_CONSOLE);
            (path.clone(), fs::write(path, qemu::BIOS_CONSOLE_PORT))
        }
    };
    done.map_err(|error| Error::io(Kind::Output, "make", &name, &error))
}

fn child(
    order: &BootTestOrder,
    ready: &Ready,
    uefi: Option<&UefiFirmware>,
    program: &Path,
    engine: &Engine,
) -> Result<ChildSpec> {
    let Ready { machine, disks, scratch, accel, .. } = ready;
    let names = disks.iter().map(SourceDisk::qemu_name).collect::<Result<Vec<String>>>()?;
    let bench = qemu::Bench {
        accel,
        uefi,
        disks: &names,
        memory_mib: ready.memory_mib,
        vcpus: ready.vcpus,
        display: order.options.display,
    };
    let mut spec = ChildSpec::new(program, qemu::arguments(machine, &bench));
    spec.directory = Some(scratch.path().to_owned());
    spec.env.push(("TMPDIR".to_owned(), scratch.path().display().to_string()));
    spec.limits = ChildLimits {
        memory_bytes: Some(ready.memory_mib.saturating_mul(1 << 20).saturating_add(QEMU_BYTES)),
        file_size_bytes: Some(OVERLAY_BYTES),
        wall_s: Some(ready.limit.as_secs_f64() + GRACE_S),
        cpu_s: None,
    };
    let mut read: Vec<PathBuf> = disks.iter().flat_map(SourceDisk::paths).collect();
    read.extend(uefi.map(|uefi| uefi.code.clone()));
    let mut write = vec![scratch.path().to_owned()];
    if *accel == "kvm" {
        write.push(PathBuf::from("/dev/kvm"));
    }
    spec.sandbox = Some(Rules {
        read,
        write,
        execute: program.parent().map(Path::to_owned).into_iter().collect(),
        required: engine.sandbox_required,
        network: false,
    });
    Ok(spec)
}

fn keep(picture: Option<Vec<u8>>, path: Option<&Path>) -> Result<Option<PathBuf>> {
    let Some((picture, path)) = picture.zip(path) else { return Ok(None) };
    fs::write(path, picture)
        .map_err(|error| Error::io(Kind::Output, "write the picture to", path, &error).output(path))?;
    Ok(Some(path.to_owned()))
}

/// QEMU gave up by itself: a machine that it does not know, an image that somebody has open.
fn ended_early(complaint: &str, ending: &str) -> Error {
    if complaint.contains("Is another process using the image") || complaint.contains("Failed to get") {
        return Error::new(Kind::Source, "a disk is open elsewhere (QEMU holds a lock on it)")
            .advice("shut down the VM that uses it, then try again")
            .console_tail(complaint);
    }
    // The first thing it complained about: what follows is mostly its consequence.
    let why = complaint.lines().find(|line| !line.contains("warning:")).unwrap_or(ending).trim();
    let why = why.strip_prefix("qemu-system-x86_64: ").unwrap_or(why);
    Error::new(Kind::Boot, format!("QEMU does not run the test machine: {why}"))
        .advice("check the machine's facts (`vm`), and `hyper2kvm doctor`")
        .console_tail(complaint)
}

fn not_started(error: &ProcessError) -> Error {
    Error::new(Kind::Boot, format!("the test machine could not be run: {error}"))
        .advice("see `hyper2kvm doctor`")
}
