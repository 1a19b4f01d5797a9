//! Hashes of files, with progress, pause and end.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::disk::control::Control;
use crate::disk::window::Place;
use crate::model::checksum::Algorithm;
use crate::model::error::{Error, Kind, Result};
use crate::sys::fs::open_nofollow;

/// Read at a time: large enough to keep a disk busy, small enough to obey at once.
const BLOCK_BYTES: usize = 1 << 20;
/// So many blocks are read while one is hashed.
const AHEAD: usize = 2;

/// The SHA-256 of a file as 64 lower-case hex digits. `progress` hears how many bytes are done.
pub fn sha256_file(path: &Path, control: &Control, progress: &mut dyn FnMut(u64)) -> Result<String> {
    digest(&path.into(), Algorithm::Sha256, control, progress)
}

/// The checksum of an image as it is stored, in lower-case hex digits. `progress` hears how many bytes are done.
pub fn digest(
    place: &Place,
    algorithm: Algorithm,
    control: &Control,
    progress: &mut dyn FnMut(u64),
) -> Result<String> {
    digest_paced(place, algorithm, control, &mut |done| {
        progress(done);
        Ok(())
    })
}

/// The same; after each block `turn` may wait, or end it.
pub(crate) fn digest_paced(
    place: &Place,
    algorithm: Algorithm,
    control: &Control,
    turn: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<String> {
    match algorithm {
        Algorithm::Sha1 => read_through::<Sha1>(place, control, turn),
        Algorithm::Sha256 => read_through::<Sha256>(place, control, turn),
        Algorithm::Sha512 => read_through::<Sha512>(place, control, turn),
    }
}

/// The checksum of these bytes.
#[must_use]
pub fn digest_of(bytes: &[u8], algorithm: Algorithm) -> String {
    match algorithm {
        Algorithm::Sha1 => hex(&Sha1::digest(bytes)),
        Algorithm::Sha256 => hex(&Sha256::digest(bytes)),
        Algorithm::Sha512 => hex(&Sha512::digest(bytes)),
    }
}

fn read_through<D: Digest>(
    place: &Place,
    control: &Control,
    turn: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<String> {
    let fail = |error: io::Error| Error::io(Kind::Source, "read", &place.path, &error).source(place.shown());
    let window = place.stored_window(&mut |path| open_nofollow(path)).map_err(fail)?;
    for file in window.files() {
        // Only a hint: without it the read-ahead is merely shorter.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    }
    let lengths = || window.files().map(|file| Ok(file.metadata()?.len())).collect::<io::Result<Vec<u64>>>();
    let before = lengths().map_err(fail)?;
    let hash = hashed_beside::<D>(&mut |blocks| {
        let (mut done, mut stored) = (0, 0..0);
        while done < window.len() {
            control.checkpoint()?;
            let left = usize::try_from(window.len() - done).unwrap_or(usize::MAX);
            let mut now = blocks.used.try_recv().unwrap_or_default();
            now.resize(left.min(BLOCK_BYTES), 0);
            if stored.end <= done {
                let next = window.stored_from(done).map_err(fail)?;
                stored = next.map_or(window.len()..window.len(), |(begin, end)| begin..end);
            }
            if stored.start >= done + now.len() as u64 {
                // A hole. To read it would have the kernel make pages of zeros, and keep them.
                now.fill(0);
            } else {
                window.read_exact_at(&mut now, done).map_err(fail)?;
            }
            done += now.len() as u64;
            // Who takes them ends badly only with this thread.
            let _ = blocks.read.send(now);
            turn(done)?;
        }
        Ok(())
    })?;
    // What was cut off meanwhile looked like a hole.
    if lengths().map_err(fail)?.iter().zip(&before).any(|(now, before)| now < before) {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(hex(&hash))
}

/// Blocks on their way to whoever hashes them, and back.
struct Blocks {
    read: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
}

/// The hash of the blocks that `read` sends, made by a thread of its own while the next are read. Blocks that were hashed come back to be used again.
fn hashed_beside<D: Digest>(read: &mut dyn FnMut(&Blocks) -> Result<()>) -> Result<Vec<u8>> {
    thread::scope(|scope| {
        let (read_ones, coming) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
        let (give_back, used) = mpsc::channel();
        let blocks = Blocks { read: read_ones, used };
        let hasher = scope.spawn(move || {
            let mut hash = D::new();
            for block in coming {
                hash.update(&block);
                let _ = give_back.send(block);
            }
            hash.finalize().to_vec()
        });
        let is_read = read(&blocks);
        drop(blocks);
        let hash = hasher.join().map_err(|_| Error::internal("a thread that made a checksum ended badly"))?;
        is_read.map(|()| hash)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

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
    fn holes_count_as_the_zeros_that_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (holed, full) = (dir.path().join("holed"), dir.path().join("full"));
        let bytes = 5 * BLOCK_BYTES + 4096;
        let file = File::create(&holed).unwrap();
        let mut all = vec![0; bytes];
        for at in [0, BLOCK_BYTES - 4096, 3 * BLOCK_BYTES + 4096] {
            all[at..at + 4096].fill(7);
            file.write_all_at(&[7; 4096], at as u64).unwrap();
        }
        file.set_len(bytes as u64).unwrap();
        std::fs::write(&full, all).unwrap();
        let digest = |path: &Path| sha256_file(path, &Control::new(), &mut |_| ()).unwrap();
        assert_eq!(digest(&holed), digest(&full));
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_has_no_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut");
        File::create(&path).unwrap().set_len(4 * BLOCK_BYTES as u64).unwrap();
        let cut = &mut |_| File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert_eq!(sha256_file(&path, &Control::new(), cut).unwrap_err().kind(), Kind::Source);
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
