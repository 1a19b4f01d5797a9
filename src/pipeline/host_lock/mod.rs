//! One host at a time works in a directory with results: the lock that says which, and what keeps the others from writing.
//!
//! ```text
//!   take ─▶ .hyper2kvm-lock ─▶ a sign of life now and then ─▶ removed (all is done) │ released (another host may go on)
//!               ▲
//!               └── looked at before each piece of a copy, each frame of its journal, each change of a name: is it still ours?
//! ```
//!
//! The directory may be a share that several hosts have. Within one host, VMs are kept apart by a lock each (see [`super::worker`]).
//! What is not here: which batch goes on, and with what of an earlier host's work (the service's admission).

mod fence;
mod file;
mod holds;
mod take;

use std::path::Path;

pub use fence::{HostFence, is_held};
pub use file::LOCK_NAME;
pub use holds::{Claims, Holds};
pub use take::{Who, look};

/// Which directory's lock a VM's results are written under: its batch's, or where they lie elsewhere their own.
#[must_use]
pub fn directory_of<'a>(batch_directory: &'a Path, results: &'a Path) -> &'a Path {
    if results.starts_with(batch_directory) { batch_directory } else { results }
}
