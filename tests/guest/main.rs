//! The guest room against the real libguestfs.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod appliance;
mod bad_guests;
mod boot_fixes;
mod configure;
mod families;
mod growth;
mod inspect;
mod network_and_tools;
mod repairs;
mod systems;
mod unified_images;
mod windows;
