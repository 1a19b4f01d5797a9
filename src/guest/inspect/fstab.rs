//! `/etc/fstab` and `/etc/crypttab`, read: which device a name of the guest's means here.
//!
//! The guest counted its disks under its old hypervisor; the plan has them in the same order, so the second disk is `sdb`, whatever the
//! bus was called. What is not here: any change to these files (see the fixes).

use super::storage::{Storage, lvm_names};
use crate::guest::facts::Volume;

/// Hostile files do not keep us busy.
const MOST_ENTRIES: usize = 1000;

/// A line of fstab.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// `UUID=…`, `/dev/sda1`
    pub(super) spec: String,
    /// `/boot`
    pub(super) path: String,
    /// `ext4`
    pub(super) kind: String,
    /// `defaults,nofail`
    pub(super) options: String,
}

impl Entry {
    /// Whether an option of this name is given.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|given| given == option)
    }

    /// The value of `name=…`.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.split(',').find_map(|given| given.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The entries; what is no entry is passed over, as `mount` does.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(plain);
            let (spec, path) = (fields.next()?, fields.next()?);
            let kind = fields.next().unwrap_or_else(|| "auto".to_owned());
            let options = fields.next().unwrap_or_default();
            // `a/./b`, `a//b` and `a/` are what `a/b` and `a` are.
            let path = if path.starts_with('/') { normal(&path)? } else { path };
            Some(Entry { spec, path, kind, options })
        })
        .take(MOST_ENTRIES)
        .collect()
}

/// `\040` is a space.
fn plain(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// A path without empty parts; none where it leads upwards.
fn normal(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.contains(&"..")).then(|| format!("/{}", parts.join("/")))
}

/// A line of crypttab: the name that the inside gets, and the device.
pub(super) fn encrypted(text: &str) -> Vec<(String, String)> {
    let fields = |line: &str| {
        let mut fields = line.split_whitespace().map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(fields)
        .take(MOST_ENTRIES)
        .collect()
}

/// Arrays that `mdadm.conf` names: `/dev/md0` and the array's UUID as libblkid writes it.
pub(super) fn arrays(text: &str) -> Vec<(String, String)> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let device = words.next().filter(|word| *word == "ARRAY").and_then(|_| words.next())?.to_owned();
        let digits: String = words
            .find_map(|word| word.strip_prefix("UUID="))?
            .chars()
            .filter(char::is_ascii_hexdigit)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
        let uuid: Option<Vec<&str>> = parts.iter().map(|(from, to)| digits.get(*from..*to)).collect();
        Some((device, uuid?.join("-")))
    };
    text.lines().filter_map(of_line).take(MOST_ENTRIES).collect()
}

/// What the guest says of its own devices.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// From crypttab: name, device.
    pub(super) encrypted: Vec<(String, String)>,
    /// From mdadm.conf: device, UUID.
    pub(super) arrays: Vec<(String, String)>,
}

/// The device that a name of the guest means here.
pub(super) fn resolve<'s>(spec: &str, storage: &'s Storage, names: &Names) -> Option<&'s Volume> {
    let by_tag = |tag: &str, value: &str| {
        let value = value.trim_matches('"');
        storage.volumes.iter().find(|volume| {
            let told = match tag {
                "UUID" | "uuid" => &volume.uuid,
                "LABEL" | "label" => &volume.label,
                "PARTUUID" | "partuuid" => &volume.partuuid,
                "PARTLABEL" | "partlabel" => &volume.partlabel,
                _ => return false,
            };
            let same = told
                .as_deref()
                .is_some_and(|told| told == value || tag.ends_with("ID") && told.eq_ignore_ascii_case(value));
            // The members of an array and its inside may carry the same tag; what is mounted is the inside.
            same && !storage.is_used(&volume.device)
        })
    };
    if let Some((tag, value)) = spec.split_once('=') {
        return by_tag(tag, value);
    }
    let name = spec.strip_prefix("/dev/")?;
    if let Some((kind, value)) = name.strip_prefix("disk/by-").and_then(|rest| rest.split_once('/')) {
        return match kind {
            "path" => by_path(value, storage),
            "id" => value
                .strip_prefix("dm-name-")
                .and_then(|name| mapped(name, storage, names))
                .or_else(|| by_part(value, storage)),
            tag => by_tag(&tag.to_ascii_uppercase(), &decoded(value)),
        };
    }
    if let Some(name) = name.strip_prefix("mapper/") {
        return mapped(name, storage, names);
    }
    if name.starts_with("md") {
        return array(name, storage, names);
    }
    if let Some((disk, partition)) = disk_name(name) {
        return on_disk(disk, partition, storage);
    }
    storage.volumes.iter().find(|volume| volume.device == spec)
}

/// A logical volume or an unlocked one, by the mapper's name.
fn mapped<'s>(name: &str, storage: &'s Storage, names: &Names) -> Option<&'s Volume> {
    let here = |device: &str| storage.volumes.iter().find(|volume| volume.device == device);
    if let Some((group, volume)) = lvm_names(name)
        && let Some(found) = here(&format!("/dev/{group}/{volume}"))
    {
        return Some(found);
    }
    let (_, below) = names.encrypted.iter().find(|(known, _)| known == name)?;
    // A name that stands for itself would have no end.
    let others = Names { arrays: names.arrays.clone(), encrypted: Vec::new() };
    let uuid_or_device = locked_device(below, storage, &others)?;
    storage.volumes.iter().find(|volume| {
        storage.below.get(&volume.device).is_some_and(|below| below.contains(&uuid_or_device.device))
    })
}

/// The encrypted device itself, which is in use once it is open.
fn locked_device<'s>(spec: &str, storage: &'s Storage, names: &Names) -> Option<&'s Volume> {
    let uuid = spec.strip_prefix("UUID=").or_else(|| spec.strip_prefix("/dev/disk/by-uuid/"));
    match uuid {
        Some(uuid) => {
            let uuid = uuid.trim_matches('"');
            storage
                .volumes
                .iter()
                .find(|volume| volume.uuid.as_deref().is_some_and(|told| told.eq_ignore_ascii_case(uuid)))
        }
        None => match spec.strip_prefix("PARTUUID=") {
            Some(id) => storage.volumes.iter().find(|volume| volume.partuuid.as_deref() == Some(id)),
            None => resolve(spec, storage, names),
        },
    }
}

/// An array by its name in the guest: told by mdadm.conf, else by the name that its members carry, else because there is but one.
fn array<'s>(name: &str, storage: &'s Storage, names: &Names) -> Option<&'s Volume> {
    let arrays: Vec<&Volume> =
        storage.volumes.iter().filter(|volume| volume.device.starts_with("/dev/md")).collect();
    let member = |array: &Volume| {
        let below = storage.below.get(&array.device)?.first()?;
        storage.volumes.iter().find(|volume| &volume.device == below)
    };
    let device = format!("/dev/{name}");
    let uuid = names.arrays.iter().find(|(known, _)| *known == device).map(|(_, uuid)| uuid);
    if let Some(uuid) = uuid
        && let Some(found) =
            arrays.iter().find(|array| member(array).and_then(|member| member.uuid.as_ref()) == Some(uuid))
    {
        return Some(found);
    }
    let short = name.strip_prefix("md/").or_else(|| name.strip_prefix("md"))?;
    let named = |array: &&&Volume| {
        let label = member(array).and_then(|member| member.label.as_deref());
        label.is_some_and(|label| label.rsplit_once(':').map_or(label, |(_, name)| name) == short)
    };
    arrays.iter().find(named).copied().or(match arrays.as_slice() {
        [one] => Some(one),
        _ => None,
    })
}

/// `sdb1` → the second disk, its first partition; `hd`, `vd`, `xvd`, `nvme0n1p1`, `mmcblk0p1`, `cciss/c0d0p1` alike.
pub(super) fn disk_name(name: &str) -> Option<(usize, Option<u32>)> {
    let numbered = |rest: &str, disk: &str| {
        let partition = match rest.strip_prefix(disk)? {
            "" => None,
            part => Some(part.strip_prefix('p')?.parse().ok()?),
        };
        Some(partition)
    };
    for prefix in ["xvd", "sd", "hd", "vd"] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
        let (letters, digits) = rest.split_at(end);
        if letters.is_empty() || letters.len() > 2 {
            return None;
        }
        let index = letters.bytes().fold(0, |sum, c| sum * 26 + usize::from(c - b'a') + 1) - 1;
        let partition = if digits.is_empty() { None } else { Some(digits.parse().ok()?) };
        return Some((index, partition));
    }
    for (prefix, between) in [("nvme", "n1"), ("mmcblk", ""), ("cciss/c0d", "")] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let index = rest[..end].parse().ok()?;
        return Some((index, numbered(&rest[end..], between)?));
    }
    None
}

fn on_disk(disk: usize, partition: Option<u32>, storage: &Storage) -> Option<&Volume> {
    storage.volumes.iter().find(|volume| {
        volume.disk == Some(disk) && volume.partition == partition && volume.device.starts_with("/dev/sd")
    })
}

/// `pci-0000:00:10.0-scsi-0:0:1:0-part1`: the second target; VMware's controllers leave out number 7, their own.
fn by_path<'s>(value: &str, storage: &'s Storage) -> Option<&'s Volume> {
    let (path, partition) = parted(value);
    let target = path.rsplit_once("scsi-")?.1.split(':').nth(2)?.parse::<usize>().ok()?;
    let disk = if target > 7 { target - 1 } else { target };
    on_disk(disk, partition, storage)
}

/// A hardware name says nothing about the order of disks; its partition does where only one disk has that number.
fn by_part<'s>(value: &str, storage: &'s Storage) -> Option<&'s Volume> {
    let (_, partition) = parted(value);
    let mut found = (0..storage.disks.len()).filter_map(|disk| on_disk(disk, Some(partition?), storage));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn parted(value: &str) -> (&str, Option<u32>) {
    match value.rsplit_once("-part") {
        Some((path, number)) => (path, number.parse().ok()),
        None => (value, None),
    }
}

/// udev writes `\x20` for what may not stand in a name.
fn decoded(value: &str) -> String {
    super::words::unescaped(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(device: &str, disk: usize, partition: Option<u32>, uuid: &str) -> Volume {
        Volume {
            device: device.to_owned(),
            disk: Some(disk),
            partition,
            uuid: Some(uuid.to_owned()),
            ..Volume::default()
        }
    }

    fn storage() -> Storage {
        let labelled = |volume: Volume, label: &str| Volume { label: Some(label.to_owned()), ..volume };
        let volumes = vec![
            Volume {
                partuuid: Some("3249e553-01".to_owned()),
                ..volume("/dev/sda1", 0, Some(1), "aaaa-1111")
            },
            volume("/dev/sda2", 0, Some(2), "luks-uuid"),
            labelled(volume("/dev/sda3", 0, Some(3), "0f0e0d0c-0b0a-0908-0706-050403020100"), "box:data"),
            labelled(volume("/dev/sdb1", 1, Some(1), "bbbb"), "my data"),
            volume("/dev/mapper/luks-1", 0, None, "inside"),
            volume("/dev/md127", 0, None, "array"),
            volume("/dev/my-vg/root", 0, None, "lv"),
        ];
        let below = [("/dev/mapper/luks-1", "/dev/sda2"), ("/dev/md127", "/dev/sda3")]
            .map(|(above, below)| (above.to_owned(), vec![below.to_owned()]));
        Storage {
            disks: vec!["/dev/sda".to_owned(), "/dev/sdb".to_owned()],
            volumes,
            below: below.into_iter().collect(),
            ..Storage::default()
        }
    }

    #[test]
    fn every_way_to_name_a_device_leads_to_it() {
        let names = Names {
            encrypted: encrypted(
                "# name device\nsda2_crypt /dev/sda2 none luks\nhome UUID=luks-uuid none luks\n",
            ),
            arrays: arrays(
                "ARRAY /dev/md5 metadata=1.2 UUID=0f0e0d0c:0b0a0908:07060504:03020100 name=box:5\n",
            ),
        };
        let storage = storage();
        let rows = [
            ("UUID=AAAA-1111", "/dev/sda1"),
            ("UUID=\"aaaa-1111\"", "/dev/sda1"),
            ("PARTUUID=3249E553-01", "/dev/sda1"),
            ("LABEL=my data", "/dev/sdb1"),
            ("/dev/disk/by-label/my\\x20data", "/dev/sdb1"),
            ("/dev/disk/by-uuid/bbbb", "/dev/sdb1"),
            ("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part1", "/dev/sdb1"),
            ("/dev/disk/by-id/scsi-36000c29f-part2", "/dev/sda2"),
            ("/dev/sdb1", "/dev/sdb1"),
            ("/dev/hdb1", "/dev/sdb1"),
            ("/dev/xvdb1", "/dev/sdb1"),
            ("/dev/nvme1n1p1", "/dev/sdb1"),
            ("/dev/cciss/c0d1p1", "/dev/sdb1"),
            ("/dev/my-vg/root", "/dev/my-vg/root"),
            ("/dev/mapper/my--vg-root", "/dev/my-vg/root"),
            ("/dev/mapper/sda2_crypt", "/dev/mapper/luks-1"),
            ("/dev/mapper/home", "/dev/mapper/luks-1"),
            ("/dev/md5", "/dev/md127"),
            ("/dev/md/data", "/dev/md127"),
            ("/dev/md0", "/dev/md127"),
        ];
        for (spec, device) in rows {
            let found = resolve(spec, &storage, &names).map(|volume| volume.device.as_str());
            assert_eq!(found, Some(device), "{spec}");
        }
        for spec in [
            "UUID=cccc",
            "/dev/sdc1",
            "/dev/sda9",
            "tmpfs",
            "/dev/mapper/x",
            "/dev/disk/by-id/wwn-part1",
            "//nas/x",
            "/dev/sd",
            "/dev/nvme",
        ] {
            assert_eq!(resolve(spec, &storage, &names), None, "{spec}");
        }
    }

    #[test]
    fn entries_are_read_as_mount_reads_them() {
        let read = entries(
            "# /etc/fstab\n\nUUID=1 / ext4 errors=remount-ro 0 1\n/dev/sdb1\t/srv/my\\040data// xfs defaults,nofail\n\
             /dev/sda5 none swap sw 0 0\nbroken\n/dev/sdc1 /a/../b ext4\nLABEL=x /boot/ auto\n",
        );
        let paths: Vec<&str> = read.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["/", "/srv/my data", "none", "/boot"]);
        assert!(read[1].has("nofail"));
        assert_eq!(
            Entry { options: "rw,subvol=@home".to_owned(), ..Entry::default() }.option("subvol"),
            Some("@home")
        );
    }
}
