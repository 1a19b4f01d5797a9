//! What needs more of the machine than a process: private networks, and containers that boot systemd.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod installed;
#[cfg(feature = "libvirt")]
mod libvirt;
mod logging;
mod machine;
mod network;
mod notify;
mod outage;
mod packages;
mod repair;
mod service;

use support::{netns, root};
