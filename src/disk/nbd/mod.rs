//! NBD, with which QEMU reads disks through us: over a unix socket in a private directory, and only to read.
//!
//! ```text
//!   what only we read:  reader ──▶ Served ══socket══▶ qemu-img, an appliance, a test machine
//! ```
//!
//! So a guest is repaired in a disk that QEMU cannot read. What is not here: TCP, writing, and anything of the protocol that QEMU does not need.

mod serve;
mod session;
mod wire;

pub use serve::Served;
