//! Names of block devices, as the guest had them, and what they are called whatever machine it runs in.
//!
//! The one place that knows that `/dev/sdb1` is the first partition of the second disk. A name is followed to a volume only where that
//! leaves no doubt; a name that cannot be followed is left as it is, because a wrong name is worse than an old one. What is not here:
//! the files in which names stand.

use std::collections::BTreeMap;

use crate::guest::facts::{Facts, Layout, Volume};

/// Contents that are never mounted: something else lies inside.
const WRAPPERS: [&str; 4] = ["LVM2_member", "crypto_LUKS", "linux_raid_member", "zfs_member"];

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// It is the same in any machine, or no disk's name at all.
    Stable,
    /// It changes with the machine, and this is what it stands for.
    Volume(&'a Volume),
    /// It changes with the machine, and nothing in these disks can be told to be it.
    Lost,
}

/// What is expected behind a name, so that a wrong disk is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want<'a> {
    /// A file system of this type, in fstab's words: `ext4`, `auto`, `swap`.
    FileSystem(&'a str),
    /// An encrypted volume with a header.
    Luks,
    /// A partition, whatever is on it.
    Partition,
}

/// How a name says which disk it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk<'a> {
    /// By its place in the order of disks.
    Number(usize),
    /// By a word about the old machine's hardware: a slot, a serial number.
    Word(&'a str),
}

/// The names of a guest.
#[derive(Debug)]
pub struct Names<'a> {
    layout: &'a Layout,
    root: Option<&'a Volume>,
    /// Disks by the word that the guest had for them, as far as the root file system's line in fstab tells.
    learned: BTreeMap<String, usize>,
}

impl<'a> Names<'a> {
    /// Of a guest that was looked at. That its fstab was found on the root file system tells what that file's name for `/` means.
    #[must_use]
    pub fn of(facts: &'a Facts) -> Names<'a> {
        let layout = &facts.layout;
        let root = layout.file_system_of("/").and_then(|mounted| layout.volume(&mounted.device));
        let mut learned = BTreeMap::new();
        let line = facts.identity.mounts.iter().find(|mount| mount.path == "/");
        if let (Some(line), Some(Volume { disk: Some(disk), partition, .. })) = (line, root)
            && let Some((word, number)) = word_of(&line.spec)
            && number == *partition
        {
            learned.insert(word.to_owned(), *disk);
        }
        Names { layout, root, learned }
    }

    /// The volume of the root file system.
    #[must_use]
    pub fn root(&self) -> Option<&'a Volume> {
        self.root
    }

    /// The volume that inspection has mounted somewhere.
    #[must_use]
    pub fn mounted_at(&self, path: &str) -> Option<&'a Volume> {
        let mounted = self.layout.mounted.iter().find(|mounted| mounted.path == path)?;
        self.layout.volume(&mounted.device)
    }

    /// What a name means.
    #[must_use]
    pub fn meaning(&self, name: &str, want: Want<'_>) -> Meaning<'a> {
        if !is_unstable(name) {
            return Meaning::Stable;
        }
        let Some((disk, partition)) = parse(name) else { return Meaning::Lost };
        let found = match word_of(name).and_then(|(word, _)| self.learned.get(word)) {
            Some(&index) => self.on_disk(index, partition),
            None => match disk {
                // What is known to have had another name is not meant.
                Disk::Number(index) if self.is_taken(index, name) => None,
                Disk::Number(index) => self.on_disk(index, partition),
                Disk::Word(_) => self.only_one(partition, want),
            },
        };
        match found {
            Some(volume) if fits(volume, want) => Meaning::Volume(volume),
            _ => Meaning::Lost,
        }
    }

    /// What a volume is called in any machine: `UUID=…`, else `PARTUUID=…`, else `LABEL=…`; only what is its alone.
    #[must_use]
    pub fn stable(&self, volume: &Volume) -> Option<String> {
        let uuid =
            volume.uuid.as_ref().filter(|uuid| self.is_identity(volume, uuid)).map(|id| format!("UUID={id}"));
        uuid.or_else(|| self.of_partition(volume)).or_else(|| {
            let label = volume.label.as_ref().filter(|label| is_plain(label))?;
            let same = self.layout.volumes.iter().filter(|other| other.label.as_ref() == Some(label)).count();
            (same == 1).then(|| format!("LABEL={label}"))
        })
    }

    /// What the partition is called, whatever becomes of its content: `PARTUUID=…`.
    #[must_use]
    pub fn of_partition(&self, volume: &Volume) -> Option<String> {
        let id = volume.partuuid.as_ref().filter(|id| is_plain(id))?;
        let same = self.layout.volumes.iter().filter(|other| other.partuuid.as_ref() == Some(id)).count();
        (same == 1).then(|| format!("PARTUUID={id}"))
    }

    /// Whether a name, stable or not, is known to mean something else than this volume.
    #[must_use]
    pub fn contradicts(&self, spec: &str, volume: &Volume) -> bool {
        let Some((key, value)) = tagged(spec) else { return false };
        let mut named = self.layout.volumes.iter().filter(|other| tag(other, key) == Some(value)).peekable();
        named.peek().is_some()
            && !named.any(|other| other.device == volume.device || same_file_system(other, volume))
    }

    /// Whether a disk is known to have had another name of the same kind.
    fn is_taken(&self, index: usize, name: &str) -> bool {
        let kind = |name: &str| name.chars().take("/dev/sd".len()).collect::<String>();
        self.learned.iter().any(|(word, &known)| known == index && kind(word) == kind(name))
    }

    fn on_disk(&self, index: usize, partition: Option<u32>) -> Option<&'a Volume> {
        self.layout.volumes.iter().find(|volume| {
            volume.disk == Some(index)
                && volume.partition == partition
                && (partition.is_some() || self.layout.disks.get(index) == Some(&volume.device))
        })
    }

    /// The only volume that a name of forgotten hardware can mean.
    fn only_one(&self, partition: Option<u32>, want: Want<'_>) -> Option<&'a Volume> {
        let mut all = self.layout.volumes.iter().filter(|volume| {
            let place = volume.disk.is_some_and(|index| {
                partition.is_some() || self.layout.disks.get(index) == Some(&volume.device)
            });
            place && volume.partition == partition && fits(volume, want)
        });
        all.next().filter(|_| all.next().is_none())
    }

    fn is_identity(&self, volume: &Volume, uuid: &str) -> bool {
        is_plain(uuid)
            && !self.layout.volumes.iter().any(|other| {
                other.device != volume.device
                    && other.uuid.as_deref() == Some(uuid)
                    && !same_file_system(other, volume)
            })
    }
}

/// Two devices of one btrfs have one UUID, and either is it.
fn same_file_system(one: &Volume, other: &Volume) -> bool {
    one.content == "btrfs" && other.content == "btrfs" && one.uuid.is_some() && one.uuid == other.uuid
}

fn tag<'v>(volume: &'v Volume, key: &str) -> Option<&'v str> {
    match key {
        "UUID" => volume.uuid.as_deref(),
        "PARTUUID" => volume.partuuid.as_deref(),
        "LABEL" => volume.label.as_deref(),
        "PARTLABEL" => volume.partlabel.as_deref(),
        _ => None,
    }
}

/// `UUID=x`, `UUID="x"` and `/dev/disk/by-uuid/x` taken apart.
fn tagged(spec: &str) -> Option<(&str, &str)> {
    if let Some(rest) = spec.strip_prefix("/dev/disk/by-") {
        let (kind, value) = rest.split_once('/')?;
        let key = match kind {
            "uuid" => "UUID",
            "partuuid" => "PARTUUID",
            "label" => "LABEL",
            "partlabel" => "PARTLABEL",
            _ => return None,
        };
        return Some((key, value));
    }
    let (key, value) = spec.split_once('=')?;
    Some((key, value.trim_matches('"')))
}

/// Whether nothing in an identifier needs quoting anywhere.
fn is_plain(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// Whether a name may mean another disk in another machine.
#[must_use]
pub fn is_unstable(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("/dev/") else { return false };
    if let Some(id) = rest.strip_prefix("disk/by-id/") {
        // Those of LVM, arrays and mappings hold an identity that is written on the disk.
        return !["dm-", "md-", "lvm-"].iter().any(|prefix| id.starts_with(prefix));
    }
    is_by_path(name)
        || parse(name).is_some()
        || rest.starts_with("dm-")
        || ["sd", "hd", "vd", "xvd", "nvme", "cciss/"].iter().any(|kind| {
            // `/dev/sda1,` is a disk's name that was mistyped.
            rest.strip_prefix(kind)
                .is_some_and(|rest| !rest.contains('/') && rest.bytes().any(|byte| byte.is_ascii_digit()))
        })
}

/// Whether a name says in which slot the disk is.
#[must_use]
pub fn is_by_path(name: &str) -> bool {
    name.starts_with("/dev/disk/by-path/")
}

fn parse(name: &str) -> Option<(Disk<'_>, Option<u32>)> {
    let rest = name.strip_prefix("/dev/")?;
    if let Some(word) = rest.strip_prefix("disk/by-path/").or_else(|| rest.strip_prefix("disk/by-id/")) {
        let (disk, partition) = match word.rsplit_once("-part") {
            Some((disk, digits)) => (disk, Some(number(digits)?)),
            None => (word, None),
        };
        return Some((Disk::Word(disk), partition));
    }
    if let Some(rest) = rest.strip_prefix("nvme") {
        let (controller, rest) = rest.split_once('n')?;
        let (namespace, partition) = of_partition(rest)?;
        let index = match (number(controller)?, number(namespace)?) {
            // Several disks at one controller, as VMware has it, or one disk at each.
            (0, space @ 1..) => space - 1,
            (controller, 1) => controller,
            _ => return None,
        };
        return Some((Disk::Number(usize::try_from(index).ok()?), partition));
    }
    if let Some(rest) = rest.strip_prefix("cciss/c0d") {
        let (disk, partition) = of_partition(rest)?;
        return Some((Disk::Number(usize::try_from(number(disk)?).ok()?), partition));
    }
    let letters = ["xvd", "sd", "hd", "vd"].iter().find_map(|kind| rest.strip_prefix(kind))?;
    let end = letters.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(letters.len());
    let (letters, digits) = letters.split_at(end);
    let partition = if digits.is_empty() { None } else { Some(number(digits)?) };
    Some((Disk::Number(disk_number(letters)?), partition))
}

/// The disk's part of a name, as a key, and the partition's number.
fn word_of(name: &str) -> Option<(&str, Option<u32>)> {
    let (disk, partition) = parse(name)?;
    match disk {
        Disk::Word(word) => Some((word, partition)),
        Disk::Number(_) => {
            let digits = partition.map_or(0, |number| number.to_string().len());
            let word = &name[..name.len() - digits];
            let word = if partition.is_some() && (word.contains("nvme") || word.contains("cciss")) {
                word.strip_suffix('p').unwrap_or(word)
            } else {
                word
            };
            Some((word, partition))
        }
    }
}

/// `1p2` taken apart.
fn of_partition(text: &str) -> Option<(&str, Option<u32>)> {
    match text.split_once('p') {
        Some((disk, digits)) => Some((disk, Some(number(digits)?))),
        None => Some((text, None)),
    }
}

/// As the kernel writes it: no sign, no zero in front.
fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().ok())?
}

/// `a` is 0, `z` 25, `aa` 26.
fn disk_number(letters: &str) -> Option<usize> {
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    let value = letters.bytes().fold(0, |value, letter| value * 26 + usize::from(letter - b'a') + 1);
    Some(value - 1)
}

/// Whether a volume is what is expected.
#[must_use]
pub fn fits(volume: &Volume, want: Want<'_>) -> bool {
    let content = volume.content.as_str();
    match want {
        Want::Partition => true,
        Want::Luks => content == "crypto_LUKS",
        Want::FileSystem(types) => types.split(',').any(|kind| match kind {
            "auto" | "" | "fuse" => !content.is_empty() && content != "swap" && !WRAPPERS.contains(&content),
            "swap" => content == "swap" || content == "swsuspend",
            "ext2" | "ext3" | "ext4" | "ext4dev" => content.starts_with("ext"),
            "vfat" | "msdos" | "umsdos" | "fat" => content == "vfat" || content == "msdos",
            "ntfs" | "ntfs3" | "ntfs-3g" | "lowntfs-3g" => content == "ntfs",
            "fuseblk" => content == "ntfs" || content == "exfat",
            kind => content == kind,
        }),
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
