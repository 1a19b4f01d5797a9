//! How long a connection is waited for: silence has a limit, and what comes too slowly has one too.
//!
//! ```text
//!   nothing for the limit                        silent
//!   twice the limit to wait in; each second of waiting costs one, and each 4 KiB that come give one back:
//!   nothing left                                 too slow
//! ```
//!
//! So an answer has to be there after twice the limit and a second for each 4 KiB of it, and a byte now and then keeps nothing alive. Only
//! waiting is counted: not what we do with what came, not what a bandwidth limit has us wait for, and not while the work stands still. What is
//! not here: connections, and what becomes of one that is given up.

use std::time::{Duration, Instant};

use crate::disk::Control;

/// So many bytes a second are what is still worth waiting for.
pub(super) const LEAST_RATE: u64 = 4 << 10;

/// What comes too slowly is waited for so many times as long as what is silent.
const SLOW: u32 = 2;

/// So long a connection may say nothing that the work has stood still over; what is asked over it is better asked anew.
pub(super) const AFTER_A_REST: Duration = Duration::from_secs(5);

/// It is looked several times a second. Who could not, because the machine is at its limits or stood still, was not kept waiting by anybody else.
const MOST_AT_ONCE: Duration = Duration::from_millis(500);

/// Why it is not waited any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Nothing came.
    Silent,
    /// Too little came.
    Slow,
}

/// What is waited for on one connection.
#[derive(Debug)]
pub(super) struct Flow {
    limit: Duration,
    after_a_rest: Duration,
    /// Until it is silent.
    silence: Duration,
    /// Until it is too slow.
    credit: Duration,
    looked: Instant,
}

impl Flow {
    /// Waiting begins.
    pub(super) fn new(limit: Duration, after_a_rest: Duration) -> Flow {
        Flow {
            limit,
            after_a_rest,
            silence: limit,
            credit: limit.saturating_mul(SLOW),
            looked: Instant::now(),
        }
    }

    /// How long nothing may come.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// It is waited again: what was done meanwhile is not counted.
    pub(super) fn waits(&mut self) {
        self.looked = Instant::now();
        self.silence = self.limit;
    }

    /// No longer than this, and than until it is silent.
    pub(super) fn at_most(&self, wait: Duration) -> Duration {
        self.silence.min(wait)
    }

    /// So many bytes have come.
    pub(super) fn came(&mut self, bytes: u64) -> Result<(), Late> {
        let passed = self.passed();
        self.came_after(passed, bytes)
    }

    /// It gets on by so many bytes, however few it takes to say so.
    pub(super) fn earn(&mut self, bytes: u64) {
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE as f64);
        self.credit = self.credit.saturating_add(earned).min(self.limit.saturating_mul(SLOW));
    }

    /// Nothing has come since it was looked at last. To be asked often: what passes while the work stands still is not counted.
    pub(super) fn look(&mut self, control: &Control) -> Result<(), Late> {
        let passed = self.passed();
        self.waited(passed, control.is_paused())
    }

    fn came_after(&mut self, passed: Duration, bytes: u64) -> Result<(), Late> {
        self.silence = self.limit;
        self.credit = self.credit.saturating_sub(passed);
        self.judged()?;
        self.earn(bytes);
        Ok(())
    }

    fn waited(&mut self, passed: Duration, stands_still: bool) -> Result<(), Late> {
        if stands_still {
            self.silence = self.silence.min(self.after_a_rest);
            return Ok(());
        }
        self.silence = self.silence.saturating_sub(passed);
        self.credit = self.credit.saturating_sub(passed);
        self.judged()
    }

    fn passed(&mut self) -> Duration {
        let passed = self.looked.elapsed();
        self.looked += passed;
        passed.min(MOST_AT_ONCE)
    }

    fn judged(&self) -> Result<(), Late> {
        match (self.silence.is_zero(), self.credit.is_zero()) {
            (true, _) => Err(Late::Silent),
            (_, true) => Err(Late::Slow),
            (false, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds until it is given up, if so many bytes come in each.
    fn given_up_after(rate: u64) -> Option<u64> {
        let mut flow = Flow::new(LIMIT, AFTER_A_REST);
        (1..100_000).find(|_| flow.came_after(SECOND, rate).is_err())
    }

    #[test]
    fn a_byte_now_and_then_keeps_nothing_alive_and_the_least_rate_does_for_ever() {
        assert_eq!(given_up_after(1), Some(61));
        assert_eq!(given_up_after(LEAST_RATE / 2), Some(119));
        assert_eq!(given_up_after(LEAST_RATE), None);
    }

    #[test]
    fn what_came_fast_is_not_saved_up_beyond_what_there_was_at_the_beginning() {
        let mut flow = Flow::new(LIMIT, AFTER_A_REST);
        flow.came_after(SECOND, u64::MAX).unwrap();
        assert_eq!(flow.came_after(LIMIT * SLOW, 1), Err(Late::Slow));
    }

    #[test]
    fn who_says_nothing_is_silent_before_he_is_slow_and_what_gets_on_without_a_byte_is_not_slow() {
        let mut flow = Flow::new(LIMIT, AFTER_A_REST);
        assert_eq!(flow.waited(LIMIT - SECOND, false), Ok(()));
        assert_eq!(flow.waited(SECOND, false), Err(Late::Silent));
        let mut flow = Flow::new(LIMIT, AFTER_A_REST);
        for _ in 0..100 {
            flow.waited(LIMIT - SECOND, false).unwrap();
            flow.came_after(SECOND / 2, 1).unwrap();
            flow.earn(1 << 20);
        }
    }

    #[test]
    fn what_passes_while_the_work_stands_still_is_not_counted_but_there_is_little_time_after_it() {
        let mut flow = Flow::new(LIMIT, AFTER_A_REST);
        assert_eq!(flow.waited(LIMIT * 1000, true), Ok(()));
        assert_eq!(flow.credit, LIMIT * SLOW);
        assert_eq!(flow.waited(AFTER_A_REST, false), Err(Late::Silent));
        let mut patient = Flow::new(LIMIT, Duration::MAX);
        patient.waited(LIMIT, true).unwrap();
        assert_eq!(patient.waited(AFTER_A_REST, false), Ok(()));
    }

    #[test]
    fn what_is_done_with_what_came_is_not_counted() {
        let mut flow = Flow::new(SECOND / 5, AFTER_A_REST);
        std::thread::sleep(SECOND / 2);
        flow.waits();
        assert_eq!(flow.look(&Control::new()), Ok(()));
        std::thread::sleep(SECOND / 4);
        assert_eq!(flow.look(&Control::new()), Err(Late::Silent));
    }

    #[test]
    fn who_could_not_look_was_not_kept_waiting_for_all_that_time() {
        let mut flow = Flow::new(SECOND, AFTER_A_REST);
        std::thread::sleep(SECOND * 5 / 4);
        assert_eq!(flow.look(&Control::new()), Ok(()));
    }
}
