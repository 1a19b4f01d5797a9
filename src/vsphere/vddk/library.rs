//! VMware's own library as somebody has put it on this machine, and nbdkit, which loads it.
//!
//! It is looked for where a credential or the configuration says, and nowhere else: a directory that only root can have made, since what lies
//! in it is loaded and run. What is not here: running it.

use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};
use crate::model::transports::TRANSPORT_RULE;
use crate::sys::process::find_program;
use crate::sys::trusted;

/// The program that reads with it.
pub(super) const NBDKIT: &str = "nbdkit";
/// Where in its directory the library lies, as VMware packs it and as some repack it.
const PLACES: [&str; 2] = ["lib64", ""];
/// Versions that nbdkit knows, the newest first.
const VERSIONS: [u32; 4] = [9, 8, 7, 6];

/// A library that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// As it was named.
    pub libdir: PathBuf,
    /// Its major version.
    pub version: u32,
    /// Where its files are.
    pub(super) loads: PathBuf,
    /// What loads it.
    pub(super) nbdkit: PathBuf,
}

impl Library {
    /// Looks whether it is there, and can be trusted.
    pub fn look(libdir: Option<&Path>) -> Result<Library> {
        let unfit = |cause: String, advice: String| {
            Err(Error::new(Kind::Unsupported, cause).rule(TRANSPORT_RULE).advice(advice))
        };
        let Some(libdir) = libdir else {
            return unfit(
                "VMware's library (VDDK) is not configured".to_owned(),
                "unpack it on this machine, as root, and name its directory: `vddk.libdir` of the configuration, or `vddk_libdir` of the credential".to_owned(),
            );
        };
        let shown = libdir.display();
        let trusted = |path: &Path| {
            trusted::directory(path).map_err(|untrusted| {
                let cause = format!("VMware's library cannot be taken from {shown}: {untrusted}");
                Error::new(Kind::Unsupported, cause).rule(TRANSPORT_RULE).advice(untrusted.advice)
            })
        };
        trusted(libdir)?;
        let found = PLACES.iter().find_map(|place| {
            let loads = if place.is_empty() { libdir.to_owned() } else { libdir.join(place) };
            let is_there = |version: &u32| loads.join(format!("libvixDiskLib.so.{version}")).is_file();
            VERSIONS.into_iter().find(is_there).map(|version| (loads, version))
        });
        let Some((loads, version)) = found else {
            return unfit(
                format!("VMware's library is not in {shown}: there is no lib64/libvixDiskLib.so"),
                "name the directory that its package unpacks to: `vmware-vix-disklib-distrib`".to_owned(),
            );
        };
        trusted(&loads)?;
        let Some(nbdkit) = find_program(NBDKIT) else {
            return unfit(
                "nbdkit, which reads with VMware's library, is not installed".to_owned(),
                "install it with its plugin `vddk`: `dnf install nbdkit nbdkit-vddk-plugin` (RHEL); Debian's nbdkit comes without that plugin".to_owned(),
            );
        };
        Ok(Library { libdir: libdir.to_owned(), version, loads, nbdkit })
    }

    /// What has to be executable for it.
    #[must_use]
    pub fn executable(&self) -> Vec<PathBuf> {
        let beside = self.nbdkit.parent().map(Path::to_owned);
        beside.into_iter().chain([self.libdir.clone()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn why(libdir: Option<&Path>) -> Error {
        Library::look(libdir).unwrap_err()
    }

    #[test]
    fn a_library_that_is_not_there_or_not_roots_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        for libdir in [None, Some(Path::new("opt/vddk")), Some(Path::new("/no/such")), Some(open.as_path())] {
            let error = why(libdir);
            assert_eq!(error.kind(), Kind::Unsupported, "{error}");
            assert_eq!(error.details().rule.as_deref(), Some(TRANSPORT_RULE));
            assert!(error.details().advice.is_some(), "{error}");
        }
        let error = why(Some(Path::new("/usr/share")));
        assert!(error.to_string().contains("libvixDiskLib"), "{error}");
    }
}
