//! The machine outside the guest: libvirt. Whether it is there, for `doctor`, which machines are defined, how a machine is told to it, and what it knows of one that is to be converted.
//!
//! The only user of the crate `virt`, which is behind the Cargo feature `libvirt`; [`xml`] needs neither.

#[cfg(feature = "libvirt")]
pub mod addresses;
#[cfg(feature = "libvirt")]
pub mod blocks;
#[cfg(feature = "libvirt")]
pub mod connections;
mod defined;
#[cfg(feature = "libvirt")]
pub mod domains;
#[cfg(feature = "libvirt")]
mod event_loop;
#[cfg(feature = "libvirt")]
pub mod events;
#[cfg(feature = "libvirt")]
mod failure;
#[cfg(feature = "libvirt")]
mod foreign;
mod health;
#[cfg(feature = "libvirt")]
pub mod import;
mod limits;
#[cfg(feature = "libvirt")]
pub mod link;
#[cfg(feature = "libvirt")]
pub mod networks;
#[cfg(feature = "libvirt")]
pub mod pools;
pub mod provenance;
#[cfg(feature = "libvirt")]
pub mod snapshots;
#[cfg(feature = "libvirt")]
pub mod sources;
#[cfg(feature = "libvirt")]
pub mod trial;
#[cfg(feature = "libvirt")]
mod volume_users;
#[cfg(feature = "libvirt")]
pub mod volumes;
pub mod xml;

use std::path::{Path, PathBuf};

pub use defined::{Defined, Machines, machines, readable};
#[cfg(feature = "libvirt")]
pub(crate) use failure::silent;
pub use health::LibvirtHealth;

use crate::model::libvirt_uri;

/// Where libvirt is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LibvirtUri<'u>(pub &'u str);

/// The machines of the system.
pub const SYSTEM: LibvirtUri<'static> = LibvirtUri(libvirt_uri::SYSTEM);
/// Sockets on which the system's libvirt listens, in one process or in several.
const SYSTEM_SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock-ro", "/run/libvirt/virtqemud-sock-ro"];

/// Where firmware keeps the variables of machines.
const VARIABLES: &str = "/var/lib/libvirt/qemu/nvram";
/// What a process needs to read that tells libvirt of machines: how to reach it, the firmware's variables of one that gives way, and which host
/// this is, for whoever finds what it has left.
const NEEDED: [&str; 3] = ["/etc/libvirt", VARIABLES, "/etc/machine-id"];

/// The same, as far as it is there: for whoever confines that process. Its socket is reached without.
#[must_use]
pub fn needed() -> Vec<PathBuf> {
    NEEDED.map(PathBuf::from).into_iter().filter(|path| path.exists()).collect()
}

/// Where a process writes that puts back a machine which had given way.
#[must_use]
pub fn variables() -> Option<PathBuf> {
    Some(PathBuf::from(VARIABLES)).filter(|path| path.exists())
}

impl LibvirtUri<'_> {
    /// Whether asking makes sense: that of the system waits for nobody where nobody listens.
    pub(crate) fn may_be_served(self) -> bool {
        self != SYSTEM || SYSTEM_SOCKETS.iter().any(|socket| Path::new(socket).exists())
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LibvirtPresence {
    /// This build knows nothing of libvirt.
    NotBuilt,
    /// The library is there and a driver answered.
    Answers {
        /// Of the driver that answered: `9.0.0`.
        version: String,
        /// What answered: `QEMU`.
        driver: String,
    },
    /// The library is there, and no driver answers at the URI.
    Silent {
        /// In libvirt's words.
        why: String,
    },
}

/// Opens a connection for looking only, and closes it. May block for as long as libvirt likes.
#[cfg(feature = "libvirt")]
#[must_use]
pub fn presence(uri: &str) -> LibvirtPresence {
    use link::{Access, Link};
    let asked = Link::open(uri, Access::Reads).and_then(|link| {
        let failed = |error| failure::told(&format!("{uri} does not say what it is"), &error);
        let version = link.raw().get_lib_version().map_err(failed)?;
        Ok((version_words(version), link.raw().get_type().map_err(failed)?))
    });
    match asked {
        Ok((version, driver)) => LibvirtPresence::Answers { version, driver },
        Err(error) => LibvirtPresence::Silent { why: error.details().cause.clone() },
    }
}

/// This build knows nothing of libvirt.
#[cfg(not(feature = "libvirt"))]
#[must_use]
pub fn presence(_uri: &str) -> LibvirtPresence {
    LibvirtPresence::NotBuilt
}

/// libvirt counts a million for the major version, a thousand for the minor.
#[cfg(feature = "libvirt")]
fn version_words(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

#[cfg(all(test, feature = "libvirt"))]
mod tests {
    use super::*;

    #[test]
    fn the_driver_that_needs_no_daemon_answers() {
        let found = presence("test:///default");
        assert!(matches!(&found, LibvirtPresence::Answers { driver, .. } if driver == "TEST"), "{found:?}");
    }

    #[test]
    fn a_uri_that_nobody_serves_is_silent_with_a_reason() {
        let found = presence("nonsense:///x");
        assert!(matches!(&found, LibvirtPresence::Silent { why } if !why.is_empty()), "{found:?}");
        assert!(matches!(presence("test:\0"), LibvirtPresence::Silent { .. }));
    }

    #[test]
    fn versions_are_written_as_people_know_them() {
        assert_eq!(version_words(9_000_000), "9.0.0");
        assert_eq!(version_words(11_003_002), "11.3.2");
    }
}
