//! Interrupts of a command that works in this process: its work ends in order, and what it made goes with it.
//!
//! What is not here: how the program ends then (see [`super::Exit`]), and conversions, which work in processes of their own.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::disk::Control;

/// From here on SIGINT and SIGTERM end the work that this control belongs to.
pub(super) fn ends(control: &Control) {
    let control = control.clone();
    match Signals::new([SIGINT, SIGTERM]) {
        Ok(mut signals) => {
            std::thread::spawn(move || signals.forever().for_each(|_| control.cancel(false)));
        }
        Err(error) => tracing::warn!(%error, "signals end this command without cleaning up"),
    }
}
