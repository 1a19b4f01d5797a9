//! One VM from source to result, with real disks, real worker processes and real crashes.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod convert;
#[cfg(feature = "failpoints")]
mod crashes;
mod deep;
mod growth;
mod guests;
mod hook_deaths;
mod hook_hostility;
mod hook_requests;
mod hooks;
mod hostile;
mod kills;
#[cfg(feature = "failpoints")]
mod mapped;
mod names;
mod preflight;
#[cfg(feature = "failpoints")]
mod proofs;
mod reflink;
mod repairs;
mod results;
mod site;
mod stalls;
