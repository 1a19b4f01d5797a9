//! How long a conversion takes until its result is published, which is what the goals are about, and how much longer until it has its digest.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What was waited, in seconds.
pub struct Waited {
    pub published_s: f64,
    pub digest_s: f64,
}

/// Runs it to its good end; its results go below this directory. The report is published with them, and again when it knows the digests.
pub fn run(command: &mut Command, results: &Path) -> Waited {
    let report = results.join("report.json");
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut published_s = None;
    while child.try_wait().unwrap().is_none() {
        if published_s.is_none() && report.exists() {
            published_s = Some(begun.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let ended_s = begun.elapsed().as_secs_f64();
    assert!(child.wait().unwrap().success() && report.exists(), "{command:?}");
    let published_s = published_s.unwrap_or(ended_s);
    Waited { published_s, digest_s: ended_s - published_s }
}
