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
use crate::model::planner::{self, BatchName, Origin, RefusedVm, Submission, VmOrigins, VmSubmission};
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
    let mut source = remote::ask(&remote::Access::read(remote)?, remote, &limits, control)?;
    if let Some(draft) = &remote.draft {
        source.leave_out(&[remote::snapshots::name(&draft.batch_id, &plan.vm_id)]);
    }
    planner::describe(&plan, &source.description(), settings)
}

/// A submission with the VMs for which entries of a batch stand in their place; whoever calls waits for the answers. An entry for which there is none is
/// among those that cannot run.
pub fn selected(submission: &Submission, settings: &Settings, control: &Control) -> Result<Submission> {
    let is_entry = |vm: &VmSubmission| vm.asked.as_ref().is_some_and(|asked| asked.selecting.is_some());
    let mut whole = submission.clone_without_vms();
    whole.refused.clone_from(&submission.refused);
    let (entries, vms): (Vec<VmSubmission>, Vec<VmSubmission>) =
        submission.vms.iter().cloned().partition(is_entry);
    whole.vms = vms;
    for entry in entries {
        let vm_id = entry.vm_id.clone();
        let alone = Submission { vms: vec![entry], ..submission.clone_without_vms() };
        match of_entry(&alone, settings, control) {
            Ok(members) => {
                // What the batch names itself goes before what it selects.
                let is_new = |id: &String| !whole.vms.iter().any(|vm| vm.vm_id == *id);
                let vms: Vec<VmSubmission> = members.vms.into_iter().filter(|vm| is_new(&vm.vm_id)).collect();
                whole.vms.extend(vms);
                whole.refused.extend(members.refused);
            }
            Err(error) => whole.refused.push(RefusedVm { vm_id, error }),
        }
    }
    Ok(whole)
}

fn of_entry(entry: &Submission, settings: &Settings, control: &Control) -> Result<Submission> {
    let (BatchName::Named(batch_id) | BatchName::Stem(batch_id)) = &entry.name;
    let plan = entry.plans(batch_id, "", settings)?.pop();
    let plan = plan.ok_or_else(|| Error::internal("an entry has no plan"))?;
    let planned = plan.remote.as_ref().ok_or_else(|| Error::internal("there is nobody to be asked"))?;
    let limits = RemoteLimits::of(settings);
    let selected = remote::select(&remote::Access::read(planned)?, planned, &limits, control)?;
    planner::expand(&plan, &selected)
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
