//! A disk that a program of others' reads and serves to us: nbdkit, for one, with whatever it was told to read.
//!
//! The program works in a directory of its own and serves at a socket in it. It is a child like any other, with the sandbox and the limits that its
//! caller gives it, and ends with the reader. What is not here: which program, what it is told, and whether it is started again.

use std::time::Duration;

use super::daemon::{Daemon, Remote, Told};
use super::serve::{KIND, serves_in};
use crate::disk::control::Control;
use crate::disk::failure::Call;
use crate::disk::read::{Range, Reader, Room};
use crate::model::error::{Error, Kind, Result};
use crate::sys::process::{ChildSpec, Launcher};
use crate::sys::scratch::Scratch;

/// At which socket of its directory it has to serve.
pub(crate) const HOSTED_SOCKET: &str = "disk";

/// A program, and the disk that it is to serve.
#[derive(Debug)]
pub(crate) struct Host {
    /// What it is called.
    pub(crate) tool: &'static str,
    /// How it is started. Its directory is added, where it may write.
    pub(crate) spec: ChildSpec,
    /// How the disk is called.
    pub(crate) disk: String,
    /// Bytes that the guest sees.
    pub(crate) size: u64,
    /// A read that takes longer hangs.
    pub(crate) limit: Duration,
}

/// The disk as it is served.
#[derive(Debug)]
pub(crate) struct Hosted(Remote);

impl Hosted {
    /// Starts the program and waits until the disk can be read. What the program complained of is in the error.
    pub(crate) fn open(launcher: &Launcher, host: Host, control: &Control) -> Result<Hosted> {
        // Where the whole of its socket's path is short enough: not everybody takes it from where they work.
        let temp = serves_in(&std::env::temp_dir());
        let scratch = Scratch::make(&temp, KIND).map_err(|error| {
            Error::io(Kind::Output, "make a directory in", &temp, &error)
                .advice("TMPDIR names the directory for temporary files; it has to be writable")
        })?;
        let Host { tool, mut spec, disk, size, limit } = host;
        let directory = scratch.path().to_owned();
        spec.env.push(("TMPDIR".to_owned(), directory.display().to_string()));
        if let Some(rules) = &mut spec.sandbox {
            rules.write.push(directory.clone());
        }
        spec.directory = Some(directory);
        let source = std::path::PathBuf::from(disk);
        let call = Call { tool, kind: Kind::Network, source: Some(&source), target: None };
        let daemon = Daemon::begin(launcher, &spec, scratch, &call)?.obeying(control);
        let told = Told { tool, helper: tool.to_owned(), source: source.clone(), size, limit };
        Ok(Hosted(told.read(daemon, control)?))
    }

    /// Ends the program, and gives what it said last.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.0.last_words()
    }
}

impl Reader for Hosted {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn range(&self, at: u64, room: &mut Room) -> Result<Range> {
        self.0.range(at, room)
    }

    fn read(&self, at: u64, buffer: &mut [u8], room: &mut Room) -> Result<()> {
        self.0.read(at, buffer, room)
    }

    fn helper(&self) -> Option<&str> {
        self.0.helper()
    }
}
