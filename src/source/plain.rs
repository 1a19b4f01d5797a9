//! A plain file that somebody else wrote, opened without following a link that stands in its place and without waiting for a writer.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoFile {
    /// A symbolic link.
    Link,
    /// Neither a file nor a link: a directory, a pipe.
    NotPlain,
    /// It cannot be opened.
    Failed(io::Error),
}

/// Opens it for reading; also says what it is, by its descriptor.
pub(super) fn open(path: &Path) -> Result<(File, Metadata), NoFile> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(|error| {
            match error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                true => NoFile::Link,
                false => NoFile::Failed(error),
            }
        })?;
    let metadata = file.metadata().map_err(NoFile::Failed)?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(NoFile::NotPlain) }
}
