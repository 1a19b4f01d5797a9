//! `status.json` and the one line for the service manager. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::progress::Status;
use crate::model::units::human_duration;

/// The work in one line: `2 run, 29 queued, 2 wait(disk_space), 3 failed; 412 MB/s; ETA 04:10`.
#[must_use]
pub fn line(status: &Status) -> String {
    let count = |name: &str| status.counts.get(name).copied().unwrap_or(0);
    let mut parts = Vec::new();
    for (name, word) in [("running", "run"), ("queued", "queued")] {
        if count(name) > 0 {
            parts.push(format!("{} {word}", count(name)));
        }
    }
    parts.extend(status.waiting.iter().map(|(reason, jobs)| format!("{jobs} wait({reason})")));
    if count("failed") > 0 {
        parts.push(format!("{} failed", count("failed")));
    }
    let mut line = if parts.is_empty() { "idle".to_owned() } else { parts.join(", ") };
    if status.bytes_per_second > 0 {
        let _ = write!(line, "; {} MB/s", status.bytes_per_second.div_ceil(1_000_000));
    }
    if let Some(seconds) = status.estimated_time_remaining {
        let _ = write!(line, "; ETA {}", human_duration(seconds));
    }
    for (set, word) in
        [(status.paused, "paused"), (status.draining, "draining"), (status.network == "down", "network down")]
    {
        if set {
            let _ = write!(line, "; {word}");
        }
    }
    line
}

/// Seconds until all work is done: what is being copied by its speed, what is queued by what jobs took so far.
#[must_use]
pub fn estimate(
    counts: &BTreeMap<String, u64>,
    bytes_left: u64,
    bytes_per_second: u64,
    mean_duration: Option<f64>,
    slots: usize,
) -> Option<f64> {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let (running, queued) = (count("running"), count("queued"));
    if running + queued == 0 {
        return None;
    }
    let copying = match (running, bytes_per_second) {
        (0, _) => 0.0,
        (_, 0) => mean_duration?,
        (_, rate) => bytes_left as f64 / rate as f64,
    };
    let waiting = match queued {
        0 => 0.0,
        jobs => (jobs as f64 / slots.max(1) as f64).ceil() * mean_duration?,
    };
    Some(((copying + waiting) * 10.0).round() / 10.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::progress::FilesystemStatus;

    /// A daemon at work.
    pub(in crate::service::view) fn busy() -> Status {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Status {
            version: "0.1.0".to_owned(),
            pid: 4711,
            started_at: 1_737_558_000.0,
            heartbeat_at: 1_737_558_050.0,
            ready: true,
            network: "up".to_owned(),
            network_missing: Vec::new(),
            servers_away: Vec::new(),
            paused: false,
            draining: false,
            counts: map(&[
                ("queued", 29),
                ("running", 2),
                ("waiting", 2),
                ("succeeded", 7),
                ("failed", 3),
                ("cancelled", 0),
                ("skipped", 0),
            ]),
            waiting: map(&[("disk_space", 2)]),
            bytes_per_second: 412_000_000,
            estimated_time_remaining: Some(250.0),
            oldest_snapshot_at: None,
            notifications: Some(crate::model::progress::OutboxStatus {
                pending: 2,
                given_up: 1,
                last_error: None,
            }),
            profiles: crate::model::progress::ProfileStatus {
                kept: 3,
                hits: 212,
                misses: 5,
                invalidations: 2,
            },
            libvirt: crate::model::progress::LibvirtStatus::default(),
            filesystems: vec![FilesystemStatus {
                path: "/var/lib/hyper2kvm/output".to_owned(),
                free: 1 << 40,
                reserved: 3 << 30,
            }],
            last_error: Some("job 3: \"quoted\"".to_owned()),
        }
    }

    #[test]
    fn the_line_tells_the_work() {
        assert_eq!(line(&busy()), "2 run, 29 queued, 2 wait(disk_space), 3 failed; 412 MB/s; ETA 04:10");
        let quiet = Status {
            counts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            bytes_per_second: 0,
            estimated_time_remaining: None,
            paused: true,
            ..busy()
        };
        assert_eq!(line(&quiet), "idle; paused");
    }

    #[test]
    fn an_estimate_needs_something_to_go_by() {
        let counts = |running, queued| {
            BTreeMap::from([("running".to_owned(), running), ("queued".to_owned(), queued)])
        };
        assert_eq!(estimate(&counts(0, 0), 0, 0, Some(9.0), 2), None);
        assert_eq!(estimate(&counts(1, 0), 1000, 100, None, 2), Some(10.0));
        assert_eq!(estimate(&counts(1, 3), 1000, 100, None, 2), None);
        assert_eq!(estimate(&counts(1, 3), 1000, 100, Some(60.0), 2), Some(130.0));
    }
}
