//! What is kept of a machine before another takes its place: its definition, its firmware's variables, what is known of its snapshots.
//!
//! It lies in a directory of its own, durable before anything is taken away, and nothing there is ever replaced.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::{atomic_create, numbered, open_nofollow, parent_of, sync_dir};
use crate::sys::time::{now_epoch, rfc3339_utc};

/// Firmware has some MiB of flash memory.
const MOST_NVRAM_BYTES: u64 = 64 << 20;
/// More machines of one name are not replaced in a second.
const MOST_OF_ONE_TIME: u32 = 1000;

/// What is known of a machine that is to be replaced.
#[derive(Debug)]
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
    /// Writes it below `directory` and says where.
    pub(super) fn write(&self, directory: &Path) -> Result<PathBuf> {
        let failed =
            |error: &io::Error| Error::io(Kind::Output, "keep what is replaced in", directory, error);
        let place = self.make_place(directory).map_err(|error| failed(&error))?;
        let write = || -> io::Result<()> {
            atomic_create(&place.join("domain.xml"), self.xml.as_bytes(), 0o600)?;
            if let Some((_, bytes)) = &self.nvram {
                atomic_create(&place.join("nvram.fd"), bytes, 0o600)?;
            }
            for (number, xml) in (1..).zip(&self.snapshots) {
                atomic_create(&place.join(format!("snapshot-{number}.xml")), xml.as_bytes(), 0o600)?;
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

/// A firmware's variables; nothing where the machine never ran and has none yet. What cannot be read cannot be kept.
pub(super) fn read_nvram(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |error: &io::Error| {
        Error::io(Kind::Output, "keep the variables of the firmware in", path, error)
            .advice("let this user read them (root may), or undefine that machine first")
    };
    let mut bytes = Vec::new();
    let file = match open_nofollow(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| failed(&error))?,
    };
    file.take(MOST_NVRAM_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MOST_NVRAM_BYTES {
        return Err(failed(&io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(bytes))
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
            xml: "<domain/>".to_owned(),
            nvram: read_nvram(&nvram).unwrap().map(|bytes| (nvram.clone(), bytes)),
            snapshots: vec!["<domainsnapshot/>".to_owned()],
            autostart: false,
        };
        let directory = dir.path().join("replaced");
        let places = [(); 3].map(|()| kept.write(&directory).unwrap());
        assert!(places[0] != places[1] && places[1] != places[2]);
        for place in places {
            assert!(place.file_name().unwrap().to_str().unwrap().starts_with("my web.v1-20"));
            for (name, text) in
                [("domain.xml", "<domain/>"), ("nvram.fd", "vars"), ("snapshot-1.xml", "<domainsnapshot/>")]
            {
                assert_eq!(fs::read_to_string(place.join(name)).unwrap(), text);
            }
        }
    }
}
