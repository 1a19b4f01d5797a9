//! libvirt's event loop: one thread for the whole process, that is started by whoever first needs it.
//!
//! Events and keep-alive need it, and only connections that are opened after its start are served by it. It sleeps until something happens
//! and ends with the process.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use virt::event::{event_register_default_impl, event_run_default_impl};

use super::failure::{no_thread, told};
use crate::model::error::Result;

/// After a round that failed, so that one that always fails burns no processor.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Sees to it that the loop runs.
pub(super) fn start() -> Result<()> {
    static STARTED: OnceLock<Result<()>> = OnceLock::new();
    STARTED.get_or_init(begin).clone()
}

fn begin() -> Result<()> {
    virt::error::clear_error_callback();
    event_register_default_impl().map_err(|error| told("cannot start libvirt's event loop", &error))?;
    let spawned = thread::Builder::new().name("libvirt-events".to_owned()).spawn(|| {
        loop {
            if let Err(error) = event_run_default_impl() {
                tracing::warn!("libvirt's event loop failed: {}", error.message());
                thread::sleep(AFTER_FAILURE);
            }
        }
    });
    spawned.map(drop).map_err(|error| no_thread(&error))
}
