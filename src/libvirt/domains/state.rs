//! How a machine is, and why.

use serde::Serialize;
use virt::domain::Domain;
use virt::sys;

/// How a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Running,
    /// It was paused, by somebody or by an error.
    Paused,
    /// It is going down.
    ShuttingDown,
    /// It is off.
    Off,
    /// It crashed.
    Crashed,
    /// The guest sleeps.
    Suspended,
    /// libvirt does not say.
    Unknown,
}

impl State {
    /// The name that is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::ShuttingDown => "shutting_down",
            State::Off => "off",
            State::Crashed => "crashed",
            State::Suspended => "suspended",
            State::Unknown => "unknown",
        }
    }

    pub(in crate::libvirt) fn from_number(number: sys::virDomainState) -> State {
        match number {
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => State::Running,
            sys::VIR_DOMAIN_PAUSED => State::Paused,
            sys::VIR_DOMAIN_SHUTDOWN => State::ShuttingDown,
            sys::VIR_DOMAIN_SHUTOFF => State::Off,
            sys::VIR_DOMAIN_CRASHED => State::Crashed,
            sys::VIR_DOMAIN_PMSUSPENDED => State::Suspended,
            _ => State::Unknown,
        }
    }
}

/// A state with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stand {
    /// How it is.
    pub state: State,
    /// Why, in a word: `booted`, `io_error`, `destroyed`.
    pub reason: &'static str,
}

impl Stand {
    pub(super) fn of(domain: &Domain) -> Result<Stand, virt::error::Error> {
        let (number, reason) = domain.get_state()?;
        let state = State::from_number(number);
        Ok(Stand { state, reason: reason_name(state, reason.cast_unsigned()) })
    }
}

/// The numbers of reasons mean something else in each state.
fn reason_name(state: State, number: u32) -> &'static str {
    match (state, number) {
        (State::Running, sys::VIR_DOMAIN_RUNNING_BOOTED) => "booted",
        (State::Running, sys::VIR_DOMAIN_RUNNING_MIGRATED) => "migrated",
        (State::Running, sys::VIR_DOMAIN_RUNNING_RESTORED) => "restored",
        (State::Running, sys::VIR_DOMAIN_RUNNING_FROM_SNAPSHOT) => "from_snapshot",
        (State::Running, sys::VIR_DOMAIN_RUNNING_UNPAUSED) => "resumed",
        (State::Running, sys::VIR_DOMAIN_RUNNING_WAKEUP) => "woken",
        (State::Running, sys::VIR_DOMAIN_RUNNING_CRASHED) => "crashed",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_USER) => "asked_for",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_MIGRATION) => "migration",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_SAVE) => "saving",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_DUMP) => "dumping",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_IOERROR) => "io_error",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_WATCHDOG) => "watchdog",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_FROM_SNAPSHOT) => "from_snapshot",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN) => "shutting_down",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_SNAPSHOT) => "snapshot",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_CRASHED) => "crashed",
        (State::Paused, sys::VIR_DOMAIN_PAUSED_STARTING_UP) => "starting_up",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN) => "shut_down",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_DESTROYED) => "destroyed",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_CRASHED) => "crashed",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_MIGRATED) => "migrated",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_SAVED) => "saved",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_FAILED) => "failed",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT) => "from_snapshot",
        (State::Off, sys::VIR_DOMAIN_SHUTOFF_DAEMON) => "libvirt_restarted",
        (State::Crashed, sys::VIR_DOMAIN_CRASHED_PANICKED) => "panicked",
        (State::ShuttingDown, sys::VIR_DOMAIN_SHUTDOWN_USER) => "asked_for",
        _ => "unknown",
    }
}
