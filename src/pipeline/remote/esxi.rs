//! A VM on a host whose shell alone is asked: its VMX, or one disk by its descriptor, and what stands in them.
//!
//! Each disk is opened when the VM is asked for, because only its descriptors tell how large it is. What is not here: files of hosts
//! ([`ssh`]), and what a VMX means ([`source`]).

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Control, Remote};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::{Controller, Facts, FoundDisk};
use crate::model::plan::SourceFormat;
use crate::model::units::own_id;
use crate::source;
use crate::vsphere::folder::DatastorePath;
use crate::vsphere::inventory::Power;
use crate::vsphere::machine::Machine;
use crate::vsphere::ssh;

/// What names a machine; anything else names a disk.
const VMX: &str = ".vmx";

/// A VM that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) machine: Machine,
    pub(super) facts: Facts,
    /// Its disks by where they lie.
    pub(super) disks: Vec<(PathBuf, Arc<dyn Remote>)>,
}

/// Reads what a path on a host names.
pub(super) fn find(host: &ssh::Host, path: &str, control: &Control) -> Result<Found> {
    let place = ssh::place(path)?;
    let (mut facts, power) = match path.to_ascii_lowercase().ends_with(VMX) {
        true => machine(host, &place, control)?,
        false => (alone(&place), Power::Off),
    };
    let stem = stem(&place);
    if facts.name.is_empty() {
        stem.clone_into(&mut facts.name);
    }
    let mut disks: Vec<(PathBuf, Arc<dyn Remote>)> = Vec::with_capacity(facts.disks.len());
    for disk in &mut facts.disks {
        let place = named(&place, &disk.path.to_string_lossy())?;
        let opened = host.open(&place, control)?;
        disk.path = PathBuf::from(ssh::on_host(&place));
        disk.capacity_bytes = Some(opened.size());
        if disks.iter().any(|(path, _)| *path == disk.path) {
            return Err(Error::new(Kind::Source, format!("two disks of {path} are {place}"))
                .advice("see what its VMX says of its disks"));
        }
        disks.push((disk.path.clone(), opened));
    }
    let machine = Machine {
        name: facts.plain_name(),
        path: path.to_owned(),
        moref: path.to_owned(),
        power,
        ..Machine::default()
    };
    Ok(Found { machine, facts, disks })
}

fn machine(host: &ssh::Host, place: &DatastorePath, control: &Control) -> Result<(Facts, Power)> {
    let text = host.text(place, source::VMX_BYTES, control)?;
    let described = source::described_by_vmx(&text).map_err(|error| error.source(ssh::on_host(place)))?;
    let power = if described.is_suspended { Power::Suspended } else { Power::Off };
    Ok((described.facts, power))
}

/// A disk of which nothing else is known.
fn alone(place: &DatastorePath) -> Facts {
    let disk = FoundDisk {
        id: own_id(&place.path, &mut Default::default()),
        path: PathBuf::from(ssh::on_host(place)),
        member: None,
        packing: None,
        format: SourceFormat::Vmdk,
        capacity_bytes: None,
        checksum: None,
        piece_checksums: Vec::new(),
        is_chain: false,
        allowed_paths: Vec::new(),
        controller: Controller::default(),
        bus: 0,
        unit: 0,
    };
    Facts { disks: vec![disk], ..Facts::default() }
}

/// A disk as a VMX names it: beside itself, or anywhere on the host's datastores.
fn named(vmx: &DatastorePath, file: &str) -> Result<DatastorePath> {
    if file.starts_with('/') { ssh::place(file) } else { vmx.beside(file) }
}

fn stem(place: &DatastorePath) -> &str {
    let file = place.path.rsplit('/').next().unwrap_or_default();
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}
