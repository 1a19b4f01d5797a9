//! Disks of a machine that is exported, as sources: each a stream that is read once.
//!
//! A machine that is off is exported as it is, one that runs as a snapshot has frozen it. All disks of a machine share one lease: there can be no
//! second one. It is begun when the first disk is read, and again where it was lost. What is not here: making snapshots.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::download::Download;
use super::lease::Lease;
use crate::disk::{Control, Reader, Remote, Sender, Sent, Streamed};
use crate::model::error::{Error, Kind, Result};
use crate::vsphere::client::Client;
use crate::vsphere::devices::VmDisk;
use crate::vsphere::inventory::{Power, VmRef};
use crate::vsphere::machine::{Machine, machine};

/// A machine that can be exported.
#[derive(Debug)]
pub struct Export {
    client: Client,
    machine: Machine,
    /// As of which it is exported; none: as it is.
    snapshot: Option<String>,
    lease: Mutex<Weak<Lease>>,
}

impl Export {
    /// Of a machine that is off. Refuses what no server exports, with what to do.
    pub fn of(client: &Client, machine: &Machine) -> Result<Export> {
        Export::as_of(client, machine, None)
    }

    /// The same of one that may run, as it was when this snapshot was made.
    pub(crate) fn as_of(client: &Client, machine: &Machine, snapshot: Option<&str>) -> Result<Export> {
        let refused = |why: &str, advice: &str| {
            let why = format!("{} {why}", machine.name);
            Err(Error::new(Kind::Source, why).advice(advice).source(machine.path.clone()))
        };
        match machine.power {
            Power::Off => {}
            _ if snapshot.is_some() => {}
            Power::Suspended => {
                return refused("is suspended", "start it and shut it down from within, then export it");
            }
            _ => {
                return refused(
                    "is running",
                    "shut it down from within first: what a running machine writes would be torn",
                );
            }
        }
        if machine.encrypted || machine.disks.iter().any(|disk| disk.encrypted) {
            return refused("is encrypted", "decrypt it first: an encrypted machine is not exported");
        }
        if machine.consolidation_needed {
            return refused(
                "needs its disks consolidated",
                "consolidate them in vSphere first (Snapshots → Consolidate)",
            );
        }
        if machine.disks.is_empty() {
            return refused("has no disks", "see whether it is the machine that is meant");
        }
        Ok(Export {
            client: client.clone(),
            machine: machine.clone(),
            snapshot: snapshot.map(str::to_owned),
            lease: Mutex::default(),
        })
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// One of its disks as a source.
    pub(crate) fn disk(self: &Arc<Export>, disk: &VmDisk) -> Arc<dyn Remote> {
        Arc::new(ExportedDisk { export: Arc::clone(self), disk: disk.clone() })
    }

    /// The lease that there is; else a new one.
    pub(crate) fn lease(&self, control: &Control) -> Result<Arc<Lease>> {
        let mut known = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = known.upgrade() {
            let Some(lost) = lease.lost() else { return Ok(lease) };
            tracing::warn!(machine = self.machine.name, error = %lost, "the export is begun anew");
        }
        let lease = Arc::new(Lease::begin(&self.client, &self.machine, self.snapshot.as_deref(), control)?);
        *known = Arc::downgrade(&lease);
        Ok(lease)
    }
}

/// What is the same as long as a disk and its content are.
pub(crate) fn identity(machine: &Machine, disk: &VmDisk) -> String {
    let known = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        machine.instance_uuid.as_ref().or(machine.uuid.as_ref()).unwrap_or(&machine.moref).clone(),
        disk.key.to_string(),
        disk.path.clone(),
        known(&disk.uuid),
        known(&disk.content_id),
        known(&disk.change_id),
        disk.capacity_bytes.to_string(),
    ]
    .join("|")
}

/// The same of a disk as a snapshot holds it: what is written to it since makes it no other one.
pub(crate) fn identity_as_of(machine: &Machine, disk: &VmDisk, snapshot: Option<&str>) -> String {
    let Some(snapshot) = snapshot else { return identity(machine, disk) };
    let then = VmDisk { content_id: None, change_id: None, ..disk.clone() };
    format!("{}|as of {snapshot}", identity(machine, &then))
}

/// Asks the server whether a disk of a machine that is off is still what it was.
pub(crate) fn check_unchanged(client: &Client, before: &Machine, disk: &VmDisk, name: &str) -> Result<()> {
    let now = machine(client, &VmRef { moref: before.moref.clone() })?;
    let same = now.disks.iter().find(|same| same.key == disk.key);
    let is_same =
        now.power == Power::Off && same.is_some_and(|same| identity(&now, same) == identity(before, disk));
    if is_same {
        return Ok(());
    }
    Err(Error::new(Kind::Source, format!("{name} changed while it was being read"))
        .rule("disk.changed")
        .source(name)
        .advice("make sure that the machine stays off and nobody changes its disks, then try again"))
}

#[derive(Debug, Clone)]
struct ExportedDisk {
    export: Arc<Export>,
    disk: VmDisk,
}

impl Sender for ExportedDisk {
    fn name(&self) -> String {
        Remote::name(self)
    }

    fn send(&self, control: &Control) -> Result<Box<dyn Sent>> {
        let lease = self.export.lease(control)?;
        let number = lease.device_of(&self.disk)?;
        Ok(Box::new(Download::begin(lease, number, control)?))
    }
}

impl Remote for ExportedDisk {
    fn name(&self) -> String {
        format!("{} of {} on {}", self.disk.label, self.export.machine.name, self.export.client.host())
    }

    fn size(&self) -> u64 {
        self.disk.capacity_bytes
    }

    fn identity(&self) -> String {
        identity_as_of(&self.export.machine, &self.disk, self.export.snapshot.as_deref())
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Streamed::new(Arc::new(self.clone()), self.disk.capacity_bytes, control)))
    }

    fn check_unchanged(&self, control: &Control) -> Result<()> {
        control.ended()?;
        if self.export.snapshot.is_some() {
            // What a snapshot holds does not change.
            return Ok(());
        }
        check_unchanged(&self.export.client, &self.export.machine, &self.disk, &Remote::name(self))
    }

    fn most_data(&self) -> Option<u64> {
        let size = self.disk.capacity_bytes;
        Some(self.export.machine.used_bytes.map_or(size, |used| used.min(size)))
    }
}
