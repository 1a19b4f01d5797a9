//! What is kept of a drop in `processed/` and `failed/`: the file, and a report beside it.
//!
//! One place for both who put something there, intake (what was refused) and settling (what has ended).
//! A drop that holds a secret is kept as a redacted copy that only the service's user may read; the
//! secret itself never lies there, not for a moment.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};
use crate::model::{parse, redaction};
use crate::sys::fs;

/// For the operator and the service's group.
const REPORT_MODE: u32 = 0o640;

/// A copy tells less than the drop, but who may read that is for its owner to say.
const REDACTED_MODE: u32 = 0o600;

/// Permissions of those who are not the owner.
const FOR_OTHERS: u32 = 0o077;

/// `<file><suffix>`
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes the report beside a drop, durably.
pub(super) fn write_report(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::atomic_write(path, bytes, REPORT_MODE).map_err(|error| Error::io(Kind::Output, "write", path, &error))
}

/// What is to be kept instead of this file; none if it may be kept as it is.
///
/// What nobody could take for a manifest (no plain file, too large, not to be read) is not looked into.
pub(super) fn redacted(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let opened = match fs::open_nofollow(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut bytes = Vec::new();
    opened.take(parse::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() > parse::MAX_BYTES { None } else { redaction::without_secrets(&bytes) })
}

/// Puts what is to be kept of a file in its own place.
pub(super) fn redact(file: &Path) -> io::Result<()> {
    match redacted(file)? {
        Some(copy) => fs::atomic_write(file, &copy, REDACTED_MODE),
        None => Ok(()),
    }
}

/// An accepted drop that holds a secret is for its owner alone until its job has ended. Where that cannot be, as of another user's file, it is
/// told, and the directory is its only guard: it was accepted.
pub(super) fn make_private(file: &Path) {
    if let Err(error) = try_make_private(file) {
        tracing::warn!(file = %file.display(), "a drop with a secret in it may be readable for others: {error}");
    }
}

fn try_make_private(file: &Path) -> io::Result<()> {
    let opened = fs::open_nofollow(file)?;
    let is_open_to_others = opened.metadata()?.mode() & FOR_OTHERS != 0;
    match is_open_to_others && redacted(file)?.is_some() {
        true => opened.set_permissions(Permissions::from_mode(REDACTED_MODE)),
        false => Ok(()),
    }
}

/// Puts a file, or what is kept instead of it, at a name that has to be free. The name is durable when
/// this returns; a file that was replaced by its copy is gone.
pub(super) fn put(from: &Path, redacted: Option<&[u8]>, target: &Path) -> io::Result<()> {
    match redacted {
        None => fs::rename_noreplace(from, target)?,
        Some(copy) => {
            fs::atomic_create(target, copy, REDACTED_MODE)?;
            std::fs::remove_file(from)?;
        }
    }
    fs::sync_dir(fs::parent_of(target))?;
    fs::sync_dir(fs::parent_of(from))
}
