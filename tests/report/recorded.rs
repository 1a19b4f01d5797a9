//! A batch that was recorded once, times included, through the pages of today: what is read is what was reviewed, and looks like it.
//!
//! `UPDATE_GOLDEN=1 cargo test --test report` writes pages and picture anew; the difference is then reviewed.

use std::fs;
use std::path::{Path, PathBuf};

use hyper2kvm::model::report::{BatchReport, Report};
use hyper2kvm::report::{batch_html, batch_page, batch_summary, vm_page};
use serde_json::Value;

use crate::browser;
use crate::picture::Picture;

/// The window that the picture was taken in.
const WINDOW: (u32, u32) = (1200, 1600);
/// The colours of two stages and of the ground, in the light.
const EXTRACTION: [u8; 3] = [0x09, 0x69, 0xda];
const VALIDATE: [u8; 3] = [0x2d, 0xa4, 0x4e];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/golden").join(name)
}

fn is_updated() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// What `hyper2kvm` wrote of a batch of five, one of them cut off, one waiting for a while, one done before.
fn recorded() -> BatchReport {
    serde_json::from_slice(&fs::read(golden("batch_report.json")).unwrap()).unwrap()
}

#[track_caller]
fn check(name: &str, text: &str) {
    if is_updated() {
        return fs::write(golden(name), text).unwrap();
    }
    let expected = fs::read_to_string(golden(name)).unwrap_or_default();
    for (number, (is, should)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, should, "{name}, line {}", number + 1);
    }
    assert_eq!(text, expected, "{name}");
}

#[test]
fn the_pages_of_a_batch_are_as_reviewed() {
    let report = recorded();
    check("batch_report.md", &batch_page(&report).markdown());
    check("batch_summary.txt", &batch_summary(&report));
    check("batch_report.html", &batch_html(&report));
}

#[test]
fn the_pages_of_a_vm_are_as_reviewed() {
    let whole = recorded();
    let of = |vm_id: &str| -> Report {
        let vm = whole.vm_results.iter().find(|vm| vm.vm_id == vm_id).unwrap();
        serde_json::from_value(vm.pipeline_report.clone().unwrap()).unwrap()
    };
    check("report.md", &vm_page(&of("web")).markdown());
    check("report.txt", &vm_page(&of("web")).text());
    check("report-unrepaired.md", &vm_page(&of("db")).markdown());
}

#[test]
fn a_recorded_report_is_written_again_as_it_was_read() {
    check("batch_report.json", &(serde_json::to_string_pretty(&recorded()).unwrap() + "\n"));
}

/// Writes the page and opens it.
fn opened(dark: bool) -> browser::Seen {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("batch_report.html");
    fs::write(&page, batch_html(&recorded())).unwrap();
    browser::open(&page, WINDOW, dark)
}

#[test]
fn the_page_looks_as_reviewed_and_asks_for_nothing() {
    let seen = opened(false);
    assert_eq!((seen.console, seen.requests), (Vec::<String>::new(), Vec::<String>::new()));
    if is_updated() {
        fs::write(golden("batch_report.png"), &seen.png).unwrap();
    }
    let expected = Picture::decode(&fs::read(golden("batch_report.png")).unwrap());
    let (mean, clearly) = seen.picture.difference(&expected);
    // Another version of the browser or of the font moves a glyph; a bar or a column that moves is more.
    assert!(mean < 3.0 && clearly < 0.03, "{mean:.2} in the mean, {:.1} % of the cells", clearly * 100.0);
}

#[test]
fn bars_lie_where_the_times_say() {
    let (report, seen) = (recorded(), opened(false));
    let spans = |vm_id: &str| report.vm_results.iter().find(|vm| vm.vm_id == vm_id).unwrap().timeline.clone();
    let all = || report.vm_results.iter().flat_map(|vm| &vm.timeline);
    let from = all().map(|span| span.started_at).fold(f64::INFINITY, f64::min);
    let to = all().map(|span| span.ended_at).fold(0.0, f64::max);
    let copied = spans("web")
        .into_iter()
        .find(|span| span.stage.is_some_and(|stage| stage.name() == "extraction"))
        .unwrap();
    let proved = spans("db")
        .into_iter()
        .find(|span| span.stage.is_some_and(|stage| stage.name() == "validate"))
        .unwrap();
    // The column of the bars: three quarters of the page's width, to its right edge.
    let (right, width) = (1200.0 - 24.0, (1200.0 - 48.0) * 0.75);
    for (span, colour) in [(copied, EXTRACTION), (proved, VALIDATE)] {
        let place = |at: f64| right - width + (at - from) / (to - from) * width;
        let (begins, ends) = (place(span.started_at), place(span.ended_at));
        let stretches = seen.picture.stretches(colour, 3);
        let fits = |&&(_, left, end): &&(usize, usize, usize)| {
            (left as f64 - begins).abs() < 4.0 && (end as f64 - ends).abs() < 4.0
        };
        assert!(stretches.iter().filter(fits).count() >= 5, "{begins:.0} to {ends:.0}: {stretches:?}");
    }
}

#[test]
fn the_page_is_dark_where_that_is_wanted() {
    let (light, dark) = (opened(false).picture, opened(true).picture);
    assert_eq!(light.at(2, 2), [0xff; 3]);
    assert_eq!(dark.at(2, 2), [0x0d, 0x11, 0x17]);
    assert!(light.difference(&dark).0 > 100.0);
}

#[test]
fn the_policy_of_the_page_would_stop_what_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("batch_report.html");
    let spoiled = batch_html(&recorded()).replace(
        "</main>",
        "<img src=\"http://127.0.0.1:9/x.png\"><script>document.title = 'run'; console.error('run')</script></main>",
    );
    fs::write(&page, spoiled).unwrap();
    let seen = browser::open(&page, (600, 400), false);
    assert_eq!(seen.requests, Vec::<String>::new());
    assert!(seen.console.iter().any(|line| line.contains("Content Security Policy")), "{:?}", seen.console);
    assert!(!seen.console.iter().any(|line| line.contains("\"run\"")), "{:?}", seen.console);
}

#[test]
fn what_hostile_guests_say_does_nothing_in_a_browser() {
    let mut report = serde_json::to_value(recorded()).unwrap();
    spoil(&mut report);
    let report: BatchReport = serde_json::from_value(report).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("batch_report.html");
    fs::write(&page, batch_html(&report)).unwrap();
    let seen = browser::open(&page, WINDOW, false);
    assert_eq!((seen.console, seen.requests), (Vec::<String>::new(), Vec::<String>::new()));
}

/// Puts into every text that may be anything what a browser would run or ask for.
fn spoil(value: &mut Value) {
    const FREE: [&str; 12] = [
        "batch_id",
        "manifest_path",
        "vm_id",
        "error",
        "cause",
        "suggestion",
        "message",
        "detail",
        "evidence",
        "os_pretty",
        "sha256",
        "name",
    ];
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                if field.is_string() && FREE.contains(&key.as_str()) {
                    *field = format!(
                        "\"><img src='http://127.0.0.1:9/{key}'><script>console.error('{key}')</script>"
                    )
                    .into();
                } else {
                    spoil(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(spoil),
        _ => {}
    }
}

#[test]
fn a_page_of_a_thousand_vms_opens() {
    let mut report = recorded();
    // Those that failed come first, and would fill the window.
    let vms: Vec<_> = report.vm_results.iter().filter(|vm| vm.success).cloned().collect();
    report.vm_results = vms.iter().cycle().take(1_000).cloned().collect();
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("batch_report.html");
    fs::write(&page, batch_html(&report)).unwrap();
    let seen = browser::open(&page, WINDOW, false);
    assert_eq!((seen.console, seen.requests), (Vec::<String>::new(), Vec::<String>::new()));
    assert!(seen.picture.stretches(EXTRACTION, 3).len() > 200, "there are no rows");
}
