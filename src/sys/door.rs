//! A socket by which only certain users come in, although its file lies where others may pass.
//!
//! The permissions of a socket's file let in one group or everybody. Who really is at the other end the kernel tells, and whoever
//! is nobody of those loses the connection before a byte is read. What is not here: what is said on a connection.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

/// The rest is up to the door.
const EVERYBODY: u32 = 0o666;

/// How it is called until somebody listens.
const UNHEARD: &str = "new";

/// A socket with a guard.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    users: Vec<u32>,
}

/// Somebody who was let in.
#[derive(Debug)]
pub struct Guest {
    /// The connection.
    pub stream: UnixStream,
    /// Their process, where the kernel shows it to us.
    pub process: Option<OwnedFd>,
}

impl Door {
    /// Makes one at a path that does not exist yet, for root, this user and these.
    pub fn make(path: &Path, users: &[u32]) -> io::Result<Door> {
        // It gets its name when somebody listens: a socket at which nobody does is taken for that of a dead process.
        let unheard = path.with_extension(UNHEARD);
        let listener = UnixListener::bind(&unheard)?;
        fs::set_permissions(&unheard, Permissions::from_mode(EVERYBODY))?;
        fs::rename(&unheard, path)?;
        let mut users = users.to_vec();
        users.extend([0, rustix::process::geteuid().as_raw()]);
        Ok(Door { listener, users })
    }

    /// Lets nobody be waited for: [`Door::next`] then fails with `WouldBlock` where nobody is there.
    pub fn wait_for_nobody(&self) -> io::Result<()> {
        self.listener.set_nonblocking(true)
    }

    /// The next who may come in; others are turned away.
    pub fn next(&self) -> io::Result<Guest> {
        loop {
            let (stream, _) = self.listener.accept()?;
            let peer = socket_peercred(&stream)?;
            if !self.users.contains(&peer.uid.as_raw()) {
                tracing::warn!(
                    user = peer.uid.as_raw(),
                    "somebody was turned away from a socket of a test machine"
                );
                continue;
            }
            // Of another world of processes it has no number here.
            let process = pidfd_open(peer.pid, PidfdFlags::empty()).ok();
            return Ok(Guest { stream, process });
        }
    }

    /// Wakes whoever waits in [`Door::next`], with an error.
    pub fn close(&self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn this_user_is_let_in_and_known_by_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let door = Door::make(&path, &[]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, EVERYBODY);
        let mut outside = UnixStream::connect(&path).unwrap();
        let mut inside = door.next().unwrap();
        assert!(inside.process.is_some());
        outside.write_all(b"x").unwrap();
        inside.stream.read_exact(&mut [0]).unwrap();
        door.wait_for_nobody().unwrap();
        assert_eq!(door.next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn others_are_turned_away_before_a_byte_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let door = Door { users: Vec::new(), ..Door::make(&path, &[]).unwrap() };
        door.wait_for_nobody().unwrap();
        let mut outside = UnixStream::connect(&path).unwrap();
        assert_eq!(door.next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(outside.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_closed_door_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door::make(&dir.path().join("door"), &[]).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| door.next().map(drop));
            std::thread::sleep(std::time::Duration::from_millis(50));
            door.close();
            assert!(waits.join().unwrap().is_err());
        });
    }
}
