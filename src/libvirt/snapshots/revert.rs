//! Going back to a snapshot.
//!
//! libvirt does so by itself for those inside the disks. For those outside this is done here, as its newer versions do: the machine gets the
//! definition that it had, and a new file on top of each disk's, so that what the snapshot keeps stays and can be gone back to again.
//! What was written since stays in its files, and those are named.

use std::path::PathBuf;

use serde::Serialize;
use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::Error as Told;
use virt::sys;

use super::choice::{self, Overlay};
use super::reading::Read;
use super::{Place, absent, external, look_up};
use crate::libvirt::domains::{Description, NEXT_START, is_active, known, xml_of};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};
use crate::sys::time::{now_epoch, rfc3339_utc};

/// What came of going back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reverted {
    /// Where the snapshot keeps the disks.
    pub place: Place,
    /// For one outside the disks: what became of each of them.
    pub disks: Vec<RevertedDisk>,
}

/// A disk that went back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevertedDisk {
    /// What it is called in there: `vda`.
    pub target: String,
    /// The file that is written from now on.
    pub now: PathBuf,
    /// The file with what was written since the snapshot; nothing of the machine names it any more, unless another snapshot does.
    pub left: Option<PathBuf>,
}

/// Goes back to it. What a running machine holds is lost with that: it is refused unless `force` allows it.
pub fn revert(link: &Link, domain: &str, name: &str, force: bool) -> Result<Reverted> {
    let handle = known(link, domain)?;
    let snapshot = look_up(&handle, domain, name)?.ok_or_else(|| absent(domain, name))?;
    let read = Read::of(&snapshot, domain)?;
    let refuse = |why: &str, advice: &str| {
        Err(Error::new(Kind::Libvirt, format!("cannot go back to {name} of {domain}: {why}")).advice(advice))
    };
    let is_running = is_active(&handle, domain)?;
    match read.snapshot.place {
        Place::Internal if is_running && !force => refuse(
            "it is not off, and what it holds would be lost",
            "stop it first, or allow that: `--force`",
        ),
        Place::Internal => {
            let flags = if force { sys::VIR_DOMAIN_SNAPSHOT_REVERT_FORCE } else { 0 };
            let reverted = snapshot.revert(flags);
            reverted.map_err(|error| told(&format!("cannot go back to {name} of {domain}"), &error))?;
            Ok(Reverted { place: Place::Internal, disks: Vec::new() })
        }
        Place::External if is_running => refuse("it is not off", "stop it first: `hyper2kvm libvirt stop`"),
        Place::External if handle.has_managed_save(0).unwrap_or(false) => refuse(
            "its memory was saved and fits its disks as they are now",
            "start it and shut it down first",
        ),
        Place::External => by_hand(link, &handle, domain, &snapshot, &read),
    }
}

fn by_hand(
    link: &Link,
    handle: &Domain,
    domain: &str,
    snapshot: &DomainSnapshot,
    read: &Read,
) -> Result<Reverted> {
    let name = &read.snapshot.name;
    let unknown = |target: &str| {
        Error::new(
            Kind::Unsupported,
            format!(
                "cannot go back to {name} of {domain}: it does not say in which file disk {target} stood"
            ),
        )
        .advice("attach the file by hand: `hyper2kvm libvirt detach-disk` and `attach-disk`")
    };
    let definition = read.definition.as_ref().ok_or_else(|| unknown("of it"))?;
    for disk in &read.snapshot.disks {
        read.bases.get(&disk.target).ok_or_else(|| unknown(&disk.target))?;
    }
    let before = xml_of(handle, domain, NEXT_START | sys::VIR_DOMAIN_XML_SECURE)?;
    let now = Description::read(&before)?;
    let then = Description::read(definition)?;
    let overlays = new_files(link, domain, &then, read)?;
    let failed = |error: &Told| told(&format!("cannot go back to {name} of {domain}"), error);
    Domain::define_xml_flags(link.raw(), definition, 0).map_err(|error| failed(&error))?;
    if let Err(error) = put_on_top(handle, &then, &overlays) {
        let failure = failed(&error);
        return Err(match Domain::define_xml_flags(link.raw(), &before, 0) {
            Ok(_) => failure,
            Err(error) => failure.and_also(&[error.message()]),
        });
    }
    // The next snapshot has this one before it.
    let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | sys::VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT;
    let redefined = snapshot.get_xml_desc(sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE);
    redefined
        .and_then(|xml| DomainSnapshot::create_xml(handle, &xml, flags))
        .map_err(|error| failed(&error))?;
    let disks = overlays.into_iter().map(|Overlay { target, path }| {
        let left = now.disk(&target).and_then(|disk| disk.path()).cloned();
        let left = left.filter(|left| read.bases.get(&target) != Some(left));
        RevertedDisk { target, now: path, left }
    });
    Ok(Reverted { place: Place::External, disks: disks.collect() })
}

/// Files that nobody has made yet, since their names hold the time.
fn new_files(link: &Link, domain: &str, then: &Description, read: &Read) -> Result<Vec<Overlay>> {
    let time: String = rfc3339_utc(now_epoch()).chars().filter(char::is_ascii_alphanumeric).collect();
    let ending = format!("{}.{time}", read.snapshot.name);
    // Beside the file that the snapshot has made, which may be in another directory than the disk.
    let directory = read.snapshot.disks.iter().find_map(|disk| disk.overlay.as_ref()?.parent());
    let mut overlays = choice::overlays(link, domain, then, directory, &ending)?;
    overlays.retain(|overlay| read.bases.contains_key(&overlay.target));
    Ok(overlays)
}

/// Has libvirt make the new files. It remembers no snapshot of that.
fn put_on_top(handle: &Domain, then: &Description, overlays: &[Overlay]) -> Result<(), Told> {
    let disks = then.disks.iter().map(|disk| {
        let element = Element::new("disk").with("name", &disk.target);
        match overlays.iter().find(|overlay| overlay.target == disk.target) {
            Some(overlay) => external(element, overlay),
            None => element.with("snapshot", "no"),
        }
    });
    let xml = Element::new("domainsnapshot").child(Element::new("disks").children(disks)).to_string();
    let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
    DomainSnapshot::create_xml(handle, &xml, flags).map(drop)
}
