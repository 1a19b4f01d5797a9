//! The guest's serial port: two pipes in the test's directory, one for what it says and one for what is typed.
//!
//! No socket: a guest says one byte at a time, each takes as much of a socket's room as a page of text, and a few hundred of them that nobody
//! has read yet fill it. Then a guest loses bytes or stands still. A pipe holds a million. What is not here: what is said ([`super::console`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::line::read_available;
use crate::model::error::{Error, Kind, Result};

/// What QEMU is told; it adds `.in` and `.out`.
pub(super) const SERIAL: &str = "serial";
/// Room for what a guest says while nobody reads: as much as a process may have without asking.
const PIPE_BYTES: usize = 1 << 20;

/// Our ends of both pipes.
#[derive(Debug)]
pub(super) struct Serial {
    said: File,
    typed: File,
}

impl Serial {
    /// Makes the pipes in a directory; before QEMU starts, which opens them.
    pub(super) fn make(directory: &Path) -> Result<Serial> {
        let end = |direction: &str| {
            let path = directory.join(format!("{SERIAL}.{direction}"));
            let made = mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
            // For both ways, so that opening waits for nobody and the end of QEMU is no end of the pipe.
            let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
            made.map_err(io::Error::from)
                .and_then(|()| {
                    OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(&path)
                })
                .map_err(|error| Error::io(Kind::Output, "make", &path, &error))
        };
        let serial = Serial { said: end("out")?, typed: end("in")? };
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&serial.said, PIPE_BYTES) {
            tracing::debug!(%error, "the guest's serial port has the usual room");
        }
        Ok(serial)
    }

    /// Gives what the guest has said since.
    pub(super) fn heard(&mut self, take: &mut dyn FnMut(&[u8])) {
        read_available(&mut self.said, take);
    }

    /// Types; what does not fit is lost, as on a keyboard.
    pub(super) fn type_in(&mut self, text: &str) {
        let _ = self.typed.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_a_guest_says_byte_by_byte_is_kept_until_it_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let mut serial = Serial::make(dir.path()).unwrap();
        let mut heard = 0;
        serial.heard(&mut |bytes| heard += bytes.len());
        assert_eq!(heard, 0, "nobody said anything");
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let mut guest = OpenOptions::new()
            .write(true)
            .custom_flags(nonblocking)
            .open(dir.path().join("serial.out"))
            .unwrap();
        for _ in 0..60_000 {
            guest.write_all(b"x").unwrap();
        }
        serial.heard(&mut |bytes| heard += bytes.len());
        assert_eq!(heard, 60_000);
        serial.type_in("secret\r");
        let mut keyboard = File::open(dir.path().join("serial.in")).unwrap();
        let mut typed = [0; 16];
        let count = keyboard.read(&mut typed).unwrap();
        assert_eq!(&typed[..count], b"secret\r");
    }
}
