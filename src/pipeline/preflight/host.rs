//! This host: what the work needs of it, and what the machine will need if it is to run here.

use super::{Scene, Validator};
use crate::guest::{GuestfsPresence, virt_v2v};
use crate::model::error::{Error, Kind, Result};
use crate::model::job::Stage;
use crate::model::machine::Machine;
use crate::model::manifest::FixEngine;
use crate::model::plan::Plan;
use crate::model::units::human_size;
use crate::model::validation::{Findings, Severity};
use crate::pipeline::boot_test;
use crate::sys::host;

pub(super) struct Host;

impl Validator for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn applies(&self, _: &Scene<'_>) -> bool {
        true
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        if let Some(error) = scene.no_engine {
            findings.error("host.qemu_img", None, error.clone());
        }
        let plan = scene.plan;
        if plan.opens_guest() {
            look_at_guest_tools(plan, findings);
        }
        let machine = plan.machine.as_ref();
        if let Some(machine) = machine {
            look_at_firmware(plan, machine, scene.looks_at_metadata(), findings);
        }
        if !scene.looks_at_metadata() {
            return;
        }
        if plan.runs(Stage::BootTest) || plan.opens_guest() {
            let probe = (scene.kvm)();
            if !probe.works {
                findings.add(
                    "host.kvm",
                    None,
                    Error::new(Kind::Unsupported, format!("guests are emulated: {}", probe.detail)).advice(
                        "the result is the same, and takes longer; `hyper2kvm doctor` says what mends it",
                    ),
                );
            }
        }
        if let Some(machine) = machine.filter(|_| plan.output.domain) {
            look_at_size(machine, host::memory_bytes(), host::processors(), findings);
        }
    }
}

fn look_at_guest_tools(plan: &Plan, findings: &mut Findings) {
    if let Err(error) = libguestfs() {
        findings.add("host.libguestfs", None, error);
    }
    if plan.runs(Stage::Fix)
        && plan.guest.fix.engine == FixEngine::VirtV2v
        && let Err(error) = virt_v2v::check_host()
    {
        findings.add("host.virt_v2v", None, error);
    }
}

fn libguestfs() -> Result<()> {
    let why = match crate::guest::presence() {
        GuestfsPresence::Found { .. } => return Ok(()),
        GuestfsPresence::NotBuilt => "this build of hyper2kvm has no support for it".to_owned(),
        GuestfsPresence::Missing { why } | GuestfsPresence::Broken { why } => why,
    };
    Err(Error::new(Kind::Unsupported, format!("guests cannot be opened without libguestfs: {why}"))
        .advice("install it (`apt-get install libguestfs0 libguestfs-tools`, `dnf install libguestfs`), or convert bytes only: `profile: none`, `convert --no-fix`"))
}

/// What a boot test needs it cannot do without; the machine itself may well be meant for another host.
fn look_at_firmware(plan: &Plan, machine: &Machine, all: bool, findings: &mut Findings) {
    let is_tried = plan.runs(Stage::BootTest);
    let is_wanted = all && plan.output.domain;
    if !is_tried && !is_wanted {
        return;
    }
    for error in boot_test::objections(machine, is_tried.then_some(&plan.boot_test)) {
        let rule = error.details().rule.clone().unwrap_or_else(|| "host.qemu_system".to_owned());
        match is_tried {
            true => findings.add(&rule, None, error),
            false => findings.at(Severity::Warning, &rule, None, error),
        }
    }
}

fn look_at_size(machine: &Machine, memory_bytes: u64, processors: usize, findings: &mut Findings) {
    let wanted = machine.memory_mib.saturating_mul(1 << 20);
    let smaller = "give it less (`vm.mem_mb`, `vm.cpu`), or run it on a larger host";
    if wanted > memory_bytes {
        let (wanted, here) = (human_size(wanted), human_size(memory_bytes));
        let error = Error::new(
            Kind::Unsupported,
            format!("the machine has {wanted} of memory, and this host {here}"),
        );
        findings.add("host.memory", None, error.advice(smaller));
    }
    if machine.vcpus as usize > processors {
        let error = Error::new(
            Kind::Unsupported,
            format!("the machine has {} processors, and this host {processors}", machine.vcpus),
        );
        findings.add("host.cpus", None, error.advice(smaller));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::validation::Weights;

    #[test]
    fn a_machine_that_is_larger_than_the_host_is_told() {
        let machine = Machine { vcpus: 4, memory_mib: 4096, ..Machine::new("web") };
        let rules = |memory: u64, processors| {
            let mut findings = Findings::new(Weights::new());
            look_at_size(&machine, memory, processors, &mut findings);
            findings.told().map(|finding| finding.rule.clone()).collect::<Vec<_>>()
        };
        assert_eq!(rules(4 << 30, 4), [""; 0]);
        assert_eq!(rules((4 << 30) - 1, 4), ["host.memory"]);
        assert_eq!(rules(4 << 30, 3), ["host.cpus"]);
    }
}
