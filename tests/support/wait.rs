//! Waiting for something to become true, with a deadline that has room for a loaded machine.

use std::time::{Duration, Instant};

/// How long anything may take that takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Polls until `probe` gives something, for at most `limit`; `None` then.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Polls until `count` is `goal`, for as long as it grows; fails the test, naming `what`, when it stood still
/// for [`PATIENCE`].
#[track_caller]
pub fn wait_for_count(what: &str, goal: u64, mut count: impl FnMut() -> u64) {
    let mut known = count();
    while known != goal {
        let grown = within(PATIENCE, || Some(count()).filter(|now| *now > known));
        known = grown.unwrap_or_else(|| panic!("{what}: {known} of {goal}, and no more for {PATIENCE:?}"));
    }
}

/// Polls until `probe` gives something; fails the test, naming `what`, after [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, probe) {
        Some(found) => found,
        None => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
