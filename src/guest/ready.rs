//! What has to hold before the first byte is written into a guest: it is for the machine to come, and there is room for what will be written.
//!
//! Said before anything is changed, so that a repair does not end half-way for a reason that was there all the time. What a single repair
//! needs beyond that (an initial RAM disk of some size) it asks itself.

use super::appliance::Appliance;
use super::facts::Facts;
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestIdentity;
use crate::model::manifest::FixEngine;
use crate::model::units::human_size;

/// What the machine to come can run.
const ARCHITECTURES: [&str; 2] = ["x86_64", "i686"];
/// For configuration files, their old content, and a driver archive for each of a few kernels.
const ROOM_OF_THE_ROOT: u64 = 8 << 20;
/// For a driver archive for each of a few kernels.
const ROOM_OF_BOOT: u64 = 4 << 20;
/// New files: those that keep names of network cards, copies of what was changed, the directories in which they lie.
const FILES: u64 = 64;
/// What virt-v2v wants free before it begins: for packages, …
const ROOM_OF_THE_ROOT_FOR_VIRT_V2V: u64 = 100 << 20;
/// … for whole initial RAM disks, …
const ROOM_OF_BOOT_FOR_VIRT_V2V: u64 = 50 << 20;
/// … and for its files.
const FILES_FOR_VIRT_V2V: u64 = 100;

/// Refuses a guest that could only be repaired in part.
pub(super) fn check(appliance: &Appliance, facts: &Facts, engine: FixEngine) -> Result<()> {
    foreign(&facts.identity).map_or(Ok(()), Err)?;
    check_room(appliance, facts, engine)
}

/// A guest that the machine to come cannot run.
#[must_use]
pub fn foreign(identity: &GuestIdentity) -> Option<Error> {
    let architecture = identity.architecture.as_deref()?;
    if ARCHITECTURES.contains(&architecture) {
        return None;
    }
    Some(Error::new(
        Kind::Unsupported,
        format!("the guest is for {architecture}, and the machine to come is an x86_64"),
    )
    .rule("guest.architecture")
    .field("pipeline.fix")
    .advice(
        "convert its disks as they are (`profile: none`), and define it where its architecture is at home",
    ))
}

fn check_room(appliance: &Appliance, facts: &Facts, engine: FixEngine) -> Result<()> {
    let full = facts.layout.mounted.iter().find_map(|mounted| {
        // What cannot be asked shows when it is written.
        let room = appliance.room(&mounted.path).ok()?;
        no_room(engine, &mounted.path, &mounted.device, room.free_bytes, room.free_inodes)
    });
    full.map_or(Ok(()), Err)
}

/// A file system of the guest on which there is not the room that a repair may need.
#[must_use]
pub fn no_room(
    engine: FixEngine,
    path: &str,
    device: &str,
    free_bytes: u64,
    free_files: Option<u64>,
) -> Option<Error> {
    let by_virt_v2v = engine == FixEngine::VirtV2v;
    let (bytes, files) = match (path, by_virt_v2v) {
        ("/", false) => (ROOM_OF_THE_ROOT, FILES),
        ("/boot", false) => (ROOM_OF_BOOT, 0),
        ("/", true) => (ROOM_OF_THE_ROOT_FOR_VIRT_V2V, FILES_FOR_VIRT_V2V),
        ("/boot", true) => (ROOM_OF_BOOT_FOR_VIRT_V2V, 0),
        _ => return None,
    };
    let lack = if free_bytes < bytes {
        format!("{} are free, and {} may be needed", human_size(free_bytes), human_size(bytes))
    } else if free_files.is_some_and(|free| free < files) {
        format!("no {files} more files can be made")
    } else {
        return None;
    };
    Some(
        Error::new(
            Kind::Guest,
            format!("there is no room for repairs on the guest's {path} ({device}): {lack}"),
        )
        .rule("guest.space")
        .advice("remove something there while the guest still runs, and convert it again"),
    )
}
