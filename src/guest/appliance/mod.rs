//! libguestfs' appliance: a small machine of its own, in which a guest's file systems are opened.
//!
//! Nothing of the guest is mounted, activated or run on this host: an appliance is a QEMU with a kernel of the *host's* distribution, and
//! what is hostile in a guest meets that kernel and not ours. The library is loaded at run time, so that the program builds and starts
//! without it. One launch per VM, with all disks of the VM attached, and no network.
//!
//! ```text
//!   calls (what is asked) ─▶ shapes (how it is passed) ─▶ library (loaded, handle, structures) ─▶ libguestfs ─▶ QEMU
//! ```
//!
//! What is not here: what the guest's files mean. What may take how long is watched from outside: the whole of this runs in a process
//! of its own that can be killed.

mod answers;
mod calls;
#[cfg(feature = "guestfs")]
mod library;
#[cfg(not(feature = "guestfs"))]
#[path = "absent.rs"]
mod library;
#[cfg_attr(not(feature = "guestfs"), allow(dead_code, reason = "only the library has something to say"))]
mod log;
#[cfg(feature = "guestfs")]
mod shapes;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use answers::{Room, Stat};

use library::Handle;
use log::Log;

use super::GuestfsPresence;
use crate::model::error::{Error, Kind, Result};

/// What libguestfs says when something fails.
pub type Failure = String;

/// Memory of an appliance, MiB: what fsck of a large file system and a guest's own tools need.
const MEMORY_MB: u32 = 1024;

/// How an appliance is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether KVM works here; else it is emulated.
    pub kvm: bool,
    /// Its memory, MiB, where it is not the usual.
    pub memory_mb: Option<u32>,
    /// Where its sockets and small files lie; private to the job.
    pub temp: PathBuf,
    /// Where it logs.
    pub log: Option<PathBuf>,
}

/// A disk as the appliance gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// The image.
    pub path: PathBuf,
    /// Its format, which is never guessed: `qcow2`, `raw`.
    pub format: String,
    /// Whether nothing may be written to it.
    pub readonly: bool,
}

/// A running appliance. Dropping it ends it; what was written is safe only after [`Appliance::finish`].
pub struct Appliance {
    handle: Handle,
}

impl std::fmt::Debug for Appliance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Appliance")
    }
}

/// Loads the library and asks its version; no appliance is started.
pub(super) fn presence() -> GuestfsPresence {
    library::presence()
}

/// A start that failed.
struct Failed {
    error: Error,
    /// Neither the appliance nor QEMU has said a word of why.
    never_began: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, never_began: false }
    }
}

impl Appliance {
    /// Starts one with these drives attached, in this order.
    ///
    /// On a machine that starts several at once, one in some hundred ends before it has begun, and a second one does not. Nothing was opened
    /// by then, so nothing is lost by trying once more.
    pub fn launch(settings: &Settings, drives: &[Drive]) -> Result<Appliance> {
        let mut launched = Appliance::launch_once(settings, drives);
        if let Err(Failed { error, never_began: true }) = &launched {
            tracing::warn!(%error, tail = error.details().console_tail, "the appliance is started once more");
            launched = Appliance::launch_once(settings, drives);
        }
        launched.map_err(|failed| failed.error)
    }

    fn launch_once(settings: &Settings, drives: &[Drive]) -> std::result::Result<Appliance, Failed> {
        let mut handle = Handle::new().map_err(|why| missing(&why))?;
        let log = settings.log.as_deref().map(log_file).transpose()?;
        let prepare = |handle: &mut Handle| -> std::result::Result<(), Failure> {
            handle.log_to(Log::new(log))?;
            handle.status_then_number("guestfs_set_trace", &[], 1)?;
            handle.status("guestfs_set_tmpdir", &[&as_text(&settings.temp)?])?;
            // libvirt's daemon is not needed for it, and would move QEMU out of our sandbox and limits.
            if std::env::var_os("LIBGUESTFS_BACKEND").is_none() {
                handle.status("guestfs_set_backend", &["direct"])?;
            }
            if !settings.kvm {
                handle.status("guestfs_set_backend_setting", &["force_tcg", "1"])?;
            }
            if std::env::var_os("LIBGUESTFS_MEMSIZE").is_none() {
                let memory = i32::try_from(settings.memory_mb.unwrap_or(MEMORY_MB)).unwrap_or(i32::MAX);
                handle.status_then_number("guestfs_set_memsize", &[], memory)?;
            }
            handle.status_then_number("guestfs_set_network", &[], 0)?;
            // Everything is written out by `finish`, in one go; an appliance that ends without that is one whose work is thrown away.
            handle.status_then_number("guestfs_set_autosync", &[], 0)?;
            for drive in drives {
                handle.add_drive(&as_text(&drive.path)?, &drive.format, drive.readonly)?;
            }
            handle.begins();
            handle.status("guestfs_launch", &[]).map(drop)
        };
        match prepare(&mut handle) {
            Ok(()) => Ok(Appliance { handle }),
            Err(why) => {
                // Of several lines the first says what, and the others how to debug libguestfs.
                let why = why.lines().next().unwrap_or_default();
                let error =
                    Error::new(Kind::Guest, format!("libguestfs' appliance could not be started: {why}"))
                        .console_tail(handle.log_tail())
                        .advice(
                            "`libguestfs-test-tool` tells what it lacks; `hyper2kvm doctor` checks it too",
                        )
                        .transient();
                Err(Failed { error, never_began: !handle.has_begun() })
            }
        }
    }

    /// Ends it in order: everything is written out when this returns without an error.
    pub fn finish(self) -> Result<()> {
        let end = || {
            self.unmount_all()?;
            self.sync()?;
            self.handle.status("guestfs_shutdown", &[])
        };
        end().map(drop).map_err(|why| {
            Error::new(Kind::Guest, format!("the appliance could not be ended in order: {why}"))
                .advice("what it wrote is thrown away; try again")
                .transient()
        })
    }
}

fn missing(why: &str) -> Error {
    Error::new(Kind::Unsupported, format!("libguestfs cannot be used: {why}"))
        .advice("install it: `apt-get install libguestfs0 libguestfs-tools` (Debian) or `dnf install libguestfs` (RHEL, Fedora)")
}

fn log_file(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| Error::io(Kind::Output, "open", path, &error))
}

fn as_text(path: &Path) -> std::result::Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
}
