//! When something is tried again: how delays grow, and the policies that have a name. Pure.
//!
//! ```text
//!  policy            for                                                    tries, delays
//!  retry.network     reaching a server: its name, its connection            5, 2 s to 30 s
//!  retry.files       an operation in a directory with results               3, 1 s
//!  retry             a job as a whole, and a notification (`RetrySettings`)  its own limits
//! ```
//!
//! The first two are for trouble that passes while one waits for it: an operation that is tried again by them costs its job no attempt. What does
//! not pass so soon ends the attempt, and `retry` says when there is another one. What is not here: which trouble passes, which
//! those know who try; and who waits.

use serde::{Deserialize, Serialize};

/// How often, and how long in between.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// In all, the first one included.
    pub attempts: u32,
    /// Before the second one; it doubles from there.
    pub base_delay_s: f64,
    /// At most.
    pub max_delay_s: f64,
    /// ± this part of each delay, at random.
    pub jitter: f64,
}

/// What is added to delays and taken from them, unless something else is configured.
pub const JITTER: f64 = 0.25;

/// The policies by which operations are tried again within an attempt of a job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retries {
    /// `retry.network`
    pub network: RetryPolicy,
    /// `retry.files`
    pub files: RetryPolicy,
}

impl Default for Retries {
    fn default() -> Retries {
        Retries { network: RetryPolicy::network(), files: RetryPolicy::files() }
    }
}

impl RetryPolicy {
    /// `retry.network`, unless something else is configured.
    #[must_use]
    pub fn network() -> RetryPolicy {
        RetryPolicy { attempts: 5, base_delay_s: 2.0, max_delay_s: 30.0, jitter: JITTER }
    }

    /// `retry.files`, unless something else is configured.
    #[must_use]
    pub fn files() -> RetryPolicy {
        RetryPolicy { attempts: 3, base_delay_s: 1.0, max_delay_s: 1.0, jitter: JITTER }
    }

    /// Seconds to wait after so many failures; none: it is given up. `random` is in 0..1.
    #[must_use]
    pub fn wait_s(&self, failures: u32, random: f64) -> Option<f64> {
        let delay = || backoff_s(failures, (self.base_delay_s, self.max_delay_s), self.jitter, random);
        (failures < self.attempts).then(delay)
    }
}

/// Seconds after so many failures in a row: from the first of these delays it doubles up to the second, ± a part of it. `random` is in 0..1: one half
/// gives the delay itself.
#[must_use]
pub fn backoff_s(failures: u32, (base_s, max_s): (f64, f64), jitter: f64, random: f64) -> f64 {
    // Beyond this every delay is the longest one; a larger exponent would only overflow.
    let doublings = failures.saturating_sub(1).min(63) as i32;
    let plain = (base_s * 2f64.powi(doublings)).min(max_s);
    (plain * (1.0 + jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0))).max(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waits(policy: RetryPolicy) -> Vec<f64> {
        (1..).map_while(|failures| policy.wait_s(failures, 0.5)).collect()
    }

    #[test]
    fn each_policy_waits_as_long_and_as_often_as_it_is_known_for() {
        assert_eq!(waits(RetryPolicy::network()), [2.0, 4.0, 8.0, 16.0]);
        assert_eq!(waits(RetryPolicy { attempts: 8, ..RetryPolicy::network() })[4..], [30.0, 30.0, 30.0]);
        assert_eq!(waits(RetryPolicy::files()), [1.0, 1.0]);
        assert_eq!(waits(RetryPolicy { attempts: 1, ..RetryPolicy::files() }), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_part(failures in 0u32.., random in 0.0f64..=1.0) {
            let plain = backoff_s(failures, (10.0, 600.0), JITTER, 0.5);
            let shaken = backoff_s(failures, (10.0, 600.0), JITTER, random);
            prop_assert!(shaken >= plain * 0.75 - 1e-9 && shaken <= plain * 1.25 + 1e-9);
        }
    }
}
