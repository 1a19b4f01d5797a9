//! The VM at its vCenter: whether its disks hold still, and are all of it.
//!
//! What is not here: its disks one by one, which those say who open them.

use super::{Scene, Validator};
use crate::model::error::{Error, Kind};
use crate::model::manifest::{VsphereMode, VsphereTransport};
use crate::model::validation::Findings;
use crate::vsphere::inventory::Power;
use crate::vsphere::machine::Machine;

pub(super) struct Source;

impl Validator for Source {
    fn name(&self) -> &'static str {
        "source"
    }

    fn applies(&self, scene: &Scene<'_>) -> bool {
        scene.plan.remote.is_some()
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        let Some(remote) = &scene.plan.remote else { return };
        let look = Look {
            is_exported: scene.transport.is_some_and(VsphereTransport::reads_through_snapshots),
            is_shut_down: remote.shutdown.is_some(),
            runs_on: remote.mode != VsphereMode::Cold,
        };
        if let Some(machine) = scene.machine {
            look_at(machine, look, findings);
        }
    }
}

/// How a VM is come by.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    /// Whoever reads it reads through its snapshots.
    is_exported: bool,
    /// One that runs is shut down as the last thing before its first byte is read.
    is_shut_down: bool,
    /// One that runs is read as of a snapshot of ours.
    runs_on: bool,
}

fn look_at(machine: &Machine, look: Look, findings: &mut Findings) {
    let Look { is_exported, is_shut_down, runs_on } = look;
    let about = Some(machine.path.as_str());
    let mut found = |rule: &str, cause: String, advice: &str| {
        findings.error(rule, about, Error::new(Kind::Source, cause).rule(rule).advice(advice));
    };
    match machine.power {
        Power::Off => {}
        Power::On if runs_on => {
            if let Some(disk) = machine.disks.iter().find(|disk| disk.independent) {
                found(
                    "source.running",
                    format!("snapshots leave out `{}`, which the VM writes to", disk.label),
                    "make it a dependent disk in vSphere, or shut the VM down and say `mode: cold`",
                );
            }
        }
        // That is the last thing before its first byte is read.
        Power::On if is_shut_down => {}
        Power::Suspended => found(
            "source.running",
            "the VM is suspended: what it had in memory would be lost, and its file systems are open"
                .to_owned(),
            "wake it and shut it down, then `hyper2kvm retry`",
        ),
        power @ (Power::On | Power::Unknown) => found(
            "source.running",
            format!("the VM is to be off, and its power is {}", power.name()),
            "shut it down, then `hyper2kvm retry`; `mode: clone` copies it while it runs",
        ),
    }
    if !is_exported && !machine.snapshots.is_empty() {
        found(
            "source.snapshots",
            format!("the VM has snapshots, the first is `{}`", machine.snapshots[0].name),
            "delete them (that keeps the newest state; those that hyper2kvm left: `hyper2kvm vsphere snapshot remove --orphans`), or have the VM exported as it is now (`transport: nfc`)",
        );
    } else if let Some(disk) = machine.disks.iter().find(|disk| !is_exported && disk.parent.is_some()) {
        found(
            "source.snapshots",
            format!("`{}` lies on the disk of another VM: it is a linked clone", disk.label),
            "clone it in full in vSphere and convert that, or have it exported (`transport: nfc`)",
        );
    }
    if machine.consolidation_needed {
        found(
            "source.consolidation",
            "files of snapshots are left that no snapshot has any more".to_owned(),
            "consolidate its disks in vSphere, then `hyper2kvm retry`",
        );
    }
    if machine.encrypted || machine.disks.iter().any(|disk| disk.encrypted) {
        found(
            "source.encrypted",
            "vSphere encrypts the VM: what lies on its datastore cannot be read".to_owned(),
            "decrypt it in vSphere (its storage policy), then `hyper2kvm retry`",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::validation::Weights;
    use crate::vsphere::devices::VmDisk;
    use crate::vsphere::machine::Snapshot;

    fn broken(machine: &Machine) -> Vec<String> {
        broken_by(machine, false)
    }

    fn broken_by(machine: &Machine, is_exported: bool) -> Vec<String> {
        let mut findings = Findings::new(Weights::new());
        look_at(machine, Look { is_exported, ..Look::default() }, &mut findings);
        findings.found().iter().map(|raised| raised.finding.rule.clone()).collect()
    }

    #[test]
    fn a_vm_that_is_off_and_alone_breaks_no_rule() {
        assert!(broken(&Machine { power: Power::Off, ..Machine::default() }).is_empty());
    }

    #[test]
    fn a_vm_that_runs_on_may_be_copied_if_a_snapshot_holds_all_of_it() {
        let rules = |machine: &Machine| {
            let mut findings = Findings::new(Weights::new());
            look_at(machine, Look { runs_on: true, ..Look::default() }, &mut findings);
            findings.found().iter().map(|raised| raised.finding.rule.clone()).collect::<Vec<String>>()
        };
        let mut machine = Machine { power: Power::On, disks: vec![VmDisk::default()], ..Machine::default() };
        assert!(rules(&machine).is_empty());
        machine.disks[0].independent = true;
        assert_eq!(rules(&machine), ["source.running"]);
        machine.power = Power::Suspended;
        assert_eq!(rules(&machine), ["source.running"]);
    }

    #[test]
    fn all_that_is_wrong_with_a_vm_is_told_together() {
        let machine = Machine {
            power: Power::On,
            snapshots: vec![Snapshot::default()],
            consolidation_needed: true,
            encrypted: true,
            ..Machine::default()
        };
        assert_eq!(
            broken(&machine),
            ["source.running", "source.snapshots", "source.consolidation", "source.encrypted"]
        );
        // What exports it reads through snapshots.
        assert_eq!(broken_by(&machine, true), ["source.running", "source.consolidation", "source.encrypted"]);
        for (power, is_broken) in [(Power::On, false), (Power::Suspended, true), (Power::Unknown, true)] {
            let mut findings = Findings::new(Weights::new());
            let look = Look { is_shut_down: true, ..Look::default() };
            look_at(&Machine { power, ..Machine::default() }, look, &mut findings);
            assert_eq!(!findings.found().is_empty(), is_broken, "to be shut down: {power:?}");
        }
        for power in [Power::Suspended, Power::Unknown] {
            assert_eq!(broken(&Machine { power, ..Machine::default() }), ["source.running"]);
        }
    }
}
