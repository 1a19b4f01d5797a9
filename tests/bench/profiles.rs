//! How long it takes to be told what a profile comes to, when that is remembered.

use std::fs;
use std::time::{Duration, Instant};

use hyper2kvm::source::profiles;

use crate::figures::Figures;

/// A profile of three files that builds on a built-in one: four places to look at.
pub fn measure(figures: &mut Figures) {
    const TIMES: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("web", "extends: base\noutput: {compress: zstd}\n"),
        ("base", "extends: ours\npipeline: {boot_test: {timeout_s: 600}}\n"),
        ("ours", "extends: production\noptions: {report: {enabled: true}}\n"),
    ] {
        fs::write(dir.path().join(format!("{name}.yaml")), text).unwrap();
    }
    // What was changed just now is not remembered.
    std::thread::sleep(Duration::from_millis(200));
    profiles::kept("web", dir.path()).unwrap();
    let before = profiles::statistics().hits;
    let begun = Instant::now();
    for _ in 0..TIMES {
        profiles::kept("web", dir.path()).unwrap();
    }
    let each = begun.elapsed() / TIMES;
    assert_eq!(profiles::statistics().hits - before, u64::from(TIMES), "not all were remembered");
    figures.at_most("a remembered profile of three files", each.as_secs_f64() * 1e6, 50.0, "µs");
}
