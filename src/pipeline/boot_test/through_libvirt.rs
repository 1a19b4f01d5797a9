//! The boot test through libvirt: the machine is tried as its `domain.xml` says, by the libvirt that is to run it.
//!
//! ```text
//!   disks ──(only read)──▶ overlays ══door══▶ ┐
//!   variables, TPM: libvirt's own, new ───────┼─▶ libvirt ▶ QEMU   console ─▶ two pipes ─┐
//!   network cards, cable out ─────────────────┘   (-S)             agent ───▶ door ──────┼─▶ the same judge
//!                                                                  screen, state ────────┘
//! ```
//!
//! The machine has a name and a UUID of the test's own, so nothing that belongs to the real one is touched, and libvirt destroys it when our
//! connection ends. It is given sockets and no file of the guest's: whoever owns an image owns it afterwards
//! (`docs/adr/0046-tried-through-libvirt.md`). What is not here: what is asked of libvirt
//! ([`crate::libvirt::trial`]), and the changes to the XML ([`crate::libvirt::xml`]).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::hands::{Begun, Hands, Happening};
use super::line::JsonLine;
use super::observer::{Observer, TICK, Watched};
use super::place::{DISKS, Place};
use super::record::Record;
use super::screen::Screen;
use super::serial::{SERIAL, Serial};
use super::{BootTestOrder, Moment, OVERLAY_BYTES, Ready, prepare};
use crate::disk::{Control, Engine, lent_name};
use crate::libvirt::trial::{self, Told, Trial};
use crate::libvirt::xml::{TrialBench, trial_xml};
use crate::model::boot::BootVerdict;
use crate::model::error::{Error, Kind, Result};
use crate::model::machine::{Firmware, Machine, Virtualization};
use crate::sys::door::Door;
use crate::sys::process::{Watch, find_program};

/// Where the guest's agent is heard.
const AGENT: &str = "agent";
/// Where libvirt puts the firmware's variables.
const VARIABLES: &str = "variables.fd";
/// So much of the machine's name is in the test's.
const NAME_CHARACTERS: usize = 40;
/// libvirt that has not answered by then hangs.
const ANSWERS_WITHIN: Duration = Duration::from_secs(45);
/// The machine is gone by then, also where libvirt has to come back first.
const ENDS_WITHIN: Duration = Duration::from_secs(45);
/// One that hangs is not waited for twice.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// What SeaBIOS says each time that it starts.
const GREETING: &str = "SeaBIOS (version";

/// What this host lacks to try a machine through libvirt.
pub(super) fn objections(machine: &Machine, uri: &str) -> Vec<Error> {
    let lacking = |what: &str, why: &str, package: &str, rule: &str| {
        Error::new(Kind::Unsupported, format!("{what} is not here, and {why}")).rule(rule).advice(format!(
            "install it ({package}), or try the machine without libvirt: `pipeline.boot_test.method: qemu`"
        ))
    };
    let answers = trial::users(uri).err().map(|error| error.rule("host.libvirt"));
    let daemon = find_program("qemu-storage-daemon").is_none().then(|| {
        let packages = "`apt-get install qemu-system-common`, `dnf install qemu-storage-daemon`";
        lacking("qemu-storage-daemon", "nothing else can lend disks to libvirt", packages, "host.libvirt")
    });
    // libvirt makes the TPM's state with it.
    let tpm = (machine.tpm && find_program("swtpm_setup").is_none()).then(|| {
        let packages = "`apt-get install swtpm-tools`, `dnf install swtpm-tools`";
        lacking("swtpm_setup", "libvirt gives no machine a TPM without it", packages, "host.tpm")
    });
    [answers, daemon, tpm].into_iter().flatten().collect()
}

/// Tries it.
pub(super) fn run(
    order: &BootTestOrder,
    engine: &Engine,
    control: &Control,
    progress: &mut dyn FnMut(&Moment),
) -> Result<BootVerdict> {
    let users = trial::users(order.options.libvirt())?;
    let ready = prepare(order, engine, control)?;
    let place = match &order.place {
        Some(place) => Arc::clone(place),
        None => Arc::new(Place::make(&order.work_dir)?),
    };
    let door = |name: &str| {
        let path = place.file(name);
        Door::make(&path, &users).map_err(|error| Error::io(Kind::Output, "make a socket at", &path, &error))
    };
    let agent = door(AGENT)?;
    agent.wait_for_nobody().map_err(|error| Error::io(Kind::Output, "listen at", place.path(), &error))?;
    let lent = engine.lend(&ready.disks, door(DISKS)?, ready.scratch.path(), OVERLAY_BYTES, control)?;
    let serial = Serial::make(place.path())?;
    let name = name(&ready.machine.name)?;
    let xml = xml(order, &ready, &name, &place);
    tracing::info!(xml, "boot test through libvirt");
    let mut observer = Observer::new(Watched {
        hands: Tried::new(Trial::start(order.options.libvirt(), &name, xml)?, agent, control),
        judge: ready.judge(),
        passphrases: order.passphrases.clone(),
        serial,
        record: Record::begin(order.console.as_deref())?,
        screen: order.options.display.then(Screen::default),
        limit: ready.limit,
        progress,
    });
    while matches!(observer.tick(), Watch::GoOn) && control.ended().is_ok() {
        std::thread::sleep(TICK);
    }
    let failure = observer.hands().end();
    drop(lent);
    control.ended()?;
    let (seconds, tail) = (observer.seconds(), observer.tail());
    let (outcome, picture) = observer.finish();
    match (outcome, failure) {
        (Some(outcome), failure) => {
            if let Some(error) = failure {
                tracing::warn!(%error, "decided before libvirt failed");
            }
            ready.verdict(order, outcome, seconds, tail, picture, control)
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(trial::silent(Tried::BEGINS_WITHIN)),
    }
}

fn xml(order: &BootTestOrder, ready: &Ready, name: &str, place: &Place) -> String {
    let names: Vec<String> = (0..ready.disks.len()).map(lent_name).collect();
    let path = |name: &str| -> PathBuf { place.file(name) };
    let bench = TrialBench {
        name,
        disks: &path(DISKS),
        disk_names: &names,
        serial: &path(SERIAL),
        agent: &path(AGENT),
        variables: &path(VARIABLES),
        virtualization: if ready.accel == "kvm" { Virtualization::Kvm } else { Virtualization::Emulated },
        memory_mib: ready.memory_mib,
        vcpus: ready.vcpus,
        display: order.options.display,
    };
    let mut machine = ready.machine.clone();
    machine.firmware = Some(ready.starts_with);
    if ready.starts_with == Firmware::Bios {
        machine.firmware_files = None;
    }
    trial_xml(&machine, &bench)
}

/// A name that no machine has: what it is for, and a number of sixteen digits.
fn name(machine: &str) -> Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| Error::internal(format!("this host gives no random numbers: {error}")))?;
    let safe: String = machine
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' })
        .take(NAME_CHARACTERS)
        .collect();
    Ok(format!("{}{safe}-{:016x}", trial::PREFIX, u64::from_ne_bytes(random)))
}

/// A machine that libvirt has.
struct Tried<'a> {
    trial: Option<Trial>,
    agent: Door,
    /// QEMU, where we see its process.
    qemu: Option<OwnedFd>,
    control: &'a Control,
    is_made: bool,
    is_paused: bool,
    is_heard: bool,
    greetings: u32,
    processor_time: Option<Duration>,
    failure: Option<Error>,
}

impl<'a> Tried<'a> {
    fn new(trial: Trial, agent: Door, control: &'a Control) -> Tried<'a> {
        Tried {
            trial: Some(trial),
            agent,
            qemu: None,
            control,
            is_made: false,
            is_paused: false,
            is_heard: false,
            greetings: 0,
            processor_time: None,
            failure: None,
        }
    }

    /// Ends the machine; tells what went wrong, if anything did.
    fn end(&mut self) -> Option<Error> {
        let hangs = self.hangs(ANSWERS_WITHIN);
        let ended = self
            .trial
            .take()
            .map_or(Ok(()), |trial| trial.end(if hangs { LAST_CHANCE } else { ENDS_WITHIN }));
        if let Err(error) = ended {
            tracing::warn!(%error, "the test machine is ended without libvirt");
            // Root and libvirt's own user may; libvirt ends it for others as soon as it is back.
            let _ = self.qemu.take().map(|qemu| pidfd_send_signal(qemu, Signal::KILL));
            self.failure.get_or_insert(error);
        }
        self.failure.take()
    }

    fn hangs(&self, within: Duration) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.busy_for() > within)
    }

    fn understand(&mut self, told: Told) -> Option<Happening> {
        match told {
            Told::Made => self.is_made = true,
            Told::Is { processor_time } => self.processor_time = Some(processor_time),
            Told::Picture(picture) => {
                return Some(Happening::Picture(picture.filter(|bytes| !bytes.is_empty())));
            }
            Told::Crashed => return Some(Happening::Crashed),
            Told::Off => return Some(Happening::Off("libvirt has the machine no more".to_owned())),
            Told::Failed(error) => {
                self.failure = Some(error);
                return Some(Happening::Lost);
            }
        }
        None
    }

    fn listen(&mut self) -> Vec<Happening> {
        let told = self.trial.as_ref().map(Trial::heard).unwrap_or_default();
        let mut happened: Vec<Happening> =
            told.into_iter().filter_map(|told| self.understand(told)).collect();
        let within = if self.is_made { ANSWERS_WITHIN } else { Tried::BEGINS_WITHIN };
        if self.hangs(within) {
            self.failure = Some(trial::silent(within));
            happened.push(Happening::Lost);
        }
        happened
    }
}

impl Hands for Tried<'_> {
    /// libvirt starts a TPM, makes variables and asks QEMU what it can do; on a host that is busy with other things.
    const BEGINS_WITHIN: Duration = Duration::from_secs(120);

    fn begin(&mut self) -> Begun {
        if self.listen().contains(&Happening::Lost) {
            return Begun::Never;
        }
        if !self.is_made || self.is_paused {
            return Begun::NotYet;
        }
        // QEMU opened its end before libvirt said that it is there.
        let Ok(agent) = self.agent.next() else { return Begun::NotYet };
        if agent.stream.set_nonblocking(true).is_err() {
            return Begun::NotYet;
        }
        self.qemu = agent.process;
        if let Some(trial) = &self.trial {
            trial.go_on();
        }
        Begun::Runs(JsonLine::new(agent.stream))
    }

    fn heard(&mut self) -> Vec<Happening> {
        let mut happened = self.listen();
        if !std::mem::replace(&mut self.is_heard, true) {
            // Nobody tells when its port is opened. What is asked before is answered then, as often as it was asked: that harms nobody.
            happened.push(Happening::Agent { is_open: true });
        }
        happened
    }

    fn said(&mut self, line: &str) -> Option<Happening> {
        if !line.starts_with(GREETING) {
            return None;
        }
        self.greetings += 1;
        (self.greetings > 1).then_some(Happening::Restarted)
    }

    fn stands_still(&mut self) -> bool {
        let is_paused = self.control.is_paused();
        if std::mem::replace(&mut self.is_paused, is_paused) != is_paused
            && let Some(trial) = self.trial.as_ref().filter(|_| self.is_made)
        {
            if is_paused { trial.stand_still() } else { trial.go_on() }
        }
        is_paused
    }

    fn processor_time(&self) -> Option<Duration> {
        self.processor_time
    }

    fn take_picture(&mut self) {
        if let Some(trial) = &self.trial {
            trial.take_picture();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_name_that_says_whose_it_is_and_no_machine_has() {
        let [one, other] = ["web 1/\u{0}ü", "web 1/\u{0}ü"].map(|machine| name(machine).unwrap());
        assert!(one.starts_with("h2k-test-web-1----") && one != other, "{one}");
        assert!(name(&"n".repeat(300)).unwrap().len() < 70);
    }
}
