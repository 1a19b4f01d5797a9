//! The private directory of one boot test: sockets, variables of the firmware, state of the TPM.
//!
//! Gone with its owner, whatever happened. What is not here: the overlays, which QEMU makes without a name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};

/// A directory that vanishes.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    opened: File,
}

impl Scratch {
    /// Makes one below `parent`.
    pub(super) fn make(parent: &Path) -> Result<Scratch> {
        let failed = |error: io::Error| {
            Error::io(Kind::Output, "make a directory in", parent, &error)
                .advice("let this user write there, or name another place with TMPDIR")
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed(io::Error::other(error)))?;
        let path = parent.join(format!("boot-test-{:016x}", u64::from_ne_bytes(random)));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        match File::open(&path) {
            Ok(opened) => Ok(Scratch { path, opened }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(failed(error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Connects to a socket in it; however deep the directory lies, this name is short enough for a socket.
    pub(super) fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{name}", self.opened.as_raw_fd()))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the directory of a boot test stays");
        }
    }
}
