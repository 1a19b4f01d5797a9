//! Mounting the guest: its root, then what its fstab puts below it.
//!
//! Devices are named in the guest's words and found by [`super::fstab`]. What belongs to booting or to the packages has to be there;
//! what else is missing is a warning, as it would be at boot with `nofail`. For writing, a system that sleeps on disk or that Windows
//! has not closed is refused: what lies in its memory would be lost or would overwrite the repair. What is not here: unmounting, which
//! the appliance does at its end.

use super::choose::Candidate;
use super::files::Files;
use super::fstab::{self, Entry, Names};
use super::storage::Storage;
use crate::guest::appliance::Appliance;
use crate::guest::check;
use crate::guest::facts::{Mounted, Volume};
use crate::guest::tree::shown;
use crate::model::error::{Error, Kind, Result};

/// A guest boots from these or keeps its packages' records there: a repair without them would be half of one.
const NEEDED: [&str; 3] = ["/boot", "/usr", "/var"];
/// Swap that holds a sleeping system's memory, in libblkid's words.
pub(super) const SLEEPING: &str = "swsuspend";
/// Of what lies below the root, only these hold what a repair reads or writes; homes and data stay closed.
const OPENED: [&str; 11] = [
    "/boot",
    "/usr",
    "/var",
    "/opt",
    "/etc",
    "/efi",
    "/boot/efi",
    "/usr/local",
    "/var/lib",
    "/var/log",
    "/root",
];

/// What became of the guest's mounts.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) mounted: Vec<Mounted>,
    pub(super) entries: Vec<Entry>,
    /// What the guest calls its root device.
    pub(super) root_spec: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// A device's path, quoted.
pub(in crate::guest) fn for_shell(device: &str) -> String {
    format!("'{}'", device.replace('\'', r"'\''"))
}

/// Options for a first look, which changes nothing that is not changed by opening it at all.
pub(super) fn looking_options(content: &str) -> &'static str {
    match content {
        "btrfs" => "ro,subvolid=5",
        // Clones of a disk carry the same UUID, which XFS refuses to see twice.
        "xfs" => "ro,nouuid",
        _ => "ro",
    }
}

fn options(content: &str, readonly: bool, own: &str) -> String {
    let mut options = vec![if readonly { "ro" } else { "rw" }];
    if content == "xfs" {
        options.push("nouuid");
    }
    if !own.is_empty() {
        options.push(own);
    }
    options.join(",")
}

/// Opens a candidate to look something up, and closes it.
pub(super) fn with_mounted<T>(
    appliance: &Appliance,
    candidate: &Candidate,
    look: impl FnOnce(Files<'_>) -> Result<T>,
) -> Result<T> {
    let failed = |why: String| cannot_mount(&candidate.device, "/", &why);
    appliance.mount(&options("", true, &candidate.options()), &candidate.device, "/").map_err(failed)?;
    let outcome = look(Files::new(appliance));
    appliance.unmount_all().map_err(failed)?;
    outcome
}

/// Mounts the root and what belongs to it.
pub(super) fn open(
    appliance: &Appliance,
    storage: &Storage,
    root: &Candidate,
    readonly: bool,
) -> Result<Opened> {
    let volume = storage.volumes.iter().find(|volume| volume.device == root.device);
    let content = volume.map_or("", |volume| &volume.content);
    let mut warnings = Vec::new();
    if !readonly {
        awake(appliance, storage, content, &root.device)?;
        warnings = sound(appliance, storage, volume)?;
    }
    let own = root.options();
    appliance
        .mount(&options(content, readonly, &own), &root.device, "/")
        .map_err(|why| cannot_mount(&root.device, "/", &why))?;
    let subvolume = root.subvolume.as_ref().map_or_else(String::new, |(id, path)| {
        if path.is_empty() { format!("subvolid={id}") } else { format!("subvol={path}") }
    });
    let mut opened = Opened {
        warnings,
        mounted: vec![Mounted { path: "/".to_owned(), device: root.device.clone(), options: subvolume }],
        ..Opened::default()
    };
    if root.windows {
        return Ok(opened);
    }
    let files = Files::new(appliance);
    opened.entries = fstab::entries(&files.text("/etc/fstab")?.unwrap_or_default());
    opened.root_spec = opened.entries.iter().find(|entry| entry.path == "/").map(|entry| entry.spec.clone());
    let names = names(files)?;
    let mut below: Vec<Entry> =
        opened.entries.iter().filter(|entry| OPENED.contains(&entry.path.as_str())).cloned().collect();
    // What lies deeper is mounted later.
    below.sort_by_key(|entry| entry.path.matches('/').count());
    if !readonly {
        let volumes = below.iter().filter_map(|entry| fstab::resolve(&entry.spec, storage, &names));
        let others = volumes.filter(|volume| volume.device != root.device);
        opened.warnings.extend(sound(appliance, storage, others)?);
    }
    for entry in &below {
        below_root(appliance, storage, entry, &names, readonly, &mut opened)?;
    }
    Ok(opened)
}

fn names(files: Files<'_>) -> Result<Names> {
    let mut arrays = Vec::new();
    for path in ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"] {
        arrays.extend(fstab::arrays(&files.text(path)?.unwrap_or_default()));
    }
    Ok(Names { encrypted: fstab::encrypted(&files.text("/etc/crypttab")?.unwrap_or_default()), arrays })
}

fn below_root(
    appliance: &Appliance,
    storage: &Storage,
    entry: &Entry,
    names: &Names,
    readonly: bool,
    opened: &mut Opened,
) -> Result<()> {
    let needed =
        NEEDED.contains(&entry.path.as_str()) && !entry.has("nofail") && !entry.has("noauto") && !readonly;
    if entry.has("bind") || opened.mounted.iter().any(|mounted| mounted.path == entry.path) {
        return Ok(());
    }
    let Some(volume) = fstab::resolve(&entry.spec, storage, names) else {
        return missing(entry, needed, opened);
    };
    let own = entry
        .option("subvol")
        .map(|path| format!("subvol={path}"))
        .or_else(|| entry.option("subvolid").map(|id| format!("subvolid={id}")))
        .filter(|_| volume.content == "btrfs")
        // What a mount would take for a further option is not passed on.
        .filter(|own| !own.contains([',', '\n']))
        .unwrap_or_default();
    match appliance.mount(&options(&volume.content, readonly, &own), &volume.device, &entry.path) {
        Ok(()) => {
            let mounted = Mounted { path: entry.path.clone(), device: volume.device.clone(), options: own };
            opened.mounted.push(mounted);
            Ok(())
        }
        Err(why) if needed => Err(cannot_mount(&volume.device, &entry.path, &why)),
        Err(why) => {
            opened.warnings.push(format!(
                "{} of the guest cannot be mounted: {}",
                shown(&entry.path),
                shown(&why)
            ));
            Ok(())
        }
    }
}

fn missing(entry: &Entry, needed: bool, opened: &mut Opened) -> Result<()> {
    let (spec, path) = (shown(&entry.spec), shown(&entry.path));
    if needed {
        return Err(Error::new(Kind::Guest, format!("{spec}, which the guest mounts at {path}, is on none of its disks"))
            .advice("give all disks of the machine, in their order; an entry that is no longer true can be removed from /etc/fstab in the source machine"));
    }
    if entry.spec.starts_with("/dev/") || entry.spec.contains('=') {
        opened.warnings.push(format!("{spec}, which the guest mounts at {path}, is on none of its disks"));
    }
    Ok(())
}

/// Refuses file systems that have errors; what could not be checked is told.
fn sound<'s>(
    appliance: &Appliance,
    storage: &'s Storage,
    volumes: impl IntoIterator<Item = &'s Volume>,
) -> Result<Vec<String>> {
    check::before(appliance, volumes.into_iter().map(|volume| (volume, storage.node(&volume.device))))
}

/// Refuses what must not be written to: a system that sleeps on disk.
fn awake(appliance: &Appliance, storage: &Storage, content: &str, device: &str) -> Result<()> {
    let asleep = |what: String| {
        Error::new(Kind::Guest, what).rule("guest.hibernated").advice(
            "start the source machine, shut it down completely (not hibernated; in Windows with `shutdown /s /f /t 0` or \
             fast startup switched off), and convert it then",
        )
    };
    if let Some(swap) = storage.holding(SLEEPING).next() {
        return Err(asleep(format!("the guest is hibernated: its memory lies in {}", shown(&swap.device))));
    }
    if content != "ntfs" {
        return Ok(());
    }
    match ntfs_state(appliance, storage.node(device)) {
        NtfsState::Hibernated => Err(asleep(format!(
            "the Windows on {} is hibernated or was shut down by fast startup",
            shown(device)
        ))),
        NtfsState::Unclean => {
            Err(asleep(format!("the Windows on {} was not shut down cleanly", shown(device)))
                .rule("guest.unclean"))
        }
        NtfsState::Sound => Ok(()),
    }
}

/// How a Windows has left one of its file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NtfsState {
    Sound,
    /// Its memory lies there, or fast startup's part of it.
    Hibernated,
    /// Its journal says that it was cut off.
    Unclean,
}

/// Asks the driver that would write to it, without letting it.
pub(super) fn ntfs_state(appliance: &Appliance, node: &str) -> NtfsState {
    let probe = format!("ntfs-3g.probe --readwrite {} >/dev/null 2>&1; echo $?", for_shell(node));
    match appliance.appliance_command(&probe).unwrap_or_default().trim() {
        "14" => NtfsState::Hibernated,
        "15" => NtfsState::Unclean,
        _ => NtfsState::Sound,
    }
}

fn cannot_mount(device: &str, path: &str, why: &str) -> Error {
    Error::new(
        Kind::Guest,
        format!("{} of the guest cannot be mounted at {}: {}", shown(device), shown(path), shown(why)),
    )
    .rule("guest.file_system")
    .advice("check that file system in the source machine (`fsck`, `xfs_repair`), shut the machine down and try again")
}

/// The volume that a mounted path lies on.
pub(super) fn volume_at<'s>(opened: &Opened, storage: &'s Storage, path: &str) -> Option<&'s Volume> {
    let mounted = opened.mounted.iter().find(|mounted| mounted.path == path)?;
    storage.volumes.iter().find(|volume| volume.device == mounted.device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_word_of_a_shell_whatever_its_name() {
        assert_eq!(for_shell("/dev/vg/ro'ot; rm"), r"'/dev/vg/ro'\''ot; rm'");
    }

    #[test]
    fn options_say_whether_it_may_be_written() {
        assert_eq!(options("xfs", true, ""), "ro,nouuid");
        assert_eq!(options("btrfs", false, "subvolid=256"), "rw,subvolid=256");
    }

    #[test]
    fn a_missing_device_is_an_error_only_where_the_repair_needs_it() {
        let entry = Entry { spec: "UUID=1".to_owned(), path: "/boot".to_owned(), ..Entry::default() };
        let mut opened = Opened::default();
        missing(&entry, false, &mut opened).unwrap();
        assert_eq!(opened.warnings, ["UUID=1, which the guest mounts at /boot, is on none of its disks"]);
        let error = missing(&entry, true, &mut opened).unwrap_err();
        assert_eq!(error.kind(), Kind::Guest);
        assert!(error.details().advice.is_some());
    }
}
