//! The directory in which libvirt's QEMU finds what a test has for it: sockets, pipes, the firmware's variables.
//!
//! Working directories are closed to others; this one lets others through to what they know the name of, and everything in it has a
//! guard of its own. So it has to lie where every directory above lets others through, too: the service's in /run, else where we work, else
//! where temporary files are. What is not here: the disks, which never lie in it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::model::error::{Error, Kind, Result};
use crate::sys::scratch::{Scratch, remove_dead};

/// How it is called, with a number behind it.
const KIND: &str = "hyper2kvm-try";
/// The socket by which it is told whether somebody uses it.
pub(super) const DISKS: &str = "disks";
/// The service's own, where it is a service.
const RUNTIME: &str = "/run/hyper2kvm";
const TEMPORARY: &str = "/tmp";
/// Others may go through it, and see nothing of it.
const PASSABLE_MODE: u32 = 0o711;
/// A socket's path may have so many bytes, …
const SOCKET_BYTES: usize = 107;
/// … and below the directory that we choose it has these: a slash, the name, a number of sixteen digits, a slash, and `disks`.
const NAME_BYTES: usize = 1 + KIND.len() + 17 + 1 + DISKS.len();
/// What systemd makes for a service alone is at this place for nobody else.
const PRIVATE_TEMPORARY: &str = "/systemd-private-";
const MOUNTS: &str = "/proc/self/mountinfo";

/// A directory that others may enter, gone with its owner.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes one.
    pub fn make(work_dir: &Path) -> Result<Place> {
        remove_leavings(work_dir);
        let mut refused = Vec::new();
        for parent in candidates(work_dir) {
            match fit(&parent).and_then(|()| make_in(&parent).map_err(|error| error.to_string())) {
                Ok(place) => return Ok(place),
                Err(why) => refused.push(format!("{}: {why}", parent.display())),
            }
        }
        Err(Error::new(
            Kind::Unsupported,
            format!("there is no directory in which libvirt's QEMU could find the test: {}", refused.join("; ")),
        )
        .rule("host.libvirt")
        .advice("let others go through one of them (`chmod o+x`), name another with TMPDIR, or use `method: qemu`"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let socket = self.file(DISKS);
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.path() != socket {
                let _ = fs::remove_file(entry.path());
            }
        }
        // In a worker's sandbox it cannot be removed itself. Then the socket stays, by which whoever removes it knows that nobody uses it.
        let may_not = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        if !fs::remove_dir(&self.path).is_err_and(may_not) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes what tests left that were killed.
pub(in crate::pipeline) fn remove_leavings(work_dir: &Path) {
    candidates(work_dir).iter().for_each(|parent| remove_dead(parent, KIND, DISKS));
}

fn candidates(work_dir: &Path) -> Vec<PathBuf> {
    let mut all =
        vec![PathBuf::from(RUNTIME), work_dir.to_owned(), std::env::temp_dir(), PathBuf::from(TEMPORARY)];
    all.dedup();
    all
}

fn make_in(parent: &Path) -> io::Result<Place> {
    let scratch = Scratch::make(parent, KIND)?;
    fs::set_permissions(scratch.path(), Permissions::from_mode(PASSABLE_MODE))?;
    Ok(Place { path: scratch.keep() })
}

/// Whether others get through to it; else why not.
fn fit(parent: &Path) -> std::result::Result<(), String> {
    let real = parent.canonicalize().map_err(|error| error.to_string())?;
    if real.as_os_str().len() + NAME_BYTES > SOCKET_BYTES {
        return Err("its path is too long for a socket".to_owned());
    }
    for above in real.ancestors() {
        let mode = above.metadata().map_err(|error| error.to_string())?.mode();
        if mode & 0o001 == 0 {
            return Err(format!("{} lets no others through", above.display()));
        }
    }
    let mounts = fs::read_to_string(MOUNTS).map_err(|error| error.to_string())?;
    if is_private(&mounts, &real) {
        return Err("it is another directory for others (PrivateTmp)".to_owned());
    }
    Ok(())
}

/// Whether a path lies in what systemd made for one service alone.
fn is_private(mounts: &str, path: &Path) -> bool {
    mounts.lines().any(|line| {
        // `36 35 98:0 /root/in/its/file/system /tmp rw,…`
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        root.contains(PRIVATE_TEMPORARY) && path.starts_with(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn others_may_go_through_it_and_see_nothing() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path());
        let place = make_in(dir.path()).unwrap();
        assert_eq!(place.path().metadata().unwrap().mode() & 0o777, PASSABLE_MODE);
        fs::write(place.file("x"), "").unwrap();
        let path = place.path().to_owned();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_below_a_closed_one_or_too_deep_is_none() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path());
        assert_eq!(fit(dir.path()), Ok(()));
        let closed = dir.path().join("closed");
        fs::create_dir_all(closed.join("below")).unwrap();
        fs::set_permissions(&closed, Permissions::from_mode(0o750)).unwrap();
        assert!(fit(&closed.join("below")).unwrap_err().ends_with("closed lets no others through"));
        let deep = dir.path().join("d".repeat(100));
        fs::create_dir(&deep).unwrap();
        assert!(fit(&deep).unwrap_err().contains("too long"));
    }

    #[test]
    fn what_systemd_made_for_one_service_is_not_there_for_others() {
        let mounts = "36 35 98:0 /tmp/systemd-private-ab-x.service-1/tmp /tmp rw,nosuid shared:1 - ext4 /dev/x rw\n\
                      37 35 98:0 / /run rw - tmpfs tmpfs rw";
        assert!(is_private(mounts, Path::new("/tmp/work")));
        assert!(!is_private(mounts, Path::new("/run/hyper2kvm")));
    }
}
