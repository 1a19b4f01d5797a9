//! A source that is no file of this machine: a disk that somebody else reads for us, over a network.
//!
//! All that is asked of it is here: how large it is, by what it is told from any other, and a reader. Whoever brings it also brings what a
//! network needs (connections, patience, what is tried again); a failure that is told here ends the attempt. It is read once, by the copy:
//! what is to look into it or change it has to wait for that, and works on what was copied. QEMU never opens it, but through
//! [`SourceDisk::serve`]; what is read so before the copy is kept for it ([`memory`]). What is not here: any protocol.

mod memory;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use memory::{Bounds, Memory};

use crate::disk::control::Control;
use crate::disk::facts::{FileIdentity, ImageFacts, SourceDisk};
use crate::disk::format::Format;
use crate::disk::read::Reader;
use crate::disk::window::Place;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;

const SECTOR: u64 = 512;
/// How it is told from a raw file.
const SUBFORMAT: &str = "remote";

/// A disk somewhere else.
///
/// Errors of the kind `network` are those that a later attempt may not meet: the copy is then gone on with where it was cut. Those of the
/// kind `source` are for good.
pub(crate) trait Remote: Debug + Send + Sync {
    /// For people: `[ds1] web/web.vmdk on vc.example`.
    fn name(&self) -> String;

    /// Bytes that the guest sees.
    fn size(&self) -> u64;

    /// What is the same as long as the disk and its content are: a copy that was cut is gone on with only where it is.
    fn identity(&self) -> String;

    /// A reader. It asks `control` while it waits for anything, so that an end from outside ends it too; it need not connect before it is
    /// read from, and may be asked for its map alone.
    fn reader(&self, control: &Control) -> Result<Box<dyn Reader>>;

    /// Whether it is still what it was when it was opened; else an error of the kind `source`.
    fn check_unchanged(&self, control: &Control) -> Result<()>;

    /// How much of it holds data at most, where it is read once, from its beginning to its end, and its map is only known once it has come. Else
    /// its map tells that.
    fn most_data(&self) -> Option<u64> {
        None
    }
}

/// The same as a part of a source. Two are the same if they say so.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere(Arc<dyn Remote>);

impl PartialEq for Elsewhere {
    fn eq(&self, other: &Elsewhere) -> bool {
        self.0.size() == other.0.size() && self.0.identity() == other.0.identity()
    }
}

impl Elsewhere {
    pub(super) fn reader(&self, control: &Control) -> Result<Box<dyn Reader>> {
        let reader = self.0.reader(control)?;
        let (told, is) = (self.0.size(), reader.size());
        if told != is {
            let name = self.0.name();
            return Err(Error::new(
                Kind::Source,
                format!("{name} was said to have {told} bytes and has {is}"),
            )
            .rule("disk.changed")
            .source(name)
            .advice("make sure that the VM is off and nothing changes its disk, then try again"));
        }
        Ok(reader)
    }

    pub(super) fn most_data(&self) -> Option<u64> {
        self.0.most_data()
    }

    pub(super) fn check_unchanged(&self, control: &Control) -> Result<()> {
        self.0.check_unchanged(control)
    }
}

impl SourceDisk {
    /// A disk that is no file of this machine. What its bytes are was decided by whoever brings it: here they are a disk as the guest sees it.
    pub(crate) fn remote(disk: Arc<dyn Remote>) -> Result<SourceDisk> {
        let (name, size) = (disk.name(), disk.size());
        let is_disk = size > 0 && size.is_multiple_of(SECTOR) && i64::try_from(size).is_ok();
        if !is_disk {
            return Err(Error::new(Kind::Source, format!("{name} has {size} bytes, which no disk has"))
                .rule("disk.corrupt")
                .source(name)
                .advice("see whether it is the disk that is meant, and whether its server shows all of it"));
        }
        let path = PathBuf::from(&name);
        Ok(SourceDisk {
            place: Place::from(&path),
            format: SourceFormat::Raw,
            facts: ImageFacts {
                format: Format::Raw,
                subformat: Some(SUBFORMAT.to_owned()),
                virtual_size: size,
                file_size: size,
                allocated_bytes: size,
                compressed: false,
                extents: Vec::new(),
                backing: Vec::new(),
            },
            warnings: Vec::new(),
            files: vec![FileIdentity::elsewhere(&path, size, disk.identity())],
            layers: Vec::new(),
            node: None,
            own_files: 0,
            remote: Some(Elsewhere(disk)),
            path,
        })
    }

    /// Whether it comes from its beginning to its end, and nothing of it can be looked at beforehand.
    #[must_use]
    pub fn is_read_once(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.most_data().is_some())
    }

    /// Whether it is no file of this machine.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }
}

impl FileIdentity {
    /// Of a disk that is no file of this machine.
    fn elsewhere(name: &Path, size: u64, identity: String) -> FileIdentity {
        FileIdentity {
            path: name.to_owned(),
            dev: 0,
            inode: 0,
            size,
            mtime_ns: 0,
            part: None,
            elsewhere: Some(identity),
        }
    }
}

#[cfg(test)]
mod once_tests;
#[cfg(test)]
mod tests;
