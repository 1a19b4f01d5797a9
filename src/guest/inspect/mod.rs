//! Finding out what is inside: file systems, the root among them, and the system on it.
//!
//! ```text
//!   storage ─▶ unlock ─▶ choose ─▶ mount ─▶ os, kernels, boot, network, agents ─▶ Facts
//! ```
//!
//! Every question to the appliance costs milliseconds, and a program run there tens of them, so that whole lists are asked for at once.
//! What is not here: any change.

mod agents;
mod boot;
mod choose;
mod condition;
mod entries;
mod files;
mod fstab;
mod kernels;
pub(super) mod mount;
mod network;
mod os;
pub(super) mod storage;
mod unlock;
mod windows;
mod words;

use super::appliance::Appliance;
use super::facts::{Facts, Layout};
use super::tree::shown;
use super::work::Key;
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::{GuestIdentity, GuestMount, GuestNic, GuestType};
use boot::Boot;
use choose::Choice;
pub use condition::Condition;
use files::Files;
use mount::Opened;
use storage::Storage;

/// Programs of which one tells the machine that the system is for; each is small enough to be read whole.
const PROGRAMS_FOR_ARCHITECTURE: [&str; 5] =
    ["/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/sh", "/usr/bin/sh", "/bin/busybox"];

/// A system that was found, with nothing of it mounted.
#[derive(Debug)]
pub struct Found {
    /// What lies on the disks, unlocked.
    pub(in crate::guest) storage: Storage,
    choice: Choice,
}

impl Found {
    /// The device of its root, for libguestfs.
    pub(in crate::guest) fn root(&self) -> &str {
        &self.choice.root.device
    }
}

/// Looks at a guest and mounts its file systems, for writing unless `readonly`.
pub fn look(appliance: &Appliance, keys: &[Key], root: Option<&str>, readonly: bool) -> Result<Facts> {
    open(appliance, find(appliance, keys, root)?, readonly)
}

/// Unlocks what the keys open, and finds the system.
pub fn find(appliance: &Appliance, keys: &[Key], root: Option<&str>) -> Result<Found> {
    let storage = unlock::unlock(appliance, keys, storage::scan(appliance)?)?;
    let choice = choose::choose(appliance, &storage, root)?;
    Ok(Found { storage, choice })
}

/// In what state the disks of a system that was found are. Nothing of it is mounted.
pub fn condition(appliance: &Appliance, found: &Found) -> Condition {
    condition::of(appliance, &found.storage, &found.choice)
}

/// Mounts the file systems of a system that was found, for writing unless `readonly`, and looks at it.
pub fn open(appliance: &Appliance, found: Found, readonly: bool) -> Result<Facts> {
    let Found { storage, choice } = found;
    let mut opened = mount::open(appliance, &storage, &choice.root, readonly)?;
    let mut identity = if choice.root.windows {
        let (identity, notes) = windows::describe(appliance, Files::new(appliance))?;
        opened.warnings.extend(notes);
        identity
    } else {
        boot::mount_efi(appliance, &storage, &mut opened, readonly);
        linux(appliance)?
    };
    let boot = boot::boot(Files::new(appliance), &storage, &opened, &mut identity.kernels)?;
    identity.firmware = boot.firmware;
    identity.bootloader = boot.loader;
    identity.root = Some(opened.root_spec.clone().unwrap_or_else(|| choice.root.device.clone()));
    identity.mounts = mounts(appliance, &storage, &opened)?;
    identity.notes = notes(&choice, &opened, &storage);
    Ok(Facts { identity, layout: layout(storage, opened, boot) })
}

/// The network interfaces of a guest that is open, as they are configured now.
pub fn nics(appliance: &Appliance) -> Result<Vec<GuestNic>> {
    network::nics(Files::new(appliance))
}

fn linux(appliance: &Appliance) -> Result<GuestIdentity> {
    let files = Files::new(appliance);
    let release = os::release(files)?;
    let family = os::family(&release);
    let there = files.matching(&os::PROGRAMS)?;
    let architecture = PROGRAMS_FOR_ARCHITECTURE
        .iter()
        .filter(|path| there.iter().any(|there| there == *path))
        .find_map(|path| files.bytes(path).ok().flatten().and_then(|elf| os::architecture(&elf)));
    Ok(GuestIdentity {
        kind: GuestType::Linux,
        package_manager: os::package_manager(&there, family).map(str::to_owned),
        init_system: os::init_system(&there),
        initramfs_tool: os::initramfs_tool(&there),
        architecture: architecture.map(str::to_owned),
        nics: nics(appliance)?,
        agents: agents::agents(&files.matching(&agents::places())?),
        hostname: os::hostname(files)?,
        kernels: kernels::kernels(files)?,
        os_id: release.id,
        os_version: release.version,
        os_pretty: release.pretty,
        family,
        ..GuestIdentity::default()
    })
}

/// What fstab mounts, in its order, with how full it is where it is open.
fn mounts(appliance: &Appliance, storage: &Storage, opened: &Opened) -> Result<Vec<GuestMount>> {
    let mut mounts = Vec::new();
    let root = opened.mounted.iter().filter(|mounted| mounted.path == "/" && opened.root_spec.is_none());
    let unnamed = root.map(|mounted| (mounted.path.clone(), mounted.device.clone(), String::new()));
    let named = opened
        .entries
        .iter()
        .filter(|entry| entry.path.starts_with('/'))
        .map(|entry| (entry.path.clone(), entry.spec.clone(), entry.kind.clone()));
    for (path, spec, kind) in unnamed.chain(named) {
        let volume = mount::volume_at(opened, storage, &path);
        let room = match volume {
            Some(_) => appliance.room(&path).ok(),
            None => None,
        };
        mounts.push(GuestMount {
            file_system: volume.map_or(kind, |volume| volume.content.clone()),
            total_bytes: room.map(|room| room.total_bytes),
            free_bytes: room.map(|room| room.free_bytes),
            path,
            spec,
        });
    }
    Ok(mounts)
}

fn notes(choice: &Choice, opened: &Opened, storage: &Storage) -> Vec<String> {
    let mut notes = choice.notes.clone();
    notes.extend(opened.warnings.iter().cloned());
    notes.extend(storage.holding(mount::SLEEPING).map(|swap| {
        format!(
            "the system is hibernated: its memory lies in {}, and it cannot be repaired",
            shown(&swap.device)
        )
    }));
    notes.extend(
        unlock::locked(storage)
            .map(|volume| format!("{} is encrypted, and no key opens it", unlock::called(volume))),
    );
    notes.extend(unlock::closed(storage).map(|volume| {
        format!(
            "nothing of the LVM on {} is open: it has no volumes, parts of it are missing, or another group has its name",
            unlock::called(volume)
        )
    }));
    notes
}

fn layout(storage: Storage, opened: Opened, boot: Boot) -> Layout {
    Layout {
        disks: storage.disks,
        volumes: storage.volumes,
        nodes: storage.nodes,
        mounted: opened.mounted,
        efi_partition: boot.efi_partition,
        efi_path: boot.efi_path,
    }
}

/// There is a system, and it is none that can be repaired.
#[must_use]
pub fn unknown_system(facts: &Facts) -> Error {
    let name = facts.identity.os_pretty.as_deref().map_or_else(|| "the system".to_owned(), shown);
    Error::new(Kind::Guest, format!("{name} in this disk cannot be repaired"))
        .rule("guest.unsupported")
        .field("pipeline.fix.on_unsupported_guest")
        .advice("`on_unsupported_guest: emulated` converts it as it is, for hardware that it knows")
}
