//! The clock, and times as files carry them: epoch seconds, or RFC 3339 in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, Zoned};

/// Seconds since the epoch, with a fraction; 0 if the clock stands before it.
#[must_use]
pub fn now_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The time on the wall, in this machine's time zone (or that of `TZ`).
#[must_use]
pub fn local_now() -> Zoned {
    Zoned::now()
}

/// `2026-11-20T11:25:47.123Z`
#[must_use]
pub fn rfc3339_utc(epoch: f64) -> String {
    timestamp(epoch).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// `2026-11-20`, the UTC date.
#[must_use]
pub fn date_utc(epoch: f64) -> String {
    timestamp(epoch).strftime("%Y-%m-%d").to_string()
}

/// Times that no calendar holds become the epoch: a file with a strange date is better than none.
fn timestamp(epoch: f64) -> Timestamp {
    Timestamp::from_millisecond((epoch * 1000.0).round() as i64).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(rfc3339_utc(1_737_558_000.0), "2025-01-22T15:00:00.000Z");
        assert_eq!(date_utc(1_737_590_399.5), "2025-01-22");
        assert_eq!(date_utc(1_737_590_400.0), "2025-01-23");
        assert_eq!(rfc3339_utc(f64::MAX), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn the_clock_runs_after_2025() {
        assert!(now_epoch() > 1_735_689_600.0);
    }
}
