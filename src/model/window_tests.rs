//! When windows open and close, as tables; what is foretold is held against the clock minute by minute.

use super::*;

fn window(tz: &str, open: &str, close: &str) -> Window {
    Window::new(Some(tz), (open, close), None, None).unwrap()
}

/// Epoch seconds of `2026-11-28T21:59:59+01:00`.
fn at(text: &str) -> f64 {
    text.parse::<Timestamp>().unwrap().as_second() as f64
}

/// Whether it is open, and the time on the wall when that changes.
fn told(window: &Window, now: &str) -> (bool, String) {
    let Standing { is_open, until } = window.at(at(now));
    let until = Timestamp::from_second(until.unwrap()).unwrap().to_zoned(window.zone.clone());
    (is_open, until.strftime("%a %Y-%m-%d %H:%M %:z").to_string())
}

fn expect(window: &Window, rows: &[(&str, bool, &str)]) {
    for (now, is_open, until) in rows {
        assert_eq!(told(window, now), (*is_open, (*until).to_owned()), "{now}");
    }
}

#[test]
fn a_window_is_open_from_its_first_second_to_its_last() {
    expect(
        &window("UTC", "Sat 22:00", "Sun 05:00"),
        &[
            ("2026-11-28T21:59:59Z", false, "Sat 2026-11-28 22:00 +00:00"),
            ("2026-11-28T22:00:00Z", true, "Sun 2026-11-29 05:00 +00:00"),
            ("2026-11-29T04:59:59Z", true, "Sun 2026-11-29 05:00 +00:00"),
            ("2026-11-29T05:00:00Z", false, "Sat 2026-12-05 22:00 +00:00"),
        ],
    );
    let window = window("UTC", "Sat 22:00", "Sun 05:00");
    assert!(
        !window.at(at("2026-11-28T22:00:00Z") - 0.001).is_open
            && window.at(at("2026-11-28T22:00:00Z")).is_open
    );
}

#[test]
fn a_window_may_go_over_the_end_of_the_week_or_be_nearly_all_of_it() {
    expect(
        &window("UTC", "Sun 20:00", "Mon 04:30"),
        &[
            ("2026-11-29T19:59:00Z", false, "Sun 2026-11-29 20:00 +00:00"),
            ("2026-11-29T23:59:00Z", true, "Mon 2026-11-30 04:30 +00:00"),
            ("2026-11-30T00:00:00Z", true, "Mon 2026-11-30 04:30 +00:00"),
            ("2026-11-30T04:30:00Z", false, "Sun 2026-12-06 20:00 +00:00"),
        ],
    );
    expect(
        &window("UTC", "Wed 00:01", "Wed 00:00"),
        &[
            ("2026-12-02T00:00:30Z", false, "Wed 2026-12-02 00:01 +00:00"),
            ("2026-12-02T00:01:00Z", true, "Wed 2026-12-09 00:00 +00:00"),
            ("2026-12-01T23:59:59Z", true, "Wed 2026-12-02 00:00 +00:00"),
        ],
    );
    expect(
        &window("UTC", "Fri 12:00", "Fri 12:01"),
        &[
            ("2026-12-04T12:00:59Z", true, "Fri 2026-12-04 12:01 +00:00"),
            ("2026-12-04T12:01:00Z", false, "Fri 2026-12-11 12:00 +00:00"),
        ],
    );
}

#[test]
fn it_is_the_time_of_its_zone_that_counts() {
    expect(
        &window("Asia/Kolkata", "Sat 22:00", "Sun 05:00"),
        &[
            ("2026-11-28T16:29:59Z", false, "Sat 2026-11-28 22:00 +05:30"),
            ("2026-11-28T16:30:00Z", true, "Sun 2026-11-29 05:00 +05:30"),
        ],
    );
    expect(
        &window("Asia/Kathmandu", "Mon 00:00", "Mon 00:15"),
        &[
            ("2026-11-29T18:15:00Z", true, "Mon 2026-11-30 00:15 +05:45"),
            ("2026-11-29T18:30:00Z", false, "Mon 2026-12-07 00:00 +05:45"),
        ],
    );
    // Half an hour is put back and forward there.
    expect(
        &window("Australia/Lord_Howe", "Sun 01:45", "Sun 03:00"),
        &[
            ("2026-04-04T14:44:00Z", false, "Sun 2026-04-05 01:45 +11:00"),
            ("2026-04-04T14:45:00Z", true, "Sun 2026-04-05 03:00 +10:30"),
            ("2026-10-03T15:15:00Z", true, "Sun 2026-10-04 03:00 +11:00"),
        ],
    );
    expect(
        &window("Pacific/Kiritimati", "Sun 00:00", "Sun 01:00"),
        &[("2026-11-28T10:00:00Z", true, "Sun 2026-11-29 01:00 +14:00")],
    );
}

#[test]
fn a_time_that_a_clock_put_forward_leaves_out_is_the_moment_of_that() {
    // Europe/Berlin: it is 01:59 +01:00 and then 03:00 +02:00.
    for (open, close, rows) in [
        (
            "Sun 02:30",
            "Sun 04:00",
            [
                ("2026-03-29T01:59:59+01:00", false, "Sun 2026-03-29 03:00 +02:00"),
                ("2026-03-29T03:00:00+02:00", true, "Sun 2026-03-29 04:00 +02:00"),
                ("2026-03-29T04:00:00+02:00", false, "Sun 2026-04-05 02:30 +02:00"),
            ],
        ),
        (
            "Sat 22:00",
            "Sun 02:30",
            [
                ("2026-03-28T22:00:00+01:00", true, "Sun 2026-03-29 03:00 +02:00"),
                ("2026-03-29T01:59:59+01:00", true, "Sun 2026-03-29 03:00 +02:00"),
                ("2026-03-29T03:00:00+02:00", false, "Sat 2026-04-04 22:00 +02:00"),
            ],
        ),
        (
            // It is not there at all that week.
            "Sun 02:10",
            "Sun 02:40",
            [
                ("2026-03-29T01:59:59+01:00", false, "Sun 2026-04-05 02:10 +02:00"),
                ("2026-03-29T03:00:00+02:00", false, "Sun 2026-04-05 02:10 +02:00"),
                ("2026-03-22T02:39:59+01:00", true, "Sun 2026-03-22 02:40 +01:00"),
            ],
        ),
    ] {
        expect(&window("Europe/Berlin", open, close), &rows);
    }
    expect(
        &window("America/New_York", "Sun 02:30", "Sun 05:00"),
        &[
            ("2026-03-08T01:59:59-05:00", false, "Sun 2026-03-08 03:00 -04:00"),
            ("2026-03-08T03:00:00-04:00", true, "Sun 2026-03-08 05:00 -04:00"),
        ],
    );
}

#[test]
fn of_a_time_that_a_clock_put_back_shows_twice_the_first_counts() {
    // Europe/Berlin: it is 02:59 +02:00 and then 02:00 +01:00.
    for (open, close, rows) in [
        (
            "Sun 02:30",
            "Sun 05:00",
            [
                ("2026-10-25T02:29:59+02:00", false, "Sun 2026-10-25 02:30 +02:00"),
                ("2026-10-25T02:30:00+02:00", true, "Sun 2026-10-25 05:00 +01:00"),
                // It does not close for the half hour in which the clock shows less than 02:30 again.
                ("2026-10-25T02:10:00+01:00", true, "Sun 2026-10-25 05:00 +01:00"),
            ],
        ),
        (
            "Sat 22:00",
            "Sun 02:30",
            [
                ("2026-10-25T02:29:59+02:00", true, "Sun 2026-10-25 02:30 +02:00"),
                ("2026-10-25T02:30:00+02:00", false, "Sat 2026-10-31 22:00 +01:00"),
                ("2026-10-25T02:10:00+01:00", false, "Sat 2026-10-31 22:00 +01:00"),
            ],
        ),
        (
            "Sun 02:15",
            "Sun 02:45",
            [
                ("2026-10-25T02:15:00+02:00", true, "Sun 2026-10-25 02:45 +02:00"),
                ("2026-10-25T02:45:00+02:00", false, "Sun 2026-11-01 02:15 +01:00"),
                ("2026-10-25T02:20:00+01:00", false, "Sun 2026-11-01 02:15 +01:00"),
            ],
        ),
    ] {
        expect(&window("Europe/Berlin", open, close), &rows);
    }
    expect(
        &window("America/New_York", "Sat 23:00", "Sun 01:30"),
        &[
            ("2026-11-01T01:29:59-04:00", true, "Sun 2026-11-01 01:30 -04:00"),
            ("2026-11-01T01:00:00-05:00", false, "Sat 2026-11-07 23:00 -05:00"),
        ],
    );
}

#[test]
fn far_years_keep_the_rules_of_their_zone_and_the_end_of_the_calendar_is_no_panic() {
    expect(
        &window("Europe/Berlin", "Sat 22:00", "Sun 05:00"),
        &[
            ("2099-07-04T19:59:00Z", false, "Sat 2099-07-04 22:00 +02:00"),
            ("2499-01-01T00:00:00Z", false, "Sat 2499-01-03 22:00 +01:00"),
            ("1900-06-01T00:00:00Z", false, "Sat 1900-06-02 22:00 +01:00"),
        ],
    );
    let window = window("Europe/Berlin", "Sat 22:00", "Sun 05:00");
    let never = Standing { is_open: false, until: None };
    for now in [f64::MAX, f64::INFINITY, 253_402_207_100.0] {
        assert_eq!(window.at(now), never, "{now}");
    }
    assert!(window.opens_in_words(never).contains("does not open any more"));
    assert!(window.at(f64::NAN).until.is_some() && window.at(-1e9).until.is_some());
}

#[test]
fn a_date_that_a_country_left_out_opens_what_begins_on_it_when_it_is_over() {
    // Samoa had no 30th of December in 2011, a Friday.
    expect(
        &window("Pacific/Apia", "Fri 22:00", "Sat 05:00"),
        &[
            ("2011-12-29T23:59:59-10:00", false, "Sat 2011-12-31 00:00 +14:00"),
            ("2011-12-31T00:00:00+14:00", true, "Sat 2011-12-31 05:00 +14:00"),
        ],
    );
}

#[test]
fn what_is_foretold_over_a_year_is_what_the_clock_shows() {
    for (tz, open, close) in [
        ("Europe/Berlin", "Sat 22:00", "Sun 05:00"),
        ("America/New_York", "Sun 01:00", "Sun 06:15"),
        ("Asia/Kolkata", "Fri 18:30", "Mon 07:00"),
        ("Europe/London", "Sun 04:00", "Sat 23:45"),
    ] {
        let window = window(tz, open, close);
        let minutes = |text: &str| WeekMinute::parse(text).unwrap().minutes();
        let length = (minutes(close) - minutes(open)).rem_euclid(MINUTES_OF_A_WEEK);
        let shows_open = |moment: Timestamp| {
            let shown = window.zone.to_datetime(moment);
            let day = i64::from(shown.weekday().to_monday_zero_offset());
            let minute = day * 1440 + i64::from(shown.hour()) * 60 + i64::from(shown.minute());
            (minute - minutes(open)).rem_euclid(MINUTES_OF_A_WEEK) < length
        };
        let begin: Timestamp = "2026-01-01T00:00Z".parse().unwrap();
        let mut changes = 0;
        let mut standing = window.at(begin.as_second() as f64);
        for moment in begin.series(15.minutes()).take(365 * 96) {
            if standing.until == Some(moment.as_second()) {
                changes += 1;
                standing = window.at(moment.as_second() as f64);
            }
            assert_eq!(standing.is_open, shows_open(moment), "{tz} {moment}");
        }
        assert!(changes > 100, "{tz}: {changes}");
    }
}

#[test]
fn what_works_only_while_it_is_open_ends_in_a_later_opening() {
    let window = window("UTC", "Sat 22:00", "Sun 04:00");
    let (hour, closed) = (3600.0, at("2026-11-29T10:00:00Z"));
    let saturday = at("2026-12-05T22:00:00Z");
    assert_eq!(window.after_open(closed, 2.0 * hour), Some(saturday + 2.0 * hour));
    assert_eq!(window.after_open(closed, 6.0 * hour), Some(saturday + 6.0 * hour));
    assert_eq!(window.after_open(closed, 7.0 * hour), Some(saturday + 7.0 * 86_400.0 + hour));
    assert_eq!(window.after_open(saturday + hour, hour), Some(saturday + 2.0 * hour));
    assert_eq!(window.after_open(closed, 1e9), None, "in a lifetime");
    assert_eq!(window.open_between(saturday - hour, saturday + hour), Some(hour));
    assert_eq!(window.open_between(closed, saturday + 9.0 * 86_400.0), Some(12.0 * hour));
    assert_eq!(window.open_between(closed, closed + 60.0), Some(0.0));
    assert_eq!(window.open_between(0.0, closed), None, "nobody worked that long");
}

#[test]
fn a_window_is_told_in_words() {
    let now = at("2026-11-25T18:00:00+01:00");
    let times = ("Sat 22:00", "Sun 05:00");
    let of = |gates: &[Gate], at_close| {
        Window::new(Some("Europe/Berlin"), times, Some(gates), Some(at_close)).unwrap()
    };
    let finish = of(&[Gate::Start], AtClose::Finish);
    assert_eq!(
        finish.in_words(now),
        "opens Sat 22:00 Europe/Berlin, in 3 days 4 h, closes Sun 05:00; what runs when it closes goes on to its end"
    );
    assert_eq!(
        of(&Gate::ALL, AtClose::Hold).in_words(at("2026-11-29T02:55:00+01:00")),
        "is open since Sat 22:00 Europe/Berlin, closes Sun 05:00, in 2 h 5 min; \
         what runs when it closes stands still until it opens again"
    );
    let shutdown = of(&[Gate::Shutdown], AtClose::Hold);
    assert!(shutdown.in_words(now).ends_with("; sources are shut down only while it is open"));
    let later = of(&[Gate::Cutover], AtClose::Hold);
    assert!(later.in_words(now).ends_with("; only cutovers of warm migrations wait for it"));
    let last = of(&[Gate::Autostart], AtClose::Hold);
    assert!(last.in_words(now).ends_with("; nothing that this version does waits for it"));
    assert!(!later.gates_start() && !later.holds_at_close());
    assert_eq!(
        finish.opens_in_words(finish.at(now)),
        "its window opens Sat 2026-11-28 22:00 +01:00 (Europe/Berlin)"
    );
    for (seconds, words) in [
        (0.0, "less than a minute"),
        (59.0, "less than a minute"),
        (60.0, "1 min"),
        (3_600.0, "1 h"),
        (86_400.0, "1 day"),
        (90_000.0, "1 day 1 h"),
        (604_799.0, "6 days 23 h"),
    ] {
        assert_eq!(for_people(seconds), words, "{seconds}");
    }
}

#[test]
fn what_is_not_said_is_utc_all_gates_and_an_end_to_what_runs() {
    let window = Window::new(None, ("Sat 22:00", "Sun 05:00"), None, None).unwrap();
    let kept = serde_json::to_string(&window).unwrap();
    assert_eq!(
        kept,
        r#"{"tz":"UTC","open":"Sat 22:00","close":"Sun 05:00","gates":["start","shutdown","cutover","autostart"],"at_close":"finish"}"#
    );
    assert_eq!(serde_json::from_str::<Window>(&kept).unwrap(), window);
    assert!(serde_json::from_str::<Window>(&kept.replace("UTC", "Nowhere/Atall")).is_err());
}

#[test]
fn every_zone_has_a_window_and_what_is_none_is_told_with_what_was_meant() {
    for name in TimeZoneDatabase::bundled().available() {
        let window = Window::new(Some(name.as_str()), ("Sat 22:00", "Sun 05:00"), None, None).unwrap();
        assert!(window.at(1.8e9).until.is_some(), "{name}");
    }
    for (given, advice) in [
        ("Europe/Berln", "did you mean `Europe/Berlin`?"),
        ("berlin", "did you mean `Europe/Berlin`?"),
        ("../../etc/passwd", "as `Europe/Berlin`; without `tz` it is UTC"),
    ] {
        let (field, error) = Window::new(Some(given), ("Sat 22:00", "Sun 05:00"), None, None).unwrap_err();
        assert_eq!((field, error.details().advice.as_deref()), ("tz", Some(advice)), "{given}");
    }
}
