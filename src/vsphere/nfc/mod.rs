//! Machines as their hosts export them, or as a snapshot of theirs holds them: a lease, and each disk as one stream that is packed while it is
//! sent (NFC over HTTPS).
//!
//! ```text
//!   Export ─▶ ExportVm, ExportSnapshot ─▶ lease: ready ─▶ a GET of each device's address ─▶ a stream, read once from its beginning
//!                           │  told how far it is, by a thread of its own
//!                           └─▶ completed when all that was begun has come whole; else aborted
//! ```
//!
//! No port but that of the API and no datastore is needed, and a disk's holes are not sent; but nothing can be sought, and a machine that is not
//! off is exported as of a snapshot alone. A lease ends with its last user, whatever happens. Which certificate a host is trusted by is told in [`device`]. What
//! is not here: what a stream means ([`crate::disk`]), and files that it is kept in ([`super::export`]).

mod device;
mod disk;
mod download;
mod lease;
mod tally;

pub use disk::Export;
pub(super) use disk::{check_unchanged, identity, identity_as_of};
pub(super) use download::Download;
pub(super) use lease::Lease;
