//! Other names for files in an open directory. One that seems to have failed and is tried again may have been given already.

use std::io;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::Dir;

impl Dir {
    /// Gives a file another name, and fails with `AlreadyExists` if that name is taken.
    pub fn rename_noreplace(&self, from: &str, to: &str) -> io::Result<()> {
        let rename = || match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE)
        {
            // File systems without the flag (NFS among them): a hard link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())?;
                rustix::fs::unlinkat(&self.fd, from, AtFlags::empty())
            }
            other => other,
        };
        self.rename(from, to, rename)
    }

    /// Gives a file another name, replacing what has it.
    pub fn rename_over(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename(from, to, || rustix::fs::renameat(&self.fd, from, &self.fd, to))
    }

    fn rename(&self, from: &str, to: &str, rename: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
        let inode = self.entry(from)?.map(|file| file.inode);
        let mut has_failed = false;
        self.again(|| {
            self.may_change()?;
            match rename() {
                // What failed before may have been done all the same: a server of files whose answer was lost.
                Err(Errno::EXIST | Errno::NOENT)
                    if has_failed && inode.is_some() && self.entry(to)?.map(|file| file.inode) == inode =>
                {
                    self.remove_once(from).map(drop)
                }
                other => {
                    has_failed = other.is_err();
                    Ok(other?)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::sys::patience::Patience;

    fn patient(path: &Path) -> Dir {
        Dir::open(path).unwrap().patient(Patience::new(|_| Some(Duration::from_millis(1))))
    }

    #[test]
    fn a_rename_whose_answer_was_lost_counts_as_done() {
        let temp = tempfile::tempdir().unwrap();
        let dir = patient(temp.path());
        for half_done in [false, true] {
            std::fs::write(temp.path().join("a"), "mine").unwrap();
            let tries = Cell::new(0);
            let rename = || {
                tries.set(tries.get() + 1);
                let done = match half_done {
                    true => rustix::fs::linkat(&dir.fd, "a", &dir.fd, "b", AtFlags::empty()),
                    false => rustix::fs::renameat_with(&dir.fd, "a", &dir.fd, "b", RenameFlags::NOREPLACE),
                };
                if tries.get() == 1 { Err(Errno::TIMEDOUT) } else { done }
            };
            dir.rename("a", "b", rename).unwrap();
            assert_eq!((tries.get(), dir.names().unwrap().len()), (2, 1));
            assert_eq!(std::fs::read(temp.path().join("b")).unwrap(), b"mine");
            std::fs::remove_file(temp.path().join("b")).unwrap();
        }
    }

    #[test]
    fn another_file_of_that_name_is_not_taken_for_a_lost_answer() {
        let temp = tempfile::tempdir().unwrap();
        let dir = patient(temp.path());
        std::fs::write(temp.path().join("a"), "mine").unwrap();
        std::fs::write(temp.path().join("b"), "theirs").unwrap();
        let tries = Cell::new(0);
        let rename = || {
            tries.set(tries.get() + 1);
            Err(if tries.get() == 1 { Errno::BUSY } else { Errno::EXIST })
        };
        let error = dir.rename("a", "b", rename).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(temp.path().join("a")).unwrap(), b"mine");
    }
}
