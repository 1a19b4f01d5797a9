//! A time of the week as people write it: `Mon-Fri 08:00-18:00`, `22:00-06:00`, `Sat,Sun`, `always`.
//!
//! What counts is the clock on the wall, also on the days on which it is put forward or back. A window that closes earlier than it opens
//! goes over midnight, and belongs to the day on which it opens.

use std::borrow::Cow;
use std::fmt;

use jiff::civil::{DateTime, Weekday};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::model::parse::{Refusal, refuse};

/// Days of the week as people write them, Monday first.
pub(in crate::model) const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MINUTES_OF_A_DAY: u16 = 24 * 60;

/// A time of the week that comes again every week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// As it was written.
    text: String,
    /// The days on which it opens, Monday first.
    days: [bool; 7],
    /// Minutes of the day.
    opens: u16,
    closes: u16,
}

impl Window {
    /// The whole week.
    #[must_use]
    pub fn always() -> Window {
        Window { text: "always".to_owned(), days: [true; 7], opens: 0, closes: MINUTES_OF_A_DAY }
    }

    /// The window that a text names.
    pub fn parse(text: &str) -> Result<Window, Refusal> {
        let bad = || {
            refuse(format!("`{text}` is not a time of the week"), "").allowed(
                "days, times or both, as \"Mon-Fri 08:00-18:00\", \"22:00-06:00\", \"Sat,Sun\", \"always\"",
            )
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, times) = match words.as_slice() {
            ["always"] => (None, None),
            [times] if times.contains(':') => (None, Some(*times)),
            [days] => (Some(*days), None),
            [days, times] => (Some(*days), Some(*times)),
            _ => return Err(bad()),
        };
        let always = Window::always();
        let days = days.map_or(Some(always.days), days_in).ok_or_else(bad)?;
        let (opens, closes) = times.map_or(Some((always.opens, always.closes)), times_in).ok_or_else(bad)?;
        if opens == closes {
            return Err(refuse(
                format!("`{text}` closes when it opens"),
                "leave the times out for whole days",
            ));
        }
        Ok(Window { text: text.to_owned(), days, opens, closes })
    }

    /// Whether it is open when the clock on the wall shows this.
    #[must_use]
    pub fn holds(&self, shown: DateTime) -> bool {
        let opens_on = |day: Weekday| self.days[usize::from(day.to_monday_zero_offset().unsigned_abs())];
        let minute = u16::from(shown.hour().unsigned_abs()) * 60 + u16::from(shown.minute().unsigned_abs());
        let today = shown.weekday();
        if self.opens < self.closes {
            return opens_on(today) && (self.opens..self.closes).contains(&minute);
        }
        opens_on(today) && minute >= self.opens || opens_on(today.previous()) && minute < self.closes
    }

    /// Whether it never closes.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.days == [true; 7] && self.closes.abs_diff(self.opens) == MINUTES_OF_A_DAY
    }

    /// The hours and minutes at which it may open or close.
    pub(super) fn bounds(&self) -> [(i8, i8); 2] {
        [self.opens, self.closes].map(|minutes| {
            let within = minutes % MINUTES_OF_A_DAY;
            (i8::try_from(within / 60).unwrap_or_default(), i8::try_from(within % 60).unwrap_or_default())
        })
    }
}

/// `Mon`, `Mon-Fri`, `Sat-Mon`, `Mon,Wed,Fri-Sun`
fn days_in(text: &str) -> Option<[bool; 7]> {
    let number = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let count = (last + 7 - first) % 7 + 1;
        (first..first + count).for_each(|day| days[day % 7] = true);
    }
    Some(days)
}

/// `08:00-18:00`, `18:00-24:00`
fn times_in(text: &str) -> Option<(u16, u16)> {
    let (opens, closes) = text.split_once('-')?;
    let (opens, closes) = (minutes_in(opens)?, minutes_in(closes)?);
    (opens < MINUTES_OF_A_DAY).then_some((opens, closes))
}

fn minutes_in(text: &str) -> Option<u16> {
    let number = |digits: &str| {
        let is_written_out = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        is_written_out.then(|| digits.parse::<u16>().ok())?
    };
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= MINUTES_OF_A_DAY).then_some(minutes)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Window::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Window {
    fn schema_name() -> Cow<'static, str> {
        "Window".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let day = format!("({})", DAYS.join("|"));
        let days = format!("{day}(-{day})?(,{day}(-{day})?)*");
        let times = "[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]";
        json_schema!({ "type": "string", "pattern": format!("^(always|{days}|({days} )?{times})$") })
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    /// The hours of a week, from Monday on, at which it is open.
    fn hours(text: &str) -> Vec<usize> {
        let window = Window::parse(text).unwrap();
        // A Monday.
        let shown = |hour: usize| {
            let day = i8::try_from(hour / 24).unwrap();
            date(2026, 11, 23 + day).at(i8::try_from(hour % 24).unwrap(), 0, 0, 0)
        };
        (0..7 * 24).filter(|hour| window.holds(shown(*hour))).collect()
    }

    #[test]
    fn windows_are_open_when_they_say() {
        assert_eq!(hours("always").len(), 168);
        assert_eq!(hours("Tue 08:00-11:00"), [32, 33, 34]);
        assert_eq!(hours("Sun 22:00-02:00"), [0, 1, 166, 167]);
        assert_eq!(hours("Tue 22:00-24:00"), hours("Tue 22:00-00:00"));
        assert_eq!(hours("Sat,Sun"), (120..168).collect::<Vec<_>>());
        assert_eq!(hours("Sat-Mon"), (0..24).chain(120..168).collect::<Vec<_>>());
        assert_eq!(hours("Mon,Wed-Thu 12:00-13:00"), [12, 60, 84]);
        assert_eq!(hours("23:00-01:00").len(), 14);
    }

    #[test]
    fn a_window_closes_with_the_minute_before() {
        let window = Window::parse("08:00-18:00").unwrap();
        let at = |hour, minute, second| window.holds(date(2026, 11, 23).at(hour, minute, second, 0));
        assert_eq!((at(7, 59, 59), at(8, 0, 0), at(17, 59, 59), at(18, 0, 0)), (false, true, true, false));
    }

    #[test]
    fn only_what_never_closes_is_always() {
        for always in ["always", "Mon-Sun", "00:00-24:00", "Tue-Mon 00:00-24:00"] {
            assert!(Window::parse(always).unwrap().is_always(), "{always}");
        }
        for not in ["Mon-Sat", "00:00-23:59", "Mon 00:00-24:00"] {
            assert!(!Window::parse(not).unwrap().is_always(), "{not}");
        }
    }

    #[test]
    fn what_is_no_time_of_the_week_is_refused() {
        for bad in [
            "",
            "never",
            "8-18",
            "8:00-18:00",
            "08:00",
            "08:00-25:00",
            "08:60-09:00",
            "24:00-08:00",
            "24:01-08:00",
            "mon",
            "Mon-",
            "Mon,",
            "Monday",
            "Mon Tue",
            "08:00-18:00 Mon",
            "Mon 08:00-18:00 UTC",
            "+8:00-18:00",
            "08:00-08:00",
            "00:00-00:00",
        ] {
            assert!(Window::parse(bad).is_err(), "{bad}");
        }
    }
}
