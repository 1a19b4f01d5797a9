//! Where a snapshot keeps the disks, and why.

use std::path::{Path, PathBuf};

use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::Disks;
use crate::libvirt::domains::{Description, Disk, Source, checked_path};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) way: Way,
    pub(super) why: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    Internal,
    External { directory: Option<PathBuf> },
}

/// The new file of a disk.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) target: String,
    pub(super) path: PathBuf,
}

/// Decides by what the machine is and whether it has external ones already; what is asked for and cannot work is refused.
pub(super) fn choose(described: &Description, has_external: bool, wanted: &Disks) -> Result<Chosen> {
    if !described.disks.iter().any(Disk::is_written) {
        let cause = format!("a snapshot of {} cannot be made: it has no disk that it writes", described.name);
        return Err(Error::new(Kind::Unsupported, cause).advice("there is nothing to keep"));
    }
    let objection = objection(described, has_external);
    let way = match wanted {
        Disks::External { directory } => Way::External { directory: directory.clone() },
        Disks::Internal => match objection {
            None => Way::Internal,
            Some(why) => {
                let cause = format!("an internal snapshot of {} cannot work: {why}", described.name);
                return Err(Error::new(Kind::Unsupported, cause).advice("make an external one"));
            }
        },
        Disks::Auto if objection.is_none() => Way::Internal,
        Disks::Auto => Way::External { directory: None },
    };
    let why = match (wanted, objection) {
        (Disks::Auto, Some(why)) => format!("external, because {why}"),
        (Disks::Auto, None) => {
            "internal, because all its disks are qcow2 files and its firmware is BIOS".to_owned()
        }
        (Disks::Internal, _) => "internal, as was asked for".to_owned(),
        (Disks::External { .. }, _) => "external, as was asked for".to_owned(),
    };
    let beyond = if described.is_uefi { "; the variables of its firmware are not part of it" } else { "" };
    Ok(Chosen { way, why: format!("{why}{beyond}") })
}

/// Why the disks cannot hold a snapshot themselves.
fn objection(described: &Description, has_external: bool) -> Option<String> {
    if has_external {
        // It would lie in the file of the last one, and be lost with that when the files are put together.
        return Some("it has external ones already".to_owned());
    }
    if described.is_uefi {
        return Some("its firmware is UEFI, whose variables would have to be in it".to_owned());
    }
    described.disks.iter().filter(|disk| disk.is_written()).find_map(|disk| {
        let format = disk.format.as_deref().unwrap_or("raw");
        match &disk.source {
            _ if format != "qcow2" => {
                Some(format!("disk {} is {format}, which holds no snapshots", disk.target))
            }
            Some(Source::Path(_)) => None,
            _ => Some(format!("disk {} is no file of its own", disk.target)),
        }
    })
}

/// The file of each disk that is written into: beside the disk or in `directory`, called like the disk and the snapshot.
pub(super) fn overlays(
    link: &Link,
    domain: &str,
    described: &Description,
    directory: Option<&Path>,
    ending: &str,
) -> Result<Vec<Overlay>> {
    let directory = directory.map(checked_path).transpose()?;
    let written = described.disks.iter().filter(|disk| disk.is_written());
    let overlays = written.map(|disk| {
        let base = path_of(link, domain, disk)?;
        let beside = base.parent().filter(|_| !base.starts_with("/dev"));
        let Some(directory) = directory.or(beside) else {
            let cause =
                format!("disk {} of {domain} is a device: no file can be made beside it", disk.target);
            return Err(Error::new(Kind::Unsupported, cause).advice("say in which directory: `--directory`"));
        };
        let stem = base.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = directory.join(format!("{stem}.{}.{ending}.qcow2", disk.target));
        Ok(Overlay { target: disk.target.clone(), path })
    });
    overlays.collect()
}

/// Where the bytes of a disk lie on the host of libvirt.
fn path_of(link: &Link, domain: &str, disk: &Disk) -> Result<PathBuf> {
    match &disk.source {
        Some(Source::Path(path)) => Ok(path.clone()),
        Some(Source::Volume { pool, volume }) => {
            let path = StoragePool::lookup_by_name(link.raw(), pool)
                .and_then(|pool| StorageVol::lookup_by_name(&pool, volume))
                .and_then(|volume| volume.get_path());
            path.map(PathBuf::from)
                .map_err(|error| told(&format!("cannot find disk {} of {domain}", disk.target), &error))
        }
        _ => {
            let cause = format!("disk {} of {domain} lies at a server", disk.target);
            Err(Error::new(Kind::Unsupported, cause).advice("have the server make the snapshot"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(firmware: &str, disks: &[(&str, &str)]) -> Description {
        let disks: String = (disks.iter().enumerate())
            .map(|(at, (format, more))| {
                format!("<disk type='file'><driver type='{format}'/><source file='/d{at}'/><target dev='vd{at}'/>{more}</disk>")
            })
            .collect();
        Description::read(&format!(
            "<domain><name>web</name><os>{firmware}</os><devices>{disks}</devices></domain>"
        ))
        .unwrap()
    }

    #[test]
    fn a_snapshot_lies_in_the_disks_only_where_all_of_them_and_the_firmware_can() {
        let auto = |described: &Description| choose(described, false, &Disks::Auto).unwrap();
        assert_eq!(auto(&described("", &[("qcow2", ""), ("raw", "<readonly/>")])).way, Way::Internal);
        let raw = auto(&described("", &[("qcow2", ""), ("raw", "")]));
        assert_eq!(raw.way, Way::External { directory: None });
        assert!(raw.why.contains("vd1 is raw"), "{}", raw.why);
        let uefi = auto(&described("<loader type='pflash'>/x</loader>", &[("qcow2", "")]));
        assert_eq!(uefi.way, Way::External { directory: None });
        assert!(uefi.why.contains("UEFI") && uefi.why.contains("not part"), "{}", uefi.why);
    }

    #[test]
    fn what_was_asked_for_and_cannot_work_is_refused() {
        let raw = described("", &[("raw", "")]);
        assert_eq!(choose(&raw, false, &Disks::Internal).unwrap_err().kind(), Kind::Unsupported);
        let outside = described("", &[("qcow2", "")]);
        assert_eq!(choose(&outside, true, &Disks::Internal).unwrap_err().kind(), Kind::Unsupported);
        for wanted in [Disks::Auto, Disks::Internal, Disks::External { directory: None }] {
            let nothing = choose(&described("", &[]), false, &wanted);
            assert_eq!(nothing.unwrap_err().kind(), Kind::Unsupported);
        }
    }
}
