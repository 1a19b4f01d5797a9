//! Where the library and its appliance write what they do: one file per job, bounded.
//!
//! Guests decide about part of what is written (file names, messages of their file systems), so the size is limited, and what cannot
//! be shown is escaped. The last lines are kept for whoever is told that a start failed. What is not here: the job's own log.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// A guest that makes the appliance talk without end does not fill the disk.
const LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// What is told of a start that failed.
const TAIL_LINES: usize = 20;
/// Of one line of these.
const TAIL_LINE_BYTES: usize = 300;

/// Whose words something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    /// The library's, about what it does.
    Library,
    /// What the appliance wrote on its console, or QEMU about it; what programs print that the library runs comes under the same name.
    Appliance,
}

/// A bounded log.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    begun: Instant,
    /// A cell, since the library holds the log, too: only a call of its own may change the rest.
    has_begun: Cell<bool>,
    left: usize,
    tail: VecDeque<String>,
}

impl Log {
    /// Writes into this file, or nowhere.
    #[must_use]
    pub(super) fn new(file: Option<File>) -> Log {
        Log {
            file,
            begun: Instant::now(),
            has_begun: Cell::new(false),
            left: LIMIT_BYTES,
            tail: VecDeque::new(),
        }
    }

    /// The last lines.
    pub(super) fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The appliance is about to be started: whatever was said before was not it.
    pub(super) fn begins(&self) {
        self.has_begun.set(false);
    }

    /// Whether the appliance has said anything yet, be it that it cannot begin.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    fn remember(&mut self, line: &[u8]) {
        let kept = &line[..line.len().min(TAIL_LINE_BYTES)];
        for line in String::from_utf8_lossy(kept).lines() {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(line.to_owned());
        }
    }

    /// Adds what was said. Never panics and never fails: it is called from C, and a log that cannot be written stops nothing.
    pub(super) fn add(&mut self, speaker: Speaker, bytes: &[u8]) {
        self.has_begun.set(self.has_begun.get() || speaker == Speaker::Appliance);
        // What took long is found by the clock.
        let mut line = format!("[{:8.3}] ", self.begun.elapsed().as_secs_f64()).into_bytes();
        for &byte in bytes.iter().take(self.left) {
            match byte {
                b'\n' | b'\t' | 0x20..=0x7e | 0x80..=0xff => line.push(byte),
                b'\r' => {}
                _ => line.extend_from_slice(b"."),
            }
        }
        self.remember(&line);
        let Some(file) = &mut self.file else { return };
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        self.left = self.left.saturating_sub(line.len());
        if self.left == 0 {
            line.extend_from_slice(b"(the log ends here: it reached its limit)\n");
        }
        if file.write_all(&line).is_err() || self.left == 0 {
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_line_is_kept_and_what_moves_the_cursor_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = Log::new(Some(file.try_clone().unwrap()));
        log.add(Speaker::Appliance, b"mounted \x1b[2J/dev/sda1\r\n");
        assert!(log.has_begun());
        log.begins();
        log.add(Speaker::Library, b"done");
        assert!(!log.has_begun());
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let said: Vec<&str> = text.lines().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(said, ["mounted .[2J/dev/sda1", "done"]);
    }

    #[test]
    fn a_log_that_reached_its_limit_says_so_and_ends() {
        let file = tempfile::tempfile().unwrap();
        let mut log = Log::new(Some(file.try_clone().unwrap()));
        for _ in 0..40 {
            log.add(Speaker::Library, &vec![b'x'; 1024 * 1024]);
        }
        assert!(log.file.is_none());
        assert!(file.metadata().unwrap().len() < 18 * 1024 * 1024);
    }
}
