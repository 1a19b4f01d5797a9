//! A machine that gives way to another is taken away, and put back as it was from what was kept of it.
//!
//! Putting back may be cut and done again: each part is looked for first. What is not here: whether a machine may give way.

use std::io;
use std::path::Path;

use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::sys;

use super::define::plain_uuid;
use super::kept::Kept;
use super::{Description, child, is_active, look_up, parse};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::atomic_create;

/// What was kept of a machine, as far as whoever takes back another has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its UUID.
    pub uuid: String,
    /// The names of its snapshots.
    pub snapshots: Vec<String>,
}

impl Replaced {
    /// Of what is kept there.
    pub fn read(place: &Path) -> Result<Replaced> {
        let kept = Kept::read(place)?;
        let uuid = Description::read(&kept.xml)?.uuid.unwrap_or_default();
        let named = |xml: &String| -> Result<Option<String>> {
            let document = parse(xml)?;
            let name = child(document.root_element(), "name").and_then(|node| node.text());
            Ok(name.map(str::to_owned))
        };
        let names = kept.snapshots.iter().filter_map(|xml| named(xml).transpose());
        Ok(Replaced { uuid, snapshots: names.collect::<Result<_>>()? })
    }
}

/// Puts back what is kept there, and says whether it is there now; not if another machine has its name. `anew`: also over the machine itself, which
/// was defined otherwise since.
pub fn put_back(link: &Link, place: &Path, anew: bool) -> Result<bool> {
    let kept = Kept::read(place)?;
    let wanted = Description::read(&kept.xml)?.uuid.as_deref().map(plain_uuid);
    let Some(there) = look_up(link, &kept.name)? else { return bring_back(link, &kept).map(|()| true) };
    let uuid = there.get_uuid_string();
    let uuid = uuid.map_err(|error| told(&format!("cannot ask about {}", kept.name), &error))?;
    if wanted != Some(plain_uuid(&uuid)) {
        return Ok(false);
    }
    match anew && !is_active(&there, &kept.name)? {
        true => bring_back(link, &kept)?,
        false => complete(&there, &kept)?,
    }
    Ok(true)
}

/// Takes a machine away of which all is kept.
pub(super) fn take_away(old: &Domain, name: &str) -> Result<()> {
    // Its variables are kept and must not become those of the new machine. Its TPM belongs to its UUID and stays where it is.
    let mut flags = sys::VIR_DOMAIN_UNDEFINE_NVRAM | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
    flags |= sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    old.undefine_flags(flags).map_err(|error| told(&format!("cannot take away the old {name}"), &error))
}

/// Defines a machine as it was.
pub(super) fn bring_back(link: &Link, kept: &Kept) -> Result<()> {
    if let Some((path, bytes)) = &kept.nvram {
        match atomic_create(path, bytes, 0o600) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(
                    Kind::Output,
                    "put back the variables of the firmware in",
                    path,
                    &error,
                )
                .advice("let this user write there (root may), or define that machine by hand"));
            }
            _ => {}
        }
    }
    let failed = |error| told(&format!("cannot define {} again", kept.name), &error);
    let domain = Domain::define_xml_flags(link.raw(), &kept.xml, 0).map_err(failed)?;
    complete(&domain, kept)
}

/// What a definition does not say: snapshots, parents first, and whether it starts with the host.
fn complete(domain: &Domain, kept: &Kept) -> Result<()> {
    let failed = |error| told(&format!("cannot define the snapshots of {} again", kept.name), &error);
    // A driver that has no snapshots has kept none.
    let there = domain.list_all_snapshots(0).unwrap_or_default();
    if there.len() < kept.snapshots.len() {
        for xml in &kept.snapshots {
            let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE;
            DomainSnapshot::create_xml(domain, xml, flags).map_err(failed)?;
        }
    }
    let set = domain.set_autostart(kept.autostart);
    // A driver that starts nothing with the host has nothing to be set.
    set.or_else(|error| if kept.autostart { Err(error) } else { Ok(false) })
        .map(drop)
        .map_err(|error| told(&format!("cannot set the autostart of {}", kept.name), &error))
}
