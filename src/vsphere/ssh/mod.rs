//! Disks on an ESXi host, read over SSH: the machine's own `ssh`, and what BusyBox has on the other side.
//!
//! ```text
//!   account ─▶ a few shells, kept ─▶ files: looked at, read by ranges (dd) ─▶ chain: descriptors, extents, parents ─▶ Disk: a Remote
//! ```
//!
//! `ssh` is a child like every other, and has no way to ask anybody anything: it logs in with the one key that it is given, to a host whose key is
//! known, and forwards nothing. Snapshots are read through. What is not here: which machine is meant, and what a VMX says.

mod account;
mod chain;
mod command;
mod files;
mod host;
mod opened;
mod pool;
mod shell;

use std::sync::Arc;

pub use account::Account;
pub(crate) use host::of_machine;

use self::chain::Chain;
use self::files::Files;
pub(crate) use self::files::{on_host, place};
use super::Patience;
use super::folder::DatastorePath;
use crate::disk::{Control, Reader, Remote};
use crate::model::error::{Error, Kind, Result};

/// A host whose files are read.
#[derive(Debug, Clone)]
pub(crate) struct Host(Files);

impl Host {
    /// Over so many connections, at most. Nobody is asked before something is read.
    pub(crate) fn new(account: Account, patience: Patience, connections: usize) -> Host {
        Host(Files::new(account, patience, connections))
    }

    /// All of a small file that nobody works on.
    pub(crate) fn text(&self, place: &DatastorePath, most: u64, control: &Control) -> Result<Vec<u8>> {
        let file = self.0.look(place, control)?;
        if file.size > most {
            let name = self.0.name(place);
            return Err(Error::new(Kind::Source, format!("{name} has {} bytes, and is no VMX", file.size))
                .source(name)
                .advice("name the VM by its VMX, or a disk by its descriptor"));
        }
        self.0.whole(&file, control)
    }

    /// A disk by its descriptor, with all that it stands on.
    pub(crate) fn open(&self, place: &DatastorePath, control: &Control) -> Result<Arc<dyn Remote>> {
        let chain = Arc::new(Chain::read(&self.0, place, control)?);
        Ok(Arc::new(Disk { files: self.0.clone(), chain }))
    }
}

/// A disk that is read.
#[derive(Debug)]
struct Disk {
    files: Files,
    chain: Arc<Chain>,
}

impl Remote for Disk {
    fn name(&self) -> String {
        self.files.name(self.chain.place())
    }

    fn size(&self) -> u64 {
        self.chain.size()
    }

    fn identity(&self) -> String {
        format!("ssh {} {}", self.files.host(), self.chain.identity())
    }

    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        Ok(self.chain.reader(&self.files, control))
    }

    fn check_unchanged(&self, control: &Control) -> Result<()> {
        self.chain.check_unchanged(&self.files, control)
    }
}
