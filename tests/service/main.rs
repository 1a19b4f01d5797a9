//! The service from outside: a real daemon, real drops, real disks.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary has no outside, and a test may fail")]

#[path = "../support/mod.rs"]
mod support;

mod attempts;
mod bad_inputs;
mod bandwidth;
mod batch_deaths;
mod batches;
mod crash;
mod daemon;
mod domains;
mod dropped_appliances;
mod dropped_disks;
mod encrypted_notifications;
mod full_disk;
mod hooks;
mod intake;
mod intake_support;
mod mapped;
mod notifications;
mod once_broken;
mod profiles;
mod queue;
mod queue_acts;
mod queue_admission;
mod queue_expanding;
mod queue_opening;
mod queue_outbox;
mod queue_space;
mod queue_support;
mod redrops;
mod scheduler;
mod site;
mod takeover;
mod windows;
