//! Switching machines on and off, and what they do with the host.

use std::time::{Duration, Instant};

use serde::Serialize;
use virt::domain::Domain;
use virt::error::{Error as Told, ErrorNumber};
use virt::sys;

use super::{Stand, State, checked, is_active, known, look_up};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};

/// How often a machine that goes down is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a machine came to be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// It was off.
    WasOff,
    /// The guest shut down.
    ByItself,
    /// It was switched off.
    Destroyed,
}

/// How it is, and why.
pub fn state(link: &Link, name: &str) -> Result<Stand> {
    stand(&known(link, name)?, name)
}

fn stand(domain: &Domain, name: &str) -> Result<Stand> {
    Stand::of(domain).map_err(|error| told(&format!("cannot ask how {name} is"), &error))
}

/// Starts it; one that runs already is left alone.
pub fn start(link: &Link, name: &str) -> Result<()> {
    start_with(link, name, 0)
}

/// Starts it without letting it do anything; it is off again when the link is closed, by the end of this process too.
pub(in crate::libvirt) fn start_paused(link: &Link, name: &str) -> Result<()> {
    start_with(link, name, sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY)
}

fn start_with(link: &Link, name: &str, flags: u32) -> Result<()> {
    let domain = known(link, name)?;
    let Err(error) = domain.create_with_flags(flags) else { return Ok(()) };
    match stand(&domain, name)?.state {
        State::Running if flags == 0 => Ok(()),
        State::Paused => Err(Error::new(Kind::Libvirt, format!("cannot start {name}: it is paused"))
            .advice(format!("let it go on: `hyper2kvm libvirt resume {name}`"))),
        _ => Err(told(&format!("cannot start {name}"), &error)),
    }
}

/// Asks the guest to shut down and waits for it. A guest that does not is switched off after `within` only if that is wanted.
pub fn shutdown(link: &Link, name: &str, within: Duration, then_destroy: bool) -> Result<Stopped> {
    let domain = known(link, name)?;
    let failed = |error: &Told| told(&format!("cannot shut {name} down"), error);
    let deadline = Instant::now() + within;
    match stand(&domain, name)?.state {
        State::Off => return Ok(Stopped::WasOff),
        // Its guest hears nothing.
        State::Paused | State::Suspended | State::Crashed if then_destroy => {
            switch_off(&domain, name)?;
            return Ok(Stopped::Destroyed);
        }
        state @ (State::Paused | State::Suspended | State::Crashed) => {
            let cause =
                format!("cannot shut {name} down: it is {}, and its guest hears nothing", state.name());
            return Err(Error::new(Kind::Libvirt, cause)
                .advice("resume it first, or have it switched off: `--force`"));
        }
        _ => {}
    }
    match domain.shutdown() {
        Err(error) if !is_gone(&error) && is_active(&domain, name)? => return Err(failed(&error)),
        _ => {}
    }
    loop {
        match domain.is_active() {
            Ok(true) => {}
            Ok(false) => return Ok(Stopped::ByItself),
            Err(error) if is_gone(&error) => return Ok(Stopped::ByItself),
            Err(error) => return Err(failed(&error)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
    if then_destroy {
        switch_off(&domain, name)?;
        return Ok(Stopped::Destroyed);
    }
    let waited = within.as_secs_f64();
    Err(Error::new(Kind::Libvirt, format!("{name} did not shut down within {waited} s"))
        .advice("give it more time, or have it switched off then: `--force`")
        .transient())
}

/// Switches it off at once, as if its power failed, and says whether it ran.
pub fn destroy(link: &Link, name: &str) -> Result<bool> {
    let domain = known(link, name)?;
    if !is_active(&domain, name)? {
        return Ok(false);
    }
    switch_off(&domain, name)?;
    Ok(true)
}

/// That, of one that may have gone down by itself meanwhile.
pub(super) fn switch_off(domain: &Domain, name: &str) -> Result<()> {
    match domain.destroy() {
        Err(error) if !is_gone(&error) && is_active(domain, name)? => {
            Err(told(&format!("cannot switch {name} off"), &error))
        }
        _ => Ok(()),
    }
}

fn is_gone(error: &Told) -> bool {
    error.code() == ErrorNumber::NoDomain
}

/// Asks the guest to begin anew.
pub fn reboot(link: &Link, name: &str) -> Result<()> {
    let rebooted = known(link, name)?.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT);
    rebooted.map_err(|error| told(&format!("cannot reboot {name}"), &error))
}

/// Lets it stand still; one that does already is left alone.
pub fn suspend(link: &Link, name: &str) -> Result<()> {
    let domain = known(link, name)?;
    let Err(error) = domain.suspend() else { return Ok(()) };
    match stand(&domain, name)?.state {
        State::Paused => Ok(()),
        _ => Err(told(&format!("cannot suspend {name}"), &error)),
    }
}

/// Lets it go on; one that runs is left alone.
pub fn resume(link: &Link, name: &str) -> Result<()> {
    let domain = known(link, name)?;
    let Err(error) = domain.resume() else { return Ok(()) };
    match stand(&domain, name)?.state {
        State::Running => Ok(()),
        _ => Err(told(&format!("cannot resume {name}"), &error)),
    }
}

/// Whether it starts with the host.
pub fn set_autostart(link: &Link, name: &str, on: bool) -> Result<()> {
    let set = known(link, name)?.set_autostart(on);
    set.map(drop).map_err(|error| told(&format!("cannot set the autostart of {name}"), &error))
}

/// Calls a machine that is off something else.
pub fn rename(link: &Link, name: &str, new: &str) -> Result<()> {
    let domain = known(link, name)?;
    checked("a machine", new)?;
    if look_up(link, new)?.is_some() {
        return Err(Error::new(
            Kind::Exists,
            format!("cannot rename {name}: there is a machine {new} already"),
        )
        .advice("take another name"));
    }
    if is_active(&domain, name)? {
        return Err(Error::new(Kind::Libvirt, format!("cannot rename {name}: it is not off"))
            .advice(format!("stop it first: `hyper2kvm libvirt stop {name}`")));
    }
    let renamed = domain.rename(new, 0);
    renamed.map(drop).map_err(|error| told(&format!("cannot rename {name} to {new}"), &error))
}
