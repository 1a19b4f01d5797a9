//! The pre-flight: what can be known of a VM before its bytes move, looked at by one validator for each group of rules.
//!
//! ```text
//!   plan ─ sources opened ─▶ Scene ─▶ manifest ▸ host ▸ target ▸ source ▸ disk ▸ network ▸ domain ▸ libvirt ▸ custom ─▶ Findings ─▶ failure, warnings, report
//!                                          guest: when it was looked at ─────────────────────────────────▲
//! ```
//!
//! A validator that finds something ends nothing: all have their say, and what fails is told together. The same validators run for `validate --deep`, for
//! `submit --check` and in every job. What is not here: the rules' names and how bad they are ([`crate::model::validation`]), and reading disks and guests.

mod custom;
mod disk;
mod domain;
mod guest;
mod host;
#[cfg_attr(not(feature = "libvirt"), path = "libvirt_absent.rs")]
mod libvirt;
mod manifest;
mod network;
mod rehearsal;
mod source;
mod target;

use std::sync::Arc;

pub(super) use disk::shrinks;
pub use guest::Seen;
pub(super) use guest::judge;
pub use rehearsal::{Look, rehearse};
pub(super) use target::{Fit, check_fit};

use super::hooks::Host;
use crate::disk::{Control, SourceDisk};
use crate::model::error::Error;
use crate::model::manifest::VsphereTransport;
use crate::model::plan::{Plan, PlannedDisk, Preflight};
use crate::model::protocol::WorkLimits;
use crate::model::validation::{Findings, Weights, together};
use crate::pipeline::directories::Directories;
use crate::sys::kvm::KvmProbe;
use crate::sys::process::Launcher;
use crate::vsphere::machine::Machine;

/// What is looked at.
pub(super) struct Scene<'a> {
    /// What is to be done.
    pub(super) plan: &'a Plan,
    /// What binds it on this host.
    pub(super) limits: &'a WorkLimits,
    /// How children are started.
    pub(super) launcher: &'a Launcher,
    /// Whoever looks may be told to stop.
    pub(super) control: &'a Control,
    /// The sources, in the plan's order, or why they cannot be opened; none where nothing could open them.
    pub(super) sources: &'a [Result<SourceDisk, Error>],
    /// The VM that they are of, if it is elsewhere and was found.
    pub(super) machine: Option<&'a Machine>,
    /// By which way its disks come.
    pub(super) transport: Option<VsphereTransport>,
    /// Why nothing could.
    pub(super) no_engine: Option<&'a Error>,
    /// Where the results go, if the VM's own directory is there.
    pub(super) results: Option<Directories<'a>>,
    /// Who runs what an administrator has written, if there is such.
    pub(super) programs: Option<Arc<Host>>,
    /// Tries whether guests run under KVM.
    pub(super) kvm: &'a dyn Fn() -> KvmProbe,
}

impl Scene<'_> {
    /// Disks of the plan with what they were opened as.
    fn disks(&self) -> impl Iterator<Item = (&PlannedDisk, &Result<SourceDisk, Error>)> {
        self.plan.disks.iter().zip(self.sources)
    }

    /// Whether more is asked for than what the work cannot do without.
    fn looks_at_metadata(&self) -> bool {
        self.plan.preflight != Preflight::Off
    }
}

/// One group of rules.
pub(super) trait Validator {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Whether there is anything for it to look at.
    fn applies(&self, scene: &Scene<'_>) -> bool;
    /// Looks.
    fn look(&self, scene: &Scene<'_>, findings: &mut Findings);
}

/// All of them, in the order in which they run. What is found in a guest comes when that was opened: see [`judge`].
const VALIDATORS: [&dyn Validator; 9] = [
    &manifest::Manifest,
    &host::Host,
    &target::Target,
    &source::Source,
    &disk::Disks,
    &network::Network,
    &domain::Domain,
    &libvirt::Libvirt,
    &custom::Custom,
];

/// How bad each rule is for a plan on this host.
pub(super) fn weights(plan: &Plan, limits: &WorkLimits) -> Weights {
    together(&limits.preflight.rules, &plan.rules)
}

/// Has all of them look.
pub(super) fn run(scene: &Scene<'_>, findings: &mut Findings) {
    run_all(&VALIDATORS, scene, findings);
}

/// What can be known before anything is done at the source: whether that is whole, and whether there is room for the result.
pub(super) fn before_acts(scene: &Scene<'_>, findings: &mut Findings) {
    run_all(&[&source::Source, &target::Target], scene, findings);
}

fn run_all(validators: &[&dyn Validator], scene: &Scene<'_>, findings: &mut Findings) {
    for validator in validators {
        if validator.applies(scene) {
            tracing::debug!(validator = validator.name(), "looks");
            validator.look(scene, findings);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
