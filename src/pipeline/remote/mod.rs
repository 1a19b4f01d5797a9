//! A VM of a vCenter or an ESXi host, as a plan names it: asked for, found, and opened disk by disk.
//!
//! ```text
//!   plan ─ Access::read ─▶ (sandbox closes) ─ ask ─▶ Source ─▶ description ─▶ a plan with disks (the planner's)
//!                                                      └─────▶ open ─▶ disks that are read where they are
//! ```
//!
//! What is not here: the protocol (the room `vsphere`), and what a plan makes of a description.

pub(super) mod acts;
mod login;
mod moment;
pub(super) mod power;
pub(super) mod snapshots;

use std::sync::{Arc, OnceLock};

pub(super) use login::Access;
pub(super) use moment::{Changes, Moment};

use self::snapshots::Standing;
use crate::disk::{Control, SourceDisk};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::VsphereTransport;
use crate::model::plan::{Plan, PlannedDisk};
use crate::model::protocol::RemoteLimits;
use crate::model::remote::{CHANGED_RULE, Description, FoundVm, PlannedRemote, WantedVm};
use crate::vsphere::devices::{Layer, VmDisk};
use crate::vsphere::folder::AsOf;
use crate::vsphere::inventory::{self, Filters, Power, VmRef, Wanted};
use crate::vsphere::machine::{self, Machine};
use crate::vsphere::nfc::Export;
use crate::vsphere::{Client, Patience, facts, folder, snapshot};

/// A VM that was found.
#[derive(Debug)]
pub(super) struct Source {
    client: Client,
    /// All that is known of it there.
    pub(super) machine: Machine,
    /// The same, as it was before we did anything there.
    pub(super) untouched: Machine,
    /// The snapshot as of which it is read.
    as_of: Option<String>,
    facts: Facts,
    transport: VsphereTransport,
    /// What it is exported through, once one of its disks was opened so.
    export: OnceLock<Arc<Export>>,
}

/// Logs in and looks for the VM.
pub(super) fn ask(
    access: &Access,
    remote: &PlannedRemote,
    limits: &RemoteLimits,
    control: &Control,
) -> Result<Source> {
    let patience = Patience::of(&limits.connection);
    let client = Client::connect(&access.endpoint, &access.login, &patience, control)?;
    let machine = find(&client, remote)?;
    Ok(Source {
        facts: facts::facts(&machine),
        client,
        untouched: machine.clone(),
        machine,
        as_of: None,
        transport: remote.transport,
        export: OnceLock::new(),
    })
}

fn find(client: &Client, remote: &PlannedRemote) -> Result<Machine> {
    if let Some(found) = &remote.found {
        match machine::machine(client, &VmRef { moref: found.moref.clone() }) {
            // It was taken out of the inventory, and perhaps put back: then it is called otherwise.
            Err(error) if error.kind() == Kind::Source => {}
            asked => return asked,
        }
    }
    let wanted = match &remote.vm {
        WantedVm::Name(name) => Wanted::Name(name.clone()),
        WantedVm::Uuid(uuid) => Wanted::Uuid(uuid.clone()),
        WantedVm::Path(path) => Wanted::Path(path.clone()),
        WantedVm::Moref(moref) => Wanted::MoRef(moref.clone()),
    };
    let filters = Filters {
        datacenter: remote.datacenter.clone(),
        folder: remote.folder.clone(),
        datastore: remote.datastore.clone(),
    };
    let found = inventory::find(client, &wanted, &filters)?;
    machine::machine(client, &found.reference())
}

impl Source {
    /// What it is.
    pub(super) fn description(&self) -> Description {
        let vm = FoundVm { host: self.client.host().to_owned(), moref: self.machine.moref.clone() };
        Description { vm, facts: self.facts.clone() }
    }

    /// Why a plan is not for this VM, if it is not: its disks were others when it was made.
    pub(super) fn changed(&self, plan: &Plan) -> Option<Error> {
        (!plan.has_the_disks_of(&self.facts)).then(|| {
            let cause = format!("the disks of {} are not those that were found before", self.machine.path);
            Error::new(Kind::Source, cause)
                .rule(CHANGED_RULE)
                .source(self.machine.path.clone())
                .advice("it begins anew with those that it has now; leave the VM alone meanwhile")
                .transient()
        })
    }

    /// Whether it is off.
    pub(super) fn is_off(&self) -> bool {
        self.machine.power == Power::Off
    }

    /// Whether its disks hold still; else none is opened, because that is why it would fail.
    pub(super) fn holds_still(&self) -> bool {
        self.as_of.is_some() || self.is_off()
    }

    /// Whether it is at work.
    pub(super) fn runs(&self) -> bool {
        self.machine.power == Power::On
    }

    /// By which its server knows it.
    pub(super) fn reference(&self) -> VmRef {
        VmRef { moref: self.machine.moref.clone() }
    }

    /// These snapshots are ours: what it is, is what it was without them.
    pub(super) fn leave_out(&mut self, ours: &[String]) {
        let all = snapshot::flat(&self.machine.snapshots);
        if all.is_empty() || !all.iter().all(|(_, one)| ours.contains(&one.name)) {
            return;
        }
        let mut untouched = self.machine.clone();
        for disk in &mut untouched.disks {
            for _ in &all {
                let Some(below) = disk.parent.take() else { break };
                let Layer { backing, datastore, path, change_id, content_id, parent } = *below;
                *disk = VmDisk { backing, datastore, path, change_id, content_id, parent, ..disk.clone() };
            }
        }
        untouched.snapshots.clear();
        untouched.current_snapshot = None;
        self.facts = facts::facts(&untouched);
        self.untouched = untouched;
    }

    /// Nothing of ours is there any more.
    fn is_read_as_it_is(&mut self, machine: Machine) {
        self.facts = facts::facts(&machine);
        self.untouched = machine.clone();
        self.machine = machine;
        self.as_of = None;
    }

    /// From now on its disks are read as they were then.
    fn is_read_as_of(&mut self, machine: Machine, standing: &Standing) {
        self.machine = machine;
        self.as_of = Some(standing.moref.clone());
    }

    /// A disk as of the snapshot.
    fn open_as_of(&self, snapshot: &str, disk: &VmDisk, connections: usize) -> Result<SourceDisk> {
        let areas = folder::in_use(&self.client, &self.machine, disk, Some(snapshot))?;
        let as_of = AsOf { snapshot: Some(snapshot.to_owned()), areas };
        SourceDisk::remote(folder::open_as_of(&self.client, &self.machine, disk, as_of, connections)?)
    }

    /// Bytes that the guest sees of one of its disks; 0 where it has no such disk.
    pub(super) fn capacity(&self, disk: &PlannedDisk) -> u64 {
        let called = self.facts.disks.iter().find(|found| found.path == disk.source);
        called.and_then(|found| found.capacity_bytes).or(disk.bytes).unwrap_or_default()
    }

    /// One of its disks, to be read where it is.
    pub(super) fn open(&self, disk: &PlannedDisk, connections: u32) -> Result<SourceDisk> {
        let path = disk.source.to_string_lossy();
        let Some(found) = self.untouched.disks.iter().find(|found| found.path == path) else {
            return Err(Error::new(Kind::Source, format!("the VM has no disk {path}"))
                .rule(CHANGED_RULE)
                .advice("see what it has: `hyper2kvm vsphere disks`"));
        };
        if self.transport == VsphereTransport::Nfc {
            return SourceDisk::remote(self.export()?.disk(found));
        }
        let connections = usize::try_from(connections).unwrap_or(1);
        if let Some(snapshot) = &self.as_of {
            let now = self.machine.disks.iter().find(|disk| disk.key == found.key);
            return self.open_as_of(snapshot, now.unwrap_or(found), connections);
        }
        SourceDisk::remote(folder::open(&self.client, &self.machine, found, connections)?)
    }

    /// All of its disks come through the same one: a server has no two of a machine at a time.
    fn export(&self) -> Result<&Arc<Export>> {
        if let Some(export) = self.export.get() {
            return Ok(export);
        }
        let export = Arc::new(Export::of(&self.client, &self.machine)?);
        Ok(self.export.get_or_init(|| export))
    }
}

/// On how many connections a VM of this plan is read.
pub(super) fn connections(remote: &PlannedRemote, limits: &RemoteLimits) -> u32 {
    limits.connections.unwrap_or(remote.connections).clamp(1, remote.connections.max(1))
}
