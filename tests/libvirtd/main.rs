//! What is done with a real libvirtd: each test has one of its own, with QEMU and networks, in namespaces that end with it.

#![cfg(feature = "libvirt")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/machines.rs"]
mod described;
#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod blocks;
mod boot_test;
mod commands;
mod connections;
mod devices;
mod domains;
mod events;
#[cfg(feature = "libvirt")]
mod finder;
#[cfg(feature = "libvirt")]
mod guest;
mod import;
mod import_broken;
mod machines;
mod migrated;
mod networks;
mod pooled;
mod remote;
mod snapshots;
mod source;
mod stage;
mod stage_deaths;
mod stage_ends;
mod stage_guest;
mod stage_replaced;
mod storage;
mod writer;
