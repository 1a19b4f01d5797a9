//! A connection to libvirt, closed when nobody holds it any more.
//!
//! Whoever has one may call it from any thread; each call may block for as long as libvirt likes. What is not here: which connections are
//! kept, how long they may take, and what becomes of one that broke.

use virt::connect::Connect;

use super::event_loop;
use super::failure::told;
use crate::model::error::Result;
use crate::model::libvirt_uri::{Reach, check_form};

/// How often, in seconds, one that is watched is asked for a sign of life, …
const KEEP_ALIVE_S: i32 = 5;
/// … and how many may stay away before it counts as gone.
const KEEP_ALIVE_COUNT: u32 = 5;

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
        match check_form(uri)? {
            Reach::Local => Link::connect(uri, access),
            Reach::Remote => Link::open_watched(uri, access),
        }
    }

    /// Opens one that notices when the other end goes away without a word: calls that wait for it fail then. Where the driver knows no such
    /// thing, nothing is lost.
    pub(in crate::libvirt) fn open_watched(uri: &str, access: Access) -> Result<Link> {
        event_loop::start()?;
        let link = Link::connect(uri, access)?;
        let _ = link.connection.set_keep_alive(KEEP_ALIVE_S, KEEP_ALIVE_COUNT);
        Ok(link)
    }

    fn connect(uri: &str, access: Access) -> Result<Link> {
        // With the form, the NUL is out on which the crate panics.
        check_form(uri)?;
        // libvirt prints errors itself unless told otherwise.
        virt::error::clear_error_callback();
        let connection = match access {
            Access::Reads => Connect::open_read_only(Some(uri)),
            Access::Changes => Connect::open(Some(uri)),
        };
        let connection = connection.map_err(|error| told(&format!("cannot connect to {uri}"), &error))?;
        Ok(Link { connection })
    }

    /// Whether it is not known to have broken. Nobody is asked.
    pub(in crate::libvirt) fn is_open(&self) -> bool {
        self.connection.is_alive().unwrap_or(false)
    }

    /// Whether the other end answers: the cheapest question there is.
    pub(in crate::libvirt) fn answers(&self) -> bool {
        self.is_open() && self.connection.get_lib_version().is_ok()
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
