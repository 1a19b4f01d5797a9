//! Which of the file systems holds the system: all candidates are looked at with one question, and one is chosen by rule.
//!
//! - What the manifest names is taken.
//! - A Linux comes before a Windows.
//! - Of a btrfs: its default subvolume, then the usual names, then what is no snapshot.
//! - Of several installations of one distribution, the newest; else the first in the order of disks and partitions.
//!
//! Whatever was passed over is said. What is not here: mounting it for the work.

use super::fstab::{self, Names};
use super::mount;
use super::os;
use super::storage::Storage;
use super::unlock;
use super::words::compare_versions;
use crate::guest::appliance::Appliance;
use crate::guest::facts::Volume;
use crate::guest::tree::shown;
use crate::model::error::{Error, Kind, Result};

/// File systems that a system may lie on.
const FILE_SYSTEMS: [&str; 12] = [
    "ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2", "ntfs", "bcachefs", "erofs",
];
/// More candidates than this are not looked at.
const MOST_CANDIDATES: usize = 64;
/// A volume that BitLocker has encrypted, in libblkid's words.
pub(super) const BITLOCKER: &str = "BitLocker";
/// Field by which a manifest allows that there is nothing to repair.
const NO_OS_FIELD: &str = "pipeline.fix.on_no_os";

/// Mounts each candidate, read-only, and tells what it has. Nothing is read but whether a name is there, so that links of the guest do
/// not matter.
const LOOK: &str = r#"at=/tmp/hyper2kvm-look; mkdir -p $at
there() { [ -e "$1" ] || [ -L "$1" ]; }
marks() {
  for name in etc/os-release usr/lib/os-release etc/redhat-release etc/SuSE-release etc/debian_version etc/alpine-release etc/arch-release
  do there "$1/$name" && { printf ' os'; break; }; done
  there "$1/etc/fstab" && printf ' fstab'
  for name in sbin/init usr/sbin/init usr/lib/systemd/systemd lib/systemd/systemd; do there "$1/$name" && { printf ' init'; break; }; done
  for name in Windows/System32 Windows/system32 WINDOWS/System32 WINDOWS/system32 windows/system32 WINNT/system32
  do [ -d "$1/$name" ] && { printf ' windows'; break; }; done
}
look() {
  if ! why=$(mount -o "$3" "$2" $at 2>&1); then printf 'failed\t%s\t%s\n' "$1" "$(printf %s "$why" | tr '\n\t' '  ')"; return; fi
  if [ "$4" = btrfs ]; then
    printf 'default\t%s\t%s\n' "$1" "$(btrfs subvolume get-default $at 2>/dev/null | cut -d' ' -f2)"
    printf 'found\t%s\t5\t%s\t\n' "$1" "$(marks $at)"
    btrfs subvolume list $at 2>/dev/null | head -n 500 | sed -n 's/^ID \([0-9]*\) .* path \(.*\)$/\1 \2/p' |
      while read -r id path; do printf 'found\t%s\t%s\t%s\t%s\n' "$1" "$id" "$(marks "$at/$path")" "$path"; done
  else
    printf 'found\t%s\t\t%s\t\n' "$1" "$(marks $at)"
  fi
  umount $at
}
"#;

/// A file system, or a subvolume of one, that may hold a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) device: String,
    /// Of a btrfs: number and path.
    pub(super) subvolume: Option<(u64, String)>,
    /// Whether it is the subvolume that is mounted if none is named.
    is_default: bool,
    has_os: bool,
    has_fstab: bool,
    has_init: bool,
    pub(super) windows: bool,
}

impl Candidate {
    fn is_linux(&self) -> bool {
        self.has_os && (self.has_fstab || self.has_init)
    }

    /// Options that mount it and nothing else.
    pub(super) fn options(&self) -> String {
        self.subvolume.as_ref().map_or_else(String::new, |(id, _)| format!("subvolid={id}"))
    }

    /// For people: `/dev/sda2 (subvolume @)`.
    pub(super) fn called(&self) -> String {
        match &self.subvolume {
            Some((_, path)) if !path.is_empty() => {
                format!("{} (subvolume {})", shown(&self.device), shown(path))
            }
            _ => shown(&self.device),
        }
    }
}

/// What was chosen, and why where there was a choice.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) root: Candidate,
    pub(super) notes: Vec<String>,
    /// File systems that cannot be opened, and why.
    pub(super) unreadable: Vec<(String, String)>,
}

/// Chooses.
pub(super) fn choose(appliance: &Appliance, storage: &Storage, wanted: Option<&str>) -> Result<Choice> {
    let wanted = wanted.map(|spec| named(spec, storage)).transpose()?;
    let volumes: Vec<&Volume> = storage
        .volumes
        .iter()
        .filter(|volume| FILE_SYSTEMS.contains(&volume.content.as_str()) && !storage.is_used(&volume.device))
        .filter(|volume| !is_another_part(volume, storage))
        .filter(|volume| wanted.is_none_or(|wanted| volume.device == wanted.device))
        .take(MOST_CANDIDATES)
        .collect();
    let (mut found, failures) = look(appliance, storage, &volumes)?;
    found.retain(|candidate| candidate.is_linux() || candidate.windows);
    let mut notes: Vec<String> = failures
        .iter()
        .map(|(device, why)| {
            format!("the file system on {} cannot be mounted: {}", shown(device), shown(why))
        })
        .collect();
    let linux = one_of_each(found.iter().filter(|candidate| candidate.is_linux()), &mut notes);
    let root = match linux.as_slice() {
        [] => match found.iter().find(|candidate| candidate.windows) {
            Some(windows) => windows.clone(),
            None => return Err(nothing(storage, wanted, &notes)),
        },
        [one] => one.clone(),
        several => newest(appliance, several, &mut notes)?,
    };
    for other in found.iter().filter(|other| other.windows && other.device != root.device && !root.windows) {
        notes.push(format!(
            "a Windows on {} was passed over: the Linux on {} is what is repaired",
            other.called(),
            root.called()
        ));
    }
    Ok(Choice { root, notes, unreadable: failures })
}

/// A btrfs over several devices is one file system; the first of them stands for it.
fn is_another_part(volume: &Volume, storage: &Storage) -> bool {
    let is_same = |other: &&Volume| other.content == "btrfs" && other.uuid == volume.uuid;
    volume.content == "btrfs"
        && volume.uuid.is_some()
        && storage.volumes.iter().find(is_same).is_some_and(|first| first.device != volume.device)
}

fn named<'s>(spec: &str, storage: &'s Storage) -> Result<&'s Volume> {
    fstab::resolve(spec, storage, &Names::default()).ok_or_else(|| {
        let known: Vec<String> = storage.volumes.iter().map(|volume| shown(&volume.device)).collect();
        Error::new(Kind::Guest, format!("the guest has no {}, which should be its root", shown(spec)))
            .field("pipeline.fix.root")
            .advice("name one of its file systems, as `/dev/sda1`, `/dev/group/volume` or `UUID=…`")
            .allowed(known)
    })
}

type Failures = Vec<(String, String)>;

fn look(appliance: &Appliance, storage: &Storage, volumes: &[&Volume]) -> Result<(Vec<Candidate>, Failures)> {
    if volumes.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut script = LOOK.to_owned();
    for (index, volume) in volumes.iter().enumerate() {
        let device = mount::for_shell(storage.node(&volume.device));
        let options = mount::looking_options(&volume.content);
        script.push_str(&format!("look {index} {device} {options} {}\n", volume.content));
    }
    script.push_str("exit 0\n");
    let told = appliance.appliance_command(&script).map_err(|why| {
        Error::new(Kind::Guest, format!("the guest's file systems cannot be looked at: {}", shown(&why)))
            .advice("see the appliance's log")
            .transient()
    })?;
    Ok(read(&told, volumes))
}

fn read(told: &str, volumes: &[&Volume]) -> (Vec<Candidate>, Failures) {
    let (mut found, mut failures, mut defaults) = (Vec::new(), Vec::new(), Vec::new());
    for line in told.lines() {
        let fields: Vec<&str> = line.splitn(5, '\t').collect();
        let Some(volume) = fields.get(1).and_then(|index| volumes.get(index.parse::<usize>().ok()?)) else {
            continue;
        };
        match fields.as_slice() {
            ["found", _, id, marks, path] => {
                let has = |mark: &str| marks.split(' ').any(|given| given == mark);
                found.push(Candidate {
                    device: volume.device.clone(),
                    subvolume: id.parse().ok().map(|id| (id, (*path).to_owned())),
                    is_default: false,
                    has_os: has("os"),
                    has_fstab: has("fstab"),
                    has_init: has("init"),
                    windows: has("windows"),
                });
            }
            ["default", _, id] => defaults.push((volume.device.clone(), id.parse::<u64>().ok())),
            ["failed", _, why] => failures.push((volume.device.clone(), (*why).to_owned())),
            _ => {}
        }
    }
    for candidate in &mut found {
        let id = candidate.subvolume.as_ref().map(|(id, _)| *id);
        candidate.is_default = id.is_some() && defaults.contains(&(candidate.device.clone(), id));
    }
    (found, failures)
}

/// Of the subvolumes of one btrfs, the one that the guest runs from.
fn one_of_each<'c>(
    candidates: impl Iterator<Item = &'c Candidate>,
    notes: &mut Vec<String>,
) -> Vec<Candidate> {
    let mut chosen: Vec<Candidate> = Vec::new();
    let mut passed: Vec<usize> = Vec::new();
    for candidate in candidates {
        let Some(at) = chosen.iter().position(|other| other.device == candidate.device) else {
            chosen.push(candidate.clone());
            passed.push(0);
            continue;
        };
        passed[at] += 1;
        if rank(candidate) < rank(&chosen[at]) {
            chosen[at] = candidate.clone();
        }
    }
    for (candidate, passed) in chosen.iter().zip(passed).filter(|(_, passed)| *passed > 0) {
        notes.push(format!(
            "of {} subvolumes with a system on {}, `{}` was taken: {}",
            passed + 1,
            shown(&candidate.device),
            candidate.subvolume.as_ref().map_or_else(String::new, |(_, path)| shown(path)),
            if candidate.is_default { "it is the default" } else { "by its name" }
        ));
    }
    chosen
}

/// Less is better.
fn rank(candidate: &Candidate) -> (bool, bool, usize, bool, usize) {
    let path = candidate.subvolume.as_ref().map_or("", |(_, path)| path.as_str());
    let usual =
        ["@", "@rootfs", "root", "ROOT", "@root"].iter().position(|name| *name == path).unwrap_or(usize::MAX);
    let snapshot =
        ["/.snapshots/", "timeshift-btrfs/", "snapshot"].iter().any(|mark| format!("/{path}").contains(mark));
    (!candidate.is_default, !candidate.has_fstab, usual, snapshot, path.len())
}

/// Of several installations, the newest of one distribution; else the first.
fn newest(appliance: &Appliance, several: &[Candidate], notes: &mut Vec<String>) -> Result<Candidate> {
    let mut releases = Vec::with_capacity(several.len());
    for candidate in several {
        releases.push(mount::with_mounted(appliance, candidate, os::release)?);
    }
    let same = releases.iter().all(|release| release.id == releases[0].id);
    let mut best = 0;
    for index in 1..several.len() {
        let version = |at: usize| releases[at].version.as_deref().unwrap_or("");
        if same && compare_versions(version(index), version(best)).is_gt() {
            best = index;
        }
    }
    let names: Vec<String> = several
        .iter()
        .zip(&releases)
        .map(|(candidate, release)| {
            format!("{} on {}", shown(release.pretty.as_deref().unwrap_or("a Linux")), candidate.called())
        })
        .collect();
    let why = if same {
        "the newest, and of equals the first"
    } else {
        "the first in the order of disks and partitions"
    };
    notes.push(format!(
        "{} systems were found ({}); {} was taken, {why}",
        several.len(),
        names.join(", "),
        several[best].called()
    ));
    Ok(several[best].clone())
}

/// Why there is nothing, as well as it can be told.
fn nothing(storage: &Storage, wanted: Option<&Volume>, notes: &[String]) -> Error {
    if let Some(wanted) = wanted {
        return Error::new(Kind::Guest, format!("there is no operating system on {}", shown(&wanted.device)))
            .rule("guest.no_system")
            .field("pipeline.fix.root")
            .advice(
                "name the file system that holds /etc and /usr, or leave `root` out: it is found by itself",
            );
    }
    let locked: Vec<String> = unlock::locked(storage).map(unlock::called).collect();
    if !locked.is_empty() {
        return Error::new(
            Kind::Guest,
            format!(
                "no operating system was found, and {} is encrypted (LUKS) with no key that opens it",
                locked.join(", ")
            ),
        )
        .rule("guest.encrypted")
        .field("luks")
        .advice("give its passphrase: `luks: [{uuid: …, key_file: …}]`, or `--key-file` of `inspect`");
    }
    let special: Vec<String> = storage
        .volumes
        .iter()
        .filter_map(|volume| Some(format!("{} holds {}", shown(&volume.device), foreign(volume)?)))
        .chain(unlock::closed(storage).map(|volume| {
            format!(
                "{} holds LVM of which nothing is open, because parts of it are missing",
                shown(&volume.device)
            )
        }))
        .collect();
    let cause = if !special.is_empty() {
        format!("no operating system that can be opened was found: {}", special.join(", "))
    } else if storage.volumes.is_empty() {
        "no operating system was found: the disks have no partitions and no file systems".to_owned()
    } else if notes.is_empty() {
        "no operating system was found in the file systems of these disks".to_owned()
    } else {
        format!("no operating system was found: {}", notes.join("; "))
    };
    let is_bitlocker = storage.holding(BITLOCKER).next().is_some();
    Error::new(Kind::Guest, cause)
        .rule(if is_bitlocker { "guest.bitlocker" } else { "guest.no_system" })
        .field(NO_OS_FIELD)
        .advice("give all disks of the machine, the one that it boots from among them; `on_no_os: skip` converts disks without a system as they are")
}

/// What cannot be opened, by name.
fn foreign(volume: &Volume) -> Option<&'static str> {
    Some(match (volume.content.as_str(), volume.partition_type.as_deref()) {
        ("zfs_member", _) => "ZFS, which the appliance cannot read",
        (BITLOCKER, _) => "a volume that BitLocker has encrypted",
        ("apfs" | "hfsplus", _) => "a file system of macOS",
        ("VMFS" | "VMFS_volume_member", _) => "a datastore of VMware (VMFS)",
        ("ufs" | "ffs", _) => "a file system of BSD",
        ("ReFS", _) => "ReFS, which the appliance cannot read",
        (
            "",
            Some("0x42" | "AF9B60A0-1431-4F62-BC68-3311714A69AD" | "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3"),
        ) => "a dynamic disk of Windows (LDM)",
        ("", Some("516E7CB6-6ECF-11D6-8FF8-00022D09712B" | "516E7CBA-6ECF-11D6-8FF8-00022D09712B")) => {
            "a system of FreeBSD"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(device: &str, content: &str) -> Volume {
        Volume { device: device.to_owned(), content: content.to_owned(), ..Volume::default() }
    }

    #[test]
    fn the_default_subvolume_is_taken_before_its_snapshots_and_that_is_said() {
        let btrfs = volume("/dev/sda2", "btrfs");
        let told = "default\t0\t268\nfound\t0\t5\t\t\nfound\t0\t256\t\t@\nfound\t0\t268\t os fstab init\t@/.snapshots/1/snapshot\n\
            found\t0\t300\t os fstab init\t@/.snapshots/2/snapshot\n";
        let (found, failures) = read(told, &[&btrfs]);
        assert!(failures.is_empty());
        let mut notes = Vec::new();
        let chosen = one_of_each(found.iter().filter(|candidate| candidate.is_linux()), &mut notes);
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].options(), "subvolid=268");
        assert_eq!(
            notes,
            [
                "of 2 subvolumes with a system on /dev/sda2, `@/.snapshots/1/snapshot` was taken: it is the default"
            ]
        );
    }

    #[test]
    fn without_a_default_the_usual_name_is_taken() {
        let btrfs = volume("/dev/sda2", "btrfs");
        let told = "default\t0\t5\nfound\t0\t5\t\t\nfound\t0\t270\t os fstab\ttimeshift-btrfs/snapshots/2024/@\n\
            found\t0\t256\t os fstab\t@\nfound\t0\t257\t\t@home\n";
        let (found, _) = read(told, &[&btrfs]);
        let chosen = one_of_each(found.iter().filter(|candidate| candidate.is_linux()), &mut Vec::new());
        assert_eq!(chosen[0].subvolume, Some((256, "@".to_owned())));
    }

    #[test]
    fn a_file_system_that_does_not_mount_is_told_with_its_reason() {
        let broken = volume("/dev/sda1", "xfs");
        let (found, failures) =
            read("failed\t0\tmount: wrong fs type\nfound\t7\t\tos\t\nnonsense\n", &[&broken]);
        assert!(found.is_empty());
        assert_eq!(failures, [("/dev/sda1".to_owned(), "mount: wrong fs type".to_owned())]);
    }

    #[test]
    fn what_cannot_be_opened_is_said_by_name() {
        let storage = |volume: Volume| Storage { volumes: vec![volume], ..Storage::default() };
        let zfs = nothing(&storage(volume("/dev/sda1", "zfs_member")), None, &[]);
        assert!(zfs.to_string().contains("/dev/sda1 holds ZFS"), "{zfs}");
        assert_eq!(zfs.details().place.field.as_deref(), Some(NO_OS_FIELD));
        let locked = nothing(&storage(volume("/dev/sda5", "crypto_LUKS")), None, &[]);
        assert_eq!(locked.details().place.field.as_deref(), Some("luks"));
        assert!(locked.to_string().contains("/dev/sda5 is encrypted"), "{locked}");
        let empty = nothing(&Storage::default(), None, &[]);
        assert!(empty.to_string().contains("no partitions"), "{empty}");
    }
}
