//! How many messages a receiver gets: each event its own, unless there are many. Pure.

/// Within this time …
const WINDOW_S: f64 = 60.0;

/// … a receiver gets so many messages.
const MOST: u64 = 5;

/// What is to be made of the events that wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pack {
    /// There is none.
    Nothing,
    /// A message of the oldest.
    One,
    /// One message of all of them.
    All,
    /// Nothing before then (epoch seconds).
    Later(f64),
}

/// How many messages were made in this window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Pace {
    began: f64,
    made: u64,
}

impl Pace {
    /// So many events wait; a message that is to be made counts.
    pub(super) fn next(&mut self, now: f64, waiting: u64) -> Pack {
        if waiting == 0 {
            return Pack::Nothing;
        }
        // A clock that was put back begins a window too.
        if now >= self.began + WINDOW_S || now < self.began {
            *self = Pace { began: now, made: 0 };
        }
        let left = MOST.saturating_sub(self.made);
        if left == 0 {
            return Pack::Later(self.began + WINDOW_S);
        }
        self.made += 1;
        if waiting > left { Pack::All } else { Pack::One }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_five_of_a_minute_go_by_themselves_and_all_after_them_together() {
        let mut pace = Pace::default();
        for second in 0..5 {
            assert_eq!(pace.next(1000.0 + f64::from(second), 1), Pack::One);
        }
        assert_eq!(pace.next(1005.0, 1), Pack::Later(1060.0));
        assert_eq!(pace.next(1059.0, 195), Pack::Later(1060.0));
        assert_eq!(pace.next(1060.0, 195), Pack::All);
        assert_eq!(pace.next(1061.0, 0), Pack::Nothing);
        assert_eq!(pace.next(1062.0, 1), Pack::One);
    }

    #[test]
    fn what_gathered_while_a_receiver_was_away_is_one_message() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(1000.0, 1), Pack::One);
        assert_eq!(pace.next(1010.0, 4), Pack::One, "as many as the window still allows");
        assert_eq!(pace.next(1010.0, 300), Pack::All);
    }

    #[test]
    fn a_clock_that_was_put_back_silences_nobody() {
        let mut pace = Pace { began: 1e9, made: MOST };
        assert_eq!(pace.next(1000.0, 1), Pack::One);
    }
}
