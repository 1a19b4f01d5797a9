//! Where machines come from: what describes them there, and where the bytes of their disks lie.
//!
//! [`machines`] reads a description (an OVA, an OVF, a VMX, a directory of disks) into [`Facts`]; [`submission`] reads a manifest that names one, so that the facts lie
//! below what the manifest says. Descriptions are other people's files: every one is read within bounds, and names nothing outside of its
//! archive or directory. [`profiles`] has what a manifest builds on. What is not here: the formats of disks, and copying them.

mod appliance;
mod folder;
mod manifest;
mod ovf;
mod place;
mod plain;
pub mod profiles;
mod shelf;
mod sums;
mod tar;
mod vmware;
mod vmx;

use std::path::Path;
use std::sync::Arc;

pub use place::{place_found, place_of, stored_place};

use crate::model::config::Settings;
use crate::model::error::{Error, Result};
use crate::model::facts::Facts;
use crate::model::planner::{self, Origin, ResolvedProfile, Submission, Surroundings, VmOrigins};

/// The machines that are described there; one at least.
pub fn machines(origin: &Origin) -> Result<Vec<Facts>> {
    match origin {
        Origin::Ova(path) => appliance::read_archive(path),
        Origin::Ovf(path) => appliance::read_folder(path),
        Origin::Vmx(path) => vmx::read(path),
        Origin::Folder { directory, group_by } => {
            folder::read(directory, group_by.as_ref().map(|pattern| pattern.as_str()))
        }
    }
}

/// This machine, as the planner may look at it.
struct Here<'s> {
    settings: &'s Settings,
}

impl Surroundings for Here<'_> {
    fn machines(&mut self, origin: &Origin) -> Result<Vec<Facts>> {
        machines(origin)
    }

    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>> {
        manifest::read(path)
    }

    fn profile(&mut self, name: &str, directory: &Path) -> Result<Arc<ResolvedProfile>> {
        match directory == self.settings.profiles_dir {
            true => profiles::kept(name, directory),
            false => profiles::fresh(name, directory),
        }
    }
}

/// The names of the files of disks that lie beside a description, whether they are there or not. Those of an archive lie in it, and a
/// directory is no description.
pub fn disks_named(origin: &Origin) -> Result<Vec<String>> {
    match origin {
        Origin::Ova(_) | Origin::Folder { .. } => Ok(Vec::new()),
        Origin::Ovf(path) => appliance::disks_named(path),
        Origin::Vmx(path) => vmx::disks_named(path),
    }
}

/// Reads a manifest, and what describes its machine where it names that instead of disks. See [`Submission::read_with`].
pub fn submission(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
) -> Result<Submission> {
    Submission::read_with(bytes, filename, base_directory, settings, &mut Here { settings })
}

/// Where each value of it comes from. See [`planner::origins`].
pub fn origins(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
) -> Result<Vec<VmOrigins>> {
    planner::origins(bytes, filename, base_directory, settings, &mut Here { settings })
}

/// All that is wrong with it. See [`planner::complaints`].
#[must_use]
pub fn complaints(bytes: &[u8], filename: &str, base_directory: &Path, settings: &Settings) -> Vec<Error> {
    planner::complaints(bytes, filename, base_directory, settings, &mut Here { settings })
}
