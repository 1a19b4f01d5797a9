//! Files that a person names on the command line.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};

/// The largest manifest.
const MAX_INPUT_BYTES: u64 = 16 * 1024 * 1024;

/// A file with all that is needed to understand it.
pub(super) struct Input {
    /// As the person named it.
    pub(super) given: PathBuf,
    /// The name without directories.
    pub(super) filename: String,
    /// What relative paths in it count from (absolute).
    pub(super) base_directory: PathBuf,
    /// The content.
    pub(super) bytes: Vec<u8>,
}

impl Input {
    /// Reads a manifest or configuration file.
    pub(super) fn read(path: &Path) -> Result<Input> {
        let failed = |what: &'static str| {
            move |error: std::io::Error| Error::io(Kind::Manifest, what, path, &error).file(path)
        };
        let absolute = std::path::absolute(path).map_err(failed("resolve"))?;
        let metadata = fs::metadata(path).map_err(failed("read"))?;
        if !metadata.is_file() {
            return Err(Error::new(Kind::Manifest, format!("{} is not a plain file", path.display()))
                .file(path)
                .advice("name a manifest, as YAML or JSON"));
        }
        if metadata.len() > MAX_INPUT_BYTES {
            return Err(Error::new(Kind::Manifest, "it is larger than 16 MiB")
                .file(path)
                .advice("name disks by path in a manifest; `convert` takes a disk itself"));
        }
        let bytes = fs::read(path).map_err(failed("read"))?;
        let filename = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base_directory = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Input { given: path.to_owned(), filename, base_directory, bytes })
    }

    /// The content as text.
    pub(super) fn text(&self) -> Result<String> {
        String::from_utf8(self.bytes.clone()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::new(Kind::Manifest, format!("it is not UTF-8 text (byte {at})"))
                .file(&self.given)
                .advice("save it as UTF-8; `convert` takes a disk itself")
        })
    }
}
