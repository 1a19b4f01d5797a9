//! What black-box tests share: a real daemon on a scratch state directory, and small real disks.
//!
//! Nothing here knows the inside of the program: it starts the binary, drops files, reads the
//! files that the contract promises, and kills things. A [`Daemon`] that goes out of scope takes
//! every process it started with it.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod appliances;
pub mod bad_appliances;
pub mod bad_disks;
pub mod boot_sector;
pub mod daemon;
pub mod disks;
pub mod esxi;
pub mod faults;
pub mod guests;
pub mod hive;
pub mod hooks;
pub mod libvirtd;
pub mod loopback;
pub mod netns;
pub mod rare_vmdks;
pub mod receiver;
pub mod root;
pub mod small_disk;
pub mod trees;
pub mod vcenter;
pub mod vhd;
pub mod vhdx;
pub mod wait;

pub use daemon::Daemon;
pub use wait::{wait_for, wait_for_count, within};
