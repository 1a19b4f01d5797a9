//! From the rename of a manifest into the drop directory to its job running, on an idle daemon.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::figures::{Figures, percentile};
use crate::support::{Daemon, disks};

const DROPS: usize = 200;

/// Drops one manifest after the other, each when the one before has ended. What counts is the
/// `started_at` that the daemon publishes, read afterwards, so that nothing polls meanwhile.
pub fn measure(figures: &mut Figures) {
    let daemon = Daemon::start_new();
    let source = disks::disk(daemon.scratch(), "small", "raw", 1, 1, 7);
    let mut taken_ms = Vec::with_capacity(DROPS);
    for number in 0..DROPS {
        let batch = format!("latency-{number}");
        let manifest = disks::manifest(&[("disk", &source, "raw")], &format!("name: {batch}\n"));
        let before = now();
        daemon.drop_file(&format!("{batch}.yaml"), manifest);
        let progress = daemon.wait_batch(&batch);
        assert_eq!(progress["state"], "completed", "{progress}");
        let started = progress["vms"][&batch]["started_at"].as_f64().expect("a job that ran has a start");
        taken_ms.push((started - before) * 1000.0);
    }
    figures.at_most("drop → running, p50", percentile(&taken_ms, 0.5), 20.0, "ms");
    figures.at_most("drop → running, p99", percentile(&taken_ms, 0.99), 100.0, "ms");
    figures.note("drop → running, number of drops", DROPS.to_string());
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}
