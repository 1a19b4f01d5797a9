//! What is kept of a machine before another takes its place: its definition, its firmware's variables, what is known of its snapshots.
//!
//! It lies in a directory of its own, durable before anything is taken away, and nothing there is ever replaced.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use virt::domain::Domain;
use virt::sys;

use super::{Description, NEXT_START, xml_of};
use crate::libvirt::failure::told;
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::{atomic_create, numbered, open_nofollow, parent_of, sync_dir};
use crate::sys::time::{now_epoch, rfc3339_utc};

/// Firmware has some MiB of flash memory.
const MOST_NVRAM_BYTES: u64 = 64 << 20;
/// A definition of hundreds of disks has less.
const MOST_XML_BYTES: u64 = 16 << 20;
/// No machine has more snapshots.
const MOST_SNAPSHOTS: usize = 10_000;
/// With what else passwords of screens are told.
pub(super) const SECURE: u32 = sys::VIR_DOMAIN_XML_SECURE;
/// What is called how in there.
const DEFINITION: &str = "domain.xml";
const NVRAM: &str = "nvram.fd";
/// An empty file, where the machine starts with the host.
const AUTOSTART: &str = "autostart";
/// More machines of one name are not replaced in a second.
const MOST_OF_ONE_TIME: u32 = 1000;

/// What is known of a machine that is to be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) xml: String,
    /// Where its firmware's variables lie, and what is in there.
    pub(super) nvram: Option<(PathBuf, Vec<u8>)>,
    /// What libvirt knows of its snapshots, parents first.
    pub(super) snapshots: Vec<String>,
    pub(super) autostart: bool,
}

impl Kept {
    /// What is known of it now: all that is needed to define it again.
    pub(super) fn of(old: &Domain, name: &str) -> Result<Kept> {
        let failed = |error| told(&format!("cannot read the snapshots of {name}"), &error);
        let xml = xml_of(old, name, NEXT_START | SECURE)?;
        let nvram = match Description::read(&xml)?.nvram {
            Some(path) => read_nvram(&path)?.map(|bytes| (path, bytes)),
            None => None,
        };
        // A driver that has no snapshots has none of this machine.
        let topological = sys::VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL;
        let snapshots = old.list_all_snapshots(topological).unwrap_or_default();
        let snapshots = snapshots.iter().map(|snapshot| snapshot.get_xml_desc(0));
        Ok(Kept {
            name: name.to_owned(),
            xml,
            nvram,
            snapshots: snapshots.collect::<Result<_, _>>().map_err(failed)?,
            autostart: old.get_autostart().unwrap_or(false),
        })
    }

    /// What lies there.
    pub(super) fn read(place: &Path) -> Result<Kept> {
        let text = |name: &str| -> Result<Option<String>> {
            let failed = |error: &io::Error| Error::io(Kind::Output, "read", &place.join(name), error);
            let bytes = read_at_most(&place.join(name), MOST_XML_BYTES).map_err(|error| failed(&error))?;
            let text = bytes.map(|bytes| String::from_utf8(bytes).map_err(io::Error::other)).transpose();
            text.map_err(|error| failed(&error))
        };
        let xml = text(DEFINITION)?.ok_or_else(|| {
            Error::new(Kind::Output, format!("{} is not there any more", place.join(DEFINITION).display()))
                .advice(
                    "the machine that gave way cannot be put back: define it by hand if it is still wanted",
                )
        })?;
        let described = Description::read(&xml)?;
        let nvram = match described.nvram {
            Some(path) => read_nvram(&place.join(NVRAM))?.map(|bytes| (path, bytes)),
            None => None,
        };
        let mut snapshots = Vec::new();
        while let Some(xml) = text(&snapshot_name(snapshots.len() + 1))? {
            if snapshots.len() == MOST_SNAPSHOTS {
                return Err(Error::new(
                    Kind::Output,
                    format!("{} holds too many snapshots", place.display()),
                )
                .advice("see who has written there"));
            }
            snapshots.push(xml);
        }
        Ok(Kept {
            name: described.name,
            xml,
            nvram,
            snapshots,
            autostart: place.join(AUTOSTART).symlink_metadata().is_ok(),
        })
    }

    /// Writes it below `directory` and says where.
    pub(super) fn write(&self, directory: &Path) -> Result<PathBuf> {
        let failed =
            |error: &io::Error| Error::io(Kind::Output, "keep what is replaced in", directory, error);
        let place = self.make_place(directory).map_err(|error| failed(&error))?;
        let write = || -> io::Result<()> {
            atomic_create(&place.join(DEFINITION), self.xml.as_bytes(), 0o600)?;
            if let Some((_, bytes)) = &self.nvram {
                atomic_create(&place.join(NVRAM), bytes, 0o600)?;
            }
            for (number, xml) in (1..).zip(&self.snapshots) {
                atomic_create(&place.join(snapshot_name(number)), xml.as_bytes(), 0o600)?;
            }
            if self.autostart {
                atomic_create(&place.join(AUTOSTART), b"", 0o600)?;
            }
            sync_dir(directory)?;
            sync_dir(parent_of(directory))
        };
        write().map_err(|error| failed(&error))?;
        Ok(place)
    }

    /// A new directory, called like the machine and the time.
    fn make_place(&self, directory: &Path) -> io::Result<PathBuf> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        let time: String =
            rfc3339_utc(now_epoch()).split('.').next().unwrap_or_default().replace(['-', ':'], "");
        for number in 1..=MOST_OF_ONE_TIME {
            // Its dots are no ending.
            let ending = numbered(format!("{time}Z").as_ref(), number);
            let place = directory.join(format!("{}-{}", self.name, ending.display()));
            match fs::DirBuilder::new().mode(0o700).create(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| place),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

fn snapshot_name(number: usize) -> String {
    format!("snapshot-{number}.xml")
}

/// A firmware's variables; nothing where the machine never ran and has none yet. What cannot be read cannot be kept.
pub(super) fn read_nvram(path: &Path) -> Result<Option<Vec<u8>>> {
    read_at_most(path, MOST_NVRAM_BYTES).map_err(|error| {
        Error::io(Kind::Output, "keep the variables of the firmware in", path, &error)
            .advice("let this user read them (root may), or undefine that machine first")
    })
}

fn read_at_most(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let file = match open_nofollow(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_lies_beside_what_was_kept_before() {
        let dir = tempfile::tempdir().unwrap();
        let nvram = dir.path().join("x_VARS.fd");
        assert_eq!(read_nvram(&nvram).unwrap(), None);
        fs::write(&nvram, "vars").unwrap();
        let kept = Kept {
            name: "my web.v1".to_owned(),
            xml: format!(
                "<domain><name>my web.v1</name><os><nvram>{}</nvram></os></domain>",
                nvram.display()
            ),
            nvram: read_nvram(&nvram).unwrap().map(|bytes| (nvram.clone(), bytes)),
            snapshots: vec!["<domainsnapshot/>".to_owned()],
            autostart: true,
        };
        let directory = dir.path().join("replaced");
        let places = [(); 3].map(|()| kept.write(&directory).unwrap());
        assert!(places[0] != places[1] && places[1] != places[2]);
        for place in places {
            assert!(place.file_name().unwrap().to_str().unwrap().starts_with("my web.v1-20"));
            for (name, text) in [
                ("domain.xml", kept.xml.as_str()),
                ("nvram.fd", "vars"),
                ("snapshot-1.xml", "<domainsnapshot/>"),
            ] {
                assert_eq!(fs::read_to_string(place.join(name)).unwrap(), text);
            }
            assert_eq!(Kept::read(&place).unwrap(), kept);
        }
    }
}
