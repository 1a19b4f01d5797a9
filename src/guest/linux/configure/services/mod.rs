//! services: what the manifest names starts with the guest, does not, or never does.
//!
//! What is not here: guests of System V init and Upstart; the order of their services is worked out by tools of their own.

mod install;
mod openrc;
mod systemd;

use crate::guest::facts::{Facts, FixOptions};
use crate::guest::fix::{Fix, Guest};
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::InitSystem;

/// Where an administrator's units and links lie.
pub(super) const OWN_UNITS: &str = "/etc/systemd/system";
const FIELD: &str = "configuration.services";

/// The repair.
#[derive(Debug)]
pub(in crate::guest::linux) struct Services;

impl Fix for Services {
    fn name(&self) -> &'static str {
        "services"
    }

    fn purpose(&self, options: &FixOptions) -> Option<&'static str> {
        (!options.setup.services.is_empty()).then_some("services start, or do not, as the manifest says")
    }

    fn applies(&self, _: &Facts) -> bool {
        true
    }

    fn apply(&self, guest: &mut Guest<'_>) -> Result<()> {
        let wanted = &guest.options.setup.services;
        match guest.facts.identity.init_system {
            InitSystem::Openrc => openrc::apply(guest, wanted),
            _ => {
                check_systemd(&guest.facts, FIELD)?;
                systemd::apply(guest, wanted)
            }
        }
    }

    fn verify(&self, guest: &Guest<'_>) -> Result<()> {
        let wanted = &guest.options.setup.services;
        match guest.facts.identity.init_system {
            InitSystem::Openrc => openrc::verify(guest, wanted),
            _ => systemd::verify(guest, wanted),
        }
    }
}

/// Refuses a guest that something else starts.
pub(super) fn check_systemd(facts: &Facts, field: &str) -> Result<()> {
    let other = match facts.identity.init_system {
        InitSystem::Systemd => return Ok(()),
        InitSystem::Upstart => "Upstart",
        InitSystem::Sysvinit => "System V init",
        InitSystem::Openrc => "OpenRC",
        InitSystem::Unknown => "something unknown",
    };
    Err(Error::new(
        Kind::Unsupported,
        format!("the guest is started by {other}, and this can only be done for systemd"),
    )
    .field(field)
    .advice("remove it from the manifest, and do it in the source machine"))
}

/// The link by which a unit is wanted by another.
pub(super) fn wants_link(by: &str, unit: &str) -> String {
    format!("{OWN_UNITS}/{by}.wants/{unit}")
}
