//! The machine inside the disk: libguestfs. In this version only whether it is there, for `doctor`.
//!
//! The library is looked for at run time, so that the program builds and starts without it.

#[cfg(feature = "guestfs")]
mod appliance;

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
    #[cfg(feature = "guestfs")]
    return appliance::presence();
    #[cfg(not(feature = "guestfs"))]
    GuestfsPresence::NotBuilt
}
