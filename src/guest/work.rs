//! The work on one guest: launch, look, repair, end; told as it goes.
//!
//! Runs in a process of its own (see `pipeline::guest_child`), because libguestfs may crash or hang and guests may make it do so. An
//! order comes in, events go out, both as data. Who repairs is decided here too: this program, or virt-v2v. What is not here: that
//! process, and what becomes of the overlays.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::appliance::{Appliance, Drive, Settings};
use super::facts::{Facts, FixOptions};
use super::fix::{self, Guest};
use super::grow::{self, Growth};
use super::inspect::Condition;
use super::tree::{Tree, shown};
use super::{check, inspect, linux, ready, virt_v2v};
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::{GuestIdentity, GuestType};
use crate::model::manifest::FixEngine;
use crate::model::report::FixReport;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Whether KVM works here.
    pub kvm: bool,
    /// Memory of the appliance, MiB, where it is not the usual.
    pub memory_mb: Option<u32>,
    /// A directory of this job's own, for sockets and small files.
    pub temp: PathBuf,
    /// Where the appliance logs.
    pub log: Option<PathBuf>,
    /// The VM's disks, in the plan's order.
    pub drives: Vec<OrderedDrive>,
    /// Keys for encrypted volumes.
    pub keys: Vec<Key>,
    /// What is to be repaired; nothing is written without it.
    pub fix: Option<FixOptions>,
    /// Tell a diff of every file that was changed.
    pub diffs: bool,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderedDrive {
    /// Its id in the plan.
    pub id: String,
    /// The image: an overlay, where something is to be repaired.
    pub path: PathBuf,
    /// Its format.
    pub format: String,
    /// If it is larger than its source: the size of that, in bytes. What is in it has to grow.
    #[serde(default)]
    pub grown_from: Option<u64>,
}

/// A key for an encrypted volume. Secret: it is passed on standard input and never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Of the volume with this UUID; of any, if neither this nor a device is given.
    pub uuid: Option<String>,
    /// Of this device, in the guest's words: `/dev/sda3`.
    pub device: Option<String>,
    /// The passphrase.
    pub passphrase: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("uuid", &self.uuid).field("device", &self.device).finish_non_exhaustive()
    }
}

/// What is told on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The appliance runs.
    Launched {
        /// How long that took.
        seconds: f64,
    },
    /// The guest was looked at.
    Inspected {
        /// What it is.
        identity: Box<GuestIdentity>,
        /// In what state its disks are.
        #[serde(default)]
        condition: Box<Condition>,
        /// How long that took.
        seconds: f64,
    },
    /// A repair begins.
    Fixing {
        /// Its name.
        name: String,
    },
    /// All repairs are made and verified.
    Fixed {
        /// What was changed.
        fixes: Vec<FixReport>,
        /// How long that took.
        seconds: f64,
        /// Who did it: never [`FixEngine::Auto`].
        engine: FixEngine,
        /// Whether the guest still has no drivers for virtio, and needs hardware that every system knows.
        emulated: bool,
    },
    /// How one file changed, where diffs were asked for.
    Diff {
        /// Which.
        path: String,
        /// In the unified form; of a file without text, one line that says so.
        text: String,
    },
    /// A person should know.
    Warning {
        /// What.
        message: String,
    },
    /// All is written out, and the appliance has ended.
    Done,
    /// It ended with an error.
    Failed {
        /// Which.
        error: Error,
    },
}

/// Does the work.
pub fn run(order: &Order, emit: &mut dyn FnMut(Event)) -> Result<()> {
    let start = Instant::now();
    let appliance = launch(order, order.fix.is_none())?;
    emit(Event::Launched { seconds: start.elapsed().as_secs_f64() });

    let start = Instant::now();
    let mut growth = Growth::default();
    if order.fix.is_some() {
        growth = grow::partitions(&appliance, &order.drives)?;
    }
    let mut found = inspect::find(&appliance, &order.keys, root(order))?;
    if growth.is_going_on() {
        emit(Event::Fixing { name: grow::NAME.to_owned() });
        grow::contents(&appliance, &mut found, &mut growth)?;
    }
    let condition = inspect::condition(&appliance, &found);
    let facts = inspect::open(&appliance, found, order.fix.is_none())?;
    emit(Event::Inspected {
        identity: Box::new(facts.identity.clone()),
        condition: Box::new(condition),
        seconds: start.elapsed().as_secs_f64(),
    });
    match &order.fix {
        None => appliance.finish()?,
        Some(options) => {
            let engine = engine(options, &facts, emit)?;
            ready::check(&appliance, &facts, engine)?;
            match engine {
                FixEngine::VirtV2v => repair_by_virt_v2v(order, appliance, &facts, growth, emit)?,
                FixEngine::Native | FixEngine::Auto => {
                    repair(order, options, appliance, facts, growth, emit)?;
                }
            }
        }
    }
    emit(Event::Done);
    Ok(())
}

fn launch(order: &Order, readonly: bool) -> Result<Appliance> {
    let settings = Settings {
        kvm: order.kvm,
        memory_mb: order.memory_mb,
        temp: order.temp.clone(),
        log: order.log.clone(),
    };
    let drives: Vec<Drive> = order
        .drives
        .iter()
        .map(|drive| Drive { path: drive.path.clone(), format: drive.format.clone(), readonly })
        .collect();
    Appliance::launch(&settings, &drives)
}

/// The root file system that the manifest names.
fn root(order: &Order) -> Option<&str> {
    order.fix.as_ref().and_then(|options| options.root.as_deref())
}

/// Who is to repair this guest. An error if it cannot be whoever was asked for.
fn engine(options: &FixOptions, facts: &Facts, emit: &mut dyn FnMut(Event)) -> Result<FixEngine> {
    let obstacle = match facts.identity.kind {
        GuestType::Linux => None,
        GuestType::Windows => Some(
            Error::new(Kind::Unsupported, "this version cannot repair Windows guests")
                .rule("guest.unsupported")
                .field("pipeline.fix.on_unsupported_guest")
                .advice("`on_unsupported_guest: emulated` converts it as it is, for SATA and e1000e; `engine: auto` lets virt-v2v repair it"),
        ),
        GuestType::Unknown => Some(inspect::unknown_system(facts)),
    };
    match (options.engine, obstacle) {
        (FixEngine::VirtV2v, _) => Ok(FixEngine::VirtV2v),
        (FixEngine::Native | FixEngine::Auto, None) => Ok(FixEngine::Native),
        (FixEngine::Auto, Some(error)) if options.only_repairs() && virt_v2v::check_host().is_ok() => {
            let why = &error.details().cause;
            emit(Event::Warning { message: format!("virt-v2v repairs the guest: {why}") });
            Ok(FixEngine::VirtV2v)
        }
        (FixEngine::Native | FixEngine::Auto, Some(error)) => Err(error),
    }
}

fn repair(
    order: &Order,
    options: &FixOptions,
    appliance: Appliance,
    facts: Facts,
    growth: Growth,
    emit: &mut dyn FnMut(Event),
) -> Result<()> {
    let start = Instant::now();
    let mut guest =
        Guest { tree: Tree::new(appliance, options.backup), facts, options, warnings: Vec::new() };
    fix::carry_out(linux::ALL, &mut guest, &mut |name| emit(Event::Fixing { name: name.to_owned() }))?;
    for message in growth.warnings.into_iter().chain(std::mem::take(&mut guest.warnings)) {
        emit(Event::Warning { message });
    }
    let fixes = growth.reports.into_iter().chain(reports(order, &guest)).collect();
    if order.diffs {
        tell_diffs(&guest, emit);
    }
    let has_changed = !guest.tree.edits().is_empty();
    let (facts, (appliance, _)) = (guest.facts, guest.tree.into_appliance());
    if has_changed {
        still_sound(&appliance, &facts, emit)?;
    }
    appliance.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    emit(Event::Fixed { fixes, seconds, engine: FixEngine::Native, emulated: false });
    Ok(())
}

/// What was written has left the file systems as sound as it found them.
fn still_sound(appliance: &Appliance, facts: &Facts, emit: &mut dyn FnMut(Event)) -> Result<()> {
    appliance.unmount_all().map_err(|why| {
        Error::new(Kind::Guest, format!("the guest's file systems cannot be closed: {}", shown(&why)))
            .advice("see the appliance's log")
            .transient()
    })?;
    for message in check::after(appliance, facts.layout.opened())? {
        emit(Event::Warning { message });
    }
    Ok(())
}

/// Another program opens the same overlays, so our appliance ends before, and another looks afterwards at what was made.
fn repair_by_virt_v2v(
    order: &Order,
    appliance: Appliance,
    facts: &Facts,
    growth: Growth,
    emit: &mut dyn FnMut(Event),
) -> Result<()> {
    for message in growth.warnings {
        emit(Event::Warning { message });
    }
    appliance.finish()?;
    let start = Instant::now();
    let made = virt_v2v::repair(order, facts, emit)?;
    emit(Event::Fixing { name: "reading back what virt-v2v made".to_owned() });
    let appliance = launch(order, true)?;
    let found = inspect::find(&appliance, &order.keys, root(order))?;
    let facts = inspect::open(&appliance, found, true)?;
    let tree = Tree::new(appliance, false);
    if facts.identity.kind == GuestType::Linux {
        linux::check_default_kernel(&tree, &facts)?;
    }
    let appliance = tree.into_appliance().0;
    still_sound(&appliance, &facts, emit)?;
    appliance.finish()?;
    let fix = FixReport {
        name: "virt-v2v".to_owned(),
        disk: order.drives.first().map(|drive| drive.id.clone()).unwrap_or_default(),
        path: "/".to_owned(),
        action: "repaired".to_owned(),
        detail: "by virt-v2v, which does not tell file by file what it changes".to_owned(),
        backup: None,
    };
    if order.diffs {
        emit(Event::Diff {
            path: fix.path.clone(),
            text: format!("{} {}: {}\n", fix.path, fix.action, fix.detail),
        });
    }
    let seconds = start.elapsed().as_secs_f64();
    let fixes = growth.reports.into_iter().chain([fix]).collect();
    emit(Event::Fixed { fixes, seconds, engine: FixEngine::VirtV2v, emulated: !made.virtio });
    Ok(())
}

fn reports<'g>(order: &'g Order, guest: &'g Guest<'_>) -> impl Iterator<Item = FixReport> + 'g {
    let disk_of = move |path: &str| {
        let layout = &guest.facts.layout;
        let device = layout.file_system_of(path).map(|mounted| mounted.device.as_str());
        let index = device.and_then(|device| layout.volume(device)).and_then(|volume| volume.disk);
        index.and_then(|index| order.drives.get(index)).or(order.drives.first())
    };
    guest.tree.edits().iter().map(move |edit| FixReport {
        name: edit.fix.to_owned(),
        disk: disk_of(&edit.path).map_or_else(String::new, |drive| drive.id.clone()),
        path: edit.path.clone(),
        action: edit.action.name().to_owned(),
        detail: edit.detail.clone(),
        backup: edit.backup.clone(),
    })
}

fn tell_diffs(guest: &Guest<'_>, emit: &mut dyn FnMut(Event)) {
    let edits = guest.tree.edits();
    let mut told: Vec<&str> = Vec::new();
    for edit in edits {
        if told.contains(&edit.path.as_str()) {
            continue;
        }
        told.push(&edit.path);
        let text = fix::diff(edits, &edit.path)
            .unwrap_or_else(|| format!("{} {}: {}\n", edit.path, edit.action.name(), edit.detail));
        emit(Event::Diff { path: edit.path.clone(), text });
    }
}
