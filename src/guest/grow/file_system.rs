//! The file system takes all of a device that has become larger.
//!
//! ext is grown while it is not mounted: a mounted one that has used up its spare descriptors would be turned by the kernel into one with
//! `meta_bg`, which boot loaders of its time cannot read. It is checked before, because growing what is damaged damages more; and it has to have
//! the same features afterwards. XFS and btrfs only grow while they are mounted. What is not here: anything that makes a device larger.

use super::{Attempt, BTRFS, Growth, Obstacle, XFS};
use crate::guest::appliance::Appliance;
use crate::guest::facts::Volume;
use crate::guest::inspect::storage::Storage;
use crate::guest::tree::shown;
use crate::model::units::human_size;

/// What is lost at the end of a device: less than a block group of ext or the smallest allocation group of XFS, and what a log takes.
const LOST_BYTES: u64 = 4 << 20;
/// Of what is gained, so much may go to the file system's own tables: one part in this many.
const LOST_PART: u64 = 10;
/// What ext says of itself that comes and goes with being mounted.
const PASSING: [&str; 2] = ["needs_recovery", "orphan_present"];

/// Grows it, and reads it again.
pub(super) fn grow(
    appliance: &Appliance,
    storage: &Storage,
    volume: &Volume,
    gained: u64,
    disk: &str,
    growth: &mut Growth,
) -> Attempt<()> {
    let (before, after) = match volume.content.as_str() {
        XFS => mounted(appliance, volume, "rw,nouuid", |appliance| appliance.grow_xfs("/"))?,
        BTRFS => {
            alone(storage, volume)?;
            mounted(appliance, volume, "rw", |appliance| appliance.grow_btrfs("/"))?
        }
        _ => ext(appliance, volume)?,
    };
    has_grown(before, after, gained, volume)?;
    let detail = format!("{} of {}, before {}", volume.content, human_size(after), human_size(before));
    growth.report(disk, &volume.device, detail);
    Ok(())
}

fn ext(appliance: &Appliance, volume: &Volume) -> Attempt<(u64, u64)> {
    let device = &volume.device;
    let refused = |what: &'static str| move |why: String| Obstacle::refused(what, device, &why);
    appliance.check_ext(device).map_err(refused("check the file system on"))?;
    let before = ext_facts(appliance, device)?;
    appliance.grow_ext(device).map_err(refused("grow the file system on"))?;
    let after = ext_facts(appliance, device)?;
    if before.features != after.features {
        return Err(Obstacle::broken(format!("the file system on {} has got other features", shown(device))));
    }
    Ok((before.bytes, after.bytes))
}

#[derive(Debug, PartialEq, Eq)]
struct ExtFacts {
    bytes: u64,
    features: Vec<String>,
}

fn ext_facts(appliance: &Appliance, device: &str) -> Attempt<ExtFacts> {
    let told = appliance.ext_facts(device).map_err(|why| Obstacle::refused("look at", device, &why))?;
    read_ext_facts(&told).ok_or_else(|| {
        Obstacle::broken(format!("the file system on {} does not tell its size", shown(device)))
    })
}

fn read_ext_facts(told: &[(String, String)]) -> Option<ExtFacts> {
    let value = |key: &str| told.iter().find(|(told, _)| told == key).map(|(_, value)| value.as_str());
    let number = |key: &str| value(key)?.trim().parse::<u64>().ok();
    let features = value("Filesystem features").unwrap_or_default().split_whitespace();
    Some(ExtFacts {
        bytes: number("Block count")?.checked_mul(number("Block size")?)?,
        features: features.filter(|feature| !PASSING.contains(feature)).map(str::to_owned).collect(),
    })
}

/// Grows what only grows while it is mounted, and takes it off again.
fn mounted(
    appliance: &Appliance,
    volume: &Volume,
    options: &str,
    grow: impl FnOnce(&Appliance) -> Result<(), String>,
) -> Attempt<(u64, u64)> {
    let device = &volume.device;
    let refused = |what: &'static str| move |why: String| Obstacle::refused(what, device, &why);
    let size = |appliance: &Appliance| {
        appliance
            .room("/")
            .map(|room| room.total_bytes)
            .map_err(refused("ask the size of the file system on"))
    };
    appliance.mount(options, device, "/").map_err(refused("mount"))?;
    let before = size(appliance)?;
    grow(appliance).map_err(refused("grow the file system on"))?;
    let after = size(appliance)?;
    appliance.unmount_all().map_err(refused("unmount"))?;
    Ok((before, after))
}

/// A btrfs over several devices would have to be told which of them has grown.
fn alone(storage: &Storage, volume: &Volume) -> Attempt<()> {
    let same = |other: &&Volume| other.content == volume.content && other.uuid == volume.uuid;
    match storage.volumes.iter().filter(same).count() {
        0 | 1 => Ok(()),
        _ => Err(Obstacle::unsupported(
            format!("{} is part of a btrfs over several devices", shown(&volume.device)),
            "leave `resize` out, and grow it in the running machine (`btrfs filesystem resize`)",
        )),
    }
}

fn has_grown(before: u64, after: u64, gained: u64, volume: &Volume) -> Attempt<()> {
    let least = gained.saturating_sub(gained / LOST_PART).saturating_sub(LOST_BYTES);
    if after >= before.saturating_add(least) {
        return Ok(());
    }
    Err(Obstacle::broken(format!(
        "the file system on {} has {} after it was grown by {}, and had {} before",
        shown(&volume.device),
        human_size(after),
        human_size(gained),
        human_size(before)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(features: &str) -> Vec<(String, String)> {
        [("Block count", "65536"), ("Block size", "4096"), ("Filesystem features", features)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec()
    }

    #[test]
    fn features_that_only_tell_that_it_was_mounted_do_not_count() {
        let calm = read_ext_facts(&told("has_journal extent")).unwrap();
        assert_eq!(calm.bytes, 256 << 20);
        assert_eq!(read_ext_facts(&told("has_journal extent needs_recovery")).unwrap(), calm);
        assert_ne!(read_ext_facts(&told("has_journal extent meta_bg")).unwrap(), calm);
        assert_eq!(read_ext_facts(&[]), None);
    }

    #[test]
    fn a_file_system_has_to_have_nearly_all_of_what_was_gained() {
        let volume = Volume { device: "/dev/sda1".to_owned(), ..Volume::default() };
        const MIB: u64 = 1 << 20;
        assert!(has_grown(900 * MIB, 1890 * MIB, 1000 * MIB, &volume).is_ok());
        assert!(has_grown(900 * MIB, 900 * MIB, MIB, &volume).is_ok(), "too little for any block group");
        let refused = has_grown(900 * MIB, 900 * MIB, 1000 * MIB, &volume).unwrap_err();
        assert!(refused.why.contains("/dev/sda1"), "{refused:?}");
    }
}
