//! A private directory for as long as some work takes: sockets, overlays that are thrown away, state of helpers.
//!
//! Gone with its owner, whatever happened; what a kill leaves has a name that nobody meets again. Those in a directory of all are found by
//! nobody answering at their socket. What is not here: who looks for the others, in directories of ours.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Nobody else looks into it.
const PRIVATE_MODE: u32 = 0o700;

/// What fits into a socket's address.
const MOST_SOCKET_BYTES: usize = 107;
/// Where sockets are whose paths would be longer elsewhere.
const SHORT: &str = "/tmp";

/// Where to put sockets that belong into a directory: there, if its path and so many bytes behind it make a socket's; else in one of all.
#[must_use]
pub fn for_sockets(directory: &Path, bytes: usize) -> PathBuf {
    let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    match real.as_os_str().len() + bytes <= MOST_SOCKET_BYTES {
        true => directory.to_owned(),
        false => PathBuf::from(SHORT),
    }
}

/// Removes directories whose owner was killed: this user's, whose names begin so, and at whose socket nobody answers.
pub fn remove_dead(parent: &Path, beginning: &str, socket: &str) {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == me);
        if !is_ours || !entry.file_name().to_string_lossy().starts_with(beginning) {
            continue;
        }
        let answer = UnixStream::connect(entry.path().join(socket));
        if answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory that vanishes.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    opened: File,
    is_kept: bool,
}

impl Scratch {
    /// Makes one below `parent`; its name begins with `what` and ends with what no other has.
    pub fn make(parent: &Path, what: &str) -> io::Result<Scratch> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = parent.canonicalize()?.join(format!("{what}-{:016x}", u64::from_ne_bytes(random)));
        DirBuilder::new().mode(PRIVATE_MODE).create(&path)?;
        match File::open(&path) {
            Ok(opened) => Ok(Scratch { path, opened, is_kept: false }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Leaves it to somebody else to remove it.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.is_kept = true;
        self.path.clone()
    }

    /// Where it is, without links in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Connects to a socket in it; however deep the directory lies, this name is short enough for a socket.
    pub fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{name}", self.opened.as_raw_fd()))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary directory stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_go_where_their_paths_are_short_enough() {
        let dir = tempfile::tempdir().unwrap();
        let length = dir.path().canonicalize().unwrap().as_os_str().len();
        assert_eq!(for_sockets(dir.path(), 107 - length), dir.path());
        assert_eq!(for_sockets(dir.path(), 108 - length), Path::new(SHORT));
    }

    #[test]
    fn only_directories_whose_owner_is_gone_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let made = ["x-alive", "x-dead", "x-new", "y-dead"].map(|name| dir.path().join(name));
        made.iter().for_each(|path| fs::create_dir(path).unwrap());
        let _alive = UnixListener::bind(made[0].join("s")).unwrap();
        for dead in [&made[1], &made[3]] {
            drop(UnixListener::bind(dead.join("s")).unwrap());
        }
        remove_dead(dir.path(), "x-", "s");
        assert_eq!(made.map(|path| path.exists()), [true, false, true, true]);
    }
}
