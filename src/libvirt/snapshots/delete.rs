//! Taking a snapshot away without losing what the machine has written since.
//!
//! Those inside the disks libvirt takes out. For those outside, what was written since goes into the file below by a job of QEMU, and the
//! machine goes on with that file. A machine that is off is started for it without running (as newer versions of libvirt do), and is off again
//! afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::ErrorNumber;
use virt::sys;

use super::reading::Read;
use super::{Place, checked_name, look_up};
use crate::libvirt::blocks::{self, End, Job};
use crate::libvirt::domains::{self, is_active, known};
use crate::libvirt::failure::told;
use crate::libvirt::link::Link;
use crate::model::error::{Error, Kind, Result};

/// Terabytes on slow disks take a while.
const MERGED_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "was")]
pub enum Deleted {
    /// There was none.
    Absent,
    /// It was taken out of the disks.
    Internal,
    /// What was written since went into the files below it.
    Merged {
        /// The files that the machine goes on with.
        files: Vec<PathBuf>,
    },
    /// libvirt does not know it any more; all files are where they were.
    Forgotten {
        /// Those that it has made.
        files: Vec<PathBuf>,
    },
}

/// Takes it away. What can only be forgotten, with all files where they are, is refused unless `force` says so.
pub fn delete(link: &Link, domain: &str, name: &str, force: bool) -> Result<Deleted> {
    checked_name(name)?;
    let handle = known(link, domain)?;
    let Some(snapshot) = look_up(&handle, domain, name)? else { return Ok(Deleted::Absent) };
    let read = Read::of(&snapshot, domain)?;
    if read.snapshot.place == Place::Internal {
        taken_out(&snapshot, domain, name, 0)?;
        return Ok(Deleted::Internal);
    }
    let forget = || -> Result<Deleted> {
        taken_out(&snapshot, domain, name, sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)?;
        let files = read.snapshot.disks.iter().filter_map(|disk| disk.overlay.clone()).collect();
        Ok(Deleted::Forgotten { files })
    };
    let after = descendants(&snapshot, domain, name)?;
    if !after.is_empty() {
        return match force {
            true => forget(),
            false => Err(Error::new(Kind::Libvirt, format!("cannot delete {name} of {domain}: later ones stand on it: {}", after.join(", ")))
                .advice("delete those first, the last one first; or only forget it, with all files where they are: `--force`")),
        };
    }
    match merge(link, &handle, domain, &read) {
        Ok(files) => {
            taken_out(&snapshot, domain, name, sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)?;
            Ok(Deleted::Merged { files })
        }
        Err(_) if force => forget(),
        Err(error) => Err(error),
    }
}

/// Undoes one that was just made: it leaves the disks if it is in there; files are left where they are.
pub fn forget(link: &Link, domain: &str, name: &str) -> Result<()> {
    checked_name(name)?;
    let handle = known(link, domain)?;
    let Some(snapshot) = look_up(&handle, domain, name)? else { return Ok(()) };
    let flags = match Read::of(&snapshot, domain)?.snapshot.place {
        Place::Internal => 0,
        Place::External => sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY,
    };
    taken_out(&snapshot, domain, name, flags)
}

/// Deletes it, or finds that somebody else has.
fn taken_out(snapshot: &DomainSnapshot, domain: &str, name: &str, flags: u32) -> Result<()> {
    match snapshot.delete(flags) {
        Err(error) if error.code() != ErrorNumber::NoDomainSnapshot => {
            Err(told(&format!("cannot delete the snapshot {name} of {domain}"), &error))
        }
        _ => Ok(()),
    }
}

fn descendants(snapshot: &DomainSnapshot, domain: &str, name: &str) -> Result<Vec<String>> {
    let failed = |error| told(&format!("cannot list what stands on {name} of {domain}"), &error);
    let all = snapshot.list_all_children(sys::VIR_DOMAIN_SNAPSHOT_LIST_DESCENDANTS).map_err(failed)?;
    all.iter().map(DomainSnapshot::get_name).collect::<Result<_, _>>().map_err(failed)
}

/// Puts every disk together, and says in which files they are.
fn merge(link: &Link, handle: &Domain, domain: &str, read: &Read) -> Result<Vec<PathBuf>> {
    if is_active(handle, domain)? {
        return merge_running(link, handle, domain, read);
    }
    if handle.has_managed_save(0).unwrap_or(false) {
        let cause = format!(
            "cannot delete {} of {domain}: its memory was saved and fits its disks as they are now",
            read.snapshot.name
        );
        return Err(Error::new(Kind::Libvirt, cause).advice("start it and shut it down first"));
    }
    domains::start_paused(link, domain)?;
    let merged = merge_running(link, handle, domain, read);
    // It never ran, so nothing of it is lost.
    let off = domains::destroy(link, domain);
    let files = merged?;
    off.map(|_| files)
}

fn merge_running(link: &Link, handle: &Domain, domain: &str, read: &Read) -> Result<Vec<PathBuf>> {
    let name = &read.snapshot.name;
    let mut files = Vec::new();
    // All of them are looked at before any of them changes.
    for disk in &read.snapshot.disks {
        let chain = blocks::chain(handle, domain, &disk.target)?;
        let base = read.bases.get(&disk.target);
        let depth = base.and_then(|base| chain.iter().position(|file| file == base));
        match (base, depth) {
            (Some(base), Some(depth @ (0 | 1))) => {
                files.push((disk.target.as_str(), base.clone(), depth == 1));
            }
            (_, depth) => {
                let why = match depth {
                    Some(_) => "other files lie between what it keeps and the machine",
                    None => "the machine does not stand on what it keeps any more",
                };
                return Err(Error::new(
                    Kind::Libvirt,
                    format!("cannot delete {name} of {domain}: disk {}: {why}", disk.target),
                )
                .advice("go back to it first, or only forget it, with all files where they are: `--force`"));
            }
        }
    }
    for (_, base, _) in &files {
        if let Some(other) = another_on(link, domain, base)? {
            let cause = format!(
                "cannot delete {name} of {domain}: the machine {other} stands on {} as well",
                base.display()
            );
            return Err(Error::new(Kind::Libvirt, cause)
                .advice("only forget it, with all files where they are: `--force`"));
        }
    }
    for (target, base, is_above) in &files {
        // One that is not there was put together when this was begun before.
        if *is_above {
            merge_disk(link, domain, target, base)?;
        }
    }
    Ok(files.into_iter().map(|(_, base, _)| base).collect())
}

/// Another machine whose definition, or chain of files as it runs, names this file: what is written there would change under it.
fn another_on(link: &Link, domain: &str, base: &Path) -> Result<Option<String>> {
    let failed = |error| told("cannot compare with the disks of other machines", &error);
    for other in link.raw().list_all_domains(0).map_err(failed)? {
        let Ok(name) = other.get_name() else { continue };
        for flags in [0, domains::NEXT_START] {
            // One that was undefined since it was listed names nothing.
            let Ok(xml) = other.get_xml_desc(flags) else { continue };
            let document = domains::parse(&xml)?;
            let mut sources = document.descendants().filter(|node| node.has_tag_name("source"));
            let names_it = sources.any(|source| {
                let path = source.attribute("file").or_else(|| source.attribute("dev"));
                path.is_some_and(|path| Path::new(path) == base)
            });
            if names_it && name != domain {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

fn merge_disk(link: &Link, domain: &str, target: &str, base: &Path) -> Result<()> {
    let job = Job::Commit { base: Some(base.to_owned()), top: None, remove: true };
    let done = || -> Result<()> {
        blocks::start(link, domain, target, &job, None)?;
        match blocks::wait(link, domain, target, MERGED_WITHIN, &mut |_| {})? {
            End::Ready => blocks::pivot(link, domain, target),
            End::Done | End::Nothing => {
                Err(Error::new(Kind::Libvirt, format!("disk {target} of {domain} was not put together"))
                    .advice("see QEMU's log in /var/log/libvirt/qemu"))
            }
        }
    };
    done().inspect_err(|_| {
        // What was begun must not go on by itself.
        let _ = blocks::abort(link, domain, target);
    })
}
