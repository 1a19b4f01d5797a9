//! Power of a machine: shut down through its guest, switched off where that is allowed, and on again.
//!
//! Each is asked for and then looked at: a machine that is where it is to be is left alone, so whoever was cut in between may ask again. Nobody
//! is believed to have shut down before the server says that the power is off, and still is a moment later: what has high availability, or
//! somebody who watches over it, may be started again at once. What is not here: who is allowed to, and what is remembered of it.

use std::time::{Duration, Instant};

use super::client::Client;
use super::failure;
use super::inventory::{Power, VmRef};
use super::property::{self, Wanted};
use super::soap::{self, Call, Failure, Fault};
use super::task;
use crate::model::error::{Error, Kind, Result};

/// So often it is looked whether a machine is off yet.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So long one has to stay off until it is believed to.
const STAYS_OFF: Duration = Duration::from_secs(2);
/// So long whatever else works on a machine may take before it is asked once more.
const BUSY: Duration = Duration::from_secs(2);

const POWER: Wanted = Wanted {
    kind: "VirtualMachine",
    paths: &["runtime.powerState", "runtime.connectionState", "guest.toolsRunningStatus"],
};

/// How a machine is to be shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long its guest may take.
    pub within: Duration,
    /// Whether its power is cut when it does not shut down.
    pub force: bool,
    /// Whether it was asked before: its tools may have ended already.
    pub asked_before: bool,
}

/// How a machine came to be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WentOff {
    /// It was.
    Before,
    /// Its guest shut down.
    ByItself,
    /// Its power was cut.
    Forced,
}

/// How a machine stands.
struct Stand {
    power: Power,
    connected: bool,
    /// Whether VMware's tools run in it.
    tools: bool,
}

/// Whether a machine runs.
pub fn power(client: &Client, vm: &VmRef) -> Result<Power> {
    let what = format!("cannot look whether {} of {} runs", vm.moref, client.host());
    Ok(stand(client, vm, &what)?.power)
}

/// Whether a machine is off by then.
pub fn is_off_within(client: &Client, vm: &VmRef, within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    loop {
        if power(client, vm)? == Power::Off {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        rest(client, LOOK_EVERY)?;
    }
}

/// Shuts a machine down, and waits until it is off. `told` hears what it waits for.
pub fn shut_down(
    client: &Client,
    vm: &VmRef,
    how: Shutdown,
    told: &mut dyn FnMut(String),
) -> Result<WentOff> {
    let what = format!("cannot shut down {} of {}", vm.moref, client.host());
    let _still = client.control().stand_still();
    let began = Instant::now();
    let mut asked = false;
    loop {
        let now = stand(client, vm, &what)?;
        match now.power {
            Power::Off => {
                return stays_off(
                    client,
                    vm,
                    &what,
                    if asked || how.asked_before { WentOff::ByItself } else { WentOff::Before },
                );
            }
            Power::On => {}
            Power::Suspended => {
                return Err(Error::new(Kind::Source, format!("{what}: it is suspended"))
                    .rule("source.running")
                    .advice("wake it, so that it can shut down; then `hyper2kvm retry`"));
            }
            Power::Unknown => {
                return Err(Error::new(
                    Kind::Source,
                    format!("{what}: the server does not say whether it runs"),
                )
                .advice("see that the host on which it lies is connected to its vCenter"));
            }
        }
        if !now.connected {
            return Err(Error::new(
                Kind::Network,
                format!("{what}: its host has no connection to the server"),
            )
            .advice("see that the host on which it lies is connected to its vCenter"));
        }
        if !asked && !now.tools && !how.asked_before {
            if how.force {
                tracing::warn!(vm = vm.moref, "VMware's tools do not run in it: its power is CUT");
                return cut(client, vm, &what);
            }
            return Err(no_tools(&what));
        }
        if began.elapsed() >= how.within {
            if how.force {
                tracing::warn!(vm = vm.moref, "it has not shut down in time: its power is CUT");
                return cut(client, vm, &what);
            }
            let cause =
                format!("{what}: its guest has not shut down within {:.0} s", how.within.as_secs_f64());
            return Err(Error::new(Kind::Source, cause).rule("source.shutdown").advice(
                "see at its console what keeps it (it may still go off, for it was asked to); give it longer (`shutdown_timeout_s`), \
                 shut it down by hand, or have its power cut (`force_off: true`)",
            ));
        }
        if !asked && now.tools {
            asked = ask_guest(client, vm, &what)?;
        }
        let left = how.within.saturating_sub(began.elapsed());
        told(format!("waits for its guest to shut down, {:.0} s at most", left.as_secs_f64().ceil()));
        rest(client, LOOK_EVERY)?;
    }
}

/// Asks the guest. False: not yet, something else goes on with the machine.
fn ask_guest(client: &Client, vm: &VmRef, what: &str) -> Result<bool> {
    match client.call(&Call::changes("ShutdownGuest", &vm.object(), Vec::new()), |_| Ok(())) {
        Ok(()) => Ok(true),
        // It went off by itself, its tools just end, or another task works on it: the next look tells.
        Err(Failure::Fault(fault)) if is_of_the_moment(&fault) => {
            tracing::info!(vm = vm.moref, fault = fault.kind, "cannot be asked to shut down at the moment");
            rest(client, BUSY)?;
            Ok(false)
        }
        Err(failure) => Err(failure::told(what, failure)),
    }
}

fn is_of_the_moment(fault: &Fault) -> bool {
    ["InvalidPowerState", "TaskInProgress", "ToolsUnavailable", "ConcurrentAccess"]
        .contains(&fault.kind.as_str())
}

/// Cuts its power.
fn cut(client: &Client, vm: &VmRef, what: &str) -> Result<WentOff> {
    let done = client
        .call(&Call::changes("PowerOffVM_Task", &vm.object(), Vec::new()), soap::returned_object)
        .and_then(|task| task::wait(client, &task, &mut |_| ()));
    match done {
        Ok(_) => {}
        Err(Failure::Fault(fault)) if fault.kind == "InvalidPowerState" => {}
        Err(failure) => return Err(failure::told(what, failure)),
    }
    stays_off(client, vm, what, WentOff::Forced)
}

/// Looks once more a moment later: whatever starts machines that went off has had its turn by then.
fn stays_off(client: &Client, vm: &VmRef, what: &str, went: WentOff) -> Result<WentOff> {
    if went != WentOff::Before {
        rest(client, STAYS_OFF)?;
    }
    match stand(client, vm, what)?.power {
        Power::Off => Ok(went),
        power => Err(Error::new(
            Kind::Source,
            format!("{what}: it went off, and its power is {} again a moment later", power.name()),
        )
        .rule("source.running")
        .advice("see what starts it (high availability, or who watches over it), switch that off for it, then `hyper2kvm retry`")),
    }
}

fn no_tools(what: &str) -> Error {
    Error::new(
        Kind::Source,
        format!("{what}: VMware's tools do not run in its guest, which is who would be asked"),
    )
    .rule("source.shutdown")
    .advice("install or start them, shut the VM down by hand, or have its power cut (`force_off: true`)")
}

/// Starts a machine. False: it runs already.
pub fn start(client: &Client, vm: &VmRef) -> Result<bool> {
    let what = format!("cannot start {} of {}", vm.moref, client.host());
    if stand(client, vm, &what)?.power == Power::On {
        return Ok(false);
    }
    let started = client
        .call(&Call::changes("PowerOnVM_Task", &vm.object(), Vec::new()), soap::returned_object)
        .and_then(|task| task::wait(client, &task, &mut |_| ()));
    match started {
        Ok(_) => Ok(true),
        // Somebody else was faster.
        Err(Failure::Fault(fault)) if fault.kind == "InvalidPowerState" => {
            match stand(client, vm, &what)?.power {
                Power::On => Ok(false),
                _ => Err(failure::told(&what, Failure::Fault(fault))),
            }
        }
        Err(failure) => Err(failure::told(&what, failure)),
    }
}

fn stand(client: &Client, vm: &VmRef, what: &str) -> Result<Stand> {
    let mut read = None;
    property::of_objects(client, &[vm.object()], &[POWER], |found| {
        read = Some(Stand {
            power: Power::of(found.text("runtime.powerState")),
            connected: found.text("runtime.connectionState").is_none_or(|state| state == "connected"),
            tools: found.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
        });
        Ok(())
    })
    .map_err(|failure| failure::told(what, failure))?;
    read.ok_or_else(|| {
        Error::new(Kind::Source, format!("{what}: nothing is told of it"))
            .advice("see which there are: `hyper2kvm vsphere list`")
    })
}

/// Waits so long, unless the work is ended meanwhile.
fn rest(client: &Client, wait: Duration) -> Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    let until = Instant::now() + wait;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        client.control().ended()?;
        std::thread::sleep(left.min(STEP));
    }
    Ok(())
}
