//! The scheduler: one task that owns every decision about jobs.

pub mod core;
mod job;
mod ledger;
mod policy;
