//! A VM's manifest that a batch names: read as a stranger's file is, without following a link or waiting for a writer.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::model::error::{Error, Kind, Result};
use crate::model::parse::MAX_BYTES;

/// Its bytes.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: io::Error| {
        Error::io(Kind::Manifest, "read the manifest", path, &error)
            .advice("put it where the batch names it; relative paths count from the batch's directory")
    };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(|error| {
            if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                return Error::new(Kind::Manifest, format!("{} is a symbolic link", path.display()))
                    .advice("name the file itself");
            }
            failed(error)
        })?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(Kind::Manifest, format!("{} is not a plain file", path.display()))
            .advice("name a manifest, as YAML or JSON"));
    }
    let mut bytes = Vec::new();
    // One byte more than may be there is enough for the parser to refuse it.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
