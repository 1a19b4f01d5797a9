//! Thin edges to the operating system: files that survive a crash, child processes, the sandbox, time.
//!
//! Nothing here knows what a disk, a VM or a job is, and nothing here imports from the rest of the
//! crate: failures are `std::io::Error` or the small error types of the modules.

pub mod boot;
pub mod dir;
pub mod door;
pub mod extents;
pub mod failpoint;
pub mod fs;
pub mod host;
pub mod kvm;
pub mod lines;
pub mod mounts;
pub mod neighbours;
pub mod patience;
pub mod process;
pub mod prompt;
pub mod random;
pub mod record_lock;
pub mod sandbox;
pub mod scratch;
pub mod secret;
pub mod stub;
pub mod time;
pub mod trusted;
pub mod users;
