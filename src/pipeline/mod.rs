//! One VM from its source to its result, in a process of its own.
//!
//! [`Migration`] is the whole of it for users of the library. [`worker::run`] takes a [`WorkOrder`](crate::model::protocol::WorkOrder) through the stages and
//! publishes the result; [`launch`] starts it as a process and turns its pipes into typed events and
//! commands. What is not here: that a daemon exists, and how a queue decides what runs.

pub mod boot_test;
pub mod checkpoint;
pub mod described;
mod digests;
mod directories;
mod examine;
mod file_mark;
mod giving_way;
pub mod guest_child;
pub mod handover;
pub mod hooks;
pub mod host_lock;
mod in_place;
pub mod keys;
pub mod launch;
mod leavings;
mod library;
mod meter;
mod names;
mod passes;
mod patience;
pub mod preflight;
pub mod publish;
mod remote;
mod report;
mod stages;
#[cfg(feature = "libvirt")]
mod still_off;
mod target;
mod texts;
mod users;
pub mod worker;
mod workplace;

pub use examine::Rehearsal;
pub use library::{DiskProcessor, Migration};
pub(crate) use workplace::within_roots;
