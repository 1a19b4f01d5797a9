//! The machines of a libvirt: which there are, how they are, and what is known of one of them.
//!
//! One file for each thing that is done with them. What is not here: their snapshots and the jobs of their disks, which have files beside this folder.

mod define;
mod description;
mod devices;
mod kept;
mod names;
mod power;
mod put_back;
mod state;
mod statistics;
mod undefine;

use serde::Serialize;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

pub use define::{
    Collision, Definition, Overwrite, Settled, Shared, collisions, define, define_settled, settle,
};
pub use description::{Disk, Source};
pub use devices::{Changed, NewDisk, NewNic, NicSource, attach_disk, attach_nic, detach_disk, detach_nic};
pub use power::{Stopped, destroy, reboot, rename, resume, set_autostart, shutdown, start, state, suspend};
pub use put_back::{Replaced, put_back};
pub use state::{Stand, State};
pub use statistics::{DiskCounters, Memory, NicCounters, Statistics, statistics};
pub use undefine::{Undefine, undefine};

pub(in crate::libvirt) use description::{Description, child, parse};
pub(in crate::libvirt) use names::{checked, checked_path};
pub(in crate::libvirt) use power::start_paused;

use super::failure::told;
use super::foreign::statistics as counted;
use super::link::Link;
use crate::model::error::{Error, Kind, Result};
use crate::model::provenance::Provenance;

use std::path::PathBuf;

/// A machine as it is when it is started the next time.
pub(in crate::libvirt) const NEXT_START: u32 = sys::VIR_DOMAIN_XML_INACTIVE;

/// A machine in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// How it is.
    pub state: State,
}

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// How it is, and why.
    #[serde(flatten)]
    pub stand: Stand,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether it is still there when it is off.
    pub persistent: bool,
    /// What says that this program made it.
    pub provenance: Option<Provenance>,
    /// The addresses of its network cards.
    pub macs: Vec<String>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Where its firmware keeps its variables, if it does.
    pub nvram: Option<PathBuf>,
    /// Whether its memory was saved, to go on with at the next start.
    pub has_managed_save: bool,
    /// The names of its snapshots.
    pub snapshots: Vec<String>,
}

/// All machines, by name: one call for all of them.
pub fn list(link: &Link) -> Result<Vec<Listed>> {
    let failed = |error| told("cannot list the machines", &error);
    let mut listed: Vec<Listed> = match counted::of_all(link.raw(), sys::VIR_DOMAIN_STATS_STATE) {
        Ok(records) => records.into_iter().map(Listed::from).collect(),
        // Not every driver counts; each machine is asked then.
        Err(error) if error.code() == ErrorNumber::NoSupport => {
            let domains = link.raw().list_all_domains(0).map_err(failed)?;
            domains
                .iter()
                .filter_map(|domain| there(listed(domain)))
                .collect::<Result<_, _>>()
                .map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listed)
}

impl From<counted::Record> for Listed {
    fn from(record: counted::Record) -> Listed {
        let state = record.number("state.state").and_then(|number| u32::try_from(number).ok());
        let state = State::from_number(state.unwrap_or(sys::VIR_DOMAIN_NOSTATE));
        Listed { name: record.name, uuid: record.uuid, state }
    }
}

fn listed(domain: &Domain) -> Result<Listed, virt::error::Error> {
    let (state, _) = domain.get_state()?;
    Ok(Listed { name: domain.get_name()?, uuid: domain.get_uuid_string()?, state: State::from_number(state) })
}

/// What was told of a machine, unless it has gone since it was listed.
fn there<T>(told: Result<T, virt::error::Error>) -> Option<Result<T, virt::error::Error>> {
    match told {
        Err(error) if error.code() == ErrorNumber::NoDomain => None,
        told => Some(told),
    }
}

/// The machine of exactly this name.
pub fn find(link: &Link, name: &str) -> Result<Option<Found>> {
    let Some(domain) = look_up(link, name)? else { return Ok(None) };
    found(&domain, name)
}

/// The machine of this UUID.
pub fn find_by_uuid(link: &Link, uuid: &str) -> Result<Option<Found>> {
    let Some(domain) = look_up_uuid(link, uuid)? else { return Ok(None) };
    found(&domain, uuid)
}

/// All that is known of it; nothing where it went while it was asked about.
fn found(domain: &Domain, called: &str) -> Result<Option<Found>> {
    let ask = || -> Result<_, virt::error::Error> {
        // Not every driver has snapshots and saved memory.
        let snapshots = domain.list_all_snapshots(0).unwrap_or_default();
        let snapshots = snapshots.iter().map(|snapshot| snapshot.get_name()).collect::<Result<Vec<_>, _>>();
        Ok((
            domain.get_xml_desc(0)?,
            domain.get_name()?,
            domain.get_uuid_string()?,
            Stand::of(domain)?,
            domain.get_autostart().unwrap_or(false),
            domain.is_persistent()?,
            domain.has_managed_save(0).unwrap_or(false),
            snapshots?,
        ))
    };
    let (xml, name, uuid, stand, autostart, persistent, has_managed_save, snapshots) = match there(ask()) {
        None => return Ok(None),
        Some(asked) => asked.map_err(|error| told(&format!("cannot ask about {called}"), &error))?,
    };
    let Description { provenance, macs, disks, nvram, .. } = Description::read(&xml)?;
    Ok(Some(Found {
        name,
        uuid,
        stand,
        autostart,
        persistent,
        provenance,
        macs,
        disks,
        nvram,
        has_managed_save,
        snapshots,
    }))
}

/// The handle of the machine of exactly this name.
pub(in crate::libvirt) fn look_up(link: &Link, name: &str) -> Result<Option<Domain>> {
    looked_up(name, Domain::lookup_by_name(link.raw(), checked("a machine", name)?))
}

fn look_up_uuid(link: &Link, uuid: &str) -> Result<Option<Domain>> {
    looked_up(uuid, Domain::lookup_by_uuid_string(link.raw(), checked("a machine", uuid)?))
}

fn looked_up(called: &str, answer: Result<Domain, virt::error::Error>) -> Result<Option<Domain>> {
    match answer {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
        Err(error) => Err(told(&format!("cannot look up {called}"), &error)),
    }
}

/// The handle of a machine that has to be there.
pub(in crate::libvirt) fn known(link: &Link, name: &str) -> Result<Domain> {
    look_up(link, name)?.ok_or_else(|| absent(name))
}

/// There is no such machine.
pub(in crate::libvirt) fn absent(name: &str) -> Error {
    Error::new(Kind::Libvirt, format!("there is no machine {name}"))
        .advice("see which there are: `hyper2kvm libvirt list`")
}

/// Its definition as it is now, or as it is at the next start.
pub(in crate::libvirt) fn xml_of(domain: &Domain, name: &str, flags: u32) -> Result<String> {
    domain.get_xml_desc(flags).map_err(|error| told(&format!("cannot read the definition of {name}"), &error))
}

/// Whether it runs, is paused, or anything else but off.
pub(in crate::libvirt) fn is_active(domain: &Domain, name: &str) -> Result<bool> {
    domain.is_active().map_err(|error| told(&format!("cannot ask how {name} is"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    /// A link to the driver that needs no daemon, with machines of its own.
    fn link(directory: &tempfile::TempDir, machines: &str) -> Link {
        let node = directory.path().join("node.xml");
        std::fs::write(&node, format!("<node>{machines}</node>")).unwrap();
        Link::open(&format!("test://{}", node.display()), Access::Changes).unwrap()
    }

    const MACHINE: &str = "<memory>65536</memory><os><type>hvm</type></os></domain>";

    #[test]
    fn a_driver_that_does_not_count_is_asked_for_each_machine() {
        let dir = tempfile::tempdir().unwrap();
        let machine = |name: &str| format!("<domain type='test'><name>{name}</name>{MACHINE}");
        let link = link(&dir, &(machine("web 2") + &machine("db")));
        let names = || -> Vec<(String, State)> {
            list(&link).unwrap().into_iter().map(|listed| (listed.name, listed.state)).collect()
        };
        // This driver starts what it is given.
        assert_eq!(names(), [("db".to_owned(), State::Running), ("web 2".to_owned(), State::Running)]);
        assert!(destroy(&link, "db").unwrap());
        assert_eq!(names()[0], ("db".to_owned(), State::Off));
        let found = find(&link, "web 2").unwrap().unwrap();
        assert_eq!(find_by_uuid(&link, &found.uuid).unwrap(), Some(found));
        assert_eq!(find(&link, "web").unwrap(), None);
        for name in ["", "a\0b", "a/b"] {
            assert_eq!(find(&link, name).unwrap_err().kind(), Kind::Manifest);
        }
    }

    #[test]
    fn a_machine_goes_through_its_life_without_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let link = link(&dir, "");
        let xml = format!("<domain type='test'><name>it's \"quoted\"</name>{MACHINE}");
        let name = "it's \"quoted\"";
        let made = define(&link, &xml, &Overwrite::Refuse).unwrap();
        assert_eq!(define(&link, &xml, &Overwrite::Refuse).unwrap_err().kind(), Kind::Exists);
        start(&link, name).unwrap();
        suspend(&link, name).unwrap();
        resume(&link, name).unwrap();
        set_autostart(&link, name, true).unwrap();
        let found = find(&link, name).unwrap().unwrap();
        assert_eq!((found.uuid, found.autostart, found.stand.state), (made.uuid, true, State::Running));
        let refused = undefine(&link, name, &Undefine::default()).unwrap_err();
        assert!(refused.to_string().contains("not off"), "{refused}");
        assert!(undefine(&link, name, &Undefine { destroy: true, ..Undefine::default() }).unwrap());
        assert_eq!(list(&link).unwrap(), []);
    }
}
