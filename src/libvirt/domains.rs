//! The machines of a libvirt: which there are, and how they are.

use serde::Serialize;
use virt::domain::Domain;
use virt::sys;

use super::failure::told;
use super::link::Link;
use crate::model::error::Result;

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

    pub(super) fn from_number(number: sys::virDomainState) -> State {
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

/// A machine in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// How it is.
    pub state: State,
}

/// All machines, by name.
pub fn list(link: &Link) -> Result<Vec<Listed>> {
    let failed = |error| told("cannot list the machines", &error);
    let domains = link.raw().list_all_domains(0).map_err(failed)?;
    let mut listed = domains.iter().map(listed).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listed)
}

fn listed(domain: &Domain) -> Result<Listed, virt::error::Error> {
    let (state, _) = domain.get_state()?;
    Ok(Listed { name: domain.get_name()?, uuid: domain.get_uuid_string()?, state: State::from_number(state) })
}
