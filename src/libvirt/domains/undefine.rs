//! Taking a machine away, with all that libvirt keeps of it and was asked to remove. Its disks stay.

use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::{Description, NEXT_START, checked, look_up, power, xml_of};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};

/// What goes with a machine. What does not go and would be lost keeps the machine from being taken away, or stays where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undefine {
    /// Its firmware's variables; they stay otherwise.
    pub nvram: bool,
    /// What its TPM keeps; it stays otherwise.
    pub tpm: bool,
    /// Its snapshots: internal ones leave the disks, too, of external ones the files stay.
    pub snapshots: bool,
    /// Its memory, if that was saved.
    pub managed_save: bool,
    /// A machine that runs is switched off; it is refused otherwise.
    pub destroy: bool,
    /// A machine that this program did not make is refused.
    pub only_ours: bool,
}

impl Undefine {
    /// Everything, of a machine that this program made.
    pub const ALL_OF_OURS: Undefine = Undefine {
        nvram: true,
        tpm: true,
        snapshots: true,
        managed_save: true,
        destroy: true,
        only_ours: true,
    };
}

/// Takes it away and says whether there was one.
pub fn undefine(link: &Link, name: &str, what: &Undefine) -> Result<bool> {
    let Some(domain) = look_up(link, checked("a machine", name)?)? else { return Ok(false) };
    match take_away(&domain, name, what) {
        // Somebody else has taken it away meanwhile.
        Err(_) if look_up(link, name)?.is_none() => Ok(true),
        done => done.map(|()| true),
    }
}

fn take_away(domain: &Domain, name: &str, what: &Undefine) -> Result<()> {
    let failed = |error| told(&format!("cannot undefine {name}"), &error);
    let refuse = |kind, why: &str, advice: &str| {
        Err(Error::new(kind, format!("cannot undefine {name}: {why}")).advice(advice))
    };
    if what.only_ours && Description::read(&xml_of(domain, name, NEXT_START)?)?.provenance.is_none() {
        return refuse(
            Kind::Output,
            "hyper2kvm did not make it",
            "undefine it by hand, or allow machines of others",
        );
    }
    if !what.managed_save && domain.has_managed_save(0).unwrap_or(false) {
        return refuse(
            Kind::Libvirt,
            "its memory was saved",
            "start it, or let that go as well: `--managed-save`",
        );
    }
    if !what.snapshots && !domain.list_all_snapshots(0).unwrap_or_default().is_empty() {
        return refuse(
            Kind::Libvirt,
            "it has snapshots",
            "delete them first, or let them go as well: `--snapshots`",
        );
    }
    if domain.is_active().map_err(failed)? {
        if !what.destroy {
            return refuse(
                Kind::Libvirt,
                "it is not off",
                "stop it first, or have it switched off: `--destroy`",
            );
        }
        power::switch_off(domain, name)?;
        // One that is not persistent is gone with that.
        if !domain.is_persistent().unwrap_or(false) {
            return Ok(());
        }
    }
    if what.snapshots {
        delete_internal_snapshots(domain);
    }
    let either = |wanted: bool, yes, no| if wanted { yes } else { no };
    let flags = either(what.nvram, sys::VIR_DOMAIN_UNDEFINE_NVRAM, sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
        | either(what.tpm, sys::VIR_DOMAIN_UNDEFINE_TPM, sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM)
        | either(what.managed_save, sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE, 0)
        | either(
            what.snapshots,
            sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA,
            0,
        );
    match domain.undefine_flags(flags) {
        // A libvirt before 8.9 knows nothing of TPMs here, other drivers of no firmware. What would be lost without that is refused.
        Err(error) if error.code() == ErrorNumber::InvalidArg => {
            let unknown = sys::VIR_DOMAIN_UNDEFINE_TPM
                | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM
                | sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
            domain.undefine_flags(flags & !unknown).map_err(failed)
        }
        done => done.map_err(failed),
    }
}

/// Out of the disks, as far as they are there: what cannot be deleted there goes with what libvirt knows of it.
fn delete_internal_snapshots(domain: &Domain) {
    let internal = sys::VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL;
    for snapshot in domain.list_all_snapshots(internal).unwrap_or_default() {
        let _ = snapshot.delete(0);
    }
}
