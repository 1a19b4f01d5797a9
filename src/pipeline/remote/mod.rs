//! A VM of a vCenter or an ESXi host, as a plan names it: asked for, found, and opened disk by disk.
//!
//! ```text
//!   plan ─ Access::read ─▶ (sandbox closes) ─ ask ─▶ Source ─▶ description ─▶ a plan with disks (the planner's)
//!                                                      └─────▶ open ─▶ disks that are read where they are
//! ```
//!
//! What is not here: the protocol (the room `vsphere`), and what a plan makes of a description.

pub(super) mod acts;
mod again;
mod esxi;
mod login;
mod moment;
pub(super) mod power;
mod selecting;
pub(super) mod snapshots;
#[cfg(feature = "libvirt")]
mod stand;
mod ways;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

pub(super) use again::{Whom, find_again, is_gone, log_in};
pub(super) use login::Access;
pub(super) use moment::{Changes, Moment};
pub(super) use selecting::select;
#[cfg(feature = "libvirt")]
pub(super) use stand::stand;
pub(super) use ways::Ways;

use self::snapshots::Standing;
use crate::disk::{Control, Remote, SourceDisk};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use crate::model::manifest::VsphereTransport;
use crate::model::plan::{Plan, PlannedDisk};
use crate::model::protocol::{RemoteLimits, WorkLimits};
use crate::model::remote::{CHANGED_RULE, Description, FoundVm, PlannedRemote, WantedVm};
use crate::sys::process::Launcher;
use crate::vsphere::devices::VmDisk;
use crate::vsphere::folder::AsOf;
use crate::vsphere::inventory::{self, Filters, Power, VmRef, Wanted};
use crate::vsphere::machine::{self, Machine};
use crate::vsphere::nfc::Export;
use crate::vsphere::vddk::{self, Library, Means, Turns};
use crate::vsphere::{Client, Patience, facts, folder, snapshot, ssh};

/// A VM that was found.
#[derive(Debug)]
pub(super) struct Source {
    /// Who was asked; none: the shell of its host.
    client: Option<Client>,
    /// By which name that was reached.
    host: String,
    /// All that is known of it there.
    pub(super) machine: Machine,
    /// The same, as it was before we did anything there.
    pub(super) untouched: Machine,
    /// The snapshot as of which it is read.
    as_of: Option<String>,
    facts: Facts,
    /// By which ways its disks can come.
    pub(super) ways: Ways,
    /// What VMware's library reads with, if that is there, and whoever opens disks here may start programs.
    library: Result<Library>,
    means: Option<Means>,
    /// How many read through that at a time, once one does.
    turns: OnceLock<Arc<Turns>>,
    /// What it is exported through, once one of its disks was opened so.
    export: OnceLock<Arc<Export>>,
    /// Through which shells its disks are read, once one was.
    shells: OnceLock<ssh::Host>,
    /// The key for them.
    key: Option<ssh::Account>,
    /// Disks that were opened when it was found, by where they lie.
    opened: Vec<(PathBuf, Arc<dyn Remote>)>,
    patience: Patience,
    control: Control,
}

/// Logs in and looks for the VM.
pub(super) fn ask(
    access: &Access,
    remote: &PlannedRemote,
    limits: &RemoteLimits,
    control: &Control,
) -> Result<Source> {
    let library = access.library(limits);
    if let (VsphereTransport::Vddk, Err(error)) = (remote.transport, &library) {
        return Err(error.clone());
    }
    let patience = Patience::of(&limits.connection);
    if let (Some(path), Some(key)) = (remote.on_host(), &access.key) {
        let connections = usize::try_from(connections(remote, limits)).unwrap_or(1);
        let host = ssh::Host::new(key.clone(), patience, connections);
        let found = esxi::find(&host, path, control)?;
        return Ok(Source {
            client: None,
            host: key.host.clone(),
            untouched: found.machine.clone(),
            machine: found.machine,
            as_of: None,
            facts: found.facts,
            ways: Ways::only(remote.transport),
            library,
            means: None,
            turns: OnceLock::new(),
            export: OnceLock::new(),
            shells: OnceLock::from(host),
            key: None,
            opened: found.disks,
            patience,
            control: control.clone(),
        });
    }
    let client = Client::connect(&access.endpoint, &access.login, &patience, control)?;
    let machine = find(&client, remote)?;
    let ways = Ways::of(&client, &machine, remote, (access.key.as_ref(), library.as_ref().err()))?;
    Ok(Source {
        facts: facts::facts(&machine),
        host: client.host().to_owned(),
        client: Some(client),
        untouched: machine.clone(),
        machine,
        as_of: None,
        ways,
        library,
        means: None,
        turns: OnceLock::new(),
        export: OnceLock::new(),
        shells: OnceLock::new(),
        key: access.key.clone(),
        opened: Vec::new(),
        patience,
        control: control.clone(),
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
        WantedVm::File(_) => return Err(Error::internal("a file of a host is not asked for by the API")),
        WantedVm::Selected(_) => return Err(Error::internal("several VMs are wanted, and not one")),
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
        let machine = &self.machine;
        let vm = FoundVm {
            host: self.host.clone(),
            moref: machine.moref.clone(),
            instance_uuid: machine.instance_uuid.clone(),
            esxi_host: machine.host.clone(),
            datastores: facts::datastores(machine),
        };
        Description { vm, facts: self.facts.clone(), ways: self.ways.all().to_vec() }
    }

    /// From now on programs may be started to read its disks, within these limits.
    pub(super) fn equip(&mut self, access: &Access, launcher: &Launcher, limits: &WorkLimits) {
        self.means = self.library.as_ref().ok().map(|library| Means {
            library: library.clone(),
            launcher: launcher.clone(),
            readable: access.readable(),
            sandbox_required: limits.sandbox_required,
            memory_bytes: limits.child_memory_bytes,
            stall_timeout_s: limits.stall_timeout_s,
        });
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

    /// These snapshots are ours: what it is, is what it was without them. A run of the same work that was killed may have left one, which the next one goes
    /// on with or removes.
    pub(super) fn leave_out(&mut self, ours: &[String]) {
        let Some(untouched) = snapshot::without(&self.machine, ours) else { return };
        self.facts = facts::facts(&untouched);
        self.ways.are_of(&untouched);
        self.untouched = untouched;
    }

    /// Nothing of ours is there any more.
    fn is_read_as_it_is(&mut self, machine: Machine) {
        self.facts = facts::facts(&machine);
        self.untouched = machine.clone();
        self.machine = machine;
        self.as_of = None;
        self.export = OnceLock::new();
    }

    /// From now on its disks are read as they were then.
    fn is_read_as_of(&mut self, machine: Machine, standing: &Standing) {
        self.machine = machine;
        self.as_of = Some(standing.moref.clone());
        self.export = OnceLock::new();
    }

    /// A disk as its files hold it: as of the snapshot, if there is one.
    fn open_files(&self, disk: &VmDisk, connections: usize) -> Result<Arc<dyn Remote>> {
        let Some(snapshot) = &self.as_of else {
            return folder::open(self.client()?, &self.machine, disk, connections);
        };
        let now = self.machine.disks.iter().find(|now| now.key == disk.key).unwrap_or(disk);
        let areas = folder::in_use(self.client()?, &self.machine, now, Some(snapshot))?;
        let as_of = AsOf { snapshot: Some(snapshot.clone()), areas };
        folder::open_as_of(self.client()?, &self.machine, now, as_of, connections)
    }

    /// Bytes that the guest sees of one of its disks; 0 where it has no such disk.
    pub(super) fn capacity(&self, disk: &PlannedDisk) -> u64 {
        let called = self.facts.disks.iter().find(|found| found.path == disk.source);
        called.and_then(|found| found.capacity_bytes).or(disk.bytes).unwrap_or_default()
    }

    /// One of its disks, to be read where it is.
    pub(super) fn open(&self, disk: &PlannedDisk, connections: u32) -> Result<SourceDisk> {
        if let Some((_, opened)) = self.opened.iter().find(|(path, _)| *path == disk.source) {
            return SourceDisk::remote(Arc::clone(opened));
        }
        let path = disk.source.to_string_lossy();
        let Some(found) = self.untouched.disks.iter().find(|found| found.path == path) else {
            return Err(Error::new(Kind::Source, format!("the VM has no disk {path}"))
                .rule(CHANGED_RULE)
                .advice("see what it has: `hyper2kvm vsphere disks`"));
        };
        let connections = usize::try_from(connections).unwrap_or(1);
        let snapshot = self.as_of.as_deref();
        SourceDisk::remote(match self.ways.chosen() {
            VsphereTransport::Nfc => self.export()?.disk(found),
            VsphereTransport::Vddk => {
                let turns = self.turns.get_or_init(|| Turns::of(connections));
                vddk::open(self.client()?, &self.machine, found, snapshot, self.means()?, turns)?
            }
            VsphereTransport::Ssh => {
                let place = folder::DatastorePath::parse(&found.path)?;
                self.shells(connections)?.open(&place, &self.control)?
            }
            VsphereTransport::Auto | VsphereTransport::Https => self.open_files(found, connections)?,
        })
    }

    /// All of them, by the first way whose first bytes come; that a way was left for another is not told.
    pub(super) fn open_all(&mut self, disks: &[PlannedDisk], connections: u32) -> Vec<Result<SourceDisk>> {
        loop {
            let opened: Vec<_> = disks.iter().map(|disk| self.open(disk, connections)).collect();
            let left = opened.iter().find_map(|opened| self.ways.after(opened.as_ref().err()?));
            match left {
                Some(left) => self.ways.leave(&[left]),
                None => return opened,
            }
        }
    }

    /// What VMware's library reads with; else why it does not.
    fn means(&self) -> Result<Means> {
        let library = self.library.as_ref().map_err(Clone::clone);
        let nowhere = || Error::internal("a disk is to be read by a program where none may be started");
        library.and_then(|_| self.means.clone().ok_or_else(nowhere))
    }

    /// Who is asked.
    pub(super) fn client(&self) -> Result<&Client> {
        self.client.as_ref().ok_or_else(|| Error::internal("a host's shell has no API"))
    }

    /// The shells of the host that it lies on.
    fn shells(&self, connections: usize) -> Result<&ssh::Host> {
        if let Some(shells) = self.shells.get() {
            return Ok(shells);
        }
        let key =
            self.key.as_ref().ok_or_else(|| Error::internal("there is no key for the shell of a host"))?;
        let account = key.at(&ssh::of_machine(self.client()?, &self.machine)?);
        Ok(self.shells.get_or_init(|| ssh::Host::new(account, self.patience, connections)))
    }

    /// All of its disks come through the same one: a server has no two of a machine at a time.
    fn export(&self) -> Result<&Arc<Export>> {
        if let Some(export) = self.export.get() {
            return Ok(export);
        }
        let export = Arc::new(Export::as_of(self.client()?, &self.machine, self.as_of.as_deref())?);
        Ok(self.export.get_or_init(|| export))
    }
}

/// On how many connections a VM of this plan is read.
pub(super) fn connections(remote: &PlannedRemote, limits: &RemoteLimits) -> u32 {
    limits.connections.unwrap_or(remote.connections).clamp(1, remote.connections.max(1))
}
