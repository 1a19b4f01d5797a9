//! Bytes: what a disk image is, what belongs to it, and how its content gets into another image.
//!
//! The way through this room: [`detect`] says what a file is by its content; [`open_source`] refuses
//! what must not be opened and gives a [`SourceDisk`]; the [`Engine`] measures, copies, checks and
//! compares with `qemu-img` under limits and in a sandbox; a [`Control`] in the caller's hand pauses
//! or ends any of it, and says how fast sources are read. QEMU never guesses a format here: every node it opens is named with its driver.
//!
//! Nothing here knows guests, VMs, jobs or networks.

mod beside;
mod changes;
mod control;
mod copy;
mod engine;
mod facts;
mod failure;
mod fence;
mod format;
mod glance;
mod gunzip;
mod inspect;
mod lock;
mod measure;
mod native;
mod nbd;
mod node;
mod open;
mod overlay;
mod pace;
mod patch;
mod read;
mod remote;
mod traces;
pub mod verify;
mod watch;
mod window;
mod write;

pub use beside::Beside;
pub(crate) use control::Attached;
pub use control::{Control, Interruption};
pub use copy::{CopyOutcome, CopyProgress, Target};
pub use engine::Engine;
pub use facts::{FileIdentity, ImageFacts, SourceDisk};
pub use fence::Fence;
pub use format::{Detected, Format, detect};
pub use glance::{estimate_virtual_size, names_in, stands_on};
pub use gunzip::Gzip;
pub(crate) use inspect::{DESCRIPTOR_BYTES, Descriptor, odd_size};
pub use inspect::{Needs, alike, files_alike};
pub use measure::Measure;
pub use native::Depth;
pub(crate) use nbd::{HOSTED_SOCKET, Host, Hosted};
pub use nbd::{Lent, Served, lent_name, remove_leavings, serves_in};
pub(crate) use open::refuse_locked;
pub use open::{OpenPolicy, is_known_whole, open_source};
pub use patch::Patched;
pub(crate) use read::{
    Grains, Holds, Plain, Range, Reader, Room, Sender, Sent, Stored, Streamed, follow, in_a_row, stacked,
};
pub(crate) use remote::{Bounds, Memory, Remote};
pub use traces::{BootTraces, boot_traces};
pub(crate) use watch::Stall;
pub use window::{Member, Part, Piece, Place};
pub(crate) use write::most_bytes;
