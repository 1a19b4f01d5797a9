//! A lease: begun, waited for, kept up, ended.
//!
//! ```text
//!   initializing ──▶ ready ──▶ done        completed: all that was begun of it has come whole
//!        │             │  └───▶ done        aborted: anything else, a panic or a cancel among it
//!        └─────────────┴─────▶ error       the server gave it up, or was not told of progress for too long
//! ```
//!
//! While it lives, the server changes nothing of the machine, removes none of its snapshots and lets nobody start it. So it ends with its last
//! user, in `drop`, and is told so though the work was ended. What is not here: what is done with what it offers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::device::Device;
use crate::disk::Control;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::model::transports::TRANSPORT_RULE;
use crate::vsphere::client::Client;
use crate::vsphere::devices::VmDisk;
use crate::vsphere::failure;
use crate::vsphere::machine::Machine;
use crate::vsphere::property::{self, Wanted};
use crate::vsphere::soap::{self, Call, Failure, MoRef};

/// What a server says while somebody else exports the machine, or does something else with it.
const BUSY: &str = "TaskInProgress";
/// What one says that does not export a machine as it stands.
const NOT_SO: [&str; 2] = ["InvalidPowerState", "InvalidState"];

const LEASE: Wanted = Wanted { kind: "HttpNfcLease", paths: &["state", "error", "info"] };
/// A server takes longer for large machines, and for busy hosts.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// The one of a worker that was killed is ended by the server within minutes, as long as it lives without a word.
const LEFT_WITHIN: Duration = Duration::from_secs(360);
/// How often it is asked whether that has happened.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at whether it is ready: soon at first, for most are at once.
const LOOK_SOON: Duration = Duration::from_millis(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long one lives without a word, where the server does not say.
const USUAL_TIMEOUT: Duration = Duration::from_secs(300);
/// A word at least so often, …
const TELL_EVERY: Duration = Duration::from_secs(10);
/// … and so many times before it would be too late.
const TELLS_PER_TIMEOUT: u32 = 4;
const TELL_SELDOM: Duration = Duration::from_millis(250);
/// Nobody waits longer for its being ended.
const FAREWELL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Lease {
    client: Client,
    object: MoRef,
    /// The machine, for people.
    machine: String,
    devices: Vec<Device>,
    shared: Arc<Shared>,
    keeper: Option<Keeper>,
}

/// The thread that has the server hear of it. Without the sender it ends.
#[derive(Debug)]
struct Keeper {
    over: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// Waits for the keeper's end, but not for a call of its that is not answered: whoever lets go of the client after that is the one who logs out.
fn await_end(keeper: &thread::JoinHandle<()>) {
    let begun = Instant::now();
    while !keeper.is_finished() && begun.elapsed() < FAREWELL {
        thread::sleep(Duration::from_millis(5));
    }
}

/// What its keeper, its users and its end know of each other.
#[derive(Debug, Default)]
struct Shared {
    /// By device: how much of its disk has come.
    done: Vec<AtomicU64>,
    /// Of all disks.
    total: u64,
    begun: AtomicUsize,
    finished: AtomicUsize,
    lost: Mutex<Option<Error>>,
}

impl Shared {
    fn percent(&self) -> u64 {
        let done: u64 = self.done.iter().map(|done| done.load(Ordering::Relaxed)).sum();
        (u128::from(done.min(self.total)) * 100 / u128::from(self.total.max(1))) as u64
    }
}

/// What is said of a lease.
#[derive(Debug, Default)]
struct Seen {
    state: String,
    fault: Option<soap::Fault>,
    devices: Vec<Device>,
    timeout: Option<u64>,
}

impl Lease {
    /// Has a machine be exported, as it is or as of a snapshot, and waits until that may begin.
    pub(crate) fn begin(
        client: &Client,
        machine: &Machine,
        snapshot: Option<&str>,
        control: &Control,
    ) -> Result<Lease> {
        control.ended()?;
        let (method, whole) = match snapshot {
            Some(snapshot) => ("ExportSnapshot", MoRef::new("VirtualMachineSnapshot", snapshot)),
            None => ("ExportVm", MoRef::new("VirtualMachine", &machine.moref)),
        };
        let what = format!("cannot export {}", machine.name);
        let call = Call::changes(method, &whole, Vec::new());
        let object =
            once_free(client, &call, control)?.map_err(|failure| refused(&what, failure, snapshot))?;
        // From here on it is ended, whatever happens.
        let mut lease = Lease {
            client: client.clone(),
            object,
            machine: machine.name.clone(),
            devices: Vec::new(),
            shared: Arc::default(),
            keeper: None,
        };
        let seen = lease.await_ready(&what, snapshot, control)?;
        lease.shared = Arc::new(Shared {
            done: seen.devices.iter().map(|_| AtomicU64::new(0)).collect(),
            total: machine.disks.iter().fold(0, |sum: u64, disk| sum.saturating_add(disk.capacity_bytes)),
            ..Shared::default()
        });
        lease.devices = seen.devices;
        let timeout = seen.timeout.filter(|seconds| *seconds > 0).map_or(USUAL_TIMEOUT, Duration::from_secs);
        lease.keep(timeout)?;
        tracing::info!(machine = machine.name, timeout_s = timeout.as_secs(), "an export has begun");
        Ok(lease)
    }

    fn await_ready(&self, what: &str, snapshot: Option<&str>, control: &Control) -> Result<Seen> {
        let (begun, mut pause) = (Instant::now(), LOOK_SOON);
        loop {
            control.ended()?;
            let seen = self.look().map_err(|failure| failure::told(what, failure))?;
            match seen.state.as_str() {
                "ready" => return Ok(seen),
                "initializing" => {}
                _ => {
                    return Err(match seen.fault {
                        Some(fault) => refused(what, Failure::Fault(Box::new(fault)), snapshot),
                        None => {
                            Error::new(Kind::Network, format!("{what}: the server ended it before it began"))
                                .advice("see in the server's own events why")
                        }
                    });
                }
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(failure::silent(self.client.host(), READY_WITHIN));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LOOK_EVERY);
        }
    }

    fn look(&self) -> std::result::Result<Seen, Failure> {
        let mut seen = Seen::default();
        let (asked, _) = self.client.channel();
        property::of_objects(&self.client, std::slice::from_ref(&self.object), &[LEASE], |found| {
            seen.state = found.text("state").unwrap_or_default().to_owned();
            seen.fault = found.get("error").map(soap::localized_fault);
            if let Some(info) = found.get("info") {
                seen.devices = Device::all(info, asked)?;
                seen.timeout = soap::number(info, "leaseTimeout");
            }
            Ok(())
        })?;
        Ok(seen)
    }

    /// Has the server hear of it from now on, until it ends.
    fn keep(&mut self, timeout: Duration) -> Result<()> {
        let every = (timeout / TELLS_PER_TIMEOUT).clamp(TELL_SELDOM, TELL_EVERY);
        let (over, is_over) = mpsc::channel::<()>();
        let (client, object, shared) = (self.client.clone(), self.object.clone(), Arc::clone(&self.shared));
        let work = move || {
            while is_over.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let percent = Element::text("percent", shared.percent());
                match client.call(&Call::reads("HttpNfcLeaseProgress", &object, vec![percent]), |_| Ok(())) {
                    Ok(()) => {}
                    Err(Failure::Fault(fault)) => {
                        *shared.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(lost(&fault));
                        return;
                    }
                    Err(Failure::Other(error)) if error.kind() == Kind::Cancelled => return,
                    // A moment later it may get through.
                    Err(Failure::Other(error)) => {
                        tracing::warn!(%error, "an export's progress cannot be told");
                    }
                }
            }
        };
        let begun = thread::Builder::new().name("lease".to_owned()).spawn(work);
        let thread = begun.map_err(|error| Error::internal(format!("a thread cannot begin: {error}")))?;
        self.keeper = Some(Keeper { over, thread });
        Ok(())
    }

    /// Which of its devices is a disk, by its number.
    pub(crate) fn device_of(&self, disk: &VmDisk) -> Result<usize> {
        let found: Vec<usize> =
            (0..self.devices.len()).filter(|number| self.devices[*number].is(disk)).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            _ => Err(Error::new(
                Kind::Unsupported,
                format!("the server does not export {} of {}", disk.label, self.machine),
            )
            .rule(TRANSPORT_RULE)
            .source(disk.path.clone())
            .advice("mapped LUNs and disks of other devices are not exported: read it over another transport, or leave it out")),
        }
    }

    pub(crate) fn device(&self, number: usize) -> &Device {
        &self.devices[number]
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Why nothing more will come of it, once that is so.
    pub(crate) fn lost(&self) -> Option<Error> {
        self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A device is going to be asked for.
    pub(super) fn begins(&self) {
        self.shared.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// So much of its disk has come.
    pub(super) fn reached(&self, number: usize, bytes: u64) {
        self.shared.done[number].store(bytes, Ordering::Relaxed);
    }

    /// All of one has come.
    pub(super) fn finishes(&self) {
        self.shared.finished.fetch_add(1, Ordering::Relaxed);
    }

    /// What the server says that it has sent for a device: how many bytes, and their SHA-1; none where it keeps no account.
    pub(super) fn account(&self, number: usize) -> Option<(u64, Option<String>)> {
        let key = &self.device(number).key;
        let call = Call::reads("HttpNfcLeaseGetManifest", &self.object, Vec::new());
        let told = self.client.call(&call, |answer| {
            let entry =
                soap::children(answer, "returnval").find(|entry| soap::text(*entry, "key") == Some(key));
            Ok(entry.and_then(|entry| {
                let digest =
                    soap::text(entry, "sha1").filter(|digest| digest.len() == 40).map(str::to_lowercase);
                Some((soap::number(entry, "size")?, digest))
            }))
        });
        told.unwrap_or_else(|failure| {
            tracing::debug!(?failure, "the server tells no checksums of an export");
            None
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let keeper = self.keeper.take().map(|Keeper { over, thread }| {
            drop(over);
            thread
        });
        let begun = self.shared.begun.load(Ordering::Relaxed);
        let is_whole = begun > 0 && begun == self.shared.finished.load(Ordering::Relaxed);
        let method = if is_whole { "HttpNfcLeaseComplete" } else { "HttpNfcLeaseAbort" };
        match self.client.last_word(&Call::changes(method, &self.object, Vec::new()), FAREWELL) {
            Ok(()) => tracing::info!(machine = self.machine, is_whole, "an export has ended"),
            Err(Failure::Fault(fault)) => {
                tracing::info!(machine = self.machine, fault = fault.kind, "an export had ended already");
            }
            Err(Failure::Other(error)) => {
                tracing::warn!(machine = self.machine, %error, "an export could not be ended: the server ends it by itself, within minutes");
            }
        }
        if let Some(keeper) = keeper {
            await_end(&keeper);
        }
    }
}

/// Asks for a lease until nobody else has one of the machine; what it was refused with otherwise.
fn once_free(client: &Client, call: &Call, control: &Control) -> Result<Result<MoRef, Failure>> {
    let begun = Instant::now();
    let mut waits = None;
    loop {
        match client.call(call, soap::returned_object) {
            Err(Failure::Fault(fault)) if fault.kind == BUSY && begun.elapsed() < LEFT_WITHIN => {
                // Nobody is to take whoever waits for its bytes for hanging.
                if waits.replace(control.stand_still()).is_none() {
                    tracing::warn!("another task works on the machine: its end is waited for");
                }
            }
            answered => return Ok(answered),
        }
        let asked = Instant::now();
        while asked.elapsed() < ASK_EVERY {
            control.ended()?;
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// What a server does not do for this account or this machine may come another way; of a snapshot also what it does not do while the machine runs.
fn refused(what: &str, failure: Failure, snapshot: Option<&str>) -> Error {
    let is_for_its_state = snapshot.is_some()
        && matches!(&failure, Failure::Fault(fault) if NOT_SO.contains(&fault.kind.as_str()));
    let error = failure::told(what, failure);
    let is_of_the_way = is_for_its_state
        || (matches!(error.kind(), Kind::Auth | Kind::Unsupported) && error.details().rule.is_none());
    if is_of_the_way { error.rule(TRANSPORT_RULE) } else { error }
}

fn lost(fault: &soap::Fault) -> Error {
    let words = if fault.words.is_empty() { &fault.kind } else { &fault.words };
    Error::new(Kind::Network, format!("the server ended the export before all of it had come: {words}"))
        .advice("it is begun anew; if it repeats, see whether somebody ends it there, or why the server cannot be reached for minutes")
        .transient()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_that_of_all_disks_together() {
        let done = [1_u64 << 30, 0, 3 << 30].map(AtomicU64::new).into();
        let shared = Shared { done, total: 16 << 30, ..Shared::default() };
        assert_eq!(shared.percent(), 25);
        assert_eq!(Shared::default().percent(), 0);
        shared.done[1].store(u64::MAX >> 8, Ordering::Relaxed);
        assert_eq!(shared.percent(), 100);
    }
}
