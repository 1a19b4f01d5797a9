//! Looking at a file that anybody may have put there, without following, blocking, or trusting it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::service::queue::FileIdentity;

/// The largest manifest.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// What is there under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A plain file.
    Plain(FileIdentity),
    /// A directory.
    Directory(FileIdentity),
    /// What can never be a drop: what it is.
    Strange(&'static str, FileIdentity),
}

impl Found {
    /// Which file it is, if there is one.
    pub(super) fn identity(self) -> Option<FileIdentity> {
        match self {
            Found::Nothing => None,
            Found::Plain(identity) | Found::Directory(identity) | Found::Strange(_, identity) => {
                Some(identity)
            }
        }
    }
}

/// Looks without opening.
pub(super) fn look(path: &Path) -> io::Result<Found> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let identity = identity(&metadata);
    let kind = metadata.file_type();
    Ok(if kind.is_file() {
        Found::Plain(identity)
    } else if kind.is_dir() {
        Found::Directory(identity)
    } else if kind.is_symlink() {
        Found::Strange("a symbolic link", identity)
    } else if kind.is_fifo() {
        Found::Strange("a fifo", identity)
    } else if kind.is_socket() {
        Found::Strange("a socket", identity)
    } else {
        Found::Strange("a device", identity)
    })
}

fn identity(metadata: &Metadata) -> FileIdentity {
    FileIdentity {
        dev: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
    }
}

/// What reading a plain file came to.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it, from exactly this file in exactly this condition.
    Whole(Vec<u8>, FileIdentity),
    /// It is larger than a manifest may be.
    TooLarge(FileIdentity),
    /// It changed, went away or became something else meanwhile.
    Unsteady,
}

/// Reads a plain file. A fifo that took its place does not block, a link is not followed.
pub(super) fn read(path: &Path) -> io::Result<Content> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = match opened {
        Ok(file) => file,
        // ELOOP: a link took its place; ENXIO: a socket did.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || [rustix::io::Errno::LOOP, rustix::io::Errno::NXIO]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
        {
            return Ok(Content::Unsteady);
        }
        Err(error) => return Err(error),
    };
    let before = file.metadata()?;
    if !before.is_file() {
        return Ok(Content::Unsteady);
    }
    let before = identity(&before);
    if before.size > MAX_BYTES {
        return Ok(Content::TooLarge(before));
    }
    let bytes = read_at_most(&file, before.size)?;
    let after = identity(&file.metadata()?);
    if after == before && bytes.len() as u64 == before.size {
        Ok(Content::Whole(bytes, before))
    } else {
        Ok(Content::Unsteady)
    }
}

/// One byte more than expected is enough to see that it grew.
fn read_at_most(file: &File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size as usize + 1);
    file.take(size + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
