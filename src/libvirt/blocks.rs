//! Jobs of a running machine's disks: taking in what lies below, putting together, copying; how far they are, and how they end.
//!
//! libvirt does not tell how a job ended to who asks later, so the disk's own chain of files is looked at before and after. What is not here:
//! the calls themselves ([`super::foreign`]), and the copy of a disk that no machine uses.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::domains::{checked_path, child, is_active, known, parse, xml_of};
use super::failure::told;
use super::foreign::blocks as foreign;
use super::link::Link;
use crate::model::element::Element;
use crate::model::error::{Error, Kind, Result};

/// How often a job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What was copied is ready within this time, if it is at all.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// No chain of files is longer.
const MOST_FILES: usize = 200;

/// What is to be done with a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Everything below comes into the file on top.
    Pull,
    /// What lies above `base` goes into it.
    Commit {
        /// Which file; the last one if none is given.
        base: Option<PathBuf>,
        /// From which file on; the one on top if none is given, and the machine has to be moved to the base then.
        top: Option<PathBuf>,
        /// Whether files that are not needed any more are removed.
        remove: bool,
    },
    /// The whole disk is copied to a new file, and the machine can be moved there.
    Copy {
        /// The file, which must not be there.
        to: PathBuf,
        /// How it is written: `raw`, `qcow2`.
        format: String,
    },
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is done: `pull`, `copy`, `commit`, `active_commit`, `backup`.
    pub job: &'static str,
    /// Bytes, about.
    pub done_bytes: u64,
    /// Of so many.
    pub of_bytes: u64,
    /// Whether all is there, and the machine can be moved to it.
    pub is_ready: bool,
}

/// How waiting for a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// There was none.
    Nothing,
    /// It has done its work.
    Done,
    /// All is there, and it waits for [`pivot`] or [`abort`].
    Ready,
}

/// Begins a job; `bytes_per_s` of nothing is as fast as it goes.
pub fn start(link: &Link, name: &str, disk: &str, job: &Job, bytes_per_s: Option<u64>) -> Result<()> {
    let domain = running(link, name)?;
    let target = c_text(disk)?;
    let rate = bytes_per_s.unwrap_or(0);
    let path = |path: &PathBuf| c_text(&checked_path(path)?.to_string_lossy());
    let started = match job {
        Job::Pull => foreign::pull(&domain, &target, rate),
        Job::Commit { base, top, remove } => {
            let (base, top) = (base.as_ref().map(path).transpose()?, top.as_ref().map(path).transpose()?);
            let active = if top.is_none() { sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE } else { 0 };
            let flags = active | if *remove { sys::VIR_DOMAIN_BLOCK_COMMIT_DELETE } else { 0 };
            foreign::commit(&domain, &target, base.as_ref(), top.as_ref(), rate, flags)
        }
        Job::Copy { to, format } => {
            let element = Element::new("disk")
                .with("type", "file")
                .child(Element::new("driver").with("type", format))
                .child(Element::new("source").with("file", checked_path(to)?.display()));
            foreign::copy(&domain, &target, &c_text(&element.to_string())?, rate)
        }
    };
    started.map_err(|error| told(&format!("cannot begin that with disk {disk} of {name}"), &error))
}

/// How far the job of a disk is; nothing where there is none.
pub fn progress(link: &Link, name: &str, disk: &str) -> Result<Option<Progress>> {
    progress_of(&running(link, name)?, name, disk)
}

fn progress_of(domain: &Domain, name: &str, disk: &str) -> Result<Option<Progress>> {
    let info = foreign::info(domain, &c_text(disk)?);
    let info = info.map_err(|error| told(&format!("cannot ask about disk {disk} of {name}"), &error))?;
    Ok(info.map(Progress::from))
}

/// Waits for the job of a disk, and tells `seen` how far it is.
pub fn wait(
    link: &Link,
    name: &str,
    disk: &str,
    within: Duration,
    seen: &mut dyn FnMut(&Progress),
) -> Result<End> {
    let domain = running(link, name)?;
    let before = chain(&domain, name, disk)?;
    let deadline = Instant::now() + within;
    let mut was_there = false;
    loop {
        match progress_of(&domain, name, disk)? {
            None if !was_there => return Ok(End::Nothing),
            None if chain(&domain, name, disk)? == before => {
                return Err(Error::new(
                    Kind::Libvirt,
                    format!("the job of disk {disk} of {name} ended before it had done its work"),
                )
                .advice("somebody ended it, or QEMU could not go on: see its log in /var/log/libvirt/qemu"));
            }
            None => return Ok(End::Done),
            Some(progress) => {
                was_there = true;
                seen(&progress);
                if progress.is_ready {
                    return Ok(End::Ready);
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let waited = within.as_secs_f64();
            return Err(Error::new(
                Kind::Libvirt,
                format!("the job of disk {disk} of {name} is not done after {waited} s"),
            )
            .advice("it goes on: wait longer, or end it with `--abort`")
            .transient());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

/// Moves the machine to what a job that is ready has made. That all of it is copied is known a moment before QEMU says that it is ready.
pub fn pivot(link: &Link, name: &str, disk: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match end(link, name, disk, sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)? {
            Ended::Yes => return Ok(()),
            Ended::NotYet(error) if begun.elapsed() >= READY_WITHIN => return Err(error),
            Ended::NotYet(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Ends a job; the machine stays with the files that it has. The copy that was begun stays where it is.
pub fn abort(link: &Link, name: &str, disk: &str) -> Result<()> {
    match end(link, name, disk, 0)? {
        Ended::Yes => Ok(()),
        Ended::NotYet(error) => Err(error),
    }
}

/// Whether a job has ended that was told to.
enum Ended {
    Yes,
    /// It still copies, and why that is no time to end it.
    NotYet(Error),
}

fn end(link: &Link, name: &str, disk: &str, flags: u32) -> Result<Ended> {
    let domain = running(link, name)?;
    let Err(error) = foreign::abort(&domain, &c_text(disk)?, flags) else { return Ok(Ended::Yes) };
    let failure = told(&format!("cannot end the job of disk {disk} of {name}"), &error);
    match error.code() {
        ErrorNumber::BlockCopyActive => Ok(Ended::NotYet(failure)),
        _ => Err(failure),
    }
}

/// The files of a running machine's disk, the one on top first.
pub(in crate::libvirt) fn chain(domain: &Domain, name: &str, disk: &str) -> Result<Vec<PathBuf>> {
    let xml = xml_of(domain, name, 0)?;
    let document = parse(&xml)?;
    let devices = child(document.root_element(), "devices");
    let mut node = devices.and_then(|devices| {
        devices.children().find(|device| {
            let called = child(*device, "target").and_then(|target| target.attribute("dev"));
            device.has_tag_name("disk") && called == Some(disk)
        })
    });
    if node.is_none() {
        return Err(Error::new(Kind::Libvirt, format!("{name} has no disk {disk}"))
            .advice(format!("see what it has: `hyper2kvm libvirt show {name}`")));
    }
    let mut files = Vec::new();
    while let Some(at) = node.filter(|_| files.len() < MOST_FILES) {
        let source = child(at, "source");
        let path = source.and_then(|source| source.attribute("file").or_else(|| source.attribute("dev")));
        files.extend(path.map(PathBuf::from));
        node = child(at, "backingStore");
    }
    Ok(files)
}

fn running(link: &Link, name: &str) -> Result<Domain> {
    let domain = known(link, name)?;
    match is_active(&domain, name)? {
        true => Ok(domain),
        false => Err(Error::new(
            Kind::Libvirt,
            format!("{name} is off: only disks of a running machine have jobs"),
        )
        .advice(format!("start it first: `hyper2kvm libvirt start {name}`"))),
    }
}

fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        Error::new(Kind::Manifest, "a name holds a NUL").advice("call the disk as the machine does: vda")
    })
}

impl From<foreign::Info> for Progress {
    fn from(info: foreign::Info) -> Progress {
        let (job, has_to_pivot) = match info.kind {
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_PULL => ("pull", false),
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COPY => ("copy", true),
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT => ("commit", false),
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT => ("active_commit", true),
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP => ("backup", false),
            _ => ("unknown", false),
        };
        // libvirt lets them be equal only when the job is ready.
        let is_ready = has_to_pivot && info.of > 0 && info.done == info.of;
        Progress { job, done_bytes: info.done, of_bytes: info.of, is_ready }
    }
}
