//! By which way the disks of a VM that was found come: what speaks for and against each, and which is taken.
//!
//! What can be known without reading a byte is found out here when the VM was found, of the VM itself, of the account's privileges and of this
//! machine; a way that turns out not to do when its first bytes are asked for is left then, and one that fails in the middle of a copy by
//! [`super::super::worker`]. What is not here: the order (the model's `transports`), and reading.

use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::VsphereTransport;
use crate::model::remote::PlannedRemote;
use crate::model::transports::{self, Candidate, Known};
use crate::vsphere::Client;
use crate::vsphere::devices::{BackingKind, VmDisk};
use crate::vsphere::inventory::{Power, VmRef};
use crate::vsphere::machine::Machine;
use crate::vsphere::privileges::{self, Checked, Further, Purpose};
use crate::vsphere::ssh::Account;

/// The ways of a VM, as far as they are known by now.
#[derive(Debug)]
pub(in crate::pipeline) struct Ways {
    asked: VsphereTransport,
    known: Known,
    all: Vec<Candidate>,
}

impl Ways {
    /// The one that there is where nothing else could serve.
    pub(super) fn only(transport: VsphereTransport) -> Ways {
        let known = Known::default();
        Ways { asked: transport, all: transports::candidates(transport, &known), known }
    }

    /// Those that are open before anything was read, with the key for a host's shell, and why VMware's library cannot be used here.
    pub(super) fn of(
        client: &Client,
        machine: &Machine,
        planned: &PlannedRemote,
        (key, no_vddk): (Option<&Account>, Option<&Error>),
    ) -> Result<Ways> {
        // One that is shut down is off before its first byte is read; one that runs on holds still behind a snapshot.
        let is_off = machine.power == Power::Off || planned.shutdown.is_some();
        let holds_still = is_off || planned.snapshot.is_some();
        let asked = planned.transport;
        let mut known = Known {
            not_flat: not_flat(machine),
            not_exported: not_exported(machine, holds_still),
            no_ssh: no_shell(key, is_off),
            no_vddk: no_vddk.map(|error| error.details().cause.clone()),
            ..Known::default()
        };
        if asked == VsphereTransport::Auto {
            let privileges = privileges(client, machine)?;
            known.lacks_to_read = lacking(&privileges, Purpose::Read);
            known.lacks_to_export = lacking(&privileges, Purpose::Export);
        }
        let all = transports::candidates(asked, &known);
        Ok(Ways { asked, known, all })
    }

    /// The VM turns out to be another one: snapshots of our own are no part of it.
    pub(super) fn are_of(&mut self, untouched: &Machine) {
        self.known.not_flat = not_flat(untouched);
        self.all = transports::candidates(self.asked, &self.known);
    }

    /// Leaves those that were tried before, by this attempt or an earlier one.
    pub(in crate::pipeline) fn leave(&mut self, tried: &[Candidate]) {
        for one in tried {
            if !self.known.failed.contains(one) {
                self.known.failed.push(one.clone());
            }
        }
        self.all = transports::candidates(self.asked, &self.known);
    }

    /// The one that is taken.
    pub(in crate::pipeline) fn chosen(&self) -> VsphereTransport {
        transports::chosen(&self.all)
    }

    /// All of them.
    pub(in crate::pipeline) fn all(&self) -> &[Candidate] {
        &self.all
    }

    /// What is left of the others for this failure of the one that is taken; nothing where it is no reason, or there is no other.
    pub(in crate::pipeline) fn after(&self, error: &Error) -> Option<Candidate> {
        if self.asked != VsphereTransport::Auto || !transports::is_of_the_way(error) {
            return None;
        }
        let chosen = self.chosen();
        let is_other = |one: &Candidate| one.transport != chosen && one.left.is_none();
        let left = Some(error.details().cause.clone());
        self.all.iter().any(is_other).then_some(Candidate { transport: chosen, left })
    }
}

/// Why the files of its disks are not what they hold.
fn not_flat(machine: &Machine) -> Option<String> {
    let grows = |disk: &&VmDisk| matches!(disk.backing, BackingKind::Sesparse | BackingKind::Sparse);
    if let Some(disk) = machine.disks.iter().find(grows) {
        return Some(format!("{} lies in a file that grows", disk.label));
    }
    if !machine.snapshots.is_empty() {
        return Some("the VM has snapshots".to_owned());
    }
    let above = machine.disks.iter().find(|disk| disk.parent.is_some())?;
    Some(format!("{} stands on another disk", above.label))
}

fn not_exported(machine: &Machine, holds_still: bool) -> Option<String> {
    if !holds_still {
        return Some("the VM is exported only when it is off, or as of a snapshot".to_owned());
    }
    let is_device = |disk: &&VmDisk| matches!(disk.backing, BackingKind::Rdm | BackingKind::Raw);
    let device = machine.disks.iter().find(is_device)?;
    Some(format!("{} is a device, which is not exported", device.label))
}

/// Why it is not read through the shell of its host.
fn no_shell(key: Option<&Account>, is_off: bool) -> Option<String> {
    match key {
        None => Some("the login has no key for a host's shell".to_owned()),
        Some(_) if !is_off => Some("the VM is read on its host only when it is off".to_owned()),
        Some(_) => None,
    }
}

/// Which privileges the account has; none where the server does not tell.
fn privileges(client: &Client, machine: &Machine) -> Result<Vec<Checked>> {
    match privileges::check(client, Some(&VmRef { moref: machine.moref.clone() }), Further::default()) {
        Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Source) => {
            tracing::info!(%error, "which privileges there are is not known");
            Ok(Vec::new())
        }
        asked => asked,
    }
}

/// What an account lacks to make a snapshot and to remove it again: one that can do only the first leaves it standing.
pub(super) fn lacks_for_snapshots(client: &Client, machine: &Machine) -> Result<Vec<String>> {
    Ok(lacking(&privileges(client, machine)?, Purpose::Snapshot))
}

fn lacking(privileges: &[Checked], purpose: Purpose) -> Vec<String> {
    let missing = privileges.iter().filter(|one| one.purpose == purpose && !one.granted);
    missing.map(|one| format!("{} on {}", one.privilege, one.on)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::transports::TRANSPORT_RULE;
    use crate::vsphere::devices::Layer;
    use crate::vsphere::machine::Snapshot;

    fn ways(asked: VsphereTransport) -> Ways {
        let mut ways = Ways {
            asked,
            known: Known { no_ssh: Some("no".to_owned()), ..Known::default() },
            all: Vec::new(),
        };
        ways.leave(&[]);
        ways
    }

    #[test]
    fn one_way_after_the_other_is_left_until_none_is() {
        let mut ways = ways(VsphereTransport::Auto);
        let error = Error::new(Kind::Source, "405").rule(TRANSPORT_RULE);
        for next in [VsphereTransport::Nfc, VsphereTransport::Vddk] {
            let left = ways.after(&error).unwrap();
            assert_eq!((left.transport, left.left.as_deref()), (ways.chosen(), Some("405")));
            ways.leave(&[left]);
            assert_eq!(ways.chosen(), next);
        }
        assert_eq!(ways.after(&error), None);
    }

    #[test]
    fn what_is_no_reason_leaves_none_and_neither_does_a_way_that_was_asked_for() {
        let network = Error::new(Kind::Network, "gone").rule(TRANSPORT_RULE);
        assert_eq!(ways(VsphereTransport::Auto).after(&network), None);
        let error = Error::new(Kind::Source, "405").rule(TRANSPORT_RULE);
        assert_eq!(ways(VsphereTransport::Https).after(&error), None);
    }

    #[test]
    fn files_are_all_of_a_disk_only_without_anything_below_it() {
        let disk =
            VmDisk { backing: BackingKind::Flat, label: "Hard disk 1".to_owned(), ..VmDisk::default() };
        let with = |disk: VmDisk| Machine { disks: vec![disk], power: Power::Off, ..Machine::default() };
        assert_eq!(not_flat(&with(disk.clone())), None);
        assert!(
            not_flat(&with(VmDisk { parent: Some(Box::new(Layer::default())), ..disk.clone() })).is_some()
        );
        assert!(not_flat(&with(VmDisk { backing: BackingKind::Sesparse, ..disk.clone() })).is_some());
        let snapshots = Machine { snapshots: vec![Snapshot::default()], ..with(disk.clone()) };
        assert!(not_flat(&snapshots).is_some());
        assert_eq!(not_exported(&with(disk.clone()), true), None);
        let lun = with(VmDisk { backing: BackingKind::Rdm, ..disk.clone() });
        assert!(not_flat(&lun).is_none() && not_exported(&lun, true).is_some());
        assert!(not_exported(&with(disk), false).is_some());
    }

    #[test]
    fn a_snapshot_of_our_own_is_no_reason_against_files() {
        let snapshots = Machine { snapshots: vec![Snapshot::default()], ..Machine::default() };
        let mut ways = ways(VsphereTransport::Auto);
        ways.are_of(&snapshots);
        assert_eq!(ways.chosen(), VsphereTransport::Nfc);
        ways.are_of(&Machine::default());
        assert_eq!(ways.chosen(), VsphereTransport::Https);
    }
}
