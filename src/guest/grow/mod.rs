//! A disk that has become larger: its last partition, the volume and the file system in it take the new room.
//!
//! ```text
//!   launched, nothing unlocked:    partition     the table is edited, the kernel told, and the table read back
//!   inspect::find:                               encrypted volumes are opened, at their new size
//!   found, nothing mounted:        volume        physical volume, then one logical volume
//!                                  file_system   ext, XFS or btrfs
//! ```
//!
//! All of it is written to overlays, like every repair, and counts only with all of them. Nothing is moved and nothing becomes smaller:
//! where something lies in the way, that is an error that names it. Which partition and which volume grow is said in
//! `docs/adr/0014-what-grows-with-a-disk.md`. What is not here: making the disk itself larger.

mod file_system;
mod gpt;
mod mbr;
mod partition;
mod volume;

use super::appliance::{Appliance, Failure};
use super::inspect::{Found, storage};
use super::tree::shown;
use super::work::OrderedDrive;
use crate::model::error::{Error, Kind, Result};
use crate::model::report::FixReport;

/// As in reports.
pub(super) const NAME: &str = "resize";
/// What these repairs do to a path, as in reports.
const ACTION: &str = "grown";
/// What grows, in libblkid's words: file systems, and what file systems lie in.
const EXT: [&str; 3] = ["ext2", "ext3", "ext4"];
const XFS: &str = "xfs";
const BTRFS: &str = "btrfs";
const LVM: &str = "LVM2_member";
const LUKS: &str = "crypto_LUKS";

/// Why something does not grow, and what to do about it.
#[derive(Debug)]
struct Obstacle {
    kind: Kind,
    why: String,
    advice: String,
}

impl Obstacle {
    /// It is as it should be, and this is not built, or cannot be.
    fn unsupported(why: impl Into<String>, advice: impl Into<String>) -> Obstacle {
        Obstacle { kind: Kind::Unsupported, why: why.into(), advice: advice.into() }
    }

    /// It is not as it should be.
    fn broken(why: impl Into<String>) -> Obstacle {
        let advice =
            "check the disk in the source machine (`sfdisk --verify`, `fsck`, `vgck`), or leave `resize` out";
        Obstacle { kind: Kind::Guest, why: why.into(), advice: advice.to_owned() }
    }

    /// A tool of the appliance said no.
    fn refused(what: &str, device: &str, why: &Failure) -> Obstacle {
        Obstacle::broken(format!("cannot {what} {}: {}", shown(device), shown(why)))
    }

    fn of(self, disk: &str) -> Error {
        Error::new(self.kind, format!("disk {disk} cannot grow: {}", self.why))
            .field("disks[].resize")
            .advice(self.advice)
            .permanent()
    }
}

type Attempt<T> = std::result::Result<T, Obstacle>;

/// A device that has become larger, and what is in it has not yet.
#[derive(Debug)]
struct Larger {
    /// The disk's id.
    disk: String,
    /// For libguestfs.
    device: String,
    /// Bytes.
    gained: u64,
}

/// What has grown so far, and what has to go on.
#[derive(Debug, Default)]
pub(super) struct Growth {
    larger: Vec<Larger>,
    /// What was done.
    pub(super) reports: Vec<FixReport>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}

impl Growth {
    /// Whether there is something in which what it holds has to grow.
    pub(super) fn is_going_on(&self) -> bool {
        !self.larger.is_empty()
    }

    fn report(&mut self, disk: &str, device: &str, detail: String) {
        tracing::info!(disk, device = shown(device), detail, "grown");
        self.reports.push(FixReport {
            name: NAME.to_owned(),
            disk: disk.to_owned(),
            path: device.to_owned(),
            action: ACTION.to_owned(),
            detail,
            backup: None,
        });
    }
}

/// Grows the last partition of every disk that has become larger. Nothing may be unlocked yet.
pub(super) fn partitions(appliance: &Appliance, drives: &[OrderedDrive]) -> Result<Growth> {
    let mut growth = Growth::default();
    if drives.iter().all(|drive| drive.grown_from.is_none()) {
        return Ok(growth);
    }
    let storage = storage::scan(appliance)?;
    for (number, drive) in drives.iter().enumerate() {
        let Some(from) = drive.grown_from else { continue };
        partition::grow(appliance, &storage, number, from, &drive.id, &mut growth)
            .map_err(|obstacle| obstacle.of(&drive.id))?;
    }
    Ok(growth)
}

/// Has what is in the larger partitions take the room. Nothing may be mounted; afterwards, sizes in `found` are as they are now.
pub(super) fn contents(appliance: &Appliance, found: &mut Found, growth: &mut Growth) -> Result<()> {
    for larger in std::mem::take(&mut growth.larger) {
        volume::follow(appliance, found, &larger, growth).map_err(|obstacle| obstacle.of(&larger.disk))?;
        // Two disks may give room to one volume.
        found.storage = storage::scan(appliance)?;
    }
    Ok(())
}

/// Whether a file system of this kind grows here.
fn is_file_system(content: &str) -> bool {
    EXT.contains(&content) || content == XFS || content == BTRFS
}

/// What stands in the way where this is found in place of what grows; `where_` is the device.
fn in_the_way(content: &str, where_: &str) -> Obstacle {
    let where_ = shown(where_);
    match content {
        "swap" | "swsuspend" => Obstacle::unsupported(
            format!(
                "its last partition, {where_}, is swap, and what lies before that has no room to grow into"
            ),
            "in the source machine, remove that partition (`swapoff`, its line in /etc/fstab, then the partition) and make a \
             swap file instead; or leave `resize` out and give the machine another disk",
        ),
        "linux_raid_member" => Obstacle::unsupported(
            format!("{where_} belongs to an array, and this version grows none"),
            "leave `resize` out, and grow the array in the running machine (`mdadm --grow`)",
        ),
        "ntfs" => Obstacle::unsupported(
            format!("{where_} holds NTFS, and this version does not grow Windows' file systems"),
            "leave `resize` out, and extend the volume in the running machine after the disk was made larger there",
        ),
        "" => Obstacle::unsupported(
            format!("what {where_} holds is not known, and nothing lies behind it that could grow"),
            "leave `resize` out, or remove that partition in the source machine if nothing needs it",
        ),
        other => Obstacle::unsupported(
            format!("{where_} holds {}, which this version does not grow", shown(other)),
            "what grows is ext2, ext3, ext4, XFS and btrfs, on a partition, on LVM or encrypted; leave `resize` out",
        ),
    }
}
