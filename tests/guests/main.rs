//! Real guests: built from Debian packages, converted by the program, started under QEMU.
//!
//! The same builder and the same proof serve `make run`. Guests are cached outside the checkout; the first run on a machine
//! builds them. `make test` runs the core of them and one more that changes from commit to commit; `make test-guests` all.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod nothing_mounted;
mod repaired;
mod set_up;
