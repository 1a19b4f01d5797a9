//! Snapshots of machines: made, listed, gone back to, and deleted.
//!
//! Inside the disks where that can work, and in files beside them where it cannot ([ADR 40](../../../docs/adr/0040-snapshots-and-machines-of-others.md)).
//! What is not here: which snapshots a migration makes, and when.

mod choice;
mod delete;
mod reading;
mod revert;

use std::path::PathBuf;

use serde::Serialize;
use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::ErrorNumber;
use virt::sys;

pub use delete::{Deleted, delete, forget};
pub use revert::{Reverted, RevertedDisk, revert};

use super::domains::{Description, checked, known, xml_of};
use super::failure::told;
use super::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use choice::{Overlay, Way};
use reading::Read;

/// A snapshot that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name.
    pub name: String,
    /// What people read of it.
    pub description: Option<String>,
    /// Where it keeps the disks.
    pub disks: Disks,
}

/// Where a snapshot keeps the disks of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Disks {
    /// In the disks themselves where that can work, else beside them.
    #[default]
    Auto,
    /// In the disks themselves.
    Internal,
    /// The disks stay as they are, and what is written goes into new files.
    External {
        /// Where those are made; beside each disk if nothing is said.
        directory: Option<PathBuf>,
    },
}

/// Where a snapshot has kept the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the disks themselves.
    Internal,
    /// In the files that the machine wrote until then.
    External,
}

impl Place {
    /// The name that is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Place::Internal => "internal",
            Place::External => "external",
        }
    }
}

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What people read of it.
    pub description: Option<String>,
    /// When it was made, epoch.
    pub created_at: u64,
    /// How the machine was, in libvirt's word: `shutoff`, `running`, `disk-snapshot`.
    pub state: String,
    /// Where it keeps the disks.
    pub place: Place,
    /// The one before it.
    pub parent: Option<String>,
    /// Whether the machine goes on from it.
    pub current: bool,
    /// The disks that it keeps.
    pub disks: Vec<KeptDisk>,
}

/// A disk that a snapshot keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptDisk {
    /// What it is called in there: `vda`.
    pub target: String,
    /// Where that went which was written since, if it did not go into the disk itself.
    pub overlay: Option<PathBuf>,
}

/// What came of making one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Created {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Why it keeps the disks where it does.
    pub why: String,
    /// Whether it was there already.
    pub existed: bool,
}

/// Makes one. The same one of the same disks is answered if it is there already.
pub fn create(link: &Link, domain: &str, new: &NewSnapshot) -> Result<Created> {
    checked_name(&new.name)?;
    let handle = known(link, domain)?;
    let described = Description::read(&xml_of(&handle, domain, 0)?)?;
    let external = DomainSnapshot::num(&handle, sys::VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL);
    let has_external = external.is_ok_and(|count| count > 0);
    if let Some(there) = look_up(&handle, domain, &new.name)? {
        return same(&there, new, &described);
    }
    let chosen = choice::choose(&described, has_external, &new.disks)?;
    let overlays = match &chosen.way {
        Way::Internal => Vec::new(),
        Way::External { directory } => {
            choice::overlays(link, domain, &described, directory.as_deref(), &new.name)?
        }
    };
    let flags = match chosen.way {
        Way::Internal => sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC,
        Way::External { .. } => {
            sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        }
    };
    let xml = snapshot_xml(new, &described, &chosen.way, &overlays).to_string();
    match DomainSnapshot::create_xml(&handle, &xml, flags) {
        Ok(made) => {
            let read = Read::of(&made, domain)?;
            Ok(Created { snapshot: read.snapshot, why: chosen.why, existed: false })
        }
        // Somebody else may have made it meanwhile.
        Err(error) => match look_up(&handle, domain, &new.name)? {
            Some(there) => same(&there, new, &described),
            None => Err(told(&format!("cannot make a snapshot {} of {domain}", new.name), &error)),
        },
    }
}

/// The snapshots of a machine, in the order in which they were made.
pub fn list(link: &Link, domain: &str) -> Result<Vec<Snapshot>> {
    let handle = known(link, domain)?;
    let mut snapshots = Vec::new();
    for snapshot in all(&handle, domain)? {
        snapshots.push(Read::of(&snapshot, domain)?.snapshot);
    }
    snapshots.sort_by(|one, other| (one.created_at, &one.name).cmp(&(other.created_at, &other.name)));
    Ok(snapshots)
}

fn all(handle: &Domain, domain: &str) -> Result<Vec<DomainSnapshot>> {
    handle
        .list_all_snapshots(0)
        .map_err(|error| told(&format!("cannot list the snapshots of {domain}"), &error))
}

fn look_up(handle: &Domain, domain: &str, name: &str) -> Result<Option<DomainSnapshot>> {
    match DomainSnapshot::lookup_by_name(handle, checked_name(name)?, 0) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if error.code() == ErrorNumber::NoDomainSnapshot => Ok(None),
        Err(error) => Err(told(&format!("cannot look up the snapshot {name} of {domain}"), &error)),
    }
}

/// libvirt keeps each in a file of that name, and takes none that are hidden.
fn checked_name(name: &str) -> Result<&str> {
    checked("a snapshot", name)?;
    match name.starts_with('.') {
        true => Err(Error::new(
            Kind::Manifest,
            format!("a snapshot cannot be called `{name}`: it begins with a dot"),
        )
        .advice("begin it with a letter")),
        false => Ok(name),
    }
}

fn absent(domain: &str, name: &str) -> Error {
    Error::new(Kind::Libvirt, format!("{domain} has no snapshot {name}"))
        .advice("see which it has: `hyper2kvm libvirt snapshot list`")
}

/// What is there, if it is what is wanted.
fn same(there: &DomainSnapshot, new: &NewSnapshot, described: &Description) -> Result<Created> {
    let snapshot = Read::of(there, &described.name)?.snapshot;
    let kept: Vec<&str> = snapshot.disks.iter().map(|disk| disk.target.as_str()).collect();
    let wanted = described.disks.iter().filter(|disk| disk.is_written()).map(|disk| disk.target.as_str());
    let is_placed = match new.disks {
        Disks::Auto => true,
        Disks::Internal => snapshot.place == Place::Internal,
        Disks::External { .. } => snapshot.place == Place::External,
    };
    if is_placed && wanted.eq(kept.iter().copied()) {
        let why = format!("{}, as it was made", snapshot.place.name());
        return Ok(Created { snapshot, why, existed: true });
    }
    let cause = format!(
        "{} has a snapshot {} already, {} and of {}",
        described.name,
        snapshot.name,
        snapshot.place.name(),
        if kept.is_empty() { "no disk".to_owned() } else { kept.join(", ") }
    );
    Err(Error::new(Kind::Exists, cause).advice("take another name, or delete the other one"))
}

fn snapshot_xml(new: &NewSnapshot, described: &Description, way: &Way, overlays: &[Overlay]) -> Element {
    let disks = described.disks.iter().map(|disk| {
        let element = Element::new("disk").with("name", &disk.target);
        let overlay = overlays.iter().find(|overlay| overlay.target == disk.target);
        match (way, overlay) {
            _ if !disk.is_written() => element.with("snapshot", "no"),
            (Way::Internal, _) => element.with("snapshot", "internal"),
            (Way::External { .. }, Some(overlay)) => external(element, overlay),
            (Way::External { .. }, None) => element.with("snapshot", "external"),
        }
    });
    Element::new("domainsnapshot")
        .child(Element::text("name", &new.name))
        .children(new.description.iter().map(|text| Element::text("description", text)))
        .child(Element::new("disks").children(disks))
}

/// The new file of a disk.
fn external(element: Element, overlay: &Overlay) -> Element {
    element
        .with("snapshot", "external")
        .with("type", "file")
        .child(Element::new("driver").with("type", "qcow2"))
        .child(Element::new("source").with("file", overlay.path.display()))
}
