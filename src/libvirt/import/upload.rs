//! Bytes on their way into a volume, and back to be compared: one stream, in which holes stay holes.
//!
//! No access to the pool's directory is needed: libvirt writes and reads. Where the volume's file can be opened all the same, the kernel is told to
//! begin writing it while more comes, so that making it durable has little left to do. What is not here: which volume, and what becomes of it
//! when this fails.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use virt::error::Error as Told;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use super::{Watch, ending};
use crate::libvirt::foreign::streams::{Received, receive, send_hole};
use crate::libvirt::link::Link;
use crate::model::error::Error;
use crate::sys::extents::stored_in;
use crate::sys::failpoint;
use crate::sys::fs::{WRITE_EARLY_BYTES, begin_to_write, open_nofollow};

/// Bytes that are read and sent at a time. Of larger ones libvirtd takes the memory for each anew, and smaller ones are more to talk about.
const PIECE_BYTES: usize = 128 << 10;

/// Why bytes did not get there.
#[derive(Debug)]
pub(super) enum Broken {
    /// Somebody else has made the volume.
    NotOurs(Error),
    /// We were asked to stop, or found fault with what was made.
    Ended(Error),
    /// The file could not be read.
    File(io::Error),
    /// libvirt failed.
    Libvirt(Told),
    /// libvirt has no room to write them, and does not say so.
    Full,
    /// The volume does not hold what the file holds, from this byte on.
    Differs(u64),
}

/// Sends a file of this length into a volume that holds nothing yet.
pub(super) fn send(
    link: &Link,
    volume: &StorageVol,
    file: &File,
    length: u64,
    is_full: &dyn Fn() -> bool,
    watch: &mut Watch<'_>,
) -> Result<(), Broken> {
    let stream = Stream::new(link.raw(), 0).map_err(Broken::Libvirt)?;
    volume.upload(&stream, 0, length, sys::VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM).map_err(Broken::Libvirt)?;
    match send_all(&stream, (file, length), &mut Early::of(volume), watch) {
        Ok(()) => ending::finish(stream, is_full),
        Err(broken) => {
            ending::abort(stream);
            Err(broken)
        }
    }
}

fn send_all(
    stream: &Stream,
    (file, length): (&File, u64),
    early: &mut Early,
    watch: &mut Watch<'_>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; PIECE_BYTES];
    // Where the kernel does not heed that, it reads less ahead.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    let mut at = 0;
    while at < length {
        let stored = stored_in(file, at..length).map_err(Broken::File)?.unwrap_or(length..length);
        if stored.start > at {
            send_hole(stream, stored.start - at).map_err(Broken::Libvirt)?;
            watch.passed(stored.start - at).map_err(Broken::Ended)?;
        }
        at = stored.start;
        while at < stored.end {
            let piece = &mut buffer[..fitting(at..stored.end)];
            file.read_exact_at(piece, at).map_err(Broken::File)?;
            failpoint::hit("import.sending");
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let sent = stream.send(rest).map_err(Broken::Libvirt)?;
                rest = &rest[sent.min(rest.len())..];
                at += sent as u64;
            }
            early.sent_until(at);
            watch.passed(piece.len() as u64).map_err(Broken::Ended)?;
        }
    }
    Ok(())
}

/// What the volume's file has got that the kernel need not keep to itself any longer.
struct Early {
    /// None where it is another host's, or not for us to open.
    target: Option<File>,
    begun: u64,
}

impl Early {
    fn of(volume: &StorageVol) -> Early {
        let target = volume.get_path().ok().and_then(|path| open_nofollow(Path::new(&path)).ok());
        Early { target, begun: 0 }
    }

    /// So far it was sent. What libvirt has not written yet has its turn the next time: it is all of the file that is asked for.
    fn sent_until(&mut self, at: u64) {
        if let Some(target) = self.target.as_ref().filter(|_| at - self.begun >= WRITE_EARLY_BYTES) {
            begin_to_write(target, &(0..at));
            self.begun = at;
        }
    }
}

/// Reads a volume back and compares it with a file of this length.
pub(super) fn compare(
    link: &Link,
    volume: &StorageVol,
    file: &File,
    length: u64,
    watch: &mut Watch<'_>,
) -> Result<(), Broken> {
    let stream = Stream::new(link.raw(), 0).map_err(Broken::Libvirt)?;
    volume
        .download(&stream, 0, length, sys::VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        .map_err(Broken::Libvirt)?;
    match compare_all(&stream, file, length, watch) {
        Ok(()) => stream.finish().map_err(Broken::Libvirt),
        Err(broken) => {
            ending::abort(stream);
            Err(broken)
        }
    }
}

fn compare_all(stream: &Stream, file: &File, length: u64, watch: &mut Watch<'_>) -> Result<(), Broken> {
    let (mut theirs, mut ours) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut at = 0;
    loop {
        let begun = at;
        match receive(stream, &mut theirs).map_err(Broken::Libvirt)? {
            Received::End if at == length => return Ok(()),
            Received::Bytes(bytes) if bytes as u64 <= length - at => {
                let piece = &mut ours[..bytes];
                file.read_exact_at(piece, at).map_err(Broken::File)?;
                if *piece != theirs[..bytes] {
                    return Err(Broken::Differs(at));
                }
                at += bytes as u64;
            }
            Received::Hole(bytes) if bytes <= length - at => {
                all_zero(file, at..at + bytes, &mut ours)?;
                at += bytes;
            }
            // It ends too early or too late.
            _ => return Err(Broken::Differs(at)),
        }
        watch.looked_at(at - begun).map_err(Broken::Ended)?;
    }
}

/// Where the volume has a hole, the file may have zeros.
fn all_zero(file: &File, range: Range<u64>, buffer: &mut [u8]) -> Result<(), Broken> {
    let mut at = range.start;
    while let Some(stored) = stored_in(file, at..range.end).map_err(Broken::File)? {
        at = stored.start;
        while at < stored.end {
            let bytes = fitting(at..stored.end).min(buffer.len());
            let piece = &mut buffer[..bytes];
            file.read_exact_at(piece, at).map_err(Broken::File)?;
            if piece.iter().any(|byte| *byte != 0) {
                return Err(Broken::Differs(at));
            }
            at += bytes as u64;
        }
        if at >= range.end {
            break;
        }
    }
    Ok(())
}

/// Whether a volume begins with the bytes of a file, as far as it has any yet.
pub(super) fn begins_alike(link: &Link, volume: &StorageVol, file: &File) -> Result<bool, Told> {
    let stream = Stream::new(link.raw(), 0)?;
    volume.download(&stream, 0, PIECE_BYTES as u64, 0)?;
    let (mut theirs, mut ours) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut at = 0;
    while let bytes @ 1.. = stream.recv(&mut theirs)? {
        let is_alike = file.read_exact_at(&mut ours[..bytes], at).is_ok()
            && theirs[..bytes].iter().zip(&ours).all(|(theirs, ours)| *theirs == 0 || theirs == ours);
        if !is_alike {
            let _ = stream.abort();
            return Ok(false);
        }
        at += bytes as u64;
    }
    stream.finish().map(|()| true)
}

/// How much of a range one piece takes.
fn fitting(range: Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(PIECE_BYTES)
}
