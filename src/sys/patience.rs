//! Trouble with files that passes: a mount that is busy, a server of files that is away for a moment.
//!
//! What failed so is tried again after a while. Making bytes durable is not: a system that failed to write them may have forgotten them, and
//! says so only once. What is not here: how long the while is, which the caller's rule says.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

/// How long to wait after so many failures; none: it is not tried again.
type Rule = dyn Fn(u32) -> Option<Duration> + Send + Sync;

/// How patient somebody is.
#[derive(Clone)]
pub struct Patience(Arc<Rule>);

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patience")
    }
}

impl Patience {
    /// As patient as this rule.
    pub fn new(rule: impl Fn(u32) -> Option<Duration> + Send + Sync + 'static) -> Patience {
        Patience(Arc::new(rule))
    }

    /// Does something that may be done again after it failed, until it is done, or failed for good.
    pub fn with<T>(&self, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut failures = 0;
        loop {
            let error = match work() {
                Err(error) if passes(&error) => error,
                done => return done,
            };
            failures += 1;
            let Some(wait) = (self.0)(failures) else { return Err(error) };
            tracing::warn!(%error, attempt = failures, "tried again in {:.1} s", wait.as_secs_f64());
            std::thread::sleep(wait);
        }
    }
}

/// Whether the same may be done a moment later.
fn passes(error: &io::Error) -> bool {
    const PASSING: [Errno; 14] = [
        Errno::BUSY,
        Errno::TXTBSY,
        Errno::AGAIN,
        Errno::INTR,
        Errno::NOLCK,
        // A file system on a network, or one that is served.
        Errno::STALE,
        Errno::IO,
        Errno::TIMEDOUT,
        Errno::NOTCONN,
        Errno::CONNRESET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NETDOWN,
        Errno::NETUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| PASSING.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(errno: Errno, times: u32, patience: &Patience) -> (io::Result<u32>, u32) {
        let mut tries = 0;
        let outcome = patience.with(|| {
            tries += 1;
            if tries <= times { Err(errno.into()) } else { Ok(tries) }
        });
        (outcome, tries)
    }

    #[test]
    fn what_passes_is_tried_again_as_often_as_the_rule_says() {
        let patience = Patience::new(|failures| (failures < 3).then_some(Duration::from_millis(1)));
        assert_eq!(failing(Errno::BUSY, 2, &patience).0.unwrap(), 3);
        let (outcome, tries) = failing(Errno::STALE, 9, &patience);
        assert_eq!((Errno::from_io_error(&outcome.unwrap_err()), tries), (Some(Errno::STALE), 3));
    }

    #[test]
    fn what_does_not_pass_is_told_at_once() {
        let patience = Patience::new(|_| Some(Duration::from_secs(3600)));
        for errno in [Errno::NOSPC, Errno::NOENT, Errno::EXIST, Errno::ACCESS, Errno::ROFS, Errno::DQUOT] {
            assert_eq!(failing(errno, 9, &patience).1, 1, "{errno}");
        }
        let other = patience.with(|| -> io::Result<()> { Err(io::Error::other("something else")) });
        assert!(other.is_err());
    }
}
