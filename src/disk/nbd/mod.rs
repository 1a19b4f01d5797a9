//! NBD, with which QEMU and we read disks through each other: over unix sockets, and of a disk from outside only to read.
//!
//! ```text
//!   what only we read:     reader ──▶ Served ══socket══▶ qemu-img, an appliance, a test machine     (serve)
//!   what only QEMU reads:  storage daemon, confined ══socket══▶ Remote ──▶ copier                   (daemon, client)
//!   what others read:      nbdkit, confined ══socket══▶ Hosted ──▶ copier                           (hosted, client)
//!   what a guest tries:    storage daemon, on overlays ══door══▶ libvirt's QEMU                     (lend)
//! ```
//!
//! So every source can be opened by whoever has to: a guest is repaired in a disk that QEMU cannot read, and a disk that we cannot read is
//! copied by the same copier as all others. What is not here: TCP, writing, and anything of the protocol that neither side needs.

mod client;
mod daemon;
mod hosted;
mod lend;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use daemon::open;
pub(crate) use hosted::{HOSTED_SOCKET, Host, Hosted};
pub use lend::{Lent, lent_name};
pub use serve::{Served, remove_leavings, serves_in};
