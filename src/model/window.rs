//! Maintenance windows of batches: from one point of the week to another by the clock of a time zone, and what waits for that.
//!
//! A window opens when the clock first shows its opening time or has passed it, and closes when the clock next shows its closing time or has
//! passed it. So a time that a clock leaves out when it is put forward counts as the moment of that, and of a time that it shows twice
//! when it is put back the first counts; a window that lies wholly in what is left out is not there that week. Time zones are those that the
//! program was built with: nothing is read. What is not here: who waits, and for how long (the scheduler), and the limits of bandwidth.

use std::collections::BTreeSet;
use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::bandwidth::DAYS;
use super::error::{Error, Kind};
use super::manifest::{AtClose, Gate};
use super::parse::suggest::closest;

/// Where a window's clock hangs if nobody says so: a batch's file is carried from host to host, and means the same on each.
const DEFAULT_ZONE: &str = "UTC";

const MINUTES_OF_A_WEEK: i64 = 7 * 24 * 60;

/// How far an opening can be: one of those in between may be left out by a clock that is put forward.
const DAYS_AHEAD: i64 = 15;

/// One that is open now was opened a week ago at the earliest, and the date may be another since.
const DAYS_BACK: i64 = 8;

/// More openings are not foretold: what takes longer ends when nobody knows.
const MOST_OPENINGS: usize = 520;

/// A time of the week in which a batch may do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Kept", into = "Kept")]
pub struct Window {
    tz: String,
    zone: TimeZone,
    opens: WeekMinute,
    closes: WeekMinute,
    gates: BTreeSet<Gate>,
    at_close: AtClose,
}

/// A window as the queue keeps it.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    tz: String,
    open: String,
    close: String,
    gates: Vec<Gate>,
    at_close: AtClose,
}

/// `Sat 22:00`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WeekMinute {
    /// Monday is 0.
    day: usize,
    time: Time,
}

/// How a window stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is open.
    pub is_open: bool,
    /// Until when, in epoch seconds; none: as far as calendars go.
    pub until: Option<i64>,
}

impl Window {
    /// The window that a batch's file describes; an error names the field that it is about.
    pub fn new(
        tz: Option<&str>,
        (open, close): (&str, &str),
        gates: Option<&[Gate]>,
        at_close: Option<AtClose>,
    ) -> Result<Window, (&'static str, Error)> {
        let zone = zone(tz.unwrap_or(DEFAULT_ZONE)).map_err(|error| ("tz", error))?;
        let point = |field, text| WeekMinute::parse(text).ok_or_else(|| (field, not_a_time(text)));
        let (opens, closes) = (point("open", open)?, point("close", close)?);
        if opens == closes {
            let error = Error::new(Kind::Manifest, "the window closes when it opens")
                .advice("remove `window`: without one a batch works all week");
            return Err(("close", error));
        }
        let named = gates.unwrap_or(&Gate::ALL);
        let gates: BTreeSet<Gate> = named.iter().copied().collect();
        if named.is_empty() {
            let error = Error::new(Kind::Manifest, "nothing waits for the window")
                .allowed(Gate::ALL.map(Gate::name))
                .advice("name what does, or remove `gates`: then all of it waits");
            return Err(("gates", error));
        }
        if gates.len() < named.len() {
            let error = Error::new(Kind::Manifest, "a gate is named twice").advice("name each once");
            return Err(("gates", error));
        }
        let tz = zone.iana_name().unwrap_or(DEFAULT_ZONE).to_owned();
        Ok(Window { tz, zone, opens, closes, gates, at_close: at_close.unwrap_or_default() })
    }

    /// Whether a job starts only while it is open.
    #[must_use]
    pub fn gates_start(&self) -> bool {
        self.gates.contains(&Gate::Start)
    }

    /// Whether a source is shut down only while it is open.
    #[must_use]
    pub fn gates_shutdown(&self) -> bool {
        self.gates.contains(&Gate::Shutdown)
    }

    /// Whether the last pass of a warm migration waits for it: its source is shut down for that.
    #[must_use]
    pub fn gates_cutover(&self) -> bool {
        self.gates.contains(&Gate::Cutover) || self.gates.contains(&Gate::Shutdown)
    }

    /// Whether what runs when it closes waits until it opens again.
    #[must_use]
    pub fn holds_at_close(&self) -> bool {
        self.gates_start() && self.at_close == AtClose::Hold
    }

    /// How it stands at a time in epoch seconds.
    #[must_use]
    pub fn at(&self, now: f64) -> Standing {
        let never = Standing { is_open: false, until: None };
        // Times that no calendar has are refused by this.
        let Ok(now) = Timestamp::from_millisecond((now * 1000.0) as i64) else { return never };
        let today = self.zone.to_datetime(now).date();
        let dates = (-DAYS_BACK..=DAYS_AHEAD).filter_map(|days| today.checked_add(days.days()).ok());
        let mut openings = dates.filter_map(|date| self.opening_of(date));
        openings.find(|(_, closes)| now < *closes).map_or(never, |(opens, closes)| {
            let is_open = opens <= now;
            Standing { is_open, until: Some(if is_open { closes } else { opens }.as_second()) }
        })
    }

    /// For how many seconds it was open between two times; none if that is too long to tell.
    #[must_use]
    pub fn open_between(&self, from: f64, to: f64) -> Option<f64> {
        let (mut at, mut open) = (from, 0.0);
        for _ in 0..MOST_OPENINGS {
            let Standing { is_open, until } = self.at(at);
            let end = until.map_or(to, |until| until as f64).min(to);
            open += if is_open { (end - at).max(0.0) } else { 0.0 };
            if end >= to {
                return Some(open);
            }
            at = end;
        }
        None
    }

    /// When it will have been open for so many seconds more; none if that is too far to tell.
    #[must_use]
    pub fn after_open(&self, now: f64, seconds: f64) -> Option<f64> {
        let (mut at, mut left) = (now, seconds);
        for _ in 0..MOST_OPENINGS {
            let Standing { is_open, until } = self.at(at);
            let end = until? as f64;
            if is_open && end - at >= left {
                return Some(at + left);
            }
            left -= if is_open { end - at } else { 0.0 };
            at = end;
        }
        None
    }

    /// What those wait for that wait for it while it is closed: the same text until it opens.
    #[must_use]
    pub fn opens_in_words(&self, standing: Standing) -> String {
        let moment = standing.until.and_then(|at| Timestamp::from_second(at).ok());
        let shown =
            moment.map(|at| at.to_zoned(self.zone.clone()).strftime("%a %Y-%m-%d %H:%M %:z").to_string());
        shown.map_or_else(
            || "its window does not open any more".to_owned(),
            |shown| format!("its window opens {shown} ({})", self.tz),
        )
    }

    /// All of it for a person, and how it stands.
    #[must_use]
    pub fn in_words(&self, now: f64) -> String {
        let Window { tz, opens, closes, .. } = self;
        let standing = self.at(now);
        let left =
            standing.until.map_or_else(String::new, |at| format!(", in {}", for_people(at as f64 - now)));
        let mut text = match standing.is_open {
            true => format!("is open since {opens} {tz}, closes {closes}{left}"),
            false => format!("opens {opens} {tz}{left}, closes {closes}"),
        };
        text.push_str(match (self.gates_start(), self.at_close) {
            (false, _) if self.gates_shutdown() => "; sources are shut down only while it is open",
            (false, _) if self.gates_cutover() => "; only cutovers of warm migrations wait for it",
            (false, _) => "; nothing that this version does waits for it",
            (true, AtClose::Finish) => "; what runs when it closes goes on to its end",
            (true, AtClose::Hold) => "; what runs when it closes stands still until it opens again",
        });
        text
    }

    /// The moments at which the window of a date opens and closes.
    fn opening_of(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        if usize::from(date.weekday().to_monday_zero_offset().unsigned_abs()) != self.opens.day {
            return None;
        }
        let minutes = self.closes.minutes() - self.opens.minutes();
        let opens = date.to_datetime(self.opens.time);
        let closes = opens.checked_add(minutes.rem_euclid(MINUTES_OF_A_WEEK).minutes()).ok()?;
        let (opens, closes) = (self.first_shown(opens)?, self.first_shown(closes)?);
        (opens < closes).then_some((opens, closes))
    }

    /// When the clock first shows this, or has passed it.
    fn first_shown(&self, shown: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(shown);
        let is_left_out = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
        let earlier = ambiguous.earlier().ok()?;
        if is_left_out {
            return self.zone.following(earlier).next().map(|transition| transition.timestamp());
        }
        Some(earlier)
    }
}

impl WeekMinute {
    fn parse(text: &str) -> Option<WeekMinute> {
        let (day, time) = text.split_once(' ')?;
        let day = DAYS.iter().position(|name| *name == day)?;
        Some(WeekMinute { day, time: Time::strptime("%H:%M", time).ok()? })
    }

    fn minutes(self) -> i64 {
        let of_day = i64::from(self.time.hour()) * 60 + i64::from(self.time.minute());
        self.day as i64 * 24 * 60 + of_day
    }
}

impl fmt::Display for WeekMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", DAYS[self.day], self.time.strftime("%H:%M"))
    }
}

impl From<Window> for Kept {
    fn from(window: Window) -> Kept {
        let (open, close) = (window.opens.to_string(), window.closes.to_string());
        let gates = window.gates.into_iter().collect();
        Kept { tz: window.tz, open, close, gates, at_close: window.at_close }
    }
}

impl TryFrom<Kept> for Window {
    type Error = Error;

    fn try_from(kept: Kept) -> Result<Window, Error> {
        let times = (kept.open.as_str(), kept.close.as_str());
        Window::new(Some(&kept.tz), times, Some(&kept.gates), Some(kept.at_close)).map_err(|(_, error)| error)
    }
}

fn not_a_time(text: &str) -> Error {
    Error::new(Kind::Manifest, format!("`{text}` is not a day and time")).advice("as \"Sat 22:00\"")
}

/// The time zone of this name, of those that the program was built with.
fn zone(name: &str) -> Result<TimeZone, Error> {
    let known = TimeZoneDatabase::bundled();
    known.get(name).map_err(|_| {
        let names: Vec<String> = known.available().map(|name| name.as_str().to_owned()).collect();
        let names = || names.iter().map(String::as_str);
        let is_its_city =
            |known: &&str| known.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name));
        let error = Error::new(Kind::Manifest, format!("there is no time zone `{name}`"));
        match closest(name, names()).or_else(|| names().find(is_its_city)) {
            Some(meant) => error.advice(format!("did you mean `{meant}`?")),
            None => error.advice("as `Europe/Berlin`; without `tz` it is UTC"),
        }
    })
}

/// `3 days 4 h`, `1 day`, `5 h 20 min`, `12 min`, `less than a minute`
fn for_people(seconds: f64) -> String {
    let minutes = (seconds.max(0.0) / 60.0) as u64;
    let (days, hours, minutes) = (minutes / (24 * 60), minutes / 60 % 24, minutes % 60);
    let part = |count: u64, word: &str| (count > 0).then(|| format!("{count} {word}"));
    let parts = match days {
        0 => [part(hours, "h"), part(minutes, "min")],
        1 => [Some("1 day".to_owned()), part(hours, "h")],
        _ => [part(days, "days"), part(hours, "h")],
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "less than a minute".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
