//! What has to hold before the first byte is written into a guest: it is for the machine to come, and there is room for what will be written.
//!
//! Said before anything is changed, so that a repair does not end half-way for a reason that was there all the time. What a single repair
//! needs beyond that (an initial RAM disk of some size) it asks itself.

use super::appliance::Appliance;
use super::facts::Facts;
use crate::model::error::{Error, Kind, Result};
use crate::model::units::human_size;

/// What the machine to come can run.
const ARCHITECTURES: [&str; 2] = ["x86_64", "i686"];
/// For configuration files, their old content, and a driver archive for each of a few kernels.
const ROOM_OF_THE_ROOT: u64 = 8 << 20;
/// For a driver archive for each of a few kernels.
const ROOM_OF_BOOT: u64 = 4 << 20;
/// New files: those that keep names of network cards, copies of what was changed, the directories in which they lie.
const FILES: u64 = 64;

/// Refuses a guest that could only be repaired in part.
pub(super) fn check(appliance: &Appliance, facts: &Facts) -> Result<()> {
    check_architecture(facts)?;
    check_room(appliance, facts)
}

fn check_architecture(facts: &Facts) -> Result<()> {
    let Some(architecture) = facts.identity.architecture.as_deref() else { return Ok(()) };
    if ARCHITECTURES.contains(&architecture) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("the guest is for {architecture}, and the machine to come is an x86_64"),
    )
    .field("pipeline.fix")
    .advice(
        "convert its disks as they are (`profile: none`), and define it where its architecture is at home",
    ))
}

fn check_room(appliance: &Appliance, facts: &Facts) -> Result<()> {
    for mounted in &facts.layout.mounted {
        let (bytes, files) = match mounted.path.as_str() {
            "/" => (ROOM_OF_THE_ROOT, FILES),
            "/boot" => (ROOM_OF_BOOT, 0),
            _ => continue,
        };
        // What cannot be asked shows when it is written.
        let Ok(room) = appliance.room(&mounted.path) else { continue };
        let lack = if room.free_bytes < bytes {
            format!("{} are free, and {} may be needed", human_size(room.free_bytes), human_size(bytes))
        } else if room.free_inodes.is_some_and(|free| free < files) {
            format!("no {files} more files can be made")
        } else {
            continue;
        };
        return Err(Error::new(
            Kind::Guest,
            format!(
                "there is no room for repairs on the guest's {} ({}): {lack}",
                mounted.path, mounted.device
            ),
        )
        .advice("remove something there while the guest still runs, and convert it again"));
    }
    Ok(())
}
