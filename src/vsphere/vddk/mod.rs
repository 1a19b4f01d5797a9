//! Disks read by VMware's own library (VDDK), where somebody has put it on this machine: nbdkit loads it, confined, and serves each disk to us.
//!
//! ```text
//!   ESXi ══NBD over TLS, port 902══▶ library ─ nbdkit ══socket══▶ Hosted ─▶ Served ─▶ readers, a connection for each at a time
//!                                       └──── started again when it ends, as the client's patience says ◀─┘
//! ```
//!
//! The password goes to nbdkit by its standard input: it is in no argument, no variable and no file. The server's certificate is told to it as it was
//! trusted by us. The library knows which parts of a disk are in use, and reads through snapshots. What is not here: where the library is
//! ([`Library`]), and any of it itself.

mod library;
mod turns;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

pub use library::Library;
pub(crate) use turns::Turns;

use super::Client;
use super::devices::VmDisk;
use super::inventory::Power;
use super::machine::Machine;
use super::nfc::{check_unchanged, identity_as_of};
use crate::disk::{Control, HOSTED_SOCKET, Host, Hosted, Range, Reader, Remote, Room};
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::model::transports::TRANSPORT_RULE;
use crate::sys::process::{ChildLimits, ChildSpec, Launcher};
use crate::sys::sandbox::Rules;

/// nbdkit's name for what loads the library.
const PLUGIN: &str = "vddk";
/// How the library's own files may grow: what it writes of its doings.
const MOST_WRITTEN_BYTES: u64 = 64 << 20;
/// The library's name for blocks over TLS, which needs nothing of the machine it runs on.
const BLOCKS_OVER_TLS: &str = "nbdssl";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What it takes to have the library read.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) library: Library,
    pub(crate) launcher: Launcher,
    /// What a process has to be able to read to find a server.
    pub(crate) readable: Vec<PathBuf>,
    /// Whether a sandbox that cannot be applied is an error.
    pub(crate) sandbox_required: bool,
    pub(crate) memory_bytes: u64,
    /// A read that takes longer hangs.
    pub(crate) stall_timeout_s: f64,
}

/// A disk of a machine that is off, as the library reads it; as of a snapshot, if one is named. All disks of a machine share its turns.
pub(crate) fn open(
    client: &Client,
    machine: &Machine,
    disk: &VmDisk,
    snapshot: Option<&str>,
    means: Means,
    turns: &Arc<Turns>,
) -> Result<Arc<dyn Remote>> {
    if machine.power != Power::Off && snapshot.is_none() {
        let why = format!("{} is not off: what its disks hold changes while they are read", machine.name);
        return Err(Error::new(Kind::Source, why)
            .rule("disk.open_elsewhere")
            .source(machine.name.clone())
            .advice("shut it down, then try again"));
    }
    Ok(Arc::new(VddkDisk(Arc::new(Asked {
        client: client.clone(),
        machine: machine.clone(),
        disk: disk.clone(),
        snapshot: snapshot.map(str::to_owned),
        means,
        turns: Arc::clone(turns),
        served: Mutex::default(),
    }))))
}

/// Which disk, of whom.
#[derive(Debug)]
struct Asked {
    client: Client,
    machine: Machine,
    disk: VmDisk,
    snapshot: Option<String>,
    means: Means,
    turns: Arc<Turns>,
    /// All that read it share one nbdkit, as long as one of them does.
    served: Mutex<Weak<Served>>,
}

#[derive(Debug)]
struct VddkDisk(Arc<Asked>);

impl Remote for VddkDisk {
    fn name(&self) -> String {
        self.0.name()
    }

    fn size(&self) -> u64 {
        self.0.disk.capacity_bytes
    }

    fn identity(&self) -> String {
        format!("vddk {}", identity_as_of(&self.0.machine, &self.0.disk, self.0.snapshot.as_deref()))
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        let mut known = self.0.served.lock().unwrap_or_else(PoisonError::into_inner);
        let served = known.upgrade().unwrap_or_else(|| {
            let served = Served { asked: Arc::clone(&self.0), now: Mutex::default() };
            Arc::new(served)
        });
        *known = Arc::downgrade(&served);
        Ok(Box::new(VddkReader { served, control: control.clone() }))
    }

    fn check_unchanged(&self, control: &Control) -> Result<()> {
        control.ended()?;
        let Asked { client, machine, disk, .. } = &*self.0;
        match self.0.snapshot {
            // What a snapshot holds does not change.
            Some(_) => Ok(()),
            None => check_unchanged(client, machine, disk, &self.0.name()),
        }
    }
}

impl Asked {
    fn name(&self) -> String {
        format!("{} of {} on {}", self.disk.label, self.machine.name, self.client.host())
    }

    fn host(&self) -> Host {
        let (endpoint, tls) = self.client.channel();
        let (login, means) = (self.client.login(), &self.means);
        let digits: Vec<String> = tls.taken().iter().flatten().map(|byte| format!("{byte:02X}")).collect();
        let mut args = ["--foreground", "--readonly", "--log=stderr", "--unix", HOSTED_SOCKET, PLUGIN]
            .map(str::to_owned)
            .to_vec();
        let mut say = |key: &str, value: &str| args.push(format!("{key}={value}"));
        say("libdir", &means.library.libdir.display().to_string());
        say("server", &endpoint.host);
        say("port", &endpoint.port.to_string());
        say("user", &login.username);
        // Read by its name: nbdkit takes none of the standard ones by number.
        say("password", "+/proc/self/fd/0");
        say("thumbprint", &digits.join(":"));
        say("vm", &format!("moref={}", self.machine.moref));
        say("transports", BLOCKS_OVER_TLS);
        if let Some(snapshot) = &self.snapshot {
            say("snapshot", snapshot);
        }
        say("file", &self.disk.path);
        let limits = ChildLimits {
            memory_bytes: Some(means.memory_bytes),
            file_size_bytes: Some(MOST_WRITTEN_BYTES),
            ..ChildLimits::default()
        };
        let spec = ChildSpec {
            program: means.library.nbdkit.clone(),
            args,
            // It finds the library's own libraries; nbdkit would start itself again for that.
            env: vec![("LD_LIBRARY_PATH".to_owned(), means.library.loads.display().to_string())],
            limits,
            sandbox: Some(Rules {
                read: means.readable.clone(),
                write: Vec::new(),
                execute: means.library.executable(),
                required: means.sandbox_required,
                network: true,
            }),
            input: login.password.reveal().to_owned(),
            ..ChildSpec::default()
        };
        Host {
            tool: library::NBDKIT,
            spec,
            disk: self.name(),
            size: self.disk.capacity_bytes,
            limit: Duration::try_from_secs_f64(means.stall_timeout_s).unwrap_or(Duration::MAX),
        }
    }

    /// What a failure of nbdkit's means, by what it said.
    fn told(&self, error: &Error, words: Option<String>) -> Error {
        // What is not nbdkit's own is told as it is.
        if matches!(error.kind(), Kind::Cancelled | Kind::Output | Kind::DiskSpace | Kind::Unsupported) {
            return error.clone();
        }
        let words = words.or_else(|| error.details().console_tail.clone()).unwrap_or_default();
        let why = complaint(&words).unwrap_or(error.details().cause.as_str());
        let made = |kind: Kind, advice: &str| {
            Error::new(kind, format!("VMware's library does not read {}: {why}", self.name()))
                .source(self.disk.path.clone())
                .console_tail(words.clone())
                .advice(advice)
        };
        let says = |part: &str| words.contains(part);
        if says("cannot open plugin") {
            return made(
                Kind::Unsupported,
                "install nbdkit's plugin for it: `dnf install nbdkit-vddk-plugin` (RHEL); Debian's nbdkit comes without",
            )
            .rule(TRANSPORT_RULE);
        }
        if says("libvixDiskLib.so") || says("VDDK symbol") || says("VixDiskLib_InitEx") {
            return made(
                Kind::Unsupported,
                "see that the library is whole, and one of version 6.5 to 9 for this processor",
            )
            .rule(TRANSPORT_RULE);
        }
        if says("access rights") || says("nsufficient permissions") {
            return made(
                Kind::Auth,
                "give the account VirtualMachine.Provisioning.GetVmFiles and DiskRandomRead on the VM",
            )
            .rule(TRANSPORT_RULE);
        }
        made(
            Kind::Network,
            "see that the VM's host can be reached at port 902, and that no other program has its disks open",
        )
        .transient()
    }
}

/// The last that was said to be an error.
fn complaint(words: &str) -> Option<&str> {
    let mut errors = words.lines().filter_map(|line| Some(line.split_once("error: ")?.1.trim()));
    errors.rfind(|error| !error.is_empty())
}

/// A disk that nbdkit serves, and another nbdkit where one has ended.
#[derive(Debug)]
struct Served {
    asked: Arc<Asked>,
    now: Mutex<Option<Arc<Hosted>>>,
}

impl Served {
    fn now(&self) -> MutexGuard<'_, Option<Arc<Hosted>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nbdkit that there is; else a new one, for which others wait.
    fn hosted(&self, control: &Control) -> Result<Arc<Hosted>> {
        let mut now = self.now();
        if let Some(hosted) = &*now {
            return Ok(Arc::clone(hosted));
        }
        let hosted = Hosted::open(&self.asked.means.launcher, self.asked.host(), control);
        let hosted = Arc::new(hosted.map_err(|error| self.asked.told(&error, None))?);
        *now = Some(Arc::clone(&hosted));
        Ok(hosted)
    }

    /// One that failed is not asked again, by nobody.
    fn failed(&self, hosted: &Arc<Hosted>, error: &Error) -> Error {
        let mut now = self.now();
        if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, hosted)) {
            *now = None;
        }
        self.asked.told(error, hosted.last_words())
    }

    fn patiently<T>(&self, control: &Control, work: &mut dyn FnMut(&Hosted) -> Result<T>) -> Result<T> {
        let mut failures = 0;
        loop {
            let turn = self.asked.turns.take(control)?;
            let tried = self.hosted(control).and_then(|hosted| {
                let done = work(&hosted);
                done.map_err(|error| self.failed(&hosted, &error))
            });
            drop(turn);
            let error = match tried {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            control.ended()?;
            failures += 1;
            let wait = self.asked.client.patience().wait(failures);
            let Some(wait) = wait.filter(|_| error.disposition() == Disposition::Transient) else {
                return Err(error);
            };
            tracing::warn!(%error, attempt = failures, "nbdkit is started again in {:.1} s", wait.as_secs_f64());
            let begun = Instant::now();
            while begun.elapsed() < wait {
                control.checkpoint()?;
                thread::sleep(wait.saturating_sub(begun.elapsed()).min(LOOK_EVERY));
            }
        }
    }
}

/// Reads it, for one caller.
#[derive(Debug)]
struct VddkReader {
    served: Arc<Served>,
    control: Control,
}

impl Reader for VddkReader {
    fn size(&self) -> u64 {
        self.served.asked.disk.capacity_bytes
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        self.served.patiently(&self.control, &mut |hosted| hosted.range(at, room))
    }

    fn read(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()> {
        self.served.patiently(&self.control, &mut |hosted| hosted.read(at, buffer, room))
    }

    fn helper(&self) -> Option<&str> {
        Some(library::NBDKIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_of_several_is_told() {
        let words = "nbdkit: vddk[1]: error: first\nnbdkit: debug: x\nnbdkit: vddk[2]: error: VixDiskLib_ConnectEx: no host\nbye\n";
        assert_eq!(complaint(words), Some("VixDiskLib_ConnectEx: no host"));
        assert_eq!(complaint("bye"), None);
    }
}
