//! When to try again: exponential backoff with jitter, as a pure function.
//!
//! The caller brings the random number, so that a test can show the whole range.

/// How attempts are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Before the second attempt.
    pub base_delay_s: f64,
    /// At most, before jitter.
    pub max_delay_s: f64,
    /// ± this part of the delay.
    pub jitter: f64,
}

/// Seconds to wait after attempt number `attempt` (from 1) failed.
///
/// `random` is in `0.0..=1.0`: 0.5 gives the delay without jitter.
#[must_use]
pub fn delay(attempt: u32, policy: &Policy, random: f64) -> f64 {
    // 2^63 seconds is longer than any cap; a larger exponent would only overflow.
    let doublings = attempt.saturating_sub(1).min(63);
    let plain = (policy.base_delay_s * 2f64.powi(doublings as i32)).min(policy.max_delay_s);
    let swing = 1.0 + policy.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0);
    (plain * swing).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy = Policy { base_delay_s: 10.0, max_delay_s: 600.0, jitter: 0.25 };

    #[test]
    fn delays_double_up_to_the_cap() {
        let plain: Vec<f64> = (1..=8).map(|attempt| delay(attempt, &POLICY, 0.5)).collect();
        assert_eq!(plain, [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_part(attempt in 0u32.., random in 0.0f64..=1.0) {
            let plain = delay(attempt, &POLICY, 0.5);
            let shaken = delay(attempt, &POLICY, random);
            prop_assert!(shaken >= plain * 0.75 - 1e-9 && shaken <= plain * 1.25 + 1e-9);
        }
    }
}
