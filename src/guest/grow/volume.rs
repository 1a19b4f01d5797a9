//! From a partition to the file system in it: what was encrypted is open and larger already, and of LVM one volume takes the room.
//!
//! A volume group gets the new room by its physical volume. All of it, and nothing else, goes to one logical volume: the root, if that lies
//! on this physical volume; else the largest file system that does. What an administrator had left free in the group stays free. What is not
//! here: the file system itself.

use super::{Attempt, Growth, LUKS, LVM, Larger, Obstacle, file_system, in_the_way, is_file_system};
use crate::guest::appliance::Appliance;
use crate::guest::facts::Volume;
use crate::guest::inspect::Found;
use crate::guest::inspect::mount::for_shell;
use crate::guest::inspect::storage::Storage;
use crate::guest::tree::shown;
use crate::model::units::human_size;

/// Encryption on a partition, LVM in it, a volume, its file system: deeper is nothing that is grown here.
const MOST_LAYERS: usize = 4;
/// The only kind of logical volume that grows by being given more.
const LINEAR: &str = "linear";

/// Has what lies in a larger device take the room, layer by layer.
pub(super) fn follow(
    appliance: &Appliance,
    found: &Found,
    larger: &Larger,
    growth: &mut Growth,
) -> Attempt<()> {
    let storage = &found.storage;
    let (mut device, mut gained, mut in_a_volume) = (larger.device.clone(), larger.gained, false);
    for _ in 0..MOST_LAYERS {
        let Some(volume) = storage.volumes.iter().find(|volume| volume.device == device) else {
            return Err(Obstacle::broken(format!("{} is gone", shown(&device))));
        };
        match volume.content.as_str() {
            LUKS if in_a_volume => {
                return Err(Obstacle::unsupported(
                    format!(
                        "{} is encrypted inside of LVM, which this version does not grow",
                        shown(&device)
                    ),
                    "leave `resize` out, and grow it in the running machine (`lvextend`, `cryptsetup resize`)",
                ));
            }
            LUKS => device = inside(storage, &device)?,
            LVM => {
                let Some((volume, more)) = lvm(appliance, found, &device, gained, &larger.disk, growth)?
                else {
                    return Ok(());
                };
                (device, gained, in_a_volume) = (volume, more, true);
            }
            content if is_file_system(content) => {
                return file_system::grow(appliance, storage, volume, gained, &larger.disk, growth);
            }
            other => return Err(in_the_way(other, &device)),
        }
    }
    Err(Obstacle::broken(format!("there are more layers than one in {}", shown(&larger.device))))
}

/// What an encrypted volume has been opened as. That was after its partition grew, so it has the new size.
fn inside(storage: &Storage, device: &str) -> Attempt<String> {
    let mapped = storage.below.iter().find(|(_, below)| below.iter().any(|below| below == device));
    mapped.map(|(name, _)| name.clone()).ok_or_else(|| {
        Obstacle::unsupported(
            format!("{} is encrypted, and no key opens it", shown(device)),
            "name a file with its key in `luks[]`, or leave `resize` out",
        )
    })
}

/// A physical volume as LVM sees it.
#[derive(Debug, PartialEq, Eq)]
struct Physical {
    group: String,
    extent_bytes: u64,
    extents: u64,
}

/// Grows a physical volume and gives what was gained to one logical volume; its device, and how many bytes those are.
fn lvm(
    appliance: &Appliance,
    found: &Found,
    device: &str,
    gained: u64,
    disk: &str,
    growth: &mut Growth,
) -> Attempt<Option<(String, u64)>> {
    let storage = &found.storage;
    let before = physical(appliance, storage, device)?;
    if before.group.is_empty() {
        return Err(Obstacle::unsupported(
            format!("{} is prepared for LVM and belongs to no volume group", shown(device)),
            "leave `resize` out, or put it into a volume group in the source machine",
        ));
    }
    let volume = chosen(storage, found.root(), device, &before.group).ok_or_else(|| {
        Obstacle::unsupported(
            format!("no logical volume with a file system that grows lies on {}", shown(device)),
            "what grows is ext2, ext3, ext4, XFS and btrfs; leave `resize` out, or make a volume there in the source machine",
        )
    })?;
    linear(appliance, &volume.device)?;
    appliance
        .grow_physical_volume(device)
        .map_err(|why| Obstacle::refused("grow the physical volume", device, &why))?;
    let after = physical(appliance, storage, device)?;
    let extents = after.extents.saturating_sub(before.extents);
    let bytes = extents.saturating_mul(after.extent_bytes);
    if extents == 0 && gained < after.extent_bytes.saturating_mul(2) {
        growth.warnings.push(format!(
            "disk {disk}: the volume group {} has extents of {}, and the disk grows by less",
            shown(&after.group),
            human_size(after.extent_bytes)
        ));
        return Ok(None);
    }
    if extents == 0 {
        return Err(Obstacle::broken(format!("the physical volume {} did not grow", shown(device))));
    }
    growth.report(
        disk,
        device,
        format!("{} more for the volume group {}", human_size(bytes), shown(&after.group)),
    );
    let script = format!(
        "lvm lvextend -l +{extents} {} {} 2>&1",
        for_shell(&volume.device),
        for_shell(in_appliance(storage, device))
    );
    appliance
        .appliance_command(&script)
        .map_err(|why| Obstacle::refused("grow the logical volume", &volume.device, &why))?;
    let now = appliance
        .device_bytes(&volume.device)
        .map_err(|why| Obstacle::refused("ask the size of", &volume.device, &why))?;
    if now != volume.bytes.saturating_add(bytes) {
        return Err(Obstacle::broken(format!(
            "the logical volume {} has {now} bytes, and not {bytes} more than before",
            shown(&volume.device)
        )));
    }
    let detail = format!("logical volume of {}, before {}", human_size(now), human_size(volume.bytes));
    growth.report(disk, &volume.device, detail);
    Ok(Some((volume.device.clone(), bytes)))
}

/// Which logical volume takes what its group has gained by this physical volume.
fn chosen<'s>(storage: &'s Storage, root: &str, physical: &str, group: &str) -> Option<&'s Volume> {
    let prefix = format!("/dev/{group}/");
    let is_root = |volume: &&Volume| volume.device == root;
    let holds_root = |volume: &&Volume| lies_on(storage, root, &volume.device, 0);
    let in_group = || storage.volumes.iter().filter(|volume| volume.device.starts_with(&prefix));
    let on_it = || in_group().filter(|volume| lies_on(storage, &volume.device, physical, 0));
    on_it()
        .find(is_root)
        .or_else(|| on_it().find(holds_root))
        .or_else(|| {
            on_it().filter(|volume| is_file_system(&volume.content)).max_by_key(|volume| volume.bytes)
        })
        // A physical volume that nothing lies on yet.
        .or_else(|| in_group().find(is_root))
}

/// Whether a device is made of another, at whatever depth.
fn lies_on(storage: &Storage, device: &str, other: &str, depth: usize) -> bool {
    let below = storage.below.get(device).map(Vec::as_slice).unwrap_or_default();
    depth < 8 && below.iter().any(|below| below == other || lies_on(storage, below, other, depth + 1))
}

/// Refuses volumes that do not become larger by a few extents: thin ones, mirrors, caches.
fn linear(appliance: &Appliance, device: &str) -> Attempt<()> {
    let script = format!("lvm lvs --noheadings -o lv_layout {} 2>/dev/null", for_shell(device));
    let layout =
        appliance.appliance_command(&script).map_err(|why| Obstacle::refused("look at", device, &why))?;
    match layout.trim() {
        LINEAR => Ok(()),
        other => Err(Obstacle::unsupported(
            format!(
                "the logical volume {} is {}, and only linear ones are grown",
                shown(device),
                shown(other)
            ),
            "leave `resize` out, and grow it in the running machine",
        )),
    }
}

fn physical(appliance: &Appliance, storage: &Storage, device: &str) -> Attempt<Physical> {
    let script = format!(
        "lvm pvs --noheadings --separator '|' --units b --nosuffix -o vg_extent_size,pv_pe_count,vg_name {} 2>/dev/null",
        for_shell(in_appliance(storage, device))
    );
    let told = appliance
        .appliance_command(&script)
        .map_err(|why| Obstacle::refused("look at the physical volume", device, &why))?;
    read_physical(&told)
        .ok_or_else(|| Obstacle::broken(format!("LVM does not know the physical volume {}", shown(device))))
}

fn read_physical(told: &str) -> Option<Physical> {
    let mut fields = told.trim().splitn(3, '|');
    // Of what belongs to no group, LVM says nothing here.
    let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse().ok() };
    Some(Physical {
        extent_bytes: number(fields.next()?)?,
        extents: number(fields.next()?)?,
        group: fields.next()?.to_owned(),
    })
}

/// A device's name for a tool that runs in the appliance: disks are numbered otherwise there, everything else is called the same.
fn in_appliance<'a>(storage: &'a Storage, device: &'a str) -> &'a str {
    if device.starts_with("/dev/sd") { storage.node(device) } else { device }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(volumes: &[(&str, &str, u64, &[&str])]) -> Storage {
        let mut storage = Storage::default();
        for (device, content, bytes, below) in volumes {
            storage.volumes.push(Volume {
                device: (*device).to_owned(),
                content: (*content).to_owned(),
                bytes: *bytes,
                ..Volume::default()
            });
            let below = below.iter().map(|below| (*below).to_owned()).collect();
            storage.below.insert((*device).to_owned(), below);
        }
        storage
    }

    fn names(storage: &Storage, root: &str, physical: &str, group: &str) -> Option<String> {
        chosen(storage, root, physical, group).map(|volume| volume.device.clone())
    }

    #[test]
    fn the_root_takes_the_room_if_it_lies_there_else_the_largest_file_system_does() {
        let storage = storage(&[
            ("/dev/vg/root", "ext4", 10, &["/dev/sda2"]),
            ("/dev/vg/swap", "swap", 90, &["/dev/sda2"]),
            ("/dev/vg/home", "xfs", 50, &["/dev/sda2", "/dev/sdb1"]),
            ("/dev/vg/small", "xfs", 20, &["/dev/sdb1"]),
            ("/dev/vgdata/srv", "ext4", 99, &["/dev/sdc"]),
        ]);
        let chosen = |physical, group| names(&storage, "/dev/vg/root", physical, group);
        assert_eq!(chosen("/dev/sda2", "vg").as_deref(), Some("/dev/vg/root"));
        assert_eq!(chosen("/dev/sdb1", "vg").as_deref(), Some("/dev/vg/home"), "the root is on another disk");
        assert_eq!(chosen("/dev/sdc", "vgdata").as_deref(), Some("/dev/vgdata/srv"));
        assert_eq!(chosen("/dev/sdd", "vg").as_deref(), Some("/dev/vg/root"), "nothing lies on it yet");
        assert_eq!(chosen("/dev/sdd", "vgdata"), None);
    }

    #[test]
    fn a_root_is_found_through_what_it_lies_in() {
        let storage = storage(&[
            ("/dev/vg/pool", "", 90, &["/dev/sda2"]),
            ("/dev/vg/root", "ext4", 10, &["/dev/vg/pool"]),
            ("/dev/vg/crypt", "crypto_LUKS", 10, &["/dev/sdb"]),
            ("/dev/mapper/luks-1", "ext4", 10, &["/dev/vg/crypt"]),
        ]);
        assert_eq!(names(&storage, "/dev/vg/root", "/dev/sda2", "vg").as_deref(), Some("/dev/vg/root"));
        assert_eq!(names(&storage, "/dev/mapper/luks-1", "/dev/sdb", "vg").as_deref(), Some("/dev/vg/crypt"));
    }

    #[test]
    fn what_lvm_says_of_a_physical_volume_is_read() {
        let read = read_physical("  4194304|767|vg0\n").unwrap();
        assert_eq!(read, Physical { group: "vg0".to_owned(), extent_bytes: 4 << 20, extents: 767 });
        assert_eq!(read_physical("  |0|\n").unwrap().group, "");
        assert_eq!(read_physical(""), None);
        assert_eq!(read_physical("a|b|c"), None);
    }
}
