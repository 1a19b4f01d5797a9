//! What lies on the disks: partitions, file systems, volume groups, arrays and encrypted volumes, found with one question.
//!
//! A script in the appliance writes down what its kernel and libblkid see; here that is read. The kernel counts disks in the order in
//! which it met them, the plan and libguestfs in the order in which they were attached, so names are translated by the number that a disk
//! has on its SCSI bus. What is not here: opening encrypted volumes (see [`super::unlock`]).

use std::collections::BTreeMap;

use super::words::unescaped;
use crate::guest::appliance::Appliance;
use crate::guest::facts::Volume;
use crate::guest::tree::shown;
use crate::model::error::{Error, Kind, Result};

/// Lines for each block device, then what libblkid says of all. Only the shell's own words in the loop: a child costs milliseconds here.
const SCAN: &str = r#"exec 2>/dev/null
while read -r a b number c at rest; do [ "$at" = / ] && own=$number; done </proc/self/mountinfo
devices=
seen() {
  read -r size <"$1/size"
  devices="$devices /dev/${1##*/}"
  printf 'device\t%s\t%s\t%s\t%s\n' "${1##*/}" "$size" "$2" "$3"
}
for disk in /sys/block/*; do
  read -r size <"$disk/size"; read -r number <"$disk/dev"
  case ${disk##*/} in ram*|loop*|zram*|nbd*|sr*|fd*) continue ;; esac
  [ "$size" != 0 ] && [ "$number" != "$own" ] || continue
  address=
  for scsi in "$disk"/device/scsi_disk/*; do [ -e "$scsi" ] && address=${scsi##*/}; done
  seen "$disk" "$address" ''
  [ -z "$address" ] || { printf 'head\t%s\n' "${disk##*/}"; od -A n -v -t x1 -N 512 "/dev/${disk##*/}"; }
  for part in "$disk"/*/partition; do
    [ -e "$part" ] || continue
    read -r index <"$part"
    seen "${part%/partition}" "${disk##*/}" "$index"
  done
  for slave in "$disk"/slaves/*; do [ -e "$slave" ] && printf 'above\t%s\t%s\n' "${disk##*/}" "${slave##*/}"; done
  if [ -e "$disk/dm/name" ]; then
    read -r name <"$disk/dm/name"; read -r id <"$disk/dm/uuid"
    printf 'mapped\t%s\t%s\t%s\n' "${disk##*/}" "$id" "$name"
  fi
done
printf 'blkid\n'
[ -n "$devices" ] || exit 0
# It stops at the first device on which it finds nothing: then each is asked by itself.
if told=$(blkid -p -o export $devices); then printf '%s\n' "$told"
else for device in $devices; do blkid -p -o export "$device"; printf '\n'; done
fi
exit 0
"#;

/// More devices than this, and something is wrong.
const MOST_DEVICES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::guest) struct Storage {
    /// Disks by their names for libguestfs, in the plan's order.
    pub(in crate::guest) disks: Vec<String>,
    /// What each disk is divided by: `gpt`, `dos`; by its place in `disks`.
    pub(in crate::guest) tables: Vec<Option<String>>,
    /// The first sector of each disk; by its place in `disks`.
    pub(in crate::guest) heads: Vec<Vec<u8>>,
    /// In the order of disks and partitions; what is made of several comes last.
    pub(in crate::guest) volumes: Vec<Volume>,
    /// What the appliance's kernel calls a volume, for scripts that run there.
    pub(in crate::guest) nodes: BTreeMap<String, String>,
    /// Of a volume, the devices that it is made of.
    pub(in crate::guest) below: BTreeMap<String, Vec<String>>,
}

impl Storage {
    /// The volumes that hold this, in libblkid's words.
    pub(in crate::guest) fn holding<'a>(&'a self, content: &'a str) -> impl Iterator<Item = &'a Volume> {
        self.volumes.iter().filter(move |volume| volume.content == content)
    }

    /// A volume's name in a script of the appliance.
    pub(in crate::guest) fn node<'a>(&'a self, device: &'a str) -> &'a str {
        self.nodes.get(device).map_or(device, String::as_str)
    }

    /// Whether something lies on top of this device.
    pub(in crate::guest) fn is_used(&self, device: &str) -> bool {
        self.below.values().flatten().any(|below| below == device)
    }
}

/// Looks.
pub(in crate::guest) fn scan(appliance: &Appliance) -> Result<Storage> {
    let told = appliance.appliance_command(SCAN).map_err(|why| {
        Error::new(Kind::Guest, format!("the appliance cannot list its disks: {}", shown(&why)))
            .advice("see the appliance's log; `libguestfs-test-tool` tells whether libguestfs works here")
            .transient()
    })?;
    Ok(read(&told))
}

/// One device, as the kernel knows it.
#[derive(Debug, Default)]
struct Seen<'a> {
    name: &'a str,
    bytes: u64,
    /// Of a disk, its address on the bus; of a partition, its disk.
    parent: &'a str,
    partition: Option<u32>,
    head: Vec<u8>,
    below: Vec<&'a str>,
    mapped: Option<(&'a str, &'a str)>,
}

fn read(told: &str) -> Storage {
    let (devices, blkid) = told.split_once("\nblkid\n").unwrap_or((told, ""));
    let seen = read_devices(devices);
    let names = names(&seen);
    let probed = read_blkid(blkid);
    let mut storage = Storage::default();
    let mut disks: Vec<(&Seen<'_>, &String)> = seen
        .values()
        .filter(|device| number_on_bus(device).is_some())
        .filter_map(|device| Some((device, names.get(device.name)?)))
        .collect();
    disks.sort_by_key(|(device, _)| number_on_bus(device));
    for (device, name) in &disks {
        storage.disks.push((*name).clone());
        storage.heads.push(device.head.clone());
        storage.tables.push(value(&probed, device.name, "PTTYPE").map(str::to_owned));
    }
    for device in seen.values() {
        let Some(name) = names.get(device.name) else { continue };
        storage.nodes.insert(name.clone(), format!("/dev/{}", device.name));
        let below = device.below.iter().filter_map(|below| names.get(*below).cloned()).collect::<Vec<_>>();
        if !below.is_empty() {
            storage.below.insert(name.clone(), below);
        }
        let volume = volume(device, name, &seen, &disks, &probed);
        // A disk that is divided, and the extended partition of an MBR, hold nothing themselves.
        let divided = value(&probed, device.name, "PTTYPE").is_some() && volume.content.is_empty();
        if !divided && !is_extended(&volume) {
            storage.volumes.push(volume);
        }
    }
    storage.volumes.sort_by(|a, b| {
        let key = |volume: &Volume| (volume.disk.is_none(), volume.disk, is_made(volume), volume.partition);
        key(a).cmp(&key(b)).then_with(|| a.device.cmp(&b.device))
    });
    storage
}

fn read_devices(text: &str) -> BTreeMap<&str, Seen<'_>> {
    let mut seen: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
    let mut head = None;
    for line in text.lines() {
        if line.starts_with(' ') {
            if let Some(device) = head.and_then(|name| seen.get_mut(name)) {
                let bytes = line.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok());
                device.head.extend(bytes.take(SECTOR_BYTES.saturating_sub(device.head.len())));
            }
            continue;
        }
        let mut fields = line.splitn(4, '\t');
        match (fields.next(), fields.next(), fields.next()) {
            (Some("device"), Some(name), Some(sectors)) if seen.len() < MOST_DEVICES => {
                let (parent, partition) =
                    fields.next().and_then(|rest| rest.split_once('\t')).unwrap_or(("", ""));
                let bytes = sectors.parse::<u64>().unwrap_or(0).saturating_mul(SECTOR_BYTES as u64);
                let partition = partition.parse().ok();
                seen.insert(name, Seen { name, bytes, parent, partition, ..Seen::default() });
            }
            (Some("above"), Some(name), Some(below)) => {
                if let Some(device) = seen.get_mut(name) {
                    device.below.push(below);
                }
            }
            (Some("mapped"), Some(name), Some(id)) => {
                if let (Some(device), Some(mapped)) = (seen.get_mut(name), fields.next()) {
                    device.mapped = Some((id, mapped));
                }
            }
            (Some("head"), Some(name), None) => head = Some(name),
            _ => {}
        }
    }
    seen
}

/// `0:0:3:0` of a disk: the third number is its place in the row in which disks were attached.
fn number_on_bus(device: &Seen<'_>) -> Option<usize> {
    device.partition.is_none().then(|| device.parent.split(':').nth(2)?.parse().ok()).flatten()
}

/// The kernel's name → the name for libguestfs.
fn names(seen: &BTreeMap<&str, Seen<'_>>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for device in seen.values().filter(|device| device.partition.is_none()) {
        let name = match (number_on_bus(device), device.mapped) {
            (Some(number), _) => format!("/dev/sd{}", letters(number)),
            (None, Some((id, name))) => mapped_name(id, name),
            (None, None) => format!("/dev/{}", device.name),
        };
        names.insert(device.name.to_owned(), name);
    }
    for device in seen.values() {
        if let (Some(number), Some(disk)) = (device.partition, names.get(device.parent)) {
            let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
            names.insert(device.name.to_owned(), format!("{disk}{separator}{number}"));
        }
    }
    names
}

/// 0 → `a`, 25 → `z`, 26 → `aa`.
pub(super) fn letters(number: usize) -> String {
    let last = char::from(b'a' + u8::try_from(number % 26).unwrap_or(0));
    if number < 26 { last.to_string() } else { format!("{}{last}", letters(number / 26 - 1)) }
}

/// LVM's volumes are named after their group, everything else after what the mapper calls it.
fn mapped_name(id: &str, name: &str) -> String {
    if id.starts_with("LVM-")
        && let Some((group, volume)) = lvm_names(name)
    {
        return format!("/dev/{group}/{volume}");
    }
    format!("/dev/mapper/{name}")
}

/// `vg--a-root` is the volume `root` of the group `vg-a`: a hyphen in a name is doubled, a single one parts the names.
pub(super) fn lvm_names(mapped: &str) -> Option<(String, String)> {
    let bytes = mapped.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'-' {
            if bytes.get(at + 1) == Some(&b'-') {
                at += 1;
            } else if at > 0 && at + 1 < bytes.len() {
                return Some((mapped[..at].replace("--", "-"), mapped[at + 1..].replace("--", "-")));
            }
        }
        at += 1;
    }
    None
}

type Probed = BTreeMap<String, BTreeMap<String, String>>;

/// `blkid -p -o export` of many devices: a paragraph each.
fn read_blkid(text: &str) -> Probed {
    let mut probed = Probed::new();
    for paragraph in text.split("\n\n") {
        let values: BTreeMap<String, String> = paragraph
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), unescaped(value)))
            .collect();
        if let Some(name) = values.get("DEVNAME").and_then(|device| device.strip_prefix("/dev/")) {
            probed.insert(name.to_owned(), values.clone());
        }
    }
    probed
}

fn value<'p>(probed: &'p Probed, name: &str, key: &str) -> Option<&'p str> {
    probed.get(name)?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

fn volume(
    device: &Seen<'_>,
    name: &str,
    seen: &BTreeMap<&str, Seen<'_>>,
    disks: &[(&Seen<'_>, &String)],
    probed: &Probed,
) -> Volume {
    let told = |key: &str| value(probed, device.name, key).map(str::to_owned);
    let is_gpt = value(probed, device.name, "PART_ENTRY_SCHEME") == Some("gpt");
    Volume {
        device: name.to_owned(),
        disk: disk_of(device, seen, disks, 0),
        partition: device.partition,
        content: told("TYPE").unwrap_or_default(),
        uuid: told("UUID"),
        label: told("LABEL"),
        partuuid: told("PART_ENTRY_UUID"),
        partlabel: told("PART_ENTRY_NAME"),
        partition_type: told("PART_ENTRY_TYPE").map(|kind| if is_gpt { kind.to_uppercase() } else { kind }),
        bytes: device.bytes,
    }
}

/// The one disk that all of it lies on.
fn disk_of(
    device: &Seen<'_>,
    seen: &BTreeMap<&str, Seen<'_>>,
    disks: &[(&Seen<'_>, &String)],
    depth: usize,
) -> Option<usize> {
    if let Some(at) = disks.iter().position(|(disk, _)| disk.name == device.name) {
        return Some(at);
    }
    // Layers on layers end somewhere: partition, array, encryption, volume.
    if depth > 8 {
        return None;
    }
    let below = if device.partition.is_some() { vec![device.parent] } else { device.below.clone() };
    let mut found = below.iter().map(|name| disk_of(seen.get(name)?, seen, disks, depth + 1));
    let first = found.next()??;
    found.all(|disk| disk == Some(first)).then_some(first)
}

fn is_extended(volume: &Volume) -> bool {
    volume.content.is_empty() && matches!(volume.partition_type.as_deref(), Some("0x5" | "0xf" | "0x85"))
}

/// Whether it is made of other devices.
fn is_made(volume: &Volume) -> bool {
    !volume.device.starts_with("/dev/sd")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the script wrote of a Debian 13 with UEFI and LVM, and a second disk that the kernel met first.
    const LVM: &str = "device\tdm-0\t3276800\t\t\nabove\tdm-0\tsdb2\nmapped\tdm-0\tLVM-EzCqUq\tvg0-root\n\
        device\tdm-1\t262144\t\t\nabove\tdm-1\tsdb2\nabove\tdm-1\tsda\nmapped\tdm-1\tLVM-EzCqUr\tvg0-my--swap\n\
        device\tsda\t204800\t2:0:1:0\t\ndevice\tsdb\t4194304\t2:0:0:0\t\ndevice\tsdb1\t131072\tsdb\t1\n\
        device\tsdb2\t4059136\tsdb\t2\nblkid\nDEVNAME=/dev/dm-0\nUUID=0b9f\nTYPE=xfs\n\nDEVNAME=/dev/dm-1\nTYPE=swap\n\n\
        DEVNAME=/dev/sda\nTYPE=LVM2_member\n\nDEVNAME=/dev/sdb\nPTUUID=ff\nPTTYPE=gpt\n\nDEVNAME=/dev/sdb1\nLABEL_FATBOOT=EFI\n\
        LABEL=EFI\\ system\nUUID=AB12-CD34\nTYPE=vfat\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_UUID=5f\n\
        PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b\nPART_ENTRY_NUMBER=1\n\nDEVNAME=/dev/sdb2\nTYPE=LVM2_member\n\
        PART_ENTRY_SCHEME=gpt\n";

    #[test]
    fn disks_are_named_in_the_order_in_which_they_were_attached() {
        let storage = read(LVM);
        assert_eq!(storage.disks, ["/dev/sda", "/dev/sdb"]);
        assert_eq!(storage.tables, [Some("gpt".to_owned()), None]);
        let devices: Vec<&str> = storage.volumes.iter().map(|volume| volume.device.as_str()).collect();
        assert_eq!(devices, ["/dev/sda1", "/dev/sda2", "/dev/vg0/root", "/dev/sdb", "/dev/vg0/my-swap"]);
        let esp = &storage.volumes[0];
        assert_eq!(esp.label.as_deref(), Some("EFI system"));
        assert_eq!(esp.partition_type.as_deref(), Some("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"));
        assert_eq!((esp.disk, esp.partition, esp.bytes), (Some(0), Some(1), 64 << 20));
        assert_eq!(storage.node("/dev/sda1"), "/dev/sdb1", "the kernel met the second disk first");
    }

    #[test]
    fn a_volume_over_two_disks_lies_on_none_of_them() {
        let storage = read(LVM);
        let disk = |name: &str| storage.volumes.iter().find(|volume| volume.device == name).unwrap().disk;
        assert_eq!(disk("/dev/vg0/root"), Some(0));
        assert_eq!(disk("/dev/vg0/my-swap"), None);
        assert!(storage.is_used("/dev/sdb"));
        assert!(!storage.is_used("/dev/sda1"));
    }

    #[test]
    fn neither_a_divided_disk_nor_an_extended_partition_holds_anything() {
        let storage = read(
            "device\tsda\t4194304\t2:0:0:0\t\nhead\tsda\n eb 63 90\n 10 8e\ndevice\tsda1\t3665920\tsda\t1\ndevice\tsda2\t2\tsda\t2\ndevice\tsda5\t520192\tsda\t5\n\
             blkid\nDEVNAME=/dev/sda\nPTUUID=3249e553\nPTTYPE=dos\n\nDEVNAME=/dev/sda1\nUUID=befd0f1b\nTYPE=ext4\n\
             PART_ENTRY_SCHEME=dos\nPART_ENTRY_TYPE=0x83\nPART_ENTRY_FLAGS=0x80\n\nDEVNAME=/dev/sda2\nPTTYPE=dos\n\
             PART_ENTRY_SCHEME=dos\nPART_ENTRY_TYPE=0x5\n\nDEVNAME=/dev/sda5\nTYPE=swap\n",
        );
        let devices: Vec<&str> = storage.volumes.iter().map(|volume| volume.device.as_str()).collect();
        assert_eq!(devices, ["/dev/sda1", "/dev/sda5"]);
        assert_eq!(storage.heads, [[0xeb, 0x63, 0x90, 0x10, 0x8e]]);
    }

    #[test]
    fn the_names_of_a_logical_volume_are_told_apart_at_the_single_hyphen() {
        let names = |mapped| lvm_names(mapped).map(|(group, volume)| format!("{group} {volume}"));
        assert_eq!(names("vg0-root").unwrap(), "vg0 root");
        assert_eq!(names("my--vg-my--lv").unwrap(), "my-vg my-lv");
        assert_eq!(names("sda5_crypt"), None);
        assert_eq!(names("vg-"), None);
    }

    #[test]
    fn disks_beyond_the_alphabet_have_two_letters() {
        assert_eq!([letters(0), letters(25), letters(26), letters(701)], ["a", "z", "aa", "zz"]);
    }

    #[test]
    fn output_that_makes_no_sense_is_no_disk_and_no_panic() {
        for text in [
            "",
            "blkid",
            "device",
            "device\t\t\t\t",
            "above\ta\tb\nmapped\tc\td\te\n\nblkid\nDEVNAME=/dev/\nX\n",
        ] {
            assert_eq!(read(text).disks, Vec::<String>::new());
        }
    }
}
