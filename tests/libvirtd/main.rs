//! What is done with a real libvirtd: each test has one of its own, with QEMU and networks, in namespaces that end with it.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/machines.rs"]
mod machines;
#[path = "../support/mod.rs"]
mod support;

mod boot_test;
mod domains;
mod writer;
