//! The command line and the control API, from outside: the built binary against a real control
//! server with a small scheduler behind it (`fake.rs`).

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod appliances;
mod bad_inputs;
mod batches;
mod check;
mod commands;
mod doctor;
mod examples;
mod fake;
mod fix;
mod fix_in_place;
mod guest_disk;
mod help;
mod hooks;
mod hyper_v;
mod inspect;
mod libvirt_xml;
mod limits;
mod local;
mod mapped;
mod packed_appliances;
mod preflight;
mod preflight_guests;
mod profiles;
mod run;
mod service;
mod vmx;
