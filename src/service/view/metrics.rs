//! The same numbers as `status.json` in Prometheus' text format, for the textfile and `/metrics`. Pure.

use std::fmt::{Display, Write as _};

use crate::model::progress::Status;

/// The metrics of a status.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = Text::default();
    out.head("info", "The running version.", "gauge");
    out.sample("info", &[("version", &status.version)], 1);
    out.single("up", "Whether the service takes drops.", u8::from(status.ready));
    out.single("start_time_seconds", "When the service started.", status.started_at);
    out.single("heartbeat_time_seconds", "When these numbers were made.", status.heartbeat_at);
    out.single("paused", "Whether all work is paused.", u8::from(status.paused));
    out.single("draining", "Whether nothing new is started.", u8::from(status.draining));
    out.head("network", "Whether the network is up, down or unwatched.", "gauge");
    for state in ["up", "down", "unwatched"] {
        out.sample("network", &[("state", state)], u8::from(status.network == state));
    }
    out.head("jobs", "Jobs by state.", "gauge");
    for (state, jobs) in &status.counts {
        out.sample("jobs", &[("state", state)], jobs);
    }
    out.head("waiting_jobs", "Waiting jobs by reason.", "gauge");
    for (reason, jobs) in &status.waiting {
        out.sample("waiting_jobs", &[("reason", reason)], jobs);
    }
    out.single("copy_bytes_per_second", "Speed of all copies together.", status.bytes_per_second);
    if let Some(seconds) = status.estimated_time_remaining {
        out.single("estimated_time_remaining_seconds", "Until all work is done.", seconds);
    }
    if let Some(at) = status.oldest_snapshot_at {
        out.single("oldest_snapshot_time_seconds", "When the oldest snapshot on a source was made.", at);
    }
    out.head("filesystem_free_bytes", "Bytes free where results go.", "gauge");
    for filesystem in &status.filesystems {
        out.sample("filesystem_free_bytes", &[("path", &filesystem.path)], filesystem.free);
    }
    out.head("filesystem_reserved_bytes", "Bytes that jobs may still write there.", "gauge");
    for filesystem in &status.filesystems {
        out.sample("filesystem_reserved_bytes", &[("path", &filesystem.path)], filesystem.reserved);
    }
    if let Some(outbox) = &status.notifications {
        out.single("notifications_pending", "Events that a receiver has not been told of.", outbox.pending);
        out.single("notifications_given_up", "Messages that were given up.", outbox.given_up);
    }
    let profiles = &status.profiles;
    out.single("profiles_kept", "Profiles that are remembered.", profiles.kept);
    out.head("profile_lookups_total", "How often a profile was asked for.", "counter");
    out.sample("profile_lookups_total", &[("remembered", "yes")], profiles.hits);
    out.sample("profile_lookups_total", &[("remembered", "no")], profiles.misses);
    out.head("profile_changes_total", "How often a remembered profile had changed.", "counter");
    out.sample("profile_changes_total", &[], profiles.invalidations);
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    // Writing to a String cannot fail, so the results are of no interest.
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP hyper2kvm_{name} {help}\n# TYPE hyper2kvm_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "hyper2kvm_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        self.sample(name, &[], value);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_look_like_this() {
        insta::assert_snapshot!(text(&super::super::status::tests::busy()));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
