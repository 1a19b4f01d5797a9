//! Record locks that belong to an open file (`F_OFD_…`): on ranges of bytes, seen by every process that asks, gone when the file is closed.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, flock};

/// Takes a lock that others may share; `false` if somebody has one that cannot be shared.
pub fn share(file: &File, bytes: Range<u32>) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&record(F_RDLCK, bytes))) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether anybody else has any lock on any of these bytes; an empty range means all of the file.
pub fn is_locked(file: &File, bytes: Range<u32>) -> io::Result<bool> {
    // Asking for the strongest lock names whoever would be in its way.
    let mut asked = record(F_WRLCK, bytes);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(i32::from(asked.l_type) != F_UNLCK)
}

fn record(kind: i32, bytes: Range<u32>) -> flock {
    flock {
        l_type: kind as i16,
        l_whence: SEEK_SET as i16,
        l_start: bytes.start.into(),
        l_len: bytes.len() as i64,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_lock_is_seen_by_others_and_ends_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (first, second) = (open(), open());
        assert!(share(&first, 100..101).unwrap());
        assert!(!is_locked(&first, 100..101).unwrap(), "one's own is not in one's way");
        assert!(is_locked(&second, 100..101).unwrap() && is_locked(&second, 0..0).unwrap());
        assert!(!is_locked(&second, 101..102).unwrap());
        assert!(share(&second, 100..101).unwrap());
        drop(first);
        assert!(!is_locked(&second, 0..0).unwrap());
        fcntl(&second, FcntlArg::F_OFD_SETLK(&record(F_WRLCK, 7..8))).unwrap();
        assert!(!share(&open(), 7..8).unwrap());
    }
}
