//! What the service costs when it has nothing to do.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::figures::Figures;
use crate::support::Daemon;

/// Long enough for everything that happens once after a start.
const SETTLE: Duration = Duration::from_secs(8);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// The goal: no timer wakes more often than every five seconds.
const WAKEUP_EVERY_S: f64 = 5.0;

/// Watches the network as in production; everything else is as the tests have it.
pub fn measure(figures: &mut Figures) {
    let mut daemon = Daemon::prepare();
    daemon.configure("network_monitor: {enabled: true}\n");
    daemon.start();
    sleep(SETTLE);
    let before = switches(daemon.pid());
    sleep(WATCHED);
    let after = switches(daemon.pid());
    // A thread that sleeps for five seconds wakes this often; the busiest one decides.
    let most = after
        .iter()
        .map(|(thread, count)| {
            count - before.iter().find(|(other, _)| other == thread).map_or(0, |(_, c)| *c)
        })
        .max()
        .unwrap_or(0);
    let total: u64 = after.iter().map(|(_, c)| c).sum::<u64>() - before.iter().map(|(_, c)| c).sum::<u64>();
    let seconds = WATCHED.as_secs_f64();
    figures.at_most("idle, Pss", pss_kib(daemon.pid()) / 1024.0, 25.0, "MiB");
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    let busiest = most as f64;
    figures.at_most(
        &format!("idle, wakeups of the busiest thread in {seconds} s"),
        busiest,
        seconds / WAKEUP_EVERY_S,
        "",
    );
    figures.note(&format!("idle, wakeups of all {} threads in {seconds} s", after.len()), total.to_string());
}

/// How often each thread gave up the processor to wait.
fn switches(pid: u32) -> Vec<(String, u64)> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .filter_map(|task| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            Some((task.file_name().to_string_lossy().into_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

fn pss_kib(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
