//! Where machines come from: what describes them there, and where the bytes of their disks lie.
//!
//! [`machines`] reads a description (an OVA, an OVF, a VMX, a libvirt domain, a directory of disks) into [`Facts`]; [`submission`] reads a manifest that names one, so that the facts lie
//! below what the manifest says. Descriptions are other people's files: every one is read within bounds, and names nothing outside of its
//! archive or directory, or of what may be read. What only libvirt knows is asked through [`Libvirt`]. [`profiles`] has what a manifest builds on. What is not here: the formats of disks, and copying them.

mod appliance;
mod folder;
mod libvirt_xml;
mod manifest;
mod ovf;
mod place;
mod plain;
pub mod profiles;
mod shelf;
mod sums;
mod tar;
mod vmx;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use libvirt_xml::is_domain;
pub use place::{place_found, place_of, stored_place};
pub(crate) use vmx::{MOST_BYTES as VMX_BYTES, described_by as described_by_vmx};

use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;
use libvirt_xml::Reach;

use crate::model::planner::{self, Origin, ResolvedProfile, Submission, Surroundings, VmOrigins};

/// What only libvirt knows. The room that asks it is another one: whoever has both hands it in.
pub trait Libvirt {
    /// A domain of that libvirt.
    fn domain(&self, uri: &str, name: &str) -> Result<LibvirtDomain>;
    /// Where a volume lies; of this host's libvirt where none is named.
    fn volume(&self, uri: Option<&str>, pool: &str, volume: &str) -> Result<PathBuf>;
    /// The directory of a storage pool whose volumes are files, and which is active.
    fn pool(&self, uri: &str, name: &str) -> Result<PathBuf>;
    /// Whether the machine of this UUID, or, if it has none, of this name runs on this host, as far as that can be told.
    fn runs(&self, uuid: Option<&str>, name: &str) -> bool;
}

/// A domain, as it is when it is started the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtDomain {
    /// Its XML.
    pub xml: String,
    /// Whether it runs now.
    pub runs: bool,
    /// Whether its memory was saved when it went off.
    pub is_saved: bool,
}

/// Where nobody can be asked.
#[derive(Debug, Clone, Copy)]
pub struct NoLibvirt;

impl Libvirt for NoLibvirt {
    fn domain(&self, uri: &str, _: &str) -> Result<LibvirtDomain> {
        Err(Error::new(Kind::Unsupported, format!("{uri} cannot be asked: libvirt is not at hand here"))
            .advice("write the domain's XML into a file (`virsh dumpxml --inactive NAME`), and name that"))
    }

    fn volume(&self, _: Option<&str>, pool: &str, volume: &str) -> Result<PathBuf> {
        let (pool, volume) = (pool.escape_debug(), volume.escape_debug());
        let cause = format!("where the volume `{volume}` of the pool `{pool}` lies cannot be asked here");
        Err(Error::new(Kind::Unsupported, cause).advice(
            "write its file into a copy of the XML (`virsh vol-path` tells it): `<disk type='file'>`",
        ))
    }

    fn pool(&self, _: &str, name: &str) -> Result<PathBuf> {
        planner::Nowhere.pool(name)
    }

    fn runs(&self, _: Option<&str>, _: &str) -> bool {
        false
    }
}

/// The machines that are described there; one at least.
pub fn machines(origin: &Origin, libvirt: &dyn Libvirt) -> Result<Vec<Facts>> {
    described(origin, Reach { libvirt, read_roots: &[] })
}

fn described(origin: &Origin, reach: Reach<'_>) -> Result<Vec<Facts>> {
    match origin {
        Origin::LibvirtXml(path) => libvirt_xml::read_file(path, reach),
        Origin::LibvirtDomain { uri, name } => libvirt_xml::read_domain(uri, name, reach),
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
    libvirt: &'s dyn Libvirt,
}

impl Surroundings for Here<'_> {
    fn machines(&mut self, origin: &Origin) -> Result<Vec<Facts>> {
        described(origin, Reach { libvirt: self.libvirt, read_roots: &self.settings.paths.read })
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

    fn pool(&mut self, name: &str) -> Result<PathBuf> {
        self.libvirt.pool(&self.settings.libvirt.uri, name)
    }
}

/// The names of the files of disks that lie beside a description, whether they are there or not. Those of an archive lie in it, those of a
/// domain anywhere, and a directory is no description.
pub fn disks_named(origin: &Origin) -> Result<Vec<String>> {
    match origin {
        Origin::Ova(_) | Origin::LibvirtXml(_) | Origin::LibvirtDomain { .. } | Origin::Folder { .. } => {
            Ok(Vec::new())
        }
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
    libvirt: &dyn Libvirt,
) -> Result<Submission> {
    libvirt_xml::refuse_as_manifest(bytes).map_err(|error| error.file(filename))?;
    Submission::read_with(bytes, filename, base_directory, settings, &mut Here { settings, libvirt })
}

/// Where each value of it comes from. See [`planner::origins`].
pub fn origins(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    libvirt: &dyn Libvirt,
) -> Result<Vec<VmOrigins>> {
    planner::origins(bytes, filename, base_directory, settings, &mut Here { settings, libvirt })
}

/// All that is wrong with it. See [`planner::complaints`].
#[must_use]
pub fn complaints(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
    libvirt: &dyn Libvirt,
) -> Vec<Error> {
    match libvirt_xml::refuse_as_manifest(bytes) {
        Err(error) => vec![error.file(filename)],
        Ok(()) => {
            planner::complaints(bytes, filename, base_directory, settings, &mut Here { settings, libvirt })
        }
    }
}
