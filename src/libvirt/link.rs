//! A connection to libvirt, closed when nobody holds it any more.
//!
//! Whoever has one may call it from any thread; each call may block for as long as libvirt likes. What is not here: which connections are
//! kept, how long they may take, and what becomes of one that broke.

use virt::connect::Connect;

use super::failure::told;
use crate::model::error::{Error, Kind, Result};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Looking only: any user may, and nothing can change.
    Reads,
    /// Everything.
    Changes,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    connection: Connect,
}

impl Link {
    /// Opens one. `uri` comes from whoever may name programs: libvirt runs what its query says.
    pub fn open(uri: &str, access: Access) -> Result<Link> {
        // The crate panics on a NUL, and libvirt prints errors itself unless told otherwise.
        if uri.contains('\0') {
            return Err(Error::new(Kind::Manifest, "the URI of libvirt holds a NUL")
                .advice("write it as qemu:///system"));
        }
        virt::error::clear_error_callback();
        let connection = match access {
            Access::Reads => Connect::open_read_only(Some(uri)),
            Access::Changes => Connect::open(Some(uri)),
        };
        let connection = connection.map_err(|error| told(&format!("cannot connect to {uri}"), &error))?;
        Ok(Link { connection })
    }

    /// As the crate knows it.
    pub(in crate::libvirt) fn raw(&self) -> &Connect {
        &self.connection
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // One that cannot be closed ends with this process.
        let _ = self.connection.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_that_nobody_serves_is_told_with_a_reason_and_what_to_do() {
        for uri in ["nonsense:///x", "test:\0", "qemu+unix:///system?socket=/nowhere"] {
            let error = Link::open(uri, Access::Reads).unwrap_err();
            assert!(!error.details().cause.is_empty() && error.details().advice.is_some(), "{error}");
        }
    }
}
