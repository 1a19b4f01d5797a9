//! The machine outside the guest: libvirt. Whether it is there, for `doctor`, which machines are defined, and how a machine is told to it.
//!
//! The only user of the crate `virt`, which is behind the Cargo feature `libvirt`; [`xml`] needs neither.

mod defined;
#[cfg(feature = "libvirt")]
pub mod domains;
mod element;
#[cfg(feature = "libvirt")]
mod failure;
#[cfg(feature = "libvirt")]
mod foreign;
mod limits;
#[cfg(feature = "libvirt")]
pub mod link;
pub mod provenance;
#[cfg(feature = "libvirt")]
pub mod trial;
pub mod xml;

use std::path::Path;

pub use defined::{Defined, Machines, machines, readable};

/// Where libvirt is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LibvirtUri<'u>(pub &'u str);

/// The machines of the system.
pub const SYSTEM: LibvirtUri<'static> = LibvirtUri("qemu:///system");
/// Sockets on which the system's libvirt listens, in one process or in several.
const SYSTEM_SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock-ro", "/run/libvirt/virtqemud-sock-ro"];

impl LibvirtUri<'_> {
    /// Whether asking makes sense: that of the system waits for nobody where nobody listens.
    #[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "only libvirt is asked"))]
    fn may_be_served(self) -> bool {
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
    use virt::connect::Connect;
    // The crate panics on a NUL, and libvirt prints errors itself unless told otherwise.
    if uri.contains('\0') {
        return LibvirtPresence::Silent { why: "the URI holds a NUL".to_owned() };
    }
    virt::error::clear_error_callback();
    let mut connection = match Connect::open_read_only(Some(uri)) {
        Ok(connection) => connection,
        Err(error) => return LibvirtPresence::Silent { why: error.message().to_owned() },
    };
    let found = match (connection.get_lib_version(), connection.get_type()) {
        (Ok(number), Ok(driver)) => LibvirtPresence::Answers { version: version_words(number), driver },
        (Err(error), _) | (_, Err(error)) => LibvirtPresence::Silent { why: error.message().to_owned() },
    };
    // A connection that cannot be closed ends with this process.
    let _ = connection.close();
    found
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
