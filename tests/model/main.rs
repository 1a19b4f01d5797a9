//! What people write, and what becomes of it: manifests, configuration, schemas.

#![allow(clippy::unwrap_used)] // A test that fails may panic.

mod bad;
mod batches;
mod configuration;
mod golden;
mod handover;
mod hooks;
mod mappings;
mod plans;
mod profiles;
mod properties;
mod schemas;
mod secure_boot;
mod validation;
mod values;
