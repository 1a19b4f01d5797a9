//! QEMU's locks on images, as QEMU takes them: held while we read an image, so that no machine starts on it meanwhile.
//!
//! QEMU locks single bytes of an image for what it does with it and for what it does not let others do. Holding the same ones, we are to it
//! like another QEMU that only reads. The numbers are QEMU's since 2.10, and part of how its versions understand each other.

use std::fs::File;
use std::io;

use crate::model::error::{Error, Kind};
use crate::sys::record_lock::{is_locked, share};

/// Locked by whoever reads: "what is there has to make sense" …
const READS: u32 = 100;
/// … and by whoever writes.
const WRITES: u32 = 101;
/// Locked by whoever does not let others read.
const LETS_NOBODY_READ: u32 = 200;
/// Locked by whoever does not let others write, …
const LETS_NOBODY_WRITE: u32 = 201;
/// … or change the size.
const LETS_NOBODY_RESIZE: u32 = 203;

/// Locks an open image for reading until the file is closed; `false` if somebody has it open otherwise.
///
/// A file system without such locks has none that QEMU could hold either.
pub(super) fn hold_for_reading(file: &File) -> io::Result<bool> {
    let take = |byte: u32| share(file, byte..byte + 1);
    let is_free = |byte: u32| is_locked(file, byte..byte + 1).map(|locked| !locked);
    let held = || -> io::Result<bool> {
        Ok(take(READS)?
            && take(LETS_NOBODY_WRITE)?
            && take(LETS_NOBODY_RESIZE)?
            && is_free(WRITES)?
            && is_free(LETS_NOBODY_READ)?)
    };
    match held() {
        Err(error) if [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported].contains(&error.kind()) => {
            Ok(true)
        }
        held => held,
    }
}

/// What is told where that cannot be.
pub(super) fn open_elsewhere() -> Error {
    Error::new(Kind::Source, "the image is open elsewhere (QEMU holds a lock on it)")
        .rule("disk.open_elsewhere")
        .advice("shut down the VM that uses it, then try again")
}
