//! What is done with a vCenter or an ESXi host: each test has one of its own (tests/support/vcenter.rs), with TLS, a login and real files, and
//! networks that fail.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod areas;
mod bed;
mod campaign;
mod client;
mod clones;
mod commands;
mod crowd;
mod download;
mod exported_clones;
mod exports;
mod folder;
mod full_disk;
mod inline;
mod jobs;
mod links;
mod power;
mod preflight;
mod preflight_running;
mod privileges;
mod repairs;
mod secrets;
mod select;
mod servers;
mod snapshots;
mod ssh;
mod streams;
mod transfers;
mod vddk;
mod warm;
mod warm_deaths;
mod warm_limits;
mod ways;
