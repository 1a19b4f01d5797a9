//! What is known about an opened source: its files, its size, and how QEMU has to be told to open it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::control::Control;
use crate::disk::format::Format;
use crate::disk::inspect::ExtentFile;
use crate::disk::remote::Elsewhere;
use crate::disk::window::{Part, Place};
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::SourceFormat;

/// By what it is noticed that a file was changed or replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Where.
    pub path: PathBuf,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// When it was last written, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// The part of it that is meant; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// What tells a disk from others that is no file of this machine; none: it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
}

impl FileIdentity {
    /// Of a file as it is now.
    #[must_use]
    pub fn of(path: &Path, metadata: &Metadata) -> FileIdentity {
        FileIdentity {
            path: path.to_owned(),
            dev: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            part: None,
            elsewhere: None,
        }
    }

    /// Whether it is the same file for another host, or another run of this one: there the device has another number, and what lies on a
    /// server may be called otherwise.
    #[must_use]
    pub fn is_same_elsewhere(&self, other: &FileIdentity) -> bool {
        match &self.elsewhere {
            None => FileIdentity { dev: other.dev, ..self.clone() } == *other,
            Some(identity) => other.elsewhere.as_ref() == Some(identity) && self.size == other.size,
        }
    }

    /// Of the file at a path.
    pub fn read(path: &Path) -> Result<FileIdentity> {
        let metadata = std::fs::metadata(path).map_err(|error| {
            Error::io(Kind::Source, "look at", path, &error).source(path.display().to_string())
        })?;
        Ok(FileIdentity::of(path, &metadata))
    }
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// What the file is.
    pub format: Format,
    /// A finer name, as the format has one (`streamOptimized`, `dynamic`).
    pub subformat: Option<String>,
    /// What the guest sees.
    pub virtual_size: u64,
    /// Bytes of all its files.
    pub file_size: u64,
    /// What they occupy.
    pub allocated_bytes: u64,
    /// Whether its data is compressed.
    pub compressed: bool,
    /// Files that hold its data, besides the one that was named.
    pub extents: Vec<PathBuf>,
    /// The chain below it, nearest first.
    pub backing: Vec<PathBuf>,
}

/// One image file of a disk, with the files of data that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerFile {
    pub(crate) place: Place,
    /// How it is to be read.
    pub(crate) declared: SourceFormat,
    /// What it is.
    pub(crate) found: Format,
    pub(crate) extents: Vec<(PathBuf, ExtentFile)>,
}

/// An image that was inspected, found harmless, and may be read.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceDisk {
    /// The file that was named, with links resolved.
    pub path: PathBuf,
    /// Where the image lies, that file among others.
    pub(crate) place: Place,
    /// How it is read.
    pub format: SourceFormat,
    /// What it says of itself.
    pub facts: ImageFacts,
    /// Things a person should know.
    pub warnings: Vec<String>,
    /// Every file of it, the named one first.
    pub(crate) files: Vec<FileIdentity>,
    /// What we read it from: the image that shows the disk, what that stands on, and so on.
    pub(crate) layers: Vec<LayerFile>,
    /// How QEMU opens it: every node with its driver. None: it cannot, and only our own readers can.
    pub(crate) node: Option<serde_json::Value>,
    /// How many of the files, from the first, are overlays of our own through which it is seen.
    pub(crate) own_files: usize,
    /// What reads it for us, where it is no file of this machine; what we read it from then are overlays of our own.
    pub(crate) remote: Option<Elsewhere>,
}

impl SourceDisk {
    /// Every file of the image as it was when it was opened, the named one first.
    #[must_use]
    pub fn identity(&self) -> &[FileIdentity] {
        &self.files
    }

    /// The same without overlays of our own, which are made anew by every run.
    pub(crate) fn lasting_identity(&self) -> &[FileIdentity] {
        self.files.get(self.own_files..).unwrap_or(&[])
    }

    /// Whether everything is still the one that was opened; else an error of kind `source`.
    pub fn check_unchanged(&self, control: &Control) -> Result<()> {
        if let Some(remote) = &self.remote {
            remote.check_unchanged(control)?;
        }
        for file in self.files.iter().filter(|file| file.elsewhere.is_none()) {
            let now = FileIdentity { part: file.part.clone(), ..FileIdentity::read(&file.path)? };
            if now != *file {
                return Err(Error::new(
                    Kind::Source,
                    format!("{} changed while it was being read", file.path.display()),
                )
                .rule("disk.changed")
                .advice("make sure that the VM is off and nothing writes the file, then try again")
                .source(self.path.display().to_string()));
            }
        }
        Ok(())
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How much is stored of the image itself, without what it stands on.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let pieces = self.place.pieces().len();
        let files = self.lasting_identity().iter().take(pieces);
        files.map(|file| file.part.as_ref().map_or(file.size, |part| part.bytes)).sum()
    }

    /// What it is called in its archive, or put together from its pieces; none: it is a file.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.place.member.as_ref().map(|member| member.name.as_str())
    }

    /// How QEMU is told to open it.
    pub(crate) fn qemu_name(&self) -> Result<String> {
        self.qemu_node().map(crate::disk::node::name)
    }

    /// The same as a tree of nodes.
    pub(crate) fn qemu_node(&self) -> Result<&serde_json::Value> {
        self.node.as_ref().ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("QEMU cannot read {}", self.path.display()))
                .advice(
                    "convert its bytes alone first, to raw or qcow2 (`convert --no-fix`), then convert that",
                )
                .source(self.path.display().to_string())
        })
    }

    /// The paths of its files, each once; what is no file of this machine has none.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let files = self.files.iter().filter(|file| file.elsewhere.is_none());
        let mut paths: Vec<PathBuf> = files.map(|file| file.path.clone()).collect();
        // Pieces of one file come one behind the other.
        paths.dedup();
        paths
    }
}
