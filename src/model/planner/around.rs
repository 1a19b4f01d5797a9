//! What the planner may look at beside the file that it reads. It does no IO itself: whoever asks it hands in who looks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Origin;
use super::profiles::{NoFiles, ResolvedProfile, resolve};
use crate::model::error::{Error, Kind, Result};
use crate::model::facts::Facts;

/// Who looks around for the planner.
pub trait Surroundings {
    /// The machines that are described there; one at least.
    fn machines(&mut self, origin: &Origin) -> Result<Vec<Facts>>;
    /// The bytes of a VM's manifest that a batch names by its path (absolute).
    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>>;
    /// The profile of this name, custom ones lying in this directory (absolute). Who does not look there has only built-in ones.
    fn profile(&mut self, name: &str, _directory: &Path) -> Result<Arc<ResolvedProfile>> {
        resolve(name, &mut NoFiles).map(Arc::new)
    }
    /// The directory in which the volumes of a storage pool lie, of the libvirt that is told of results. Who cannot ask one knows no pools.
    fn pool(&mut self, name: &str) -> Result<PathBuf> {
        let name = name.escape_debug();
        Err(Error::new(Kind::Unsupported, format!("where the storage pool {name} lies cannot be asked here"))
            .advice("leave `output.pool` out, and name the pool as `libvirt_integration.import_to_pool`"))
    }
}

/// Where nothing may be looked at.
#[derive(Debug, Clone, Copy)]
pub struct Nowhere;

impl Surroundings for Nowhere {
    fn machines(&mut self, _: &Origin) -> Result<Vec<Facts>> {
        Err(Error::new(Kind::Unsupported, "no source is looked at here")
            .advice("name the disks under `disks`"))
    }

    fn manifest(&mut self, _: &Path) -> Result<Vec<u8>> {
        Err(Error::new(Kind::Unsupported, "no other file is read here")
            .advice("write the manifest here, in place of its path"))
    }
}
