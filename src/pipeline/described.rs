//! What describes machines, read with libvirt at hand where only that knows: a domain by its name, where a volume lies, whether a machine runs.
//!
//! Each question has a time limit; a libvirt that hangs costs the answer and a thread that ends with the program. What is not here: how a
//! description is read (the room `source`).

use std::path::{Path, PathBuf};

use super::remote;

#[cfg(feature = "libvirt")]
use super::users::{WITHIN, in_time};
use crate::disk::Control;
#[cfg(feature = "libvirt")]
use crate::libvirt::{
    LibvirtUri,
    connections::{Connections, Limits},
    link::{Access, Link},
    pools, silent, sources,
};
use crate::model::config::Settings;
use crate::model::error::{Error, Result};
use crate::model::facts::Facts;
use crate::model::libvirt_uri::{Reach, SYSTEM, check_form};
use crate::model::plan::Plan;
use crate::model::planner::{self, Origin, Submission, VmOrigins};
use crate::model::protocol::RemoteLimits;
use crate::source::{self, Libvirt, LibvirtDomain};

/// The machines that are described there; one at least. See [`source::machines`].
pub fn machines(origin: &Origin, settings: &Settings) -> Result<Vec<Facts>> {
    source::machines(origin, &OfThisHost::of(settings))
}

/// Reads a manifest with what it names. See [`source::submission`].
pub fn submission(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
) -> Result<Submission> {
    source::submission(bytes, filename, base_directory, settings, &OfThisHost::of(settings))
}

/// A plan with the disks of its VM, where a server has to be asked for them; whoever calls waits for the answer.
pub fn completed(plan: Plan, settings: &Settings, control: &Control) -> Result<Plan> {
    let Some(remote) = plan.remote.as_ref().filter(|remote| remote.found.is_none()) else { return Ok(plan) };
    let limits = RemoteLimits::of(settings);
    let source = remote::ask(&remote::Access::read(remote)?, remote, &limits, control)?;
    planner::describe(&plan, &source.description(), settings)
}

/// Where each value of it comes from. See [`source::origins`].
pub fn origins(
    bytes: &[u8],
    filename: &str,
    base_directory: &Path,
    settings: &Settings,
) -> Result<Vec<VmOrigins>> {
    source::origins(bytes, filename, base_directory, settings, &OfThisHost::of(settings))
}

/// All that is wrong with it. See [`source::complaints`].
#[must_use]
pub fn complaints(bytes: &[u8], filename: &str, base_directory: &Path, settings: &Settings) -> Vec<Error> {
    source::complaints(bytes, filename, base_directory, settings, &OfThisHost::of(settings))
}

/// What is asked of libvirt from here.
struct OfThisHost<'s> {
    /// The libvirt of this host that is asked where none is named.
    uri: &'s str,
}

impl OfThisHost<'_> {
    /// The configured one; the system's where that is another host's, whose machines and files are others.
    fn of(settings: &Settings) -> OfThisHost<'_> {
        let configured = settings.libvirt.uri.as_str();
        let is_here = check_form(configured).is_ok_and(|reach| reach == Reach::Local);
        OfThisHost { uri: if is_here { configured } else { SYSTEM } }
    }
}

#[cfg(feature = "libvirt")]
impl Libvirt for OfThisHost<'_> {
    fn domain(&self, uri: &str, name: &str) -> Result<LibvirtDomain> {
        let name = name.to_owned();
        asked(uri, move |link| {
            let found = sources::definition(link, &name)?;
            Ok(LibvirtDomain { xml: found.xml, runs: found.runs, is_saved: found.is_saved })
        })
    }

    fn volume(&self, uri: Option<&str>, pool: &str, volume: &str) -> Result<PathBuf> {
        let (pool, volume) = (pool.to_owned(), volume.to_owned());
        asked(uri.unwrap_or(self.uri), move |link| sources::volume_path(link, &pool, &volume))
    }

    fn pool(&self, uri: &str, name: &str) -> Result<PathBuf> {
        let name = name.to_owned();
        // Whoever restarts libvirt is waited for: nothing is refused for that.
        let connections = Connections::new(Limits::default());
        let found =
            connections.with(uri, Access::Reads, WITHIN, move |link| pools::of_results(link, &name))?;
        // A link is followed here once, and never where results are written.
        match found.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => Ok(found.canonicalize().unwrap_or(found)),
            _ => Ok(found),
        }
    }

    fn runs(&self, uuid: Option<&str>, name: &str) -> bool {
        if !LibvirtUri(self.uri).may_be_served() {
            return false;
        }
        let (uuid, name) = (uuid.map(str::to_owned), name.to_owned());
        // Where nobody tells, locks on the disks do.
        asked(self.uri, move |link| sources::runs(link, uuid.as_deref(), &name)).unwrap_or(false)
    }
}

#[cfg(feature = "libvirt")]
fn asked<T: Send + 'static>(uri: &str, ask: impl FnOnce(&Link) -> Result<T> + Send + 'static) -> Result<T> {
    let at = uri.to_owned();
    in_time(move || Link::open(&at, Access::Reads).and_then(|link| ask(&link)))
        .unwrap_or_else(|| Err(silent(uri, WITHIN)))
}

#[cfg(not(feature = "libvirt"))]
impl Libvirt for OfThisHost<'_> {
    fn domain(&self, uri: &str, name: &str) -> Result<LibvirtDomain> {
        source::NoLibvirt.domain(uri, name)
    }

    fn volume(&self, uri: Option<&str>, pool: &str, volume: &str) -> Result<PathBuf> {
        source::NoLibvirt.volume(uri.or(Some(self.uri)), pool, volume)
    }

    fn pool(&self, uri: &str, name: &str) -> Result<PathBuf> {
        source::NoLibvirt.pool(uri, name)
    }

    fn runs(&self, _: Option<&str>, _: &str) -> bool {
        false
    }
}
