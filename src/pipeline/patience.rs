//! How patient the work is with the directory of its results: as the policy says that it was given.

use std::time::Duration;

use crate::model::retry::RetryPolicy;
use crate::sys::patience::Patience;
use crate::sys::random;

/// What waits as this policy says.
pub(super) fn patience(policy: RetryPolicy) -> Patience {
    Patience::new(move |failures| policy.wait_s(failures, random::spread()).map(Duration::from_secs_f64))
}
