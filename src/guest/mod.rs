//! The machine inside the disk: who it is, and what it needs to run under KVM.
//!
//! ```text
//!   work ─▶ appliance (libguestfs) ─▶ inspect ─▶ facts ─▶ fix ─▶ linux/… ─▶ tree ─▶ appliance
//! ```
//!
//! A guest is opened only inside an appliance, never by this host's kernel. Everything read from it is hostile. What is not here: disks
//! and their formats, the process in which this runs, and what the machine around the guest looks like.

pub mod appliance;
mod check;
pub mod diff;
pub mod facts;
pub mod fix;
mod grow;
pub mod inspect;
pub mod linux;
mod lookup;
pub mod ready;
pub mod tree;
pub mod virt_v2v;
pub mod work;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestfsPresence {
    /// This build knows nothing of libguestfs.
    NotBuilt,
    /// The library is not installed.
    Missing {
        /// In the words of the loader.
        why: String,
    },
    /// It is there and tells its version: `1.48.6`.
    Found {
        /// Its version.
        version: String,
    },
    /// It is there and does not do what it should.
    Broken {
        /// What it did instead.
        why: String,
    },
}

/// Loads the library and asks its version; no appliance is started.
#[must_use]
pub fn presence() -> GuestfsPresence {
    appliance::presence()
}
