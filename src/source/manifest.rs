//! A VM's manifest that a batch names: read as a stranger's file is.

use std::io::{self, Read};
use std::path::Path;

use super::plain::{self, NoFile};
use crate::model::error::{Error, Kind, Result};
use crate::model::parse::MAX_BYTES;

/// Its bytes.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: io::Error| {
        Error::io(Kind::Manifest, "read the manifest", path, &error)
            .advice("put it where the batch names it; relative paths count from the batch's directory")
    };
    let (file, _) = plain::open(path).map_err(|why| match why {
        NoFile::Link => Error::new(Kind::Manifest, format!("{} is a symbolic link", path.display()))
            .advice("name the file itself"),
        NoFile::NotPlain => Error::new(Kind::Manifest, format!("{} is not a plain file", path.display()))
            .advice("name a manifest, as YAML or JSON"),
        NoFile::Failed(error) => failed(error),
    })?;
    let mut bytes = Vec::new();
    // One byte more than may be there is enough for the parser to refuse it.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
