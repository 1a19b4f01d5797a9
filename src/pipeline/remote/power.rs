//! The power of a VM that a plan names, and what is changed there once its result has taken its place.
//!
//! What is not here: when that is done and what is written down of it (`pipeline::acts` beside the stages), and the calls themselves.

use std::time::Duration;

use super::Source;
use crate::model::acts::{Act, ActKind, ActState};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::Plan;
use crate::model::remote::{CHANGED_RULE, PlannedRemote, PlannedShutdown};
use crate::sys::time::now_epoch;
use crate::vsphere::giving_way::{self, Autostart};
use crate::vsphere::inventory::VmRef;
use crate::vsphere::machine::{self, Machine};
use crate::vsphere::power::{self, Shutdown, WentOff};
use crate::vsphere::{Client, facts};

/// Whoever starts it again waits so long for it to go off, and comes back later.
const GOES_OFF_WITHIN: Duration = Duration::from_secs(5);

impl Source {
    /// Shuts it down.
    pub(in crate::pipeline) fn shut_down(
        &self,
        planned: PlannedShutdown,
        asked_before: bool,
        told: &mut dyn FnMut(String),
    ) -> Result<WentOff> {
        let within = Duration::try_from_secs_f64(planned.timeout_s).unwrap_or_default();
        let how = Shutdown { within, force: planned.force_off, asked_before };
        power::shut_down(&self.client, &self.reference(), how, told)
    }

    /// The same, looked at again.
    pub(in crate::pipeline) fn again(mut self, plan: &Plan) -> Result<Source> {
        self.machine = machine::machine(&self.client, &self.reference())?;
        self.untouched = self.machine.clone();
        self.facts = facts::facts(&self.machine);
        match plan.has_the_disks_of(&self.facts) {
            true => Ok(self),
            false => Err(Error::new(
                Kind::Source,
                format!("the disks of {} are others since it went off", self.machine.path),
            )
            .rule(CHANGED_RULE)
            .advice("leave the VM alone while it is converted, then `hyper2kvm retry`")),
        }
    }

    /// Who is asked.
    pub(in crate::pipeline) fn client(&self) -> &Client {
        &self.client
    }
}

/// What an act will change, now that it can be seen: what is remembered is what was before. None: it is so already, by nobody's doing of ours.
pub(in crate::pipeline) fn foreseen(
    client: &Client,
    vm: &VmRef,
    act: &ActKind,
    suffix: Option<&str>,
) -> Result<Option<ActKind>> {
    if !act.is_unseen() {
        return Ok(Some(act.clone()));
    }
    let now: Machine = machine::machine(client, vm)?;
    Ok(match act {
        ActKind::NicsDisconnected { .. } => {
            let keys = giving_way::linked(&now);
            (!keys.is_empty()).then_some(ActKind::NicsDisconnected { keys })
        }
        ActKind::Annotated { .. } => Some(ActKind::Annotated { before: giving_way::notes_before(&now) }),
        ActKind::AutostartDisabled { .. } => {
            let known = giving_way::autostart(client, vm)?.map(|known| serde_json::to_string(&known));
            let before = known.transpose().map_err(|error| {
                Error::internal(format!("how a machine is started cannot be written down: {error}"))
            })?;
            before.map(|before| ActKind::AutostartDisabled { before })
        }
        ActKind::Renamed { .. } => {
            let after = suffix.map(|suffix| format!("{}{suffix}", now.name));
            after.map(|after| ActKind::Renamed { before: now.name, after })
        }
        known => Some(known.clone()),
    })
}

/// Changes a source. `note`: what its notes are to say.
pub(in crate::pipeline) fn change(client: &Client, vm: &VmRef, act: &ActKind, note: &str) -> Result<()> {
    match act {
        ActKind::NicsDisconnected { keys } => giving_way::link(client, vm, keys, false),
        ActKind::Annotated { .. } => giving_way::note(client, vm, note),
        ActKind::AutostartDisabled { before } => {
            giving_way::set_autostart(client, vm, &read_autostart(before)?, false)
        }
        ActKind::Renamed { before, after } => match machine::machine(client, vm)?.name {
            name if name == *before => giving_way::rename(client, vm, after),
            name if name == *after => Ok(()),
            name => {
                Err(Error::new(Kind::Source, format!("it is called `{name}` by now, and was `{before}`"))
                    .advice("somebody has renamed it: nothing is changed"))
            }
        },
        ActKind::ShutDown { .. } | ActKind::ChangeTracking | ActKind::Snapshot { .. } => Ok(()),
    }
}

/// Starts a VM that was shut down, unless somebody has. One that was only asked to may still go off: it is waited for.
pub(in crate::pipeline) fn start_again(
    client: &Client,
    vm: &VmRef,
    act: &Act,
    remote: &PlannedRemote,
) -> Result<()> {
    // Behind its time it is left alone: whoever shuts it down then means it.
    let given = remote.shutdown.map_or(0.0, |planned| planned.timeout_s);
    let may_go_off = act.state == ActState::Intended && now_epoch() < act.intended_at + given;
    if may_go_off && !power::is_off_within(client, vm, GOES_OFF_WITHIN)? {
        return Err(Error::new(Kind::Source, "its guest was asked to shut down, and may still do so")
            .advice("nothing is wrong: it is started when it has gone off, or left alone when its time has passed")
            .transient());
    }
    let started = power::start(client, vm)?;
    tracing::info!(vm = vm.moref, started, "the source runs again");
    Ok(())
}

/// Takes such a change back. What is so already is left alone; what somebody has changed since, too.
pub(in crate::pipeline) fn take_back(client: &Client, vm: &VmRef, act: &ActKind) -> Result<()> {
    match act {
        ActKind::NicsDisconnected { keys } => giving_way::link(client, vm, keys, true),
        ActKind::Annotated { before } => giving_way::forget_note(client, vm, before),
        ActKind::AutostartDisabled { before } if before.is_empty() => Ok(()),
        ActKind::AutostartDisabled { before } => {
            giving_way::set_autostart(client, vm, &read_autostart(before)?, true)
        }
        ActKind::Renamed { before, after } => match machine::machine(client, vm)?.name {
            name if name == *after && !after.is_empty() => giving_way::rename(client, vm, before),
            _ => Ok(()),
        },
        ActKind::ShutDown { .. } | ActKind::ChangeTracking | ActKind::Snapshot { .. } => Ok(()),
    }
}

fn read_autostart(text: &str) -> Result<Autostart> {
    serde_json::from_str(text)
        .map_err(|error| Error::internal(format!("how a machine was started is not known any more: {error}")))
}
