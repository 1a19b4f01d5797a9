//! Files that are whole or not there: atomic writes, renames that never replace, free space.
//!
//! Durable means: the bytes are on the medium, and so is the name. Every function that says so syncs
//! the file and then its directory, because a rename that is not synced may be undone by a power cut.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};

/// Bytes of a block as `stat` counts them.
const STAT_BLOCK_BYTES: u64 = 512;

/// More temporary names of one file than this are never in use at a time.
const TEMPORARY_NAMES: u32 = 64;

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Which file system: equal for paths that share their space.
    pub fs_id: u64,
}

/// Writes a file so that, whatever happens, either the old or the new content is there, durable on return.
pub fn atomic_write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (_held, temporary) = write_temporary(path, bytes, mode, true)?;
    rename_or_remove(&temporary, path)?;
    sync_dir(parent_of(path))
}

/// Like [`atomic_write`], but fails with `AlreadyExists` where something of that name is.
pub fn atomic_create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (_held, temporary) = write_temporary(path, bytes, mode, true)?;
    rename_noreplace(&temporary, path).inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
    sync_dir(parent_of(path))
}

/// Like [`atomic_write`] but not durable: for files that are rewritten all the time and made again after a crash.
pub fn atomic_replace_unsynced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (_held, temporary) = write_temporary(path, bytes, mode, false)?;
    rename_or_remove(&temporary, path)
}

/// Renames, failing with `AlreadyExists` where something of that name is. Not durable until [`sync_dir`].
pub fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems without renameat2 flags (some FUSE, old NFS): a hard link never replaces either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

/// Moves a file into a directory of the same file system under the first free name: `x.json`, `x-2.json`, … Durable.
pub fn move_without_overwrite(from: &Path, directory: &Path, name: &OsStr) -> io::Result<PathBuf> {
    for number in 1u32.. {
        let target = directory.join(numbered(name, number));
        match rename_noreplace(from, &target) {
            Ok(()) => {
                sync_dir(directory)?;
                if let Some(old) = from.parent().filter(|old| *old != directory) {
                    sync_dir(old)?;
                }
                return Ok(target);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// `x.json` with 2 is `x-2.json`; with 1 it stays.
#[must_use]
pub fn numbered(name: &OsStr, number: u32) -> OsString {
    if number <= 1 {
        return name.to_owned();
    }
    let path = Path::new(name);
    let mut numbered = path.file_stem().unwrap_or(name).to_owned();
    numbered.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        numbered.push(".");
        numbered.push(extension);
    }
    numbered
}

/// Makes names in a directory durable.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems cannot sync directories and say so; there is nothing more to be had from them.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Makes a file's bytes durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The room at a path, or at its nearest directory that exists.
pub fn free_bytes(path: &Path) -> io::Result<Space> {
    let mut place = path;
    let (status, metadata) = loop {
        match (rustix::fs::statvfs(place), std::fs::metadata(place)) {
            (Ok(status), Ok(metadata)) => break (status, metadata),
            (Err(rustix::io::Errno::NOENT), _) => match place.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => place = parent,
                _ => return Err(io::ErrorKind::NotFound.into()),
            },
            (Err(error), _) => return Err(error.into()),
            (_, Err(error)) => return Err(error),
        }
    };
    Ok(Space {
        free: status.f_bavail.saturating_mul(status.f_frsize),
        total: status.f_blocks.saturating_mul(status.f_frsize),
        fs_id: metadata.dev(),
    })
}

/// `f_type` of FAT, and the longest file that it holds.
const FAT: (u64, u64) = (0x4d44, (4 << 30) - 1);
/// The same of ext2 to ext4, whose files have no more blocks than this.
const EXT: (u64, u64) = (0xef53, 1 << 32);

/// The longest file that can be made below a directory: by its file system, and by what this process may; none: longer than any disk.
#[must_use]
pub fn most_file_bytes(directory: &Path) -> Option<u64> {
    let may = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    let holds =
        rustix::fs::statfs(directory).ok().and_then(|found| match found.f_type as u64 & 0xffff_ffff {
            kind if kind == FAT.0 => Some(FAT.1),
            kind if kind == EXT.0 => Some(EXT.1.saturating_mul(found.f_bsize as u64)),
            _ => None,
        });
    may.into_iter().chain(holds).min()
}

/// What a file really occupies.
#[must_use]
pub fn allocated_bytes(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(STAT_BLOCK_BYTES)
}

/// With so much written into a file, it is worth having the kernel [begin](begin_to_write) with it.
pub const WRITE_EARLY_BYTES: u64 = 32 << 20;

/// Has the kernel begin to write, and waits for nothing: what is asked for is to forget these pages, and it cannot before they are written.
/// Where it does not heed that, the next sync takes longer.
pub fn begin_to_write(file: &File, span: &Range<u64>) {
    let Some(length) = NonZeroU64::new(span.end.saturating_sub(span.start)) else { return };
    if let Err(error) = rustix::fs::fadvise(file, span.start, Some(length), rustix::fs::Advice::DontNeed) {
        tracing::debug!(%error, "the kernel does not begin to write early");
    }
}

/// Opens a plain file for reading; a symbolic link as the last component is an error, and a fifo does not block.
pub fn open_nofollow(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    Ok(file)
}

/// Opens a file of our own that an earlier run has left, to write on in it: nobody else may have made it or have another name for it.
pub fn open_to_go_on(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    let is_ours = metadata.is_file()
        && metadata.nlink() == 1
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o022 == 0;
    match is_ours {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file of our own")),
    }
}

/// The directory that holds a path's last component.
#[must_use]
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes a file beside its final place. Its writer holds a lock on it until the rename, so one that
/// nobody locks was left by a process that died: the next writer of the same name takes it over.
fn write_temporary(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<(File, PathBuf)> {
    let (mut file, temporary) = take_temporary(path, mode)?;
    let mut write = || {
        file.set_len(0)?;
        // The umask may have taken bits that were asked for.
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
        file.write_all(bytes)?;
        if durable { file.sync_all() } else { Ok(()) }
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
    Ok((file, temporary))
}

/// The first temporary name of `path` that nobody is writing, locked.
fn take_temporary(path: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    for number in 0..TEMPORARY_NAMES {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{number}.tmp"));
        let temporary = parent_of(path).join(hidden);
        // Whatever else lies under that name is not followed, not waited for, and not ours.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(flags)
            .open(&temporary);
        let file = match opened
            .map_err(|error| (error.raw_os_error().map(rustix::io::Errno::from_raw_os_error), error))
        {
            Ok(file) => file,
            Err((Some(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::ISDIR), _)) => {
                continue;
            }
            Err((_, error)) => return Err(error),
        };
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            Err(error) => return Err(error.into()),
        }
        let ours = file.metadata()?;
        // Its writer may have renamed it between our open and our lock.
        let is_there = std::fs::symlink_metadata(&temporary)
            .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if is_there && ours.is_file() && ours.nlink() == 1 {
            return Ok((file, temporary));
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every temporary name is taken"))
}

fn rename_or_remove(temporary: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(temporary, path).inspect_err(|_| drop(std::fs::remove_file(temporary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_writer_that_died_left_goes_with_the_next_write() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".status.json.0.tmp"), "half of somethi").unwrap();
        atomic_write(&dir.path().join("status.json"), b"{}", 0o644).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["status.json"]);
        assert_eq!(std::fs::read(dir.path().join("status.json")).unwrap(), b"{}");
    }

    #[test]
    fn another_file_under_the_temporary_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::fs::hard_link(&victim, dir.path().join(".x.0.tmp")).unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(".x.1.tmp")).unwrap();
        atomic_write(&dir.path().join("x"), b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"new");
    }

    #[test]
    fn an_atomic_write_replaces_whole_files_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        atomic_write(&path, b"one", 0o640).unwrap();
        atomic_replace_unsynced(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_cannot_be_finished_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        std::fs::create_dir_all(path.join("below")).unwrap();
        assert!(atomic_write(&path, b"x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_move_never_overwrites_but_counts_up() {
        let dir = tempfile::tempdir().unwrap();
        let done = dir.path().join("processed");
        std::fs::create_dir(&done).unwrap();
        for expected in ["x.json", "x-2.json", "x-3.json"] {
            let from = dir.path().join("x.json");
            std::fs::write(&from, expected).unwrap();
            let to = move_without_overwrite(&from, &done, OsStr::new("x.json")).unwrap();
            assert_eq!(to, done.join(expected));
            assert!(!from.exists());
        }
        assert_eq!(std::fs::read_to_string(done.join("x.json")).unwrap(), "x.json");
    }

    #[test]
    fn a_rename_onto_something_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "a").unwrap();
        std::fs::write(&b, "b").unwrap();
        assert_eq!(rename_noreplace(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&b).unwrap(), "b");
    }

    #[test]
    fn links_fifos_and_directories_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(open_nofollow(&file).is_ok());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(open_nofollow(&link).is_err());
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open_nofollow(&fifo).is_err());
        assert!(open_nofollow(dir.path()).is_err());
    }

    #[test]
    fn room_is_told_for_paths_that_are_yet_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let here = free_bytes(dir.path()).unwrap();
        let there = free_bytes(&dir.path().join("not/yet/there")).unwrap();
        assert_eq!(here.fs_id, there.fs_id);
        assert!(here.total > 0);
    }
}
