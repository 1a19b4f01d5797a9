//! The one process in which a VM's guest is opened: `hyper2kvm guest`, hidden, started by the worker.
//!
//! ```text
//!   worker, main thread ──fork──▶ stub ──▶ hyper2kvm guest ──▶ QEMU (the appliance)
//!   worker, listener    ◀──────── events, one a line ──┘
//! ```
//!
//! The order goes in on standard input, [`Event`]s come out on standard output. A crash, a hang or a lack of
//! memory in libguestfs costs one attempt of one job. The main thread forks, because the child dies with the
//! thread that started it; a thread of its own listens, because the main thread copies meanwhile. What the
//! child may open is said here: the sources to read, the overlays and a private directory to write, and what
//! libguestfs needs to put its appliance together. What is not here: what is done to a guest (`guest`),
//! and what becomes of it (`stages`).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::disk::{Attached, Control, Stall};
use crate::guest::work::{self, Event, Order};
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::sys::process::{Capture, ChildSpec, Group, Launcher, LongChild, Output, ProcessError};
use crate::sys::sandbox::Rules;
use crate::sys::scratch::{for_sockets, remove_dead};

/// How often a silent child is looked at.
const TICK: Duration = Duration::from_millis(250);
/// What an order may be: paths, options and keys.
const ORDER_LIMIT_BYTES: u64 = 4 << 20;
/// What libguestfs reads of its host to build an appliance, and libosinfo for virt-v2v. Not all are there on every system.
const APPLIANCE_READ: [&str; 8] = [
    "/boot",
    "/etc",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/usbutils",
    "/var/lib/osinfo",
    "/sys/module",
    "/sys/devices",
];
/// Emulation is used where this cannot be opened.
pub(super) const KVM_DEVICE: &str = "/dev/kvm";
/// Settings of libguestfs and its tools that an administrator may have made; they reach the child.
const PASSED_ON: [&str; 2] = ["LIBGUESTFS_", "SUPERMIN_"];
/// The socket over which libguestfs talks with its appliance.
const APPLIANCE_SOCKET: &str = "guestfsd.sock";
/// How its directory's name begins.
const APPLIANCE_SOCKETS: &str = "libguestfs";
/// About so many bytes libguestfs adds to the directory for sockets.
const SOCKET_BYTES: usize = 43;

/// The hidden subcommand `guest`.
#[must_use]
pub fn process_main() -> ExitCode {
    let told = |event: &Event| {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        // Nobody hears us any more: whoever closed the pipe kills us too.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    };
    let outcome = read_order().and_then(|order| work::run(&order, &mut |event| told(&event)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            told(&Event::Failed { error });
            ExitCode::FAILURE
        }
    }
}

fn read_order() -> Result<Order> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(ORDER_LIMIT_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Error::internal(format!("the order cannot be read: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::internal(format!("the order cannot be understood: {error}")))
}

/// Directories that libguestfs uses, made before the worker's sandbox closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestPlace {
    /// Small files of this job alone.
    pub(super) temp: PathBuf,
    /// Sockets: `temp`, unless their names would be too long, or libguestfs does not let us choose.
    sockets: PathBuf,
    /// The appliance, built once for all jobs.
    cache: PathBuf,
    /// What the appliance says.
    pub(super) log: Option<PathBuf>,
}

impl GuestPlace {
    /// Makes them, in a private directory of the job.
    pub(super) fn prepare(private: &Path, log: Option<PathBuf>) -> Result<GuestPlace> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let make = |path: &Path, mode: u32| {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| {
                Error::io(Kind::Output, "make", path, &error)
                    .advice("libguestfs needs it: let the service's user write there")
            })
        };
        let temp = private.join("guest");
        make(&temp, 0o700)?;
        let root = rustix::process::geteuid().is_root();
        // libguestfs knows no other place for root.
        let sockets = if root { PathBuf::from("/tmp") } else { for_sockets(&temp, SOCKET_BYTES) };
        let cache = std::env::var_os("LIBGUESTFS_CACHEDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        make(&cache.join(appliance_directory()), 0o755)?;
        if let Some(log) = &log {
            let opened = std::fs::File::options().append(true).create(true).mode(0o640).open(log);
            opened.map_err(|error| Error::io(Kind::Output, "open the log", log, &error))?;
        }
        Ok(GuestPlace { temp, sockets, cache, log })
    }

    /// What it may open besides disks.
    pub(super) fn rules(&self) -> Rules {
        let there = |paths: &[&str]| paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
        let mut write = vec![self.temp.clone(), self.sockets.clone(), self.cache.join(appliance_directory())];
        write.extend(self.log.clone());
        write.extend(Some(PathBuf::from(KVM_DEVICE)).filter(|device| device.exists()));
        write.dedup();
        Rules {
            read: there(&APPLIANCE_READ),
            write,
            execute: vec![PathBuf::from("/proc/self/exe")],
            ..Rules::default()
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = std::env::vars()
            .filter(|(name, _)| PASSED_ON.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        env.push(("TMPDIR".to_owned(), text(&self.temp)));
        env.push(("LIBGUESTFS_TMPDIR".to_owned(), text(&self.temp)));
        env.push(("LIBGUESTFS_CACHEDIR".to_owned(), text(&self.cache)));
        env.push(("XDG_RUNTIME_DIR".to_owned(), text(&self.sockets)));
        env
    }
}

/// The name that libguestfs gives it, below its cache directory.
fn appliance_directory() -> String {
    format!(".guestfs-{}", rustix::process::geteuid().as_raw())
}

/// What the child may touch of the VM's disks.
#[derive(Debug, Clone, Default)]
pub(super) struct GuestFiles {
    /// Only read.
    pub(super) sources: Vec<PathBuf>,
    /// Written.
    pub(super) overlays: Vec<PathBuf>,
}

/// What is heard of the child.
#[derive(Debug)]
enum Heard {
    Told(Event),
    Ended(Result<Output>),
}

/// A running child. Dropping it kills it, with its appliance.
#[derive(Debug)]
pub(super) struct GuestChild {
    heard: mpsc::Receiver<Heard>,
    listener: Option<JoinHandle<()>>,
    group: Group,
    sockets: PathBuf,
    done: bool,
    _obeys: Attached,
}

impl GuestChild {
    /// Starts it; to be called on the thread that lives as long as the child.
    ///
    /// A failure that trying again would not mend, and that is not among the `bearable` ones, ends everything
    /// that works for this VM at once.
    pub(super) fn start(
        launcher: &Launcher,
        place: &GuestPlace,
        files: GuestFiles,
        order: &Order,
        limits: GuestLimits,
        control: &Control,
    ) -> Result<GuestChild> {
        let mut rules = Rules { required: limits.sandbox_required, ..place.rules() };
        rules.read.extend(files.sources);
        rules.write.extend(files.overlays);
        let input = serde_json::to_string(order)
            .map_err(|error| Error::internal(format!("the order cannot be written: {error}")))?;
        let spec = ChildSpec {
            env: place.environment(),
            sandbox: Some(rules),
            input,
            ..ChildSpec::new("/proc/self/exe", ["guest"])
        };
        let child = launcher.start(&spec).map_err(|error| lost(&error))?;
        let group = child.group();
        let obeys = control.attach(&group);
        let (tell, heard) = mpsc::channel();
        let control = control.clone();
        let listener = std::thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || listen(child, &tell, &limits, &control))
            .map_err(|error| Error::internal(format!("nobody can listen to the guest work: {error}")))?;
        Ok(GuestChild {
            heard,
            listener: Some(listener),
            group,
            sockets: place.sockets.clone(),
            done: false,
            _obeys: obeys,
        })
    }

    /// The next thing that it tells; `None` once it has ended well and all is written out.
    pub(super) fn next(&mut self) -> Result<Option<Event>> {
        match self.heard.recv() {
            Ok(Heard::Told(Event::Done)) => {
                self.done = true;
                self.next()
            }
            Ok(Heard::Told(Event::Failed { error })) => Err(error),
            Ok(Heard::Told(event)) => Ok(Some(event)),
            Ok(Heard::Ended(ended)) => match ended? {
                output if output.status.success() && self.done => Ok(None),
                output => Err(crashed(&output)),
            },
            Err(_) => Err(Error::internal("the guest work ended without a word").transient()),
        }
    }
}

impl Drop for GuestChild {
    fn drop(&mut self) {
        self.group.kill();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        // A libguestfs that was killed leaves its sockets.
        remove_dead(&self.sockets, APPLIANCE_SOCKETS, APPLIANCE_SOCKET);
    }
}

/// What bounds the child.
#[derive(Debug, Clone)]
pub(super) struct GuestLimits {
    /// Nothing at all for this long: it hangs.
    pub(super) stall_timeout_s: f64,
    /// Whether a sandbox that cannot be applied is an error.
    pub(super) sandbox_required: bool,
    /// Failures that the manifest allows to happen.
    pub(super) bearable: Bearable,
    /// What makes a guest that was looked at not worth going on with.
    pub(super) objects: Objects,
}

/// Failures that the manifest allows: the guest is then converted as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Bearable {
    /// By the key that allows them.
    pub(super) fields: Vec<&'static str>,
    /// By the rules of the pre-flight that were lowered.
    pub(super) rules: Vec<String>,
    /// Whatever it is: nothing goes on beside that would have to end.
    pub(super) all: bool,
}

impl Bearable {
    /// Whether this is one.
    pub(super) fn bears(&self, error: &Error) -> bool {
        let details = error.details();
        let by_field = details.place.field.as_deref().is_some_and(|field| self.fields.contains(&field));
        self.all || by_field || details.rule.as_ref().is_some_and(|rule| self.rules.contains(rule))
    }
}

/// Judges what the child tells; what it gives ends everything that works for this VM.
#[derive(Clone, Default)]
pub(super) struct Objects(pub(super) Option<Judgement>);

/// Why it is not worth going on.
pub(super) type Judgement = Arc<dyn Fn(&Event) -> Option<Error> + Send + Sync>;

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Objects").field(&self.0.is_some()).finish()
    }
}

fn listen(mut child: LongChild, tell: &mpsc::Sender<Heard>, limits: &GuestLimits, control: &Control) {
    let group = child.group();
    let mut stall = Stall::new(limits.stall_timeout_s);
    let lines = std::cell::Cell::new(0);
    let mut heard = |line: &str| {
        lines.set(lines.get() + 1);
        match serde_json::from_str::<Event>(line) {
            Ok(event) => {
                if let Event::Failed { error } = &event
                    && is_hopeless(error, &limits.bearable)
                {
                    control.give_up(error.clone());
                }
                if let Some(error) = limits.objects.0.as_ref().and_then(|objects| objects(&event)) {
                    control.give_up(error);
                }
                let _ = tell.send(Heard::Told(event));
            }
            // libguestfs or something below it speaks where nobody should.
            Err(_) => tracing::debug!(line, "the guest work said"),
        }
    };
    let ended = child.supervise(Capture::Lines(&mut heard), TICK, &mut || stall.look(&group, lines.get()));
    let _ = tell.send(Heard::Ended(ended.map_err(|error| lost(&error))));
}

/// Whether waiting for the rest of the work would be in vain.
fn is_hopeless(error: &Error, bearable: &Bearable) -> bool {
    error.disposition() == Disposition::Permanent && !bearable.bears(error)
}

fn crashed(output: &Output) -> Error {
    Error::new(Kind::Guest, format!("the guest work ended without a result ({})", output.ending()))
        .advice("it is tried again; if it repeats, see the appliance's log beside the job's")
        .console_tail(output.complaint())
        .transient()
}

fn lost(error: &ProcessError) -> Error {
    let cause = format!("the guest work: {error}");
    match error {
        ProcessError::Stub { detail, .. } if detail.contains("landlock") => {
            Error::new(Kind::Unsupported, cause).advice(
                "enable landlock in the kernel (`lsm=landlock,…`) and allow its system calls in the unit",
            )
        }
        ProcessError::Ended { .. } | ProcessError::TimedOut { .. } => Error::new(Kind::Guest, cause)
            .advice("it is tried again; if it repeats, see the appliance's log beside the job's")
            .transient(),
        ProcessError::Start { .. } | ProcessError::Stub { .. } | ProcessError::Watch { .. } => {
            Error::internal(cause).transient()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_the_manifest_allows_ends_nothing_else() {
        let no_os = Error::new(Kind::Guest, "no operating system").field("pipeline.fix.on_no_os");
        let nothing = Bearable::default();
        assert!(is_hopeless(&no_os, &nothing));
        let by_key = Bearable { fields: vec!["pipeline.fix.on_no_os"], ..Bearable::default() };
        assert!(!is_hopeless(&no_os, &by_key));
        let asleep = Error::new(Kind::Guest, "it sleeps").rule("guest.hibernated");
        let by_rule = Bearable { rules: vec!["guest.hibernated".to_owned()], ..Bearable::default() };
        assert!(!is_hopeless(&asleep, &by_rule) && is_hopeless(&asleep, &by_key));
        let all = Bearable { all: true, ..Bearable::default() };
        assert!(!is_hopeless(&no_os, &all) && !is_hopeless(&asleep, &all));
        assert!(!is_hopeless(&Error::new(Kind::Guest, "crashed").transient(), &nothing));
    }
}
