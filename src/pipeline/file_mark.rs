//! How a file of a VM is known again under whichever of its names.
//!
//! What is not here: what a file is worth (see [`super::checkpoint`]).

use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::dir::{Dir, Entry};

/// A file, told by what does not change when it is renamed.
///
/// The device number is left out: it may be another one after a reboot, and the file is looked for
/// only in the directory of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since the epoch.
    pub mtime_ns: i128,
}

impl FileMark {
    /// Of a plain file; anything else has none.
    #[must_use]
    pub fn of(entry: Entry) -> Option<FileMark> {
        entry.is_file.then_some(FileMark { inode: entry.inode, size: entry.size, mtime_ns: entry.mtime_ns })
    }

    /// Whether a name is this very file, unchanged.
    pub fn is_at(self, dir: &Dir, name: &str) -> io::Result<bool> {
        Ok(dir.entry(name)?.and_then(FileMark::of) == Some(self))
    }
}
