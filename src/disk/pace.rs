//! How much may be read by now: a rate, counted from moment to moment.
//!
//! Bytes are asked for in order, and each place in that order is reached at the rate in force; when the rate changes, those who wait are
//! reached sooner or later. What nobody asks for is not saved up, but for a little. Time is handed in: nothing here waits or asks the
//! clock. What is not here: who waits, and what else they wait for (see [`super::control`]).

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::model::bandwidth::Rate;

/// So much of a rate may come at once …
const BURST: Duration = Duration::from_millis(200);
/// … and at least what one thread reads at a time.
const LEAST_BURST_BYTES: f64 = (1 << 20) as f64;

/// Where in the order of all bytes somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Place(f64);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    stands_still: bool,
    /// Bytes, since the beginning. A disk would have to be larger than any to be counted wrong.
    asked: f64,
    reached: f64,
    /// Until when it is counted.
    at: Instant,
}

impl Pace {
    /// As fast as it goes.
    pub(super) fn new(now: Instant) -> Pace {
        Pace { rate: None, stands_still: false, asked: 0.0, reached: 0.0, at: now }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Another rate, from now on.
    pub(super) fn set_rate(&mut self, now: Instant, rate: Rate) {
        self.count(now);
        if self.rate.is_none() {
            self.reached = self.asked + rate.map_or(0.0, burst);
        }
        self.rate = rate;
    }

    /// While it stands still no bytes are reached, however long that is.
    pub(super) fn stand_still(&mut self, now: Instant, stands_still: bool) {
        self.count(now);
        self.stands_still = stands_still;
    }

    /// Asks for bytes: they may be read once this place is reached.
    pub(super) fn ask(&mut self, now: Instant, bytes: u64) -> Place {
        self.count(now);
        self.asked += bytes as f64;
        Place(self.asked)
    }

    /// How long it takes to a place, as it is now; `None` if it is reached.
    pub(super) fn until(&mut self, now: Instant, place: Place) -> Option<Duration> {
        self.count(now);
        let missing = place.0 - self.reached;
        let rate = self.rate.filter(|_| missing > 0.0)?;
        Some(Duration::try_from_secs_f64(missing / rate.get() as f64).unwrap_or(Duration::MAX))
    }

    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        match self.rate {
            None => self.reached = self.asked,
            Some(_) if self.stands_still => {}
            Some(rate) => {
                let reached = self.reached + rate.get() as f64 * passed.as_secs_f64();
                self.reached = reached.min(self.asked + burst(rate));
            }
        }
    }
}

fn burst(rate: NonZeroU64) -> f64 {
    (rate.get() as f64 * BURST.as_secs_f64()).max(LEAST_BURST_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn rate(bytes: u64) -> Rate {
        NonZeroU64::new(bytes)
    }

    /// A pace of its own time, in seconds.
    struct Clock(Instant, Pace);

    impl Clock {
        fn at_rate(bytes: u64) -> Clock {
            let begin = Instant::now();
            let mut pace = Pace::new(begin);
            pace.set_rate(begin, rate(bytes));
            Clock(begin, pace)
        }

        fn at(&self, seconds: f64) -> Instant {
            self.0 + Duration::from_secs_f64(seconds)
        }

        fn ask(&mut self, seconds: f64, bytes: u64) -> Place {
            self.1.ask(self.at(seconds), bytes)
        }

        /// Seconds that are left.
        fn left(&mut self, seconds: f64, place: Place) -> f64 {
            let left = self.1.until(self.at(seconds), place).map_or(0.0, |left| left.as_secs_f64());
            (left * 1000.0).round() / 1000.0
        }
    }

    #[test]
    fn without_a_rate_nobody_waits_and_nothing_is_owed_or_saved_when_there_is_one() {
        let mut clock = Clock(Instant::now(), Pace::new(Instant::now()));
        let place = clock.ask(0.0, 1 << 40);
        assert_eq!(clock.left(0.0, place), 0.0);
        clock.1.set_rate(clock.at(100.0), rate(MIB));
        let place = clock.ask(100.0, 3 * MIB);
        assert_eq!(clock.left(100.0, place), 2.0, "a piece comes at once");
    }

    #[test]
    fn pieces_come_at_the_rate_in_the_order_in_which_they_were_asked_for() {
        let mut clock = Clock::at_rate(64 << 10);
        let places: Vec<Place> = (0..4).map(|_| clock.ask(0.0, MIB)).collect();
        let left: Vec<f64> = places.iter().map(|place| clock.left(0.0, *place)).collect();
        assert_eq!(left, [0.0, 16.0, 32.0, 48.0]);
        assert_eq!((clock.left(16.5, places[1]), clock.left(16.5, places[2])), (0.0, 15.5));
    }

    #[test]
    fn however_often_it_is_asked_no_more_comes_than_the_rate_and_one_burst() {
        let mut clock = Clock::at_rate(50 * MIB);
        let (mut read, mut now) = (0, 0.0);
        while now < 10.0 {
            let place = clock.ask(now, MIB);
            now += clock.left(now, place) + 0.0001;
            read += 1;
        }
        assert!((495..=511).contains(&read), "{read} MiB in ten seconds");
    }

    #[test]
    fn what_nobody_asked_for_is_not_saved_up() {
        let mut clock = Clock::at_rate(50 * MIB);
        let place = clock.ask(3600.0, 60 * MIB);
        assert_eq!(clock.left(3600.0, place), 1.0, "but for a fifth of a second");
    }

    #[test]
    fn those_who_wait_feel_another_rate_at_once() {
        let mut clock = Clock::at_rate(MIB);
        let place = clock.ask(0.0, 11 * MIB);
        assert_eq!(clock.left(4.0, place), 6.0);
        clock.1.set_rate(clock.at(4.0), rate(12 * MIB));
        assert_eq!(clock.left(4.0, place), 0.5);
        clock.1.set_rate(clock.at(4.0), rate(MIB / 2));
        assert_eq!(clock.left(4.0, place), 12.0);
        clock.1.set_rate(clock.at(4.0), None);
        assert_eq!(clock.left(4.0, place), 0.0);
    }

    #[test]
    fn while_it_stands_still_nothing_is_reached() {
        let mut clock = Clock::at_rate(MIB);
        let place = clock.ask(0.0, 11 * MIB);
        clock.1.stand_still(clock.at(2.0), true);
        clock.1.set_rate(clock.at(50.0), rate(2 * MIB));
        assert_eq!(clock.left(100.0, place), 4.0);
        clock.1.stand_still(clock.at(100.0), false);
        assert_eq!((clock.left(100.0, place), clock.left(103.0, place)), (4.0, 1.0));
    }
}
