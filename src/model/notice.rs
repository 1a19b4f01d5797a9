//! What is told to people outside: an event with all that a message about it says, whoever receives it.
//!
//! A [`Notice`] is what the queue keeps until it is delivered, and what a generic webhook gets as `details`; the names of its events and
//! fields are part of the outside contract. Texts that others wrote pass through [`redact`] when a notice is made, so that no secret gets
//! as far as the queue. What is not here: who is told, when, and in which form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{Error, Kind};
use super::job::{BatchState, Stage, WaitReason};
use super::redaction::redact;
use super::units::human_duration;

/// A summary names so many of its events, and counts the others.
pub const SUMMARY_LINES: usize = 20;

/// What can be told; each can be switched on and off by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// `on_success`
    Success,
    /// `on_failure`
    Failure,
    /// `on_stalled`
    Stalled,
    /// `on_waiting`
    Waiting,
    /// `on_batch_end`
    BatchEnd,
    /// `on_restart`
    Restart,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Success,
    /// Somebody should look.
    Warning,
    /// Something failed.
    Error,
}

/// An event, with what is known of it. `timestamp`s are RFC 3339, `*_at` epoch seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// A VM is converted.
    ConversionSuccess {
        /// The dropped file.
        filename: String,
        /// From its first worker's start on.
        duration_seconds: Option<f64>,
        /// The directory of the result.
        output_path: String,
        /// When.
        timestamp: String,
        /// Its batch.
        batch_id: String,
        /// Its VM.
        vm_id: String,
        /// Its number.
        job_id: i64,
        /// Its `report.json`.
        report_path: Option<String>,
    },
    /// A VM is not, and will not be unless somebody acts; or a drop was refused.
    ConversionFailure {
        /// The dropped file.
        filename: String,
        /// What went wrong.
        error: String,
        /// How often it was tried again.
        retry_count: u32,
        /// When.
        timestamp: String,
        /// What sort of failure.
        kind: Kind,
        /// What to do about it.
        suggestion: Option<String>,
        /// In which stage.
        stage: Option<Stage>,
        /// Its batch; null for a drop that was refused, as the next three.
        batch_id: Option<String>,
        /// Its VM.
        vm_id: Option<String>,
        /// Its number.
        job_id: Option<i64>,
        /// What its last worker said.
        log_path: Option<String>,
    },
    /// There is work, nothing is in its way, and nothing moves.
    DaemonStalled {
        /// Jobs that run or could.
        queue_depth: u64,
        /// For how long nothing has moved.
        idle_minutes: f64,
        /// When something last did, RFC 3339.
        last_activity: String,
        /// When this was found.
        timestamp: String,
    },
    /// A job waits for something that somebody has to bring about.
    JobWaiting {
        /// For what.
        reason: WaitReason,
        /// For what exactly.
        detail: String,
        /// For how long by now.
        waiting_seconds: f64,
        /// Since when.
        waiting_since: f64,
        /// When this was found.
        timestamp: String,
        /// Its batch.
        batch_id: String,
        /// Its VM.
        vm_id: String,
        /// Its number.
        job_id: i64,
    },
    /// The network has been away for longer than `network_monitor.max_network_wait_s`.
    NetworkOutage {
        /// Which link or route is missing.
        missing: String,
        /// For how long by then.
        down_seconds: f64,
        /// Since when.
        down_since: f64,
        /// When this was found.
        timestamp: String,
    },
    /// The last VM of a batch has ended.
    BatchEnded {
        /// Which.
        batch_id: String,
        /// How.
        outcome: BatchState,
        /// VMs by state; only states that occur.
        counts: BTreeMap<String, u64>,
        /// From its acceptance on.
        duration_seconds: f64,
        /// Its `batch_report.json`, written a moment later.
        report_path: String,
        /// When.
        timestamp: String,
    },
    /// The daemon that ran before was not stopped in order: killed, crashed, or the machine lost power.
    DaemonRestarted {
        /// Who that was: `pid@host`.
        previous: String,
        /// When that one started.
        previous_started_at: f64,
        /// Jobs that were running and go on.
        interrupted_jobs: u64,
        /// When this one started.
        timestamp: String,
    },
    /// Many events at once.
    Summary {
        /// How many of each.
        counts: BTreeMap<String, u64>,
        /// The first of them, a line each.
        lines: Vec<String>,
        /// How many more there are.
        more: u64,
        /// Whether one of them is a failure.
        has_failure: bool,
        /// When the newest of them happened.
        timestamp: String,
    },
}

impl Notice {
    /// The failure of a job, or (without one) the refusal of a drop.
    #[must_use]
    pub fn failure(filename: &str, error: &Error, timestamp: String) -> Notice {
        let details = error.details();
        // All of it in one line, with file and field; the advice stands for itself.
        let mut bare = error.clone();
        bare = match &details.advice {
            Some(advice) => {
                let told = bare.to_string();
                Error::new(details.kind, told.strip_suffix(&format!("; {advice}")).unwrap_or(&told))
            }
            None => bare,
        };
        Notice::ConversionFailure {
            filename: filename.to_owned(),
            error: clean(&bare.to_string()),
            retry_count: 0,
            timestamp,
            kind: details.kind,
            suggestion: details.advice.as_deref().map(clean),
            stage: details.stage,
            batch_id: None,
            vm_id: None,
            job_id: None,
            log_path: None,
        }
    }

    /// What switches it on and off; a summary is made of what was.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        Some(match self {
            Notice::ConversionSuccess { .. } => Event::Success,
            Notice::ConversionFailure { .. } => Event::Failure,
            Notice::DaemonStalled { .. } => Event::Stalled,
            Notice::JobWaiting { .. } | Notice::NetworkOutage { .. } => Event::Waiting,
            Notice::BatchEnded { .. } => Event::BatchEnd,
            Notice::DaemonRestarted { .. } => Event::Restart,
            Notice::Summary { .. } => return None,
        })
    }

    /// As `details.event` says it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Notice::ConversionSuccess { .. } => "conversion_success",
            Notice::ConversionFailure { .. } => "conversion_failure",
            Notice::DaemonStalled { .. } => "daemon_stalled",
            Notice::JobWaiting { .. } => "job_waiting",
            Notice::NetworkOutage { .. } => "network_outage",
            Notice::BatchEnded { .. } => "batch_ended",
            Notice::DaemonRestarted { .. } => "daemon_restarted",
            Notice::Summary { .. } => "summary",
        }
    }

    /// When it happened, RFC 3339.
    #[must_use]
    pub fn timestamp(&self) -> &str {
        match self {
            Notice::ConversionSuccess { timestamp, .. }
            | Notice::ConversionFailure { timestamp, .. }
            | Notice::DaemonStalled { timestamp, .. }
            | Notice::JobWaiting { timestamp, .. }
            | Notice::NetworkOutage { timestamp, .. }
            | Notice::BatchEnded { timestamp, .. }
            | Notice::DaemonRestarted { timestamp, .. }
            | Notice::Summary { timestamp, .. } => timestamp,
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Notice::ConversionSuccess { .. } => Level::Success,
            Notice::ConversionFailure { .. } => Level::Error,
            Notice::BatchEnded { outcome: BatchState::Failed, .. } => Level::Error,
            Notice::BatchEnded { outcome: BatchState::Completed, .. } => Level::Success,
            Notice::Summary { has_failure: true, .. } => Level::Error,
            Notice::Summary { .. }
            | Notice::BatchEnded { .. }
            | Notice::DaemonStalled { .. }
            | Notice::JobWaiting { .. }
            | Notice::NetworkOutage { .. }
            | Notice::DaemonRestarted { .. } => Level::Warning,
        }
    }

    /// A few words, with the sign that people look for.
    #[must_use]
    pub fn title(&self) -> &'static str {
        match self {
            Notice::ConversionSuccess { .. } => "✅ Conversion Successful",
            Notice::ConversionFailure { .. } => "❌ Conversion Failed",
            Notice::DaemonStalled { .. } => "⚠️ Daemon Stalled",
            Notice::JobWaiting { .. } => "⏳ Job Waiting",
            Notice::NetworkOutage { .. } => "⚠️ Network Down",
            Notice::BatchEnded { outcome: BatchState::Completed, .. } => "✅ Batch Completed",
            Notice::BatchEnded { outcome: BatchState::Failed, .. } => "❌ Batch Failed",
            Notice::BatchEnded { .. } => "⚠️ Batch Cancelled",
            Notice::DaemonRestarted { .. } => "⚠️ Daemon Restarted",
            Notice::Summary { .. } => "📋 Many Events",
        }
    }

    /// One sentence; of a summary, a line for each event that it names.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Notice::ConversionSuccess { batch_id, vm_id, duration_seconds, .. } => {
                let took = duration_seconds.map(|seconds| format!(" in {}", human_duration(seconds)));
                format!("{batch_id}/{vm_id} is converted{}", took.unwrap_or_default())
            }
            Notice::ConversionFailure { filename, error, batch_id, vm_id, .. } => match (batch_id, vm_id) {
                (Some(batch), Some(vm)) => format!("{batch}/{vm} failed: {error}"),
                _ => format!("{filename} was refused: {error}"),
            },
            Notice::DaemonStalled { queue_depth, idle_minutes, .. } => {
                format!("nothing has moved for {idle_minutes:.0} minutes, though {queue_depth} jobs could")
            }
            Notice::JobWaiting { reason, detail, waiting_seconds, batch_id, vm_id, .. } => {
                let waited = human_duration(*waiting_seconds);
                format!("{batch_id}/{vm_id} has waited for {waited} ({reason}): {detail}")
            }
            Notice::NetworkOutage { missing, down_seconds, .. } => {
                format!("the network has been down for {}: {missing}", human_duration(*down_seconds))
            }
            Notice::BatchEnded { batch_id, outcome, counts, .. } => {
                let how = match outcome {
                    BatchState::Completed => "is completed",
                    BatchState::Cancelled => "was cancelled",
                    BatchState::Failed => "failed",
                    BatchState::Queued | BatchState::Running | BatchState::Waiting => "has ended",
                };
                format!("batch {batch_id} {how}: {}", counted(counts, " "))
            }
            Notice::DaemonRestarted { previous, interrupted_jobs, .. } => format!(
                "the service was not stopped in order ({previous}) and runs again; {interrupted_jobs} jobs go on where they were"
            ),
            Notice::Summary { counts, lines, more, .. } => {
                let mut text = counted(counts, " × ");
                for line in lines {
                    text.push('\n');
                    text.push_str(line);
                }
                if *more > 0 {
                    text.push_str(&format!("\nand {more} more; `hyper2kvm list` shows all jobs"));
                }
                text
            }
        }
    }

    /// What stands beside the message, name and value, for those who show it in a table.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let job = |batch: &str, vm: &str, job: i64| vec![("Job", format!("{batch}/{vm} ({job})"))];
        let mut fields = Vec::new();
        match self {
            Notice::ConversionSuccess {
                filename, output_path, batch_id, vm_id, job_id, report_path, ..
            } => {
                fields.extend(job(batch_id, vm_id, *job_id));
                fields.push(("File", filename.clone()));
                fields.push(("Output", output_path.clone()));
                fields.extend(report_path.clone().map(|path| ("Report", path)));
            }
            Notice::ConversionFailure {
                filename,
                retry_count,
                kind,
                suggestion,
                stage,
                batch_id,
                vm_id,
                job_id,
                log_path,
                ..
            } => {
                if let (Some(batch), Some(vm), Some(id)) = (batch_id, vm_id, job_id) {
                    fields.extend(job(batch, vm, *id));
                }
                fields.push(("File", filename.clone()));
                fields.push(("Kind", kind.to_string()));
                fields.extend(stage.map(|stage| ("Stage", stage.to_string())));
                fields.push(("Retries", retry_count.to_string()));
                fields.extend(suggestion.clone().map(|advice| ("What to do", advice)));
                fields.extend(log_path.clone().map(|path| ("Log", path)));
            }
            Notice::DaemonStalled { queue_depth, last_activity, .. } => {
                fields.push(("Queue depth", queue_depth.to_string()));
                fields.push(("Last activity", last_activity.clone()));
            }
            Notice::JobWaiting { reason, batch_id, vm_id, job_id, .. } => {
                fields.extend(job(batch_id, vm_id, *job_id));
                fields.push(("Reason", reason.to_string()));
            }
            Notice::NetworkOutage { .. } | Notice::Summary { .. } => {}
            Notice::BatchEnded { batch_id, duration_seconds, report_path, .. } => {
                fields.push(("Batch", batch_id.clone()));
                fields.push(("Took", human_duration(*duration_seconds)));
                fields.push(("Report", report_path.clone()));
            }
            Notice::DaemonRestarted { interrupted_jobs, .. } => {
                fields.push(("Interrupted jobs", interrupted_jobs.to_string()));
            }
        }
        fields
    }

    /// Many of them as one: how many of each there are in all, and the first ones by name.
    #[must_use]
    pub fn summary(counts: BTreeMap<String, u64>, first: &[Notice], timestamp: String) -> Notice {
        let lines: Vec<String> =
            first.iter().take(SUMMARY_LINES).map(|notice| first_line(&notice.message())).collect();
        let all: u64 = counts.values().sum();
        Notice::Summary {
            has_failure: counts.contains_key("conversion_failure"),
            more: all.saturating_sub(lines.len() as u64),
            lines,
            counts,
            timestamp,
        }
    }
}

/// A text of somebody else: without its secrets, and not longer than anybody reads.
#[must_use]
pub fn clean(text: &str) -> String {
    const MOST_CHARS: usize = 1000;
    let text = redact(text);
    let text = text.trim_end();
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn first_line(text: &str) -> String {
    const MOST_CHARS: usize = 160;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// `3 succeeded, 1 failed`
fn counted(counts: &BTreeMap<String, u64>, between: &str) -> String {
    let words: Vec<String> =
        counts.iter().map(|(name, count)| format!("{count}{between}{}", name.replace('_', " "))).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_cause_and_advice_apart_and_holds_no_secret() {
        let error = Error::new(Kind::Auth, "https://anna:hunter2@vc/ was refused")
            .advice("see `password: hunter2`")
            .stage(Stage::Load);
        let notice = Notice::failure("web.yaml", &error, "2026-11-20T11:25:47.123Z".to_owned());
        let text = serde_json::to_string(&notice).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        let Notice::ConversionFailure { error, suggestion, kind, .. } = &notice else { panic!("{notice:?}") };
        assert_eq!(error, "https://[redacted]@vc/ was refused");
        assert!(suggestion.as_deref().is_some_and(|advice| advice.starts_with("see")), "{suggestion:?}");
        assert_eq!((*kind, notice.level()), (Kind::Auth, Level::Error));
        assert_eq!(notice.message(), "web.yaml was refused: https://[redacted]@vc/ was refused");
    }

    #[test]
    fn a_notice_is_the_same_after_its_way_through_the_queue() {
        let notice = Notice::NetworkOutage {
            missing: "eth0 has no carrier".to_owned(),
            down_seconds: 301.5,
            down_since: 1.0,
            timestamp: "2026-11-20T11:25:47.123Z".to_owned(),
        };
        let text = serde_json::to_string(&notice).unwrap();
        assert!(text.starts_with("{\"event\":\"network_outage\""), "{text}");
        assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), notice);
    }

    #[test]
    fn a_summary_names_the_first_and_counts_all() {
        let one = |n: usize| {
            let error = Error::new(Kind::Source, format!("disk {n} is gone"));
            Notice::failure(&format!("{n}.yaml"), &error, String::new())
        };
        let first: Vec<Notice> = (0..SUMMARY_LINES).map(one).collect();
        let counts = BTreeMap::from([("conversion_failure".to_owned(), 195)]);
        let summary = Notice::summary(counts, &first, String::new());
        assert_eq!(summary.level(), Level::Error);
        let message = summary.message();
        assert!(
            message.starts_with("195 × conversion failure\n0.yaml was refused: disk 0 is gone\n"),
            "{message}"
        );
        assert!(message.ends_with("and 175 more; `hyper2kvm list` shows all jobs"), "{message}");
    }
}
