//! The control socket as a file: made with the right owner and mode, taken over only from the dead.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, chmod, chown};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::UnixListener;

use crate::model::error::{Error, Kind, Result};
use crate::sys::users;

/// What fits into `sockaddr_un` beside its closing NUL.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// A listening control socket; its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl ControlSocket {
    /// Makes the socket and listens. Members of `group` may connect where that group exists, else only the owner.
    ///
    /// A socket file that nobody listens on (its daemon was killed) is replaced; one with a listener, and
    /// anything that is no socket, is not.
    pub fn bind(path: &Path, group: &str) -> Result<ControlSocket> {
        check_length(path)?;
        make_way(path)?;
        let failed = |what: &'static str| {
            move |error: io::Error| {
                Error::io(Kind::Output, what, path, &error).advice(
                    "check the directory's owner, or choose another place with --socket or `control.socket`",
                )
            }
        };
        let socket = open(path).map_err(failed("make the control socket"))?;
        // The mode is set between bind and listen: until then nobody can connect.
        restrict(path, group).map_err(failed("set the owner of"))?;
        let listener = start(socket).map_err(failed("listen on"))?;
        let made = fs::symlink_metadata(path).map_err(failed("look at"))?;
        Ok(ControlSocket { listener, path: path.to_owned(), identity: (made.dev(), made.ino()) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses a path that no client could connect to.
pub fn check_length(path: &Path) -> Result<()> {
    let length = path.as_os_str().as_bytes().len();
    if length <= MAX_SOCKET_PATH_BYTES {
        return Ok(());
    }
    Err(Error::new(
        Kind::Manifest,
        format!(
            "the control socket's path {} has {length} bytes, and the system allows {MAX_SOCKET_PATH_BYTES}",
            path.display()
        ),
    )
    .field("control.socket")
    .advice("choose a shorter one with --socket or `control.socket`"))
}

/// Sees to it that nothing is at the path, without taking it from somebody who listens there.
fn make_way(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(Kind::Output, "look at", path, &error)),
        Ok(found) => found,
    };
    if !found.file_type().is_socket() {
        return Err(Error::new(Kind::Exists, format!("{} is there and is no socket", path.display()))
            .advice("move it away, or choose another place with --socket or `control.socket`"));
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| Error::io(Kind::Output, "remove the dead control socket", path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(Kind::Output, "ask whether somebody listens on", path, &error)),
        Ok(_) => Err(Error::new(Kind::Exists, format!("another daemon listens on {}", path.display()))
            .advice("stop it first, or give this one its own --state-dir")),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn restrict(path: &Path, group: &str) -> io::Result<()> {
    let owner_only = Mode::RUSR | Mode::WUSR;
    // Not being in the group (a service run by hand) is no failure: then only its own user may connect.
    let given = match users::group_id(group)? {
        Some(gid) => chown(path, None, Some(Gid::from_raw(gid))).is_ok(),
        None => false,
    };
    Ok(chmod(path, if given { owner_only | Mode::RGRP | Mode::WGRP } else { owner_only })?)
}

fn start(socket: OwnedFd) -> io::Result<UnixListener> {
    listen(&socket, BACKLOG)?;
    UnixListener::from_std(StdListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_path_that_no_client_could_use_is_refused_with_advice() {
        let long = PathBuf::from(format!("/{}", "x".repeat(MAX_SOCKET_PATH_BYTES)));
        let error = ControlSocket::bind(&long, "root").unwrap_err();
        assert!(error.to_string().contains("107"), "{error}");
        assert!(check_length(Path::new(&"x".repeat(MAX_SOCKET_PATH_BYTES))).is_ok());
    }

    #[tokio::test]
    async fn only_owner_and_group_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let lonely = ControlSocket::bind(&dir.path().join("a.sock"), "no-such-group-here").unwrap();
        assert_eq!(mode(lonely.path()), 0o600);
        let shared = ControlSocket::bind(&dir.path().join("b.sock"), &own_group()).unwrap();
        assert_eq!(mode(shared.path()), 0o660);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(StdListener::bind(&path).unwrap());
        let living = ControlSocket::bind(&path, "no-such-group-here").unwrap();
        let error = ControlSocket::bind(&path, "no-such-group-here").unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        drop(living);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        assert!(ControlSocket::bind(&path, "root").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    fn own_group() -> String {
        nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name
    }
}
