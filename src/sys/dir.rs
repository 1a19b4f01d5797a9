//! A directory held open, and what is done to the names in it.
//!
//! Results are published in directories that others may write to as well. Working on an open
//! directory instead of on paths means that nobody can swap a component of the path for a symbolic
//! link between two steps; and no name in it is ever followed if it is a link. What is not here:
//! any idea of what the files mean.

mod rename;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::patience::Patience;
use crate::sys::record_lock::is_locked;

/// A directory held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    guard: Option<Guard>,
    patience: Option<Patience>,
}

/// Asked before each change of what is in a directory; an error keeps it from being made.
#[derive(Clone)]
pub struct Guard(Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl Guard {
    /// One that asks this.
    pub fn new(ask: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Guard {
        Guard(Arc::new(ask))
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// What a name in a directory is; links are never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// A plain file (not a link, fifo, device, directory).
    pub is_file: bool,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of its content, nanoseconds since the epoch.
    pub mtime_ns: i128,
}

impl Dir {
    /// Opens a directory; its last component must not be a symbolic link.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Dir { fd, path: path.to_owned(), guard: None, patience: None })
    }

    /// The same, in which nothing is changed any more without asking.
    #[must_use]
    pub fn guarded(self, guard: Option<Guard>) -> Dir {
        Dir { guard, ..self }
    }

    /// The same, in which what fails for a reason that passes is done again.
    #[must_use]
    pub fn patient(self, patience: Patience) -> Dir {
        Dir { patience: Some(patience), ..self }
    }

    fn again<T>(&self, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match &self.patience {
            Some(patience) => patience.with(work),
            None => work(),
        }
    }

    fn may_change(&self) -> io::Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| (guard.0)())
    }

    /// Opens a directory, making it and its parents where they are missing. Only what is made here gets `mode`.
    pub fn create_all(path: &Path, mode: u32) -> io::Result<Dir> {
        let mut built = PathBuf::new();
        for component in path.components() {
            built.push(component);
            if !matches!(component, Component::Normal(_)) {
                continue;
            }
            match rustix::fs::mkdir(&built, Mode::from_raw_mode(0o700)) {
                // The umask would take bits away at mkdir; setting them afterwards does not care.
                Ok(()) => {
                    rustix::fs::chmod(&built, Mode::from_raw_mode(mode))?;
                    sync_parent(&built)?;
                }
                Err(Errno::EXIST) => {}
                // A parent that may not be written to, but is there: the walk goes on below it.
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if built.is_dir() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Dir::open(path)
    }

    /// The same directory, held open a second time.
    pub fn try_clone(&self) -> io::Result<Dir> {
        let fd = self.fd.try_clone()?;
        Ok(Dir { fd, path: self.path.clone(), guard: self.guard.clone(), patience: self.patience.clone() })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it really lies, with every link resolved.
    pub fn real_path(&self) -> io::Result<PathBuf> {
        use std::os::fd::AsRawFd;
        std::fs::read_link(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// What a name is, or `None`.
    pub fn entry(&self, name: &str) -> io::Result<Option<Entry>> {
        self.again(|| match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(entry_of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// Opens a plain file for reading; a link is refused.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.open_plain(name, OFlags::RDONLY)
    }

    fn open_plain(&self, name: &str, access: OFlags) -> io::Result<File> {
        self.again(|| self.open_once(name, access))
    }

    fn open_once(&self, name: &str, access: OFlags) -> io::Result<File> {
        // NONBLOCK: a fifo of that name must not hold us up before it is refused.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
        }
        Ok(file)
    }

    /// Opens a plain file to change what is in it; a link is refused.
    pub fn open_to_change(&self, name: &str) -> io::Result<File> {
        self.may_change()?;
        self.open_plain(name, OFlags::RDWR)
    }

    /// The content of a plain file of at most `limit` bytes, or `None` if there is no such name.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.again(|| self.read_once(name, limit))
    }

    fn read_once(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_once(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        if file.take(limit + 1).read_to_end(&mut bytes)? as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than it may be"));
        }
        Ok(Some(bytes))
    }

    /// Writes a whole file durably under a name that only we use, replacing what is there. The directory is not synced.
    pub fn write_fresh(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.again(|| self.write_once(name, bytes, mode))
    }

    fn write_once(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.remove_once(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(fd);
        let written = file.write_all(bytes).and_then(|()| {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            file.sync_all()
        });
        if written.is_err() {
            // Half a file helps nobody, least of all where the disk is full.
            let _ = self.remove_once(name);
        }
        written
    }

    /// Replaces a file atomically and durably.
    pub fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        self.write_fresh(&temporary, bytes, mode)?;
        self.rename_over(&temporary, name)?;
        self.sync()
    }

    /// Removes a name that is not a directory; says whether it was there.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        self.again(|| self.remove_once(name))
    }

    fn remove_once(&self, name: &str) -> io::Result<bool> {
        self.may_change()?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the names durable.
    pub fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.fd) {
            // Some network file systems know no fsync on directories; their metadata operations are synchronous.
            Err(Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes the content of a file durable.
    pub fn sync_file(&self, name: &str) -> io::Result<()> {
        self.open_file(name)?.sync_all()
    }

    /// Gives a plain file a mode and, if named, a group.
    pub fn set_access(&self, name: &str, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.may_change()?;
        let file = self.open_file(name)?;
        if let Some(group) = group {
            rustix::fs::fchown(&file, None, Some(rustix::fs::Gid::from_raw(group)))?;
        }
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
    }

    /// All names in it.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Takes a lock that is the file of this name; `None` if somebody else holds it. The file goes with the lock.
    pub fn try_lock(&self, name: &str) -> io::Result<Option<LockFile<'_>>> {
        self.may_change()?;
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // Its former holder may have removed the name between our open and our lock: then we hold nothing.
            let held = entry_of(&rustix::fs::fstat(&fd)?);
            if self.entry(name)?.is_some_and(|there| there.inode == held.inode) {
                return Ok(Some(LockFile { dir: self, name: name.to_owned(), _fd: fd }));
            }
        }
    }

    /// Whether somebody holds the lock of this name.
    pub fn is_locked(&self, name: &str) -> io::Result<bool> {
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether somebody holds a record lock on a plain file, as QEMU does on every image that it has open.
    pub fn is_in_use(&self, name: &str) -> io::Result<bool> {
        let file = self.open_file(name)?;
        is_locked(&file, 0..0)
    }

    /// Does something while nobody else who asks this way does it in this directory.
    pub fn exclusively<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        // A lock of its own open file: `self.fd` may be shared with others of this process.
        let fd = rustix::fs::openat(
            &self.fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        loop {
            match rustix::fs::flock(&fd, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(work()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A lock held; dropping it removes the file and lets go.
#[derive(Debug)]
pub struct LockFile<'a> {
    dir: &'a Dir,
    name: String,
    _fd: OwnedFd,
}

impl Drop for LockFile<'_> {
    fn drop(&mut self) {
        // Removed while still held, so that nobody is given a lock on a file that is about to vanish.
        let _ = self.dir.remove(&self.name);
    }
}

fn entry_of(stat: &rustix::fs::Stat) -> Entry {
    Entry {
        is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => match File::open(parent) {
            Ok(parent) => parent.sync_all(),
            // Writing needs no permission to read: then the names are as durable as the system makes them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scratch() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn a_link_is_never_followed() {
        let (temp, dir) = scratch();
        std::fs::write(temp.path().join("target"), "secret").unwrap();
        symlink("target", temp.path().join("link")).unwrap();
        assert!(dir.open_file("link").is_err());
        assert!(!dir.entry("link").unwrap().unwrap().is_file);
        dir.write_fresh("link", b"ours", 0o640).unwrap();
        assert_eq!(std::fs::read(temp.path().join("target")).unwrap(), b"secret");
        symlink(temp.path(), temp.path().join("dirlink")).unwrap();
        assert!(Dir::open(&temp.path().join("dirlink")).is_err());
    }

    #[test]
    fn a_guard_that_says_no_keeps_a_directory_as_it_is() {
        let (temp, dir) = scratch();
        dir.write_fresh("a", b"a", 0o600).unwrap();
        let dir = dir.guarded(Some(Guard::new(|| Err(io::ErrorKind::PermissionDenied.into()))));
        assert!(dir.write_fresh("b", b"b", 0o600).is_err() && dir.replace("a", b"b", 0o600).is_err());
        assert!(dir.remove("a").is_err() && dir.set_access("a", 0o644, None).is_err());
        assert!(dir.rename_over("a", "b").is_err() && dir.rename_noreplace("a", "b").is_err());
        assert!(dir.try_lock(".x.lock").is_err() && dir.open_to_change("a").is_err());
        assert_eq!(dir.names().unwrap(), ["a"]);
        assert_eq!(std::fs::read(temp.path().join("a")).unwrap(), b"a");
    }

    #[test]
    fn a_taken_name_is_not_replaced() {
        let (_temp, dir) = scratch();
        dir.write_fresh("a", b"a", 0o600).unwrap();
        dir.write_fresh("b", b"b", 0o600).unwrap();
        let error = dir.rename_noreplace("a", "b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dir.read("b", 10).unwrap().unwrap(), b"b");
    }

    #[test]
    fn only_directories_that_are_made_get_the_mode() {
        let (temp, _dir) = scratch();
        let there = temp.path().join("there");
        std::fs::create_dir(&there).unwrap();
        std::fs::set_permissions(&there, PermissionsExt::from_mode(0o700)).unwrap();
        Dir::create_all(&there.join("made/deep"), 0o751).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&there), 0o700);
        assert_eq!(mode(&there.join("made")), 0o751);
        assert_eq!(mode(&there.join("made/deep")), 0o751);
    }

    #[test]
    fn a_file_with_a_record_lock_is_in_use() {
        use crate::sys::record_lock::share;
        let (temp, dir) = scratch();
        let path = temp.path().join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        assert!(!dir.is_in_use("disk").unwrap());
        assert!(share(&file, 100..101).unwrap());
        assert!(dir.is_in_use("disk").unwrap());
        drop(file);
        assert!(!dir.is_in_use("disk").unwrap());
    }

    #[test]
    fn a_lock_has_one_holder_and_leaves_nothing_behind() {
        let (_temp, dir) = scratch();
        let held = dir.try_lock(".x.lock").unwrap().unwrap();
        assert!(dir.try_lock(".x.lock").unwrap().is_none());
        assert!(dir.is_locked(".x.lock").unwrap());
        drop(held);
        assert!(!dir.is_locked(".x.lock").unwrap());
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_busy_is_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("program");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let dir = || Dir::open(temp.path()).unwrap();
        let mut running = std::process::Command::new(&program).arg("1").spawn().unwrap();
        let busy = dir().open_to_change("program").unwrap_err();
        assert_eq!(Errno::from_io_error(&busy), Some(Errno::TXTBSY));
        let patient = dir().patient(Patience::new(|_| Some(std::time::Duration::from_millis(50))));
        patient.open_to_change("program").unwrap();
        running.wait().unwrap();
    }
}
