//! Disks lent to a guest of somebody else's: QEMU's storage daemon holds an overlay of each, and whoever is let in may read and write it.
//!
//! ```text
//!   sources ──(only read)──▶ overlays ══socket══▶ door ══socket══▶ libvirt's QEMU
//!              storage daemon, confined, private      this process
//! ```
//!
//! Whoever is lent a disk is given a socket and no file: libvirt has nothing whose owner, mode or label it could change. The overlays have no
//! name in any directory, and end with the daemon, which ends with us. What is not here: which users are let in.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::daemon::{Daemon, NAME};
use crate::disk::control::Control;
use crate::disk::engine::Engine;
use crate::disk::facts::SourceDisk;
use crate::disk::failure::Call;
use crate::disk::overlay::over;
use crate::model::error::{Error, Kind, Result};
use crate::sys::door::{Door, Guest};
use crate::sys::process::ChildLimits;
use crate::sys::scratch::Scratch;

/// How the daemon's socket is called in its directory, in which it works.
const SOCKET: &str = "disks";
/// Until all disks are opened.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A kernel that has no more to give is asked again after this.
const BREATH: Duration = Duration::from_millis(50);
/// QEMU has one connection for each disk; twice as many for one that starts over.
const MOST_CONNECTIONS: usize = 64;
const PIECE_BYTES: usize = 256 << 10;

/// Disks that are lent. Dropping it takes them back.
#[derive(Debug)]
pub struct Lent {
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    door: Door,
    daemon: Daemon,
    is_over: AtomicBool,
    streams: Mutex<Vec<UnixStream>>,
}

/// How a lent disk is called on its socket.
#[must_use]
pub fn lent_name(number: usize) -> String {
    format!("disk{number}")
}

impl Engine {
    /// Lends these disks to whoever comes in by that door; what is written goes into overlays that may grow to so many bytes each.
    pub fn lend(
        &self,
        disks: &[SourceDisk],
        door: Door,
        work_dir: &Path,
        overlay_bytes: u64,
        control: &Control,
    ) -> Result<Lent> {
        let program = self.storage_daemon.as_ref().ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("{NAME} is not here, and nothing else can lend a disk to libvirt"))
                .rule("host.libvirt")
                .advice("install it (`apt-get install qemu-system-common`, `dnf install qemu-storage-daemon`), or use `method: qemu`")
        })?;
        let scratch = Scratch::make(work_dir, "lent").map_err(|error| {
            Error::io(Kind::Output, "make a directory in", work_dir, &error)
                .advice("let this user write there, or name another place with TMPDIR")
        })?;
        let mut args = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            let overlay = scratch.file(&overlay_name(number));
            self.make_overlay(disk, &overlay, disk.facts.virtual_size, control)?;
            let mut node = over(&overlay, disk.qemu_node()?)?;
            node["node-name"] = json!(lent_name(number));
            node["discard"] = json!("unmap");
            node["backing"]["read-only"] = json!(true);
            args.extend(["--blockdev".to_owned(), node.to_string()]);
        }
        args.extend(["--nbd-server".to_owned(), format!("addr.type=unix,addr.path={SOCKET}")]);
        for number in 0..disks.len() {
            let name = lent_name(number);
            let export =
                json!({ "type": "nbd", "id": name, "node-name": name, "name": name, "writable": true });
            args.extend(["--export".to_owned(), export.to_string()]);
        }
        let read = disks.iter().flat_map(SourceDisk::paths).collect();
        let limits = ChildLimits { file_size_bytes: Some(overlay_bytes), ..self.long_limits() };
        let mut spec = self.spec_of(program, args, read, vec![scratch.path().to_owned()], limits);
        spec.directory = Some(scratch.path().to_owned());
        let call = Call { tool: NAME, kind: Kind::Boot, source: None, target: None };
        let daemon = Daemon::begin(&self.launcher, &spec, scratch, &call)?;
        await_open(&daemon, &call, control)?;
        for number in 0..disks.len() {
            // It has them open: without a name they are gone with it, however it ends.
            daemon.forget(&overlay_name(number));
        }
        let shared =
            Arc::new(Shared { door, daemon, is_over: AtomicBool::new(false), streams: Mutex::default() });
        let listening = Arc::clone(&shared);
        let listener = thread::Builder::new().name("lent disks".to_owned()).spawn(move || listen(&listening));
        let listener = listener
            .map_err(|error| Error::internal(format!("nobody can lend disks to libvirt: {error}")))?;
        Ok(Lent { shared, listener: Some(listener) })
    }
}

fn overlay_name(number: usize) -> String {
    format!("{}.qcow2", lent_name(number))
}

/// Waits until the daemon serves.
fn await_open(daemon: &Daemon, call: &Call<'_>, control: &Control) -> Result<()> {
    let begun = Instant::now();
    while daemon.connect(SOCKET).is_err() {
        control.checkpoint()?;
        if let Some(error) = daemon.ending(LOOK_EVERY, call) {
            return Err(error);
        }
        if begun.elapsed() > OPEN_LIMIT {
            let waited = OPEN_LIMIT.as_secs();
            return Err(Error::new(Kind::Boot, format!("{NAME} did not open the disks for {waited} s"))
                .advice("check the storage that the disks lie on; it is not answering")
                .transient());
        }
    }
    Ok(())
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.shared.door.close();
        for stream in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn listen(shared: &Shared) {
    loop {
        let guest = shared.door.next();
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = guest.and_then(|guest| let_in(shared, guest)) {
            tracing::warn!(%error, "nobody could be let in to disks that are lent");
            thread::sleep(BREATH);
        }
    }
}

/// Carries what is said from one socket to the other, both ways, until one end goes.
fn let_in(shared: &Shared, guest: Guest) -> io::Result<()> {
    let daemon = shared.daemon.connect(SOCKET)?;
    daemon.set_nonblocking(false)?;
    let mut streams = shared.streams.lock().unwrap_or_else(PoisonError::into_inner);
    if streams.len() >= MOST_CONNECTIONS {
        return Err(io::Error::other("too many came in"));
    }
    streams.extend([guest.stream.try_clone()?, daemon.try_clone()?]);
    let ways = [(guest.stream.try_clone()?, daemon.try_clone()?), (daemon, guest.stream)];
    for (from, to) in ways {
        thread::Builder::new().name("lent disk".to_owned()).spawn(move || carry(from, to))?;
    }
    Ok(())
}

fn carry(mut from: UnixStream, mut to: UnixStream) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(count) if count > 0 => {
                if to.write_all(&piece[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
