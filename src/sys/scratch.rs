//! A private directory for as long as some work takes: sockets, overlays that are thrown away, state of helpers.
//!
//! Gone with its owner, whatever happened; what a kill leaves has a name that nobody meets again. What is not here: who looks for such
//! leftovers.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Nobody else looks into it.
const PRIVATE_MODE: u32 = 0o700;

/// A directory that vanishes.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    opened: File,
}

impl Scratch {
    /// Makes one below `parent`; its name begins with `what` and ends with what no other has.
    pub fn make(parent: &Path, what: &str) -> io::Result<Scratch> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = parent.canonicalize()?.join(format!("{what}-{:016x}", u64::from_ne_bytes(random)));
        DirBuilder::new().mode(PRIVATE_MODE).create(&path)?;
        match File::open(&path) {
            Ok(opened) => Ok(Scratch { path, opened }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
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
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary directory stays");
        }
    }
}
