//! Threads that move bytes, waited for: how far they are is told meanwhile, and those that hang on storage are not waited for for ever.
//!
//! What is not here: children that are waited for ([`crate::disk::watch`]), and what is done about threads that hang.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::disk::control::Control;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Notices when nothing is copied. While it is paused or waits for its turn to read, time stands still.
#[derive(Debug)]
pub(crate) struct Stall {
    limit: Duration,
    seen: u64,
    since: Instant,
}

impl Stall {
    pub(crate) fn new(limit_s: f64) -> Stall {
        let limit = Duration::try_from_secs_f64(limit_s).unwrap_or(Duration::MAX);
        Stall { limit, seen: 0, since: Instant::now() }
    }

    /// Waits until all threads have let go of the other end of this channel, and tells how many bytes they have done; `false`: they hang.
    pub(crate) fn see_to_the_end(
        &mut self,
        ended: &mpsc::Receiver<()>,
        done: &AtomicU64,
        control: &Control,
        on_progress: &mut dyn FnMut(u64),
    ) -> bool {
        while ended.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
            let done = done.load(Ordering::Relaxed);
            on_progress(done);
            if self.is_over(done, control) {
                return false;
            }
        }
        true
    }

    /// Whether so many bytes have been done for too long.
    pub(crate) fn is_over(&mut self, done: u64, control: &Control) -> bool {
        if done != self.seen || control.stands_still() {
            (self.seen, self.since) = (done, Instant::now());
        }
        self.since.elapsed() > self.limit
    }
}
