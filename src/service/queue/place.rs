//! Where a queue may lie: on a local file system.
//!
//! SQLite's log and our renames need locks and atomicity that network file systems only promise.

use std::path::Path;

use crate::model::error::{Error, Kind, Result};

/// `f_type` of file systems whose files lie on another machine, with their names.
const NETWORK_FILE_SYSTEMS: [(u32, &str); 8] = [
    (0x0000_6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0000_517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
];

/// The name of the network file system that `path` lies on, if it does.
pub(in crate::service) fn network_file_system(path: &Path) -> std::io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(path)?.f_type as u32;
    Ok(NETWORK_FILE_SYSTEMS.into_iter().find(|(magic, _)| *magic == kind).map(|(_, name)| name))
}

/// Refuses a state directory (which must exist) on a network file system.
pub fn refuse_network_file_system(state_dir: &Path) -> Result<()> {
    let found = network_file_system(state_dir)
        .map_err(|error| Error::io(Kind::Output, "look at the state directory", state_dir, &error))?;
    match found {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Unsupported,
            format!("the state directory {} lies on {name}", state_dir.display()),
        )
        .advice("put it on a local file system with `--state-dir`; results may go elsewhere (`output_dir`)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_directory_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        refuse_network_file_system(directory.path()).unwrap();
    }

    #[test]
    fn a_state_directory_that_is_not_there_is_named() {
        let error = refuse_network_file_system(Path::new("/no/such/place")).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }
}
