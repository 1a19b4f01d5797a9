//! How fast sources may be read: which limit holds at a moment, until when, and what of it is one job's.
//!
//! Limits are a list in which the first whose time it is holds; where it is no limit's time, nothing is limited. What is limited are all
//! jobs together, each with the same part, and besides that each job by itself. What is not here: who copies now (the scheduler knows), and
//! how a copy keeps to its part (`disk`).

mod parts;
mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU64;

use jiff::civil::DateTime;
use jiff::{Timestamp, ToSpan, Zoned};
use serde::{Deserialize, Serialize};

pub use parts::Parts;
pub(super) use window::DAYS;
pub use window::Window;

use super::units::human_size;

/// Windows come again every week, and clocks are put forward and back in between.
const DAYS_AHEAD: i64 = 9;

/// Bytes per second; none: as fast as it goes.
pub type Rate = Option<NonZeroU64>;

/// One entry of `limits.bandwidth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// When it holds.
    pub when: Window,
    /// How fast.
    pub caps: Caps,
}

/// How fast sources may be read at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// By all jobs together.
    pub total: Rate,
    /// By each of them.
    pub per_job: Rate,
}

impl Caps {
    /// What one of so many jobs may read that copy at the same time.
    #[must_use]
    pub fn share(self, jobs: usize) -> Rate {
        let jobs = u64::try_from(jobs).unwrap_or(u64::MAX).max(1);
        let part = self.total.map(|total| NonZeroU64::new(total.get() / jobs).unwrap_or(NonZeroU64::MIN));
        part.into_iter().chain(self.per_job).min()
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: NonZeroU64| format!("{}/s", human_size(rate.get()));
        match (self.total.map(rate), self.per_job.map(rate)) {
            (None, None) => f.write_str("as fast as it goes"),
            (Some(total), None) => write!(f, "at most {total}"),
            (None, Some(each)) => write!(f, "at most {each} for each job"),
            (Some(total), Some(each)) => write!(f, "at most {total}, and {each} for each job"),
        }
    }
}

/// What holds now, and when that changes; `None` if it never does.
#[must_use]
pub fn in_force(limits: &[Limit], now: &Zoned) -> (Caps, Option<Timestamp>) {
    let caps = caps_at(limits, now.datetime());
    let zone = now.time_zone();
    let next = moments_of_change(limits, now)
        .into_iter()
        .find(|moment| caps_at(limits, zone.to_datetime(*moment)) != caps);
    (caps, next)
}

fn caps_at(limits: &[Limit], wall_clock: DateTime) -> Caps {
    limits.iter().find(|limit| limit.when.holds(wall_clock)).map(|limit| limit.caps).unwrap_or_default()
}

/// Every moment to come at which a window may open or close, in order. A clock that is put back shows a time twice; one that is put
/// forward leaves times out, so that the moment of that counts too.
fn moments_of_change(limits: &[Limit], now: &Zoned) -> BTreeSet<Timestamp> {
    let zone = now.time_zone();
    let bounds: BTreeSet<(i8, i8)> = limits.iter().flat_map(|limit| limit.when.bounds()).collect();
    let mut moments = BTreeSet::new();
    for day in 0..=DAYS_AHEAD {
        let Ok(date) = now.date().checked_add(day.days()) else { break };
        for (hour, minute) in &bounds {
            let shown = zone.to_ambiguous_timestamp(date.at(*hour, *minute, 0, 0));
            moments.extend(shown.earlier().ok());
            moments.extend(shown.later().ok());
        }
    }
    let last = moments.last().copied().unwrap_or_default();
    let put = zone.following(now.timestamp()).map(|transition| transition.timestamp());
    let put: Vec<Timestamp> = put.take_while(|moment| *moment <= last).collect();
    moments.extend(put);
    moments.retain(|moment| *moment > now.timestamp());
    moments
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits(entries: &[(&str, u64)]) -> Vec<Limit> {
        let limit = |(when, rate): &(&str, u64)| Limit {
            when: Window::parse(when).unwrap(),
            caps: Caps { total: NonZeroU64::new(*rate), per_job: None },
        };
        entries.iter().map(limit).collect()
    }

    fn at(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    /// What holds, and the time on the wall when that changes.
    fn told(entries: &[(&str, u64)], now: &str) -> (Option<u64>, Option<String>) {
        let now = at(now);
        let (caps, next) = in_force(&limits(entries), &now);
        let next =
            next.map(|moment| moment.to_zoned(now.time_zone().clone()).strftime("%a %H:%M %Z").to_string());
        (caps.total.map(NonZeroU64::get), next)
    }

    #[test]
    fn the_first_limit_whose_time_it_is_holds() {
        let entries = [("Mon-Fri 08:00-18:00", 10), ("08:00-12:00", 20), ("always", 30)];
        for (now, rate) in [("2026-11-23T08:00", 10), ("2026-11-22T08:00", 20), ("2026-11-22T12:00", 30)] {
            assert_eq!(told(&entries, &format!("{now}[UTC]")).0, Some(rate), "{now}");
        }
        assert_eq!(told(&entries[..2], "2026-11-22T12:00[UTC]").0, None, "nobody's time");
    }

    #[test]
    fn what_comes_next_is_the_next_change_and_not_the_next_bound() {
        let entries = [("Mon-Fri 08:00-18:00", 10), ("18:00-20:00", 10)];
        assert_eq!(
            told(&entries, "2026-11-23T09:30[UTC]"),
            (Some(10), Some("Mon 20:00 UTC".to_owned())),
            "two limits that are the same are one"
        );
        assert_eq!(told(&entries[..1], "2026-11-20T18:00[UTC]"), (None, Some("Mon 08:00 UTC".to_owned())));
        assert_eq!(told(&[("always", 10)], "2026-11-20T18:00[UTC]"), (Some(10), None));
        assert_eq!(told(&[], "2026-11-20T18:00[UTC]"), (None, None));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_opens() {
        let entries = [("Fri 22:00-06:00", 10)];
        for (now, rate, next) in [
            ("2026-11-20T21:59", None, "Fri 22:00"),
            ("2026-11-20T22:00", Some(10), "Sat 06:00"),
            ("2026-11-21T05:59", Some(10), "Sat 06:00"),
            ("2026-11-21T06:00", None, "Fri 22:00"),
            ("2026-11-21T23:00", None, "Fri 22:00"),
        ] {
            assert_eq!(told(&entries, &format!("{now}[UTC]")), (rate, Some(format!("{next} UTC"))), "{now}");
        }
    }

    #[test]
    fn a_clock_that_is_put_forward_opens_a_window_that_it_leaves_out() {
        // On that day it is 01:59 and then 03:00.
        let night = "2026-03-29T01:50:00+01:00[Europe/Berlin]";
        assert_eq!(told(&[("02:30-04:00", 10)], night), (None, Some("Sun 03:00 CEST".to_owned())));
        assert_eq!(told(&[("02:10-02:40", 10)], night), (None, Some("Mon 02:10 CEST".to_owned())));
    }

    #[test]
    fn a_clock_that_is_put_back_shows_a_window_twice() {
        // On that day it is 02:59 in summer and then 02:00 in winter.
        let entries = [("02:30-02:45", 10)];
        for (now, rate, next) in [
            ("2026-10-25T02:20:00+02:00", None, "Sun 02:30 CEST"),
            ("2026-10-25T02:30:00+02:00", Some(10), "Sun 02:45 CEST"),
            ("2026-10-25T02:45:00+02:00", None, "Sun 02:30 CET"),
            ("2026-10-25T02:30:00+01:00", Some(10), "Sun 02:45 CET"),
            ("2026-10-25T02:45:00+01:00", None, "Mon 02:30 CET"),
        ] {
            assert_eq!(
                told(&entries, &format!("{now}[Europe/Berlin]")),
                (rate, Some(next.to_owned())),
                "{now}"
            );
        }
        // It goes back while the window is open: it stays so for an hour longer.
        let open = at("2026-10-25T01:30:00+02:00[Europe/Berlin]");
        let (_, next) = in_force(&limits(&[("01:00-04:00", 10)]), &open);
        assert_eq!((next.unwrap() - open.timestamp()).total(jiff::Unit::Minute).unwrap(), 210.0);
    }

    #[test]
    fn what_is_foretold_over_a_year_is_what_the_clock_shows() {
        let limits = limits(&[("Sat,Sun", 10), ("Mon-Fri 22:00-02:30", 20), ("02:00-03:00", 30)]);
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let (begin, end) = (at("2026-01-01T00:00[Europe/Berlin]"), at("2027-01-01T00:00[Europe/Berlin]"));
        let mut foretold = Vec::new();
        let mut now = begin.clone();
        while now < end {
            now = in_force(&limits, &now).1.unwrap().to_zoned(zone.clone());
            foretold.push(now.timestamp());
        }
        // No window opens or closes within ten minutes.
        let shown = |moment: Timestamp| caps_at(&limits, zone.to_datetime(moment));
        let seen: Vec<Timestamp> = begin
            .timestamp()
            .series(10.minutes())
            .skip(1)
            .take_while(|moment| *moment <= now.timestamp())
            .filter(|moment| shown(*moment) != shown(*moment - 10.minutes()))
            .collect();
        assert!(seen.len() > 800, "{}", seen.len());
        assert_eq!(foretold, seen);
    }

    #[test]
    fn jobs_that_copy_at_the_same_time_have_the_same_part() {
        let caps = |total, per_job| Caps { total: NonZeroU64::new(total), per_job: NonZeroU64::new(per_job) };
        let share = |caps: Caps, jobs| caps.share(jobs).map(NonZeroU64::get);
        assert_eq!(share(caps(60 * MIB, 0), 3), Some(20 * MIB));
        assert_eq!(share(caps(60 * MIB, 25 * MIB), 2), Some(25 * MIB));
        assert_eq!(share(caps(60 * MIB, 25 * MIB), 3), Some(20 * MIB));
        assert_eq!(share(caps(0, 25 * MIB), 3), Some(25 * MIB));
        assert_eq!(share(caps(0, 0), 3), None);
        assert_eq!((share(caps(2, 0), 3), share(caps(2, 0), 0)), (Some(1), Some(2)), "never nothing");
    }

    #[test]
    fn limits_are_told_in_words() {
        let caps = Caps { total: NonZeroU64::new(50 * MIB), per_job: NonZeroU64::new(20 * MIB) };
        assert_eq!(caps.to_string(), "at most 50.0 MiB/s, and 20.0 MiB/s for each job");
        assert_eq!(Caps::default().to_string(), "as fast as it goes");
    }
}
