//! A source that QEMU opens although only we can read it: served on a socket, by threads of this process, as long as the work lasts.
//!
//! The socket lies in a directory that nobody else may enter, and is gone with the [`Served`]. QEMU opens it like any other node, and as
//! often as it likes. A socket's path may have 107 bytes: where the directory for temporary files lies deeper, it is in /tmp. What is not here: what is said on a connection (see [`super::session`]).

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use super::session::converse;
use crate::disk::control::Control;
use crate::disk::facts::SourceDisk;
use crate::disk::read::{self, Reader};
use crate::model::error::{Error, Kind, Result};
use crate::sys::scratch::{Scratch, for_sockets, remove_dead};

/// An appliance, a test machine and a tool or two: QEMU has a few connections for each.
const MOST_CONNECTIONS: usize = 16;
/// A kernel that has no more to give is asked again after this.
const BREATH: Duration = Duration::from_millis(50);
/// The socket in its directory, …
const SOCKET: &str = "disk";
/// … until somebody listens at it: a socket at which nobody does is taken for that of a dead process.
const UNHEARD: &str = "new";
/// How its directory is called, with a number behind it.
pub(super) const KIND: &str = "hyper2kvm-nbd";
/// What comes behind the directory for temporary files: two slashes, a dash, and a number of sixteen digits.
const NAME_BYTES: usize = KIND.len() + SOCKET.len() + 19;

/// Where a process serves disks that has this directory for temporary files.
#[must_use]
pub fn serves_in(temporary: &Path) -> PathBuf {
    for_sockets(temporary, NAME_BYTES)
}

/// Removes what processes left that were killed while they served disks from outside of their directory for temporary files.
pub fn remove_leavings(temporary: &Path) {
    let place = serves_in(temporary);
    if place != temporary {
        remove_dead(&place, KIND, SOCKET);
    }
}

/// A source that is served. Dropping it ends that.
#[derive(Debug)]
pub struct Served {
    disk: SourceDisk,
    socket: PathBuf,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    scratch: Scratch,
}

impl SourceDisk {
    /// The same source as QEMU can open it too, and what has to live as long as that is wanted; nothing where it can by itself.
    pub fn for_qemu(&self, control: &Control) -> Result<(SourceDisk, Option<Served>)> {
        if self.node.is_some() {
            return Ok((self.clone(), None));
        }
        let served = self.serve(control)?;
        Ok((served.disk.clone(), Some(served)))
    }

    /// Serves it as NBD on a socket of its own, to be read, by nobody but this user.
    pub fn serve(&self, control: &Control) -> Result<Served> {
        let reader = read::open(self, control)?
            .ok_or_else(|| Error::internal(format!("nobody can read {}", self.path.display())))?;
        let failed = |what: &str, path: &Path, error: &io::Error| {
            Error::io(Kind::Output, what, path, error)
                .advice("TMPDIR names the directory for temporary files; it has to be writable")
        };
        let temp = std::env::temp_dir();
        remove_leavings(&temp);
        let place = serves_in(&temp);
        let scratch =
            Scratch::make(&place, KIND).map_err(|error| failed("make a directory in", &place, &error))?;
        let (unheard, socket) = (scratch.file(UNHEARD), scratch.file(SOCKET));
        let listener = UnixListener::bind(&unheard)
            .and_then(|listener| std::fs::rename(&unheard, &socket).map(|()| listener))
            .map_err(|error| failed("make a socket at", &socket, &error))?;
        let name = socket.to_str().ok_or_else(|| {
            Error::new(Kind::Output, format!("{} is not UTF-8, as QEMU wants it", socket.display()))
                .advice("choose another directory for temporary files: TMPDIR, or `work_dir` of the configuration")
                .output(&place)
        })?;
        let node = json!({
            "driver": "raw",
            "file": { "driver": "nbd", "server": { "type": "unix", "path": name } },
        });
        let disk = SourceDisk { node: Some(node), ..self.clone() };
        let shared = Arc::new(Shared {
            reader,
            listener,
            is_over: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let listening = Arc::clone(&shared);
        let listener = thread::Builder::new()
            .name("nbd".to_owned())
            .spawn(move || listen(&listening))
            .map_err(|error| failed("listen at", &socket, &error))?;
        tracing::debug!(source = %self.path.display(), socket = name, "served to QEMU");
        Ok(Served { disk, socket, shared, listener: Some(listener), scratch })
    }
}

impl Served {
    /// The source as QEMU opens it.
    #[must_use]
    pub fn disk(&self) -> &SourceDisk {
        &self.disk
    }

    /// Where it is served.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Who listens wakes with an error; so do those who wait for a request.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        for stream in self.shared.connections().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        // One that hangs on storage is not waited for: it ends when that answers.
        tracing::debug!(directory = %self.scratch.path().display(), "not served any more");
    }
}

#[derive(Debug)]
struct Shared {
    reader: Box<dyn Reader>,
    listener: UnixListener,
    is_over: AtomicBool,
    /// By number, so that each can be taken out when it ends.
    connections: Mutex<BTreeMap<u64, UnixStream>>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a connection down; not one too many, and none when it is over.
    fn admit(&self, number: u64, stream: &UnixStream) -> io::Result<bool> {
        let mut connections = self.connections();
        if self.is_over.load(Ordering::SeqCst) || connections.len() >= MOST_CONNECTIONS {
            return Ok(false);
        }
        connections.insert(number, stream.try_clone()?);
        Ok(true)
    }
}

fn listen(shared: &Arc<Shared>) {
    for number in 0.. {
        let accepted = shared.listener.accept();
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        let begun = accepted.and_then(|(stream, _)| begin(shared, number, stream));
        if let Err(error) = begun {
            tracing::warn!(%error, "nobody could be let in to a disk that is served");
            thread::sleep(BREATH);
        }
    }
}

fn begin(shared: &Arc<Shared>, number: u64, mut stream: UnixStream) -> io::Result<()> {
    if !shared.admit(number, &stream)? {
        return Err(io::Error::other("too many at a time"));
    }
    let served = Arc::clone(shared);
    let spawned = thread::Builder::new().name("nbd client".to_owned()).spawn(move || {
        if let Err(error) = converse(&mut stream, served.reader.as_ref()) {
            tracing::debug!(%error, "a client of a served disk is gone");
        }
        served.connections().remove(&number);
    });
    if spawned.is_err() {
        shared.connections().remove(&number);
    }
    spawned.map(drop)
}
