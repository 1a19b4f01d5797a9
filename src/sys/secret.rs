//! Small files that hold secrets: read whole, through no link, with a word where too many may read them.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::fs::open_nofollow;

/// No passphrase and no credential is longer.
const MOST_BYTES: u64 = 64 << 10;
/// Of the sizes that a core may have, the one at which the kernel neither writes it nor starts what is to take it; at 0 it still does the latter.
const NO_CORE: u64 = 1;
/// Permissions of those who are neither the owner nor in the group.
const OTHERS: u32 = 0o007;
/// Whoever has it may put another secret there.
const OTHERS_WRITE: u32 = 0o002;

/// What a file holds. One that everybody may write is refused: anybody could have written it.
pub fn read(path: &Path) -> io::Result<String> {
    let file = open_nofollow(path)?;
    let mode = file.metadata()?.mode();
    if mode & OTHERS_WRITE != 0 {
        let why = "everybody on this machine may write it: `chmod o= FILE`";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if mode & OTHERS != 0 {
        tracing::warn!(path = %path.display(), "everybody on this machine may use this secret: `chmod o= FILE`");
    }
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// From now on no picture of this process's memory is written to a disk, however it dies, and no other user looks into it.
pub fn keep_out_of_dumps() -> io::Result<()> {
    leave_no_core()?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The same, but who may look into it now still may: an earlier daemon's workers are told by what they have open.
pub fn leave_no_core() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(NO_CORE), maximum: Some(NO_CORE) })?)
}

/// A secret without the line break that editors put at its end.
#[must_use]
pub fn without_line_break(text: &str) -> &str {
    text.trim_end_matches(['\n', '\r'])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_that_anybody_could_have_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, " two words \r\n").unwrap();
        for (mode, is_read) in [(0o600, true), (0o644, true), (0o646, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file).is_ok(), is_read, "{mode:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(without_line_break(&read(&file).unwrap()), " two words ");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read(&link).is_err());
    }
}
