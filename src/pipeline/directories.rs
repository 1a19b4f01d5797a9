//! The directories of one VM: its own, with journal and report, and those that a storage mapping names for results of single disks.
//!
//! What holds in all of them is decided in its own: there is the lock, and there the journal says which names are whose. What is not here: what
//! is done to the names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::publish::DIRECTORY_MODE;
use super::workplace::within_roots;
use crate::model::error::{Error, Kind, Result};
use crate::model::plan::{Plan, PlannedDisk};
use crate::sys::dir::{Dir, Guard};

/// Directories besides the VM's own, by the path that they are known by.
pub(crate) type Others = BTreeMap<PathBuf, Dir>;

/// All directories of a VM, held open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directories<'d> {
    main: &'d Dir,
    others: &'d Others,
}

impl<'d> Directories<'d> {
    pub(crate) fn new(main: &'d Dir, others: &'d Others) -> Directories<'d> {
        Directories { main, others }
    }

    /// The VM's own.
    pub(crate) fn main(self) -> &'d Dir {
        self.main
    }

    /// One of them; none for the VM's own. What is not there holds nothing.
    pub(crate) fn at(self, directory: Option<&Path>) -> Option<&'d Dir> {
        directory.map_or(Some(self.main), |directory| self.others.get(directory))
    }

    /// The one in which a disk's result lies.
    pub(crate) fn of(self, disk: &PlannedDisk) -> Result<&'d Dir> {
        self.at(disk.elsewhere())
            .ok_or_else(|| Error::internal(format!("the directory of disk {} is not open", disk.id)))
    }
}

/// Opens those directories of a plan besides the VM's own that are there.
pub(crate) fn open_others(plan: &Plan) -> Result<Others> {
    let mut others = Others::new();
    for directory in plan.directories_elsewhere() {
        match Dir::open(directory) {
            Ok(dir) => _ = others.insert(directory.to_owned(), dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(Kind::Output, "open", directory, &error)),
        }
    }
    Ok(others)
}

/// Whether results can be made in a storage pool: in the directory that libvirt has for it, which nobody else makes.
pub(super) fn in_a_pool(pool: &str, directory: &Path) -> Result<()> {
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        Error::new(
            Kind::Output,
            format!("no result can be made in the storage pool {pool}: {}: {error}", directory.display()),
        )
        .output(directory)
        .advice("let this user write there, or leave `output.pool` out and have results put into the pool (`libvirt_integration.import_to_pool`)")
    })
}

/// Makes a directory of results, or opens it where it is; below one of these roots, links resolved.
pub(super) fn make(directory: &Path, roots: &[PathBuf], guard: Option<Guard>) -> Result<Dir> {
    within_roots(directory, roots)?;
    let made = Dir::create_all(directory, DIRECTORY_MODE).map_err(|error| {
        Error::io(Kind::Output, "use the result directory", directory, &error)
            .output(directory)
            .advice("it has to be a directory (not a symbolic link) that may be written to")
    })?;
    // Once more, on the directory itself: between the look above and now a link may have been put there.
    let real = made.real_path().map_err(|error| Error::io(Kind::Output, "look at", directory, &error))?;
    within_roots(&real, roots)?;
    Ok(made.guarded(guard))
}
