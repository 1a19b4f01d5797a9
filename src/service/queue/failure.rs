//! SQLite's failures, told as the program's own.
//!
//! A full disk is `disk_space`, whether SQLite says so itself or only reports that some input or
//! output failed; everything else that the disk does is `output`; the rest is our defect.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::model::error::{Error, Kind};

/// With less than this free, a failed write is put down to the lack of room.
const NEARLY_NOTHING_BYTES: u64 = 1 << 20;

/// Where the database lies, for messages.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
}

impl Place {
    pub(super) fn new(path: &Path) -> Place {
        Place { path: path.to_owned() }
    }

    /// Bytes free for us there; a file system that does not tell is not full.
    fn free_bytes(&self) -> u64 {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        rustix::fs::statvfs(directory).map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// What SQLite says, in the program's words: "cannot WHAT: why".
pub(super) fn told(what: &str, place: &Place, error: &rusqlite::Error) -> Error {
    let cause = format!("cannot {what}: {error}");
    let full = || {
        Error::new(Kind::DiskSpace, format!("{cause} ({} is full)", place.path.display()))
            .advice(
                "free some space on the file system of the state directory; the service goes on by itself",
            )
            .output(&place.path)
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => full(),
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied,
        ) => {
            if place.free_bytes() < NEARLY_NOTHING_BYTES {
                full()
            } else {
                Error::new(Kind::Output, format!("{cause} ({})", place.path.display()))
                    .advice(
                        "see the kernel's log for the disk of the state directory, and who may write there",
                    )
                    .output(&place.path)
                    .transient()
            }
        }
        _ => Error::internal(cause),
    }
}
