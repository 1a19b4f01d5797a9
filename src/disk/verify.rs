//! Hashes of files, with progress, pause and end.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::disk::control::Control;
use crate::model::error::{Error, Kind, Result};

/// Read at a time: large enough to keep a disk busy, small enough to obey at once.
const BLOCK_BYTES: usize = 1 << 20;

/// The SHA-256 of a file as 64 lower-case hex digits. `progress` hears how many bytes are done.
pub fn sha256_file(path: &Path, control: &Control, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let fail = |error: std::io::Error| {
        Error::io(Kind::Source, "read", path, &error).source(path.display().to_string())
    };
    let mut file = crate::sys::fs::open_nofollow(path).map_err(fail)?;
    // Only a hint: without it the read-ahead is merely shorter.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut done = 0;
    loop {
        control.checkpoint()?;
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(&block[..count]);
                done += count as u64;
                progress(done);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_that_sha256sum_prints() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let mut seen = 0;
        let digest = sha256_file(&path, &Control::new(), &mut |done| seen = done).unwrap();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(seen, 3);
    }

    #[test]
    fn hashing_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let control = Control::new();
        control.stop();
        assert_eq!(sha256_file(&path, &control, &mut |_| ()).unwrap_err().kind(), Kind::Cancelled);
    }
}
